"""Transcription of whole recordings with a language pack: from audio to phones with times, and how sure each one is.

A recording is read once, kept on the disk and cut where it is silent, so an hour needs no more memory than a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError, PackError
from mtl_speech.corpora.audio import FRAMES_PER_SECOND, HOP_LENGTH, MEL_BANDS, SAMPLE_RATE, stream_audio, stream_log_mel
from mtl_speech.corpora.sound.mixing import SILENT_PEAK
from mtl_speech.features.store import (
    ACTIVE_RANGE,
    FLOOR_RANGE,
    LOG_MEL,
    MARGIN,
    PRIOR_FRAMES,
    RAW_NORMALISED,
    SCALE,
    FrontEnd,
    standardised,
)
from mtl_speech.model.language_pack import LanguageModel, load_language
from mtl_speech.model.pack import Pack, load_pack
from mtl_speech.model.segmenter import Timing
from mtl_speech.model.strategy import BaseModel, load_base
from mtl_speech.transcription.lattice import PathWeights, Piece, best_path, find_spans
from mtl_speech.transcription.transcript import SILENCE, Phone, Transcription

CHUNK = 2_000  # frames (20 s) that are held at once
LAST_PART = CHUNK // 2  # frames at the end of a chunk in which it may be cut
ENERGY_STEP = 0.05  # nats: the steps in which `Normaliser` tells loud from soft
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
        with _Heard.of(audio, self.base.front_end) as heard:
            return self._transcription(heard, self._chunks(heard))

    def examine(self, audio: Path) -> Examined:
        """The phones of a recording, with their posteriors and embeddings. Raises DataError as `transcribe` does."""
        with _Heard.of(audio, self.base.front_end) as heard:
            chunks = list(self._chunks(heard))
        transcription = self._transcription(heard, chunks)
        return Examined(
            transcription,
            torch.tensor([(phone.start, phone.end) for phone in transcription.spoken]).reshape(-1, 2),
            torch.cat([chunk.posteriors for chunk in chunks]),
            torch.cat([chunk.embeddings for chunk in chunks]),
            self.model.classes,
        )

    def _transcription(self, heard: _Heard, chunks: Iterable[_Chunk]) -> Transcription:
        phones = [self._phone(chunk.first, piece) for chunk in chunks for piece in chunk.pieces]
        return Transcription(heard.duration, tuple(_fitted(phones, heard.duration)))

    def _phone(self, first: int, piece: Piece) -> Phone:
        phoneme = SILENCE if piece.label < 0 else self.model.classes[piece.label]
        start, end = ((first + frame) / FRAMES_PER_SECOND for frame in (piece.start, piece.end))
        return Phone(phoneme, start, end, piece.confidence, phoneme in self.model.zero_shot)

    def _chunks(self, heard: _Heard) -> Iterator[_Chunk]:
        """The stretches of a recording, one after another."""
        first = 0
        while first < heard.n_frames:
            cut = first + CHUNK + MARGIN <= heard.n_frames
            chunk, n = self._decode(heard, first, first + CHUNK if cut else heard.n_frames, cut)
            yield chunk
            first += n

    def _decode(self, heard: _Heard, first: int, end: int, cut: bool) -> tuple[_Chunk, int]:
        """The phones from the frame `first` on, and how many frames they cover: those before `end`.

        With `cut` they end in the last pause before it, or where a boundary is likely.
        """
        n, encoder, segmenter_hears = end - first, self.model.learner.encoder, self.base.built_in
        with torch.inference_mode():
            features = heard.log_mel(first - MARGIN, end + MARGIN)
            even = torch.cat((features, features[-1:].expand(-len(features) % segmenter_hears.config.stride, -1)))
            logits = self.timing.segmenter(segmenter_hears.frames(even.unsqueeze(0)), even.unsqueeze(0))
            boundary, speech = torch.sigmoid(logits)[0, MARGIN : MARGIN + n].double().numpy().T
            n = _cut(boundary, speech) if cut else n
            spans = find_spans(boundary[:n])
            rows = even if self.base.front_end is LOG_MEL else heard.samples(first - MARGIN, end + MARGIN)
            embeddings = encoder.embed_within(rows, torch.from_numpy(spans.frames + MARGIN).float())
            embeddings = self.model.learner.standardise(embeddings)
            labels = torch.log_softmax(
                self.model.head.logits(embeddings.unsqueeze(0))[0] / self.model.temperature, dim=1
            )
        log_frames = np.log(spans.frames[:, 1] - spans.frames[:, 0])
        means = self.timing.log_duration.double().numpy()
        durations = np.square((log_frames[:, None] - means) / self.timing.spread)
        pieces = best_path(spans, labels.double().numpy(), durations, boundary[:n], speech[:n], self.weights)
        chosen = torch.tensor([piece.span for piece in pieces if piece.span >= 0], dtype=torch.long)
        return _Chunk(first, pieces, labels[chosen].exp(), embeddings[chosen]), n


@dataclass(frozen=True)
class _Chunk:
    """A stretch of a recording from the frame `first` on, and what its n phones that are not silence were made of.

    posteriors: (n, n_classes); embeddings: (n, dim).
    """

    first: int
    pieces: list[Piece]
    posteriors: Tensor
    embeddings: Tensor


class Normaliser:
    """`normalise` for recordings too long to hold: every block is added first, then normalised by what all of them had.

    The frames are summed by their energy in steps of ENERGY_STEP, so that the speech frames can be told once the loudest is known.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Tensor, int]] = {}
        self._peak = -np.inf

    def add(self, mel: Tensor) -> None:
        """Count a block of log-mel, (n_frames, MEL_BANDS)."""
        energy = mel.mean(1)
        self._peak = max(self._peak, float(energy.max()))
        steps = torch.floor(energy / ENERGY_STEP).long()
        for step in steps.unique().tolist():
            those = mel[steps == step].double()
            total, n = self._sums.get(step, (torch.zeros(mel.shape[1], dtype=torch.float64), 0))
            self._sums[step] = (total + those.sum(0), n + len(those))

    def apply(self, mel: Tensor) -> Tensor:
        """Normalise a block, (n_frames, MEL_BANDS)."""
        active = [
            found for step, found in self._sums.items() if (step + 0.5) * ENERGY_STEP >= self._peak - ACTIVE_RANGE
        ]
        n = sum(count for _, count in active)
        mean = torch.stack([total for total, _ in active]).sum(0) / n
        mean = ((n * mean + PRIOR_FRAMES * mean.mean()) / (n + PRIOR_FRAMES)).to(mel)
        return (mel.clamp_min(self._peak - FLOOR_RANGE) - mean) / SCALE


class _Heard:
    """A recording, read once: its log-mel, and the samples of it where an encoder hears these, lie in files without a name.

    n_frames: of 10 ms. duration: seconds.
    """

    def __init__(self, front_end: FrontEnd, mel: IO[bytes], samples: IO[bytes]) -> None:
        self._front_end, self._mel, self._samples, self._normaliser = front_end, mel, samples, Normaliser()
        self.n_frames, self._n_samples, self._peak, self._sum, self._squares = 0, 0, 0.0, 0.0, 0.0

    @classmethod
    @contextmanager
    def of(cls, audio: Path, front_end: FrontEnd) -> Iterator[_Heard]:
        """The recording `audio`; its files are there inside. Raises DataError where it cannot be read or is silent throughout."""
        cache = FeatureCache()
        with cache.scratch() as log_mel, cache.scratch() as samples:
            heard = cls(front_end, log_mel, samples)
            for mel in stream_log_mel(heard._measured(stream_audio(audio))):
                heard._normaliser.add(mel)
                heard._mel.write(mel.numpy().data)
                heard.n_frames += len(mel)
            if heard._peak < SILENT_PEAK:
                peak = f"{heard._peak:.1e} of full scale, below {SILENT_PEAK:.0e}"
                raise DataError(f"{audio}: silent: its peak is {peak}")
            yield heard

    @property
    def duration(self) -> float:
        """Seconds."""
        return self._n_samples / SAMPLE_RATE

    def _measured(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks of samples, counted and kept."""
        for block in blocks:
            if self._front_end is not LOG_MEL:
                self._samples.write(block.data)
            self._n_samples += len(block)
            self._peak = max(self._peak, float(np.abs(block).max(initial=0.0)))
            self._sum += float(block.sum(dtype=np.float64))
            self._squares += float(np.square(block, dtype=np.float64).sum())
            yield block

    def log_mel(self, first: int, end: int) -> Tensor:
        """Normalised log-mel of the frames from `first` to `end`: (end - first, MEL_BANDS).

        Beyond the recording its first and last frame are repeated.
        """
        low, high = max(first, 0), min(end, self.n_frames)
        mel = _floats(self._mel, low * MEL_BANDS, high * MEL_BANDS).view(-1, MEL_BANDS)
        return self._normaliser.apply(mel)[torch.arange(first, end).clamp(0, self.n_frames - 1) - low]

    def samples(self, first: int, end: int) -> Tensor:
        """The samples of the frames from `first` to `end`, as the front end has them: (end - first, HOP_LENGTH).

        Beyond the recording they are zero.
        """
        low, high = first * HOP_LENGTH, end * HOP_LENGTH
        samples = _floats(self._samples, max(low, 0), min(high, self._n_samples))
        if self._front_end is RAW_NORMALISED:
            mean = self._sum / self._n_samples
            samples = standardised(samples, mean, self._squares / self._n_samples - mean**2)
        before = max(-low, 0)
        return F.pad(samples, (before, high - low - before - len(samples))).view(-1, HOP_LENGTH)


def _floats(stream: IO[bytes], first: int, end: int) -> Tensor:
    """Numbers `first` to `end` of a file of float32."""
    stream.seek(4 * first)
    return torch.from_numpy(np.frombuffer(bytearray(stream.read(4 * (end - first))), dtype=np.float32))


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
