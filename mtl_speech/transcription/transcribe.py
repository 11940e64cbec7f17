"""Transcription of whole recordings with a language pack: from audio to phones with times, and how sure each one is.

A recording is read once, kept on the disk and cut where it is silent, so an hour needs no more memory than a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError, PackError
from mtl_speech.core.files import write_at
from mtl_speech.corpora.audio import FRAMES_PER_SECOND, SAMPLE_RATE, stream_audio
from mtl_speech.corpora.sound.mixing import SILENT_PEAK
from mtl_speech.features.front_end import MARGIN
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.language_pack import LanguageModel, load_language
from mtl_speech.model.pack import Pack, load_pack
from mtl_speech.model.passes import frames_of, n_frames_of, stretches_of
from mtl_speech.model.scale_shift import is_identity
from mtl_speech.model.segmenter import Timing
from mtl_speech.model.strategy import BaseModel, load_base
from mtl_speech.transcription.lattice import PathWeights, Piece, best_path, find_spans
from mtl_speech.transcription.transcript import SILENCE, Phone, Transcription

BLOCK = 1 << 18  # samples that are held at once
CHUNK = 2_000  # frames (20 s) that are held at once
LAST_PART = CHUNK // 2  # frames at the end of a chunk in which it may be cut
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
        with _Heard.of(audio, self) as heard:
            return self._transcription(heard, self._chunks(heard))

    def examine(self, audio: Path) -> Examined:
        """The phones of a recording, with their posteriors and embeddings. Raises DataError as `transcribe` does."""
        with _Heard.of(audio, self) as heard:
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
        n, learner = end - first, self.model.learner
        boundary, speech = self._boundaries(heard, first, end)
        n = _cut(boundary, speech) if cut else n
        spans = find_spans(boundary[:n])
        with torch.inference_mode():
            frames, begin = heard.phones.around(first, end)
            within = torch.from_numpy(spans.frames + (first - begin)).float()
            embeddings = learner.standardise(learner.encoder.pool(frames, within))
            labels = torch.log_softmax(
                self.model.head.logits(embeddings.unsqueeze(0))[0] / self.model.temperature, dim=1
            )
        log_frames = np.log(spans.frames[:, 1] - spans.frames[:, 0])
        means = self.timing.log_duration.double().numpy()
        durations = np.square((log_frames[:, None] - means) / self.timing.spread)
        pieces = best_path(spans, labels.double().numpy(), durations, boundary[:n], speech[:n], self.weights)
        chosen = torch.tensor([piece.span for piece in pieces if piece.span >= 0], dtype=torch.long)
        return _Chunk(first, pieces, labels[chosen].exp(), embeddings[chosen]), n

    def _boundaries(self, heard: _Heard, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """How likely each row from `first` to `end` is a boundary, and speech: (end - first,) each."""
        frames, begin = heard.boundaries.around(first, end)
        begin, n_rows = round(begin), self.timing.segmenter.stride * len(frames)
        rows = heard.boundaries.rows(begin, begin + n_rows)
        with torch.inference_mode():
            logits = self.timing.segmenter(frames.unsqueeze(0), rows.unsqueeze(0))[0]
        found = torch.sigmoid(logits)[first - begin : end - begin].double().numpy()
        return found[:, 0], found[:, 1]


@dataclass(frozen=True)
class _Chunk:
    """A stretch of a recording from the frame `first` on, and what its n phones that are not silence were made of.

    posteriors: (n, n_classes); embeddings: (n, dim).
    """

    first: int
    pieces: list[Piece]
    posteriors: Tensor
    embeddings: Tensor


class _Passed:
    """What an encoder hears of a recording, and the frames that it made of it in one pass; both lie in files without a name."""

    def __init__(
        self, samples: Callable[[], Iterator[np.ndarray]], encoder: FrameEncoder, streams: Sequence[IO[bytes]]
    ):
        self.encoder, (self._row_file, self._frame_file) = encoder, streams
        self._normaliser = encoder.front_end.rows()
        self.n_rows = 0
        for block in self._normaliser.blocks(samples()):
            self._row_file.write(block.numpy().data)
            self.n_rows += len(block)
        self._row_file.flush()
        self._n_frames = n_frames_of(self.n_rows, encoder)
        planned = stretches_of(0, self.n_rows, encoder)
        for stretch, (frames,) in frames_of(encoder, planned, lambda each: self.rows(each.begin, each.end)):
            own = frames[stretch.skip : stretch.skip + stretch.n_frames].contiguous()
            write_at(self._frame_file, own.numpy().tobytes(), 4 * encoder.channels * round(stretch.low / encoder.hop))

    def rows(self, first: int, end: int) -> Tensor:
        """The rows of the front end from `first` to `end`, (end - first, width); beyond the recording they are its margins."""
        width, quiet = self.encoder.front_end.width, self.encoder.front_end.quiet
        low, high = min(max(first, 0), self.n_rows - 1), max(min(end, self.n_rows), 1)
        rows = (
            self._normaliser.finish(_floats(self._row_file, low * width, high * width).view(-1, width)).half().float()
        )
        before, after = max(-first, 0), max(end - self.n_rows, 0)
        if quiet is None:
            return torch.cat((rows[:1].expand(before, -1), rows, rows[-1:].expand(after, -1)))
        return F.pad(rows, (0, 0, before, after), value=quiet)

    def around(self, first: int, end: int) -> tuple[Tensor, float]:
        """The frames of the rows from `first` to `end` with some before and after, and the row at which they begin."""
        hop, size = self.encoder.hop, self.encoder.channels
        low, high = max(int((first - MARGIN) // hop), 0), min(int(-(-(end + MARGIN) // hop)), self._n_frames)
        return _floats(self._frame_file, low * size, high * size).view(-1, size), low * hop


class _Heard:
    """A recording, read once, and what its encoders made of it: `phones` is for what is said, `boundaries` for when.

    They are one and the same where the segmenter hears Θ and Φ is the identity. n_frames: rows of 10 ms. duration: seconds.
    """

    def __init__(self, samples: IO[bytes]) -> None:
        self._samples, self._n_samples = samples, 0
        self.phones: _Passed
        self.boundaries: _Passed

    @classmethod
    @contextmanager
    def of(cls, audio: Path, by: Transcriber) -> Iterator[_Heard]:
        """The recording `audio`; its files are there inside. Raises DataError where it cannot be read or is silent throughout."""
        cache = FeatureCache()
        with ExitStack() as held:
            heard, peak = cls(held.enter_context(cache.scratch())), 0.0
            for block in stream_audio(audio):
                heard._samples.write(block.data)
                heard._n_samples += len(block)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
            heard._samples.flush()
            if peak < SILENT_PEAK:
                raise DataError(f"{audio}: silent: its peak is {peak:.1e} of full scale, below {SILENT_PEAK:.0e}")

            def passed(encoder: FrameEncoder) -> _Passed:
                streams = [held.enter_context(cache.scratch()) for _ in range(2)]
                return _Passed(heard._blocks, encoder, streams)

            encoder, of_boundaries = by.model.learner.encoder, by.base.boundary_encoder
            heard.boundaries = passed(of_boundaries)
            is_same = of_boundaries is by.base.encoder and is_identity(encoder)
            heard.phones = heard.boundaries if is_same else passed(encoder)
            yield heard

    @property
    def n_frames(self) -> int:
        """Rows of 10 ms."""
        return min(self.phones.n_rows, self.boundaries.n_rows)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self._n_samples / SAMPLE_RATE

    def _blocks(self) -> Iterator[np.ndarray]:
        """The samples in blocks."""
        for first in range(0, self._n_samples, BLOCK):
            yield _floats(self._samples, first, min(first + BLOCK, self._n_samples)).numpy()


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
