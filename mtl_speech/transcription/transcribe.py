"""Transcription of whole recordings with a language pack: from audio to phones with times, and how sure each one is.

A recording is read in blocks and cut where it is silent, so an hour needs no more memory than a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.errors import DataError, PackError
from mtl_speech.corpora.audio import (
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    MEL_BANDS,
    SAMPLE_RATE,
    SILENT_PEAK,
    stream_audio,
    stream_log_mel,
)
from mtl_speech.features.store import MARGIN, RAW_NORMALISED, Normaliser, standardised
from mtl_speech.model.base import BaseModel, load_base
from mtl_speech.model.encoder import Encoder, part_weights
from mtl_speech.model.hub import HubEncoder
from mtl_speech.model.language_pack import LanguageModel, load_language
from mtl_speech.model.pack import Pack, load_pack
from mtl_speech.model.segmenter import Timing
from mtl_speech.transcription.lattice import PathWeights, Piece, Spans, best_path, find_spans
from mtl_speech.transcription.transcript import SILENCE, Phone, Transcription

CHUNK = 2_000  # frames (20 s) that are held at once
LAST_PART = CHUNK // 2  # frames at the end of a chunk in which it may be cut
SPANS_AT_ONCE = 512  # embedded together
PAUSE = 15  # frames of silence in whose middle a chunk is cut


@dataclass(frozen=True)
class Examined:
    """A transcription and what it was made of, for the n phones that are not silence.

    spans: (n, 2) seconds; posteriors: (n, n_classes) calibrated probabilities of the phonemes given the span; embeddings: (n, dim),
    standardised; classes: the phonemes.
    """

    transcription: Transcription
    spans: Tensor
    posteriors: Tensor
    embeddings: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Transcriber:
    """A language model with its timing, on its base."""

    model: LanguageModel
    base: BaseModel
    timing: Timing
    weights: PathWeights = field(default_factory=PathWeights)

    @classmethod
    def load(cls, pack: Pack | Path, base: BaseModel | Path | None = None) -> Transcriber:
        """The transcriber of a language pack, or of the one in a folder, on its base (by default the one that ships).

        Raises PackError when the pack is damaged, made on another base, or has no timing.
        """
        pack = pack if isinstance(pack, Pack) else load_pack(pack, "language")
        base = base if isinstance(base, BaseModel) else load_base(base)
        model = load_language(pack, base)
        if model.timing is None:
            raise PackError(
                f"the language pack '{pack.name}' cannot transcribe: it was made on a base without a segmenter, or by another "
                "version; make it anew with `mtl-speech adapt`"
            )
        return cls(model, base, model.timing)

    def transcribe(self, audio: Path) -> Transcription:
        """The phones of a recording. Raises DataError when it cannot be read or is silent throughout."""
        survey = _survey(audio)
        phones = [phone for chunk in self._chunks(audio, survey) for phone in self._phones(chunk)]
        return Transcription(survey.duration, tuple(_fitted(phones, survey.duration)))

    def examine(self, audio: Path) -> Examined:
        """The phones of a recording, with their posteriors and embeddings. Raises DataError as `transcribe` does."""
        survey = _survey(audio)
        chunks = list(self._chunks(audio, survey))
        phones = [phone for chunk in chunks for phone in self._phones(chunk)]
        transcription = Transcription(survey.duration, tuple(_fitted(phones, survey.duration)))
        return Examined(
            transcription,
            torch.tensor([(phone.start, phone.end) for phone in transcription.spoken]).reshape(-1, 2),
            torch.cat([chunk.posteriors for chunk in chunks]),
            torch.cat([chunk.embeddings for chunk in chunks]),
            self.model.classes,
        )

    def _phones(self, chunk: _Chunk) -> list[Phone]:
        names = (*self.model.classes, SILENCE)  # a label of -1 is silence
        return [
            Phone(
                names[piece.label],
                (chunk.first + piece.start) / FRAMES_PER_SECOND,
                (chunk.first + piece.end) / FRAMES_PER_SECOND,
                piece.confidence,
                names[piece.label] in self.model.zero_shot,
            )
            for piece in chunk.pieces
        ]

    def _chunks(self, audio: Path, survey: _Survey) -> Iterator[_Chunk]:
        """The stretches of a recording, one after another."""
        margin: Tensor | None = None
        held = torch.zeros(0, 0)
        first = 0
        for rows in self._rows(audio, survey):
            if margin is None:
                margin = held = _margin(rows[:1])
            held = torch.cat((held, rows))
            while len(held) >= CHUNK + 2 * MARGIN:
                chunk, n = self._decode(held[: CHUNK + 2 * MARGIN], first, cut=True)
                yield chunk
                first, held = first + n, held[n:]
        held = torch.cat((held, _margin(held[-1:])))
        if len(held) > 2 * MARGIN:
            yield self._decode(held, first, cut=False)[0]

    def _rows(self, audio: Path, survey: _Survey) -> Iterator[Tensor]:
        """A recording block by block, a row every 10 ms: normalised log-mel, (n_rows, MEL_BANDS); where the encoder hears samples,
        these follow in each row, (n_rows, MEL_BANDS + HOP_LENGTH)."""
        if not isinstance(self.base.encoder, HubEncoder):
            yield from map(survey.normaliser.apply, stream_log_mel(stream_audio(audio)))
            return
        samples = np.zeros(0, dtype=np.float32)

        def heard() -> Iterator[np.ndarray]:
            nonlocal samples
            for block in stream_audio(audio):
                samples = np.concatenate((samples, block))
                yield block

        for mel in stream_log_mel(heard()):
            n = len(mel) * HOP_LENGTH
            taken, samples = torch.from_numpy(samples[:n]), samples[n:]
            if self.base.front_end is RAW_NORMALISED:
                taken = standardised(taken, survey.mean, survey.variance)
            heard_too = torch.nn.functional.pad(taken, (0, n - len(taken))).view(-1, HOP_LENGTH)
            yield torch.cat((survey.normaliser.apply(mel), heard_too), 1)

    def _decode(self, rows: Tensor, first: int, cut: bool) -> tuple[_Chunk, int]:
        """The phones of rows (MARGIN + n_frames + MARGIN, width) as `_rows` gives them, and how many they cover; they begin at
        `first`.

        With `cut` they end in the last pause of the rows, or where a boundary is likely.
        """
        n = len(rows) - 2 * MARGIN
        with torch.inference_mode():
            features, samples = rows[:, :MEL_BANDS], rows[:, MEL_BANDS:]
            stride = self.base.built_in.config.stride
            even = torch.cat((features, features[-1:].expand(-len(features) % stride, -1))).unsqueeze(0)
            logits = self.timing.segmenter(self.base.built_in.frames(even), even)
            boundary, speech = torch.sigmoid(logits)[0, MARGIN : MARGIN + n].double().numpy().T
            n = _cut(boundary, speech) if cut else n
            spans = find_spans(boundary[:n])
            labels, embeddings = self._labels(even, samples, spans)
        log_frames = np.log(spans.frames[:, 1] - spans.frames[:, 0])
        means = self.timing.log_duration.double().numpy()
        durations = np.square((log_frames[:, None] - means) / self.timing.spread)
        pieces = best_path(spans, labels.double().numpy(), durations, boundary[:n], speech[:n], self.weights)
        chosen = torch.tensor([piece.span for piece in pieces if piece.span >= 0], dtype=torch.long)
        return _Chunk(first, pieces, labels[chosen].exp(), embeddings[chosen]), n

    def _labels(self, features: Tensor, samples: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Calibrated log-probabilities (n_spans, n_classes) and standardised embeddings (n_spans, dim) of spans.

        features: (1, n_rows, MEL_BANDS), samples: (n_rows, HOP_LENGTH), of which the spans leave out the first MARGIN.
        """
        encoder = self.model.learner.encoder
        rows = torch.from_numpy(spans.frames + MARGIN).float()
        if not len(rows):
            embeddings = torch.zeros(0, self.model.head.weight.shape[2])
        elif isinstance(encoder, HubEncoder):
            embeddings = self.model.learner.standardise(encoder.embed_within(samples, rows))
        else:
            frames = encoder.frames(features)  # type: ignore[operator]
            found = [self._embed(encoder, frames, part) for part in rows.split(SPANS_AT_ONCE)]  # type: ignore[arg-type]
            embeddings = torch.cat(found)
        logits = self.model.head.logits(embeddings.unsqueeze(0))[0] / self.model.temperature
        return torch.log_softmax(logits, dim=1), embeddings

    def _embed(self, encoder: Encoder, frames: Tensor, rows: Tensor) -> Tensor:
        """Standardised embeddings (n, dim) of the rows (n, 2) of one recording, whose frames are (1, n_frames, channels)."""
        parts = part_weights(rows / self.base.built_in.config.stride, frames.shape[1]) @ frames[0]
        return self.model.learner.standardise(encoder.embed_parts(parts, rows))


@dataclass(frozen=True)
class _Chunk:
    """A stretch of a recording from the frame `first` on, and what its n phones that are not silence were made of.

    posteriors: (n, n_classes); embeddings: (n, dim).
    """

    first: int
    pieces: list[Piece]
    posteriors: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class _Survey:
    """What a recording is normalised by: of its log-mel, and the mean and variance of its samples; and its seconds."""

    normaliser: Normaliser
    duration: float
    mean: float
    variance: float


def _survey(audio: Path) -> _Survey:
    """Raises DataError where a recording cannot be read or is silent throughout."""
    normaliser, n_samples, peak, total, squares = Normaliser(), 0, 0.0, 0.0, 0.0

    def measured() -> Iterator[np.ndarray]:
        nonlocal n_samples, peak, total, squares
        for block in stream_audio(audio):
            n_samples += len(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            total += float(block.sum(dtype=np.float64))
            squares += float(np.square(block, dtype=np.float64).sum())
            yield block

    for mel in stream_log_mel(measured()):
        normaliser.add(mel)
    if peak < SILENT_PEAK:
        raise DataError(f"{audio}: silent: its peak is {peak:.1e} of full scale, below {SILENT_PEAK:.0e}")
    mean = total / n_samples
    return _Survey(normaliser, n_samples / SAMPLE_RATE, mean, squares / n_samples - mean**2)


def _margin(row: Tensor) -> Tensor:
    """The MARGIN rows beyond the first or last row (1, width) of a recording: its log-mel again, and no samples."""
    return torch.nn.functional.pad(row[:, :MEL_BANDS], (0, row.shape[1] - MEL_BANDS)).expand(MARGIN, -1)


def _cut(boundary: np.ndarray, speech: np.ndarray) -> int:
    """Where to cut a stretch: in the middle of its last pause, or at its likeliest boundary in the last part: frames."""
    begin = len(speech) - LAST_PART
    quiet = np.convolve(speech[begin:] < 0.5, np.ones(PAUSE), mode="valid") == PAUSE
    if quiet.any():
        return begin + int(np.flatnonzero(quiet)[-1]) + PAUSE // 2
    return begin + int(boundary[begin:].argmax())


def _fitted(phones: list[Phone], duration: float) -> list[Phone]:
    """The phones from 0 to the end of the recording exactly, silence in one piece.

    The last frame lies up to one frame before or after the end.
    """
    fitted: list[Phone] = []
    for phone in (each for each in phones if each.start < duration):
        if fitted and fitted[-1].phoneme == phone.phoneme == SILENCE:
            phone = _joined(fitted.pop(), phone)
        fitted.append(phone)
    return [*fitted[:-1], replace(fitted[-1], end=duration)]


def _joined(one: Phone, other: Phone) -> Phone:
    """Two stretches of silence as one; it is as sure as the two are on average."""
    lengths = one.end - one.start, other.end - other.start
    mean = (one.confidence * lengths[0] + other.confidence * lengths[1]) / sum(lengths)
    return Phone(SILENCE, one.start, other.end, mean)
