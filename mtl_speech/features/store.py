"""Corpora as tensors: what a front end makes of all recordings in one matrix, and the segments that lie in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.cache import FeatureCache, key_of
from mtl_speech.core.errors import DataError, Problem, problem_of
from mtl_speech.core.files import content_hash, write_at
from mtl_speech.core.terminal import progress
from mtl_speech.corpora import audio
from mtl_speech.corpora.audio import FRAMES_PER_SECOND, check_audio, load_audio
from mtl_speech.corpora.corpus import Corpus, Utterance
from mtl_speech.features import front_end as ends
from mtl_speech.features.front_end import LOG_MEL, MARGIN, WINDOW_FRAMES, FrontEnd

logger = logging.getLogger(__name__)

FEATURE_VERSION = 3  # of what `FrameSource` computes: raised with every change that no constant below tells of

# Of the module `audio`, that features depend on.
AUDIO_CONSTANTS = (
    "SAMPLE_RATE WINDOW_LENGTH HOP_LENGTH FFT_SIZE MEL_BANDS MEL_LOW MEL_HIGH POWER_FLOOR SILENT_PEAK".split()
)
# Of the module `front_end`.
FRONT_END_CONSTANTS = "ACTIVE_RANGE FLOOR_RANGE PRIOR_FRAMES SCALE ENERGY_STEP WHISPER_RANGE WHISPER_PEAK".split()
PER_SEGMENT = ("start", "end", "label", "utterance", "language", "speaker", "number")  # tensors with a row a segment

Transform = Callable[[np.ndarray, int], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Track:
    """The frames that an encoder made of the recordings of a store, one recording after another.

    frames: (n_frames, channels) float16. first: (n_utterances + 1,) frame at which each recording begins, and the end of the last.
    hop: rows of the store from frame to frame.
    """

    frames: Tensor
    first: Tensor
    hop: float


@dataclass(frozen=True)
class Heard:
    """What an encoder made of the recordings of a store, in one pass.

    encoder: the hash of its weights. embeddings: by layer, (n_segments, dim) float32 of all segments that the store was made with.
    track: the frames; None where only the embeddings are kept.
    """

    encoder: str
    embeddings: Mapping[int, Tensor]
    track: Track | None = None


@dataclass(frozen=True)
class SegmentStore:
    """All segments of one or more corpora, as tensors.

    frames: (n_rows, width of the front end) float16, MEL_BANDS wide for log-mel: the recordings one after another with MARGIN rows
    around each.
    first, length: (n_utterances,) row of the first frame, and number of frames, of each recording.
    start, end: (n_segments,) float64, rows of `frames` at which a segment begins and ends (fractions of a frame allowed).
    label: (n_segments,) index into `phonemes`. utterance: (n_segments,) index into `utterance_ids`.
    unknown: (n_stretches, 2) float64, rows between which something sounds that no segment tells of, in order.
    language: (n_segments,) index into `languages`. speaker: (n_segments,) index into `speakers`.
    front_end: the key of what made the frames, where it is known.
    number: (n_segments,) which of the segments that the store was made with each is. heard: what an encoder made of these.
    audio: (n_utterances,) the files that the recordings were read from.
    """

    frames: Tensor
    first: Tensor
    length: Tensor
    start: Tensor
    end: Tensor
    label: Tensor
    utterance: Tensor
    language: Tensor
    speaker: Tensor
    phonemes: tuple[str, ...]
    languages: tuple[str, ...]
    speakers: tuple[str, ...]
    utterance_ids: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    unknown: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))
    window: int = WINDOW_FRAMES
    front_end: str | None = None
    number: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    heard: Heard | None = field(default=None, repr=False)
    audio: tuple[Path, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Segments without a number are all that there are. Raises ValueError where that would mix them up."""
        if len(self.number) != len(self.label):
            if self.heard is not None:
                raise ValueError("what an encoder made of the segments is of other segments")
            object.__setattr__(self, "number", torch.arange(len(self.label)))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def n_rows(self) -> int:
        """Rows of all recordings with the margins around them."""
        return int(self.first[-1] + self.length[-1]) + MARGIN

    def take(self, rows: Tensor) -> Tensor:
        """The frames in `rows`, of any shape: (..., MEL_BANDS) float32."""
        return self.frames[rows].float()

    def windows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The feature windows of segments `index` (n,): (n, window, MEL_BANDS) float32, and spans (n, 2) within them.

        A segment longer than its window is cut to the window.
        """
        start, end = self.start[index], self.end[index]
        left = torch.round((start + end) / 2).long() - self.window // 2
        rows = left.unsqueeze(1) + torch.arange(self.window)
        spans = torch.stack((start - left, end - left), dim=1).clamp(0, self.window)
        return self.take(rows), spans.float()

    def select(self, index: Tensor) -> SegmentStore:
        """The store with only the segments `index`, numbers (n,) or a mask of all; frames are shared, not copied."""
        return replace(self, **{key: getattr(self, key)[index] for key in PER_SEGMENT})


def build_store(
    corpora: Sequence[Corpus],
    phonemes: Sequence[str] | None = None,
    transform: Transform | None = None,
    cache: FeatureCache | None = None,
    front_end: FrontEnd = LOG_MEL,
) -> SegmentStore:
    """Read all audio of `corpora`, whose names must differ, into one SegmentStore. Its frames are mapped from the disk.

    `phonemes` fixes the label indices (default: the sorted phonemes of the corpora); other labels are an error. `transform`
    augments each recording: (waveform, its number) -> (waveform, speed). Recordings that cannot be read or are silent are left
    out, and told in `problems`. Features are kept in `cache` (default: that of the user).

    Raises DataError when no segment is left.
    """
    source = FrameSource(cache if cache is not None else FeatureCache(), transform, front_end)
    found: list[Found] = []
    problems: list[Problem] = []
    with source.cache.scratch() as stream:
        for owner, utterance in progress(owned_utterances(corpora), "features"):
            try:
                mel, speed = source.frames_of(utterance.audio, audio_content(utterance.audio), len(found))
            except DataError as error:
                problems.append(problem_of(utterance.audio, error))
                continue
            stream.write(front_end.with_margins(mel).numpy().data)
            found.append(Found(owner, utterance, len(mel), speed))
        store = assemble(corpora, found, phonemes, problems, lambda: _mapped(stream, front_end.width), source.cache)
        return replace(store, window=front_end.window, front_end=front_end.key)


def owned_utterances(corpora: Sequence[Corpus]) -> list[tuple[str, Utterance]]:
    """All utterances, with the names of their corpora. Raises DataError when there is none."""
    if not any(c.utterances for c in corpora):
        raise DataError("no recording with phoneme segments was found; run `mtl-speech validate` on the folder")
    return [(c.name, u) for c in corpora for u in c.utterances]


def _mapped(stream: IO[bytes], width: int) -> Tensor:
    """The rows written to a file, (n_rows, width) float16, mapped: only what is looked at takes memory, and can leave it."""
    stream.flush()
    return torch.from_numpy(np.memmap(stream, np.float16, mode="c").reshape(-1, width))


def _columns(
    parts: Iterable[np.ndarray], n_columns: int, found: Sequence[Found], dtype: type, cache: FeatureCache
) -> Tensor:
    """Columns (n_columns, n_segments), of which `parts` are those of one recording after another, of 8 bytes an item: mapped from a
    file. Raises OSError."""
    at, n = 0, sum(len(f.utterance.segments) for f in found)
    with cache.scratch() as stream:
        for part in parts:
            for number, column in enumerate(part):
                write_at(stream, column.tobytes(), 8 * (number * n + at))
            at += part.shape[1]
        return torch.from_numpy(np.memmap(stream, dtype, mode="c", shape=(n_columns, n)))


def audio_content(path: Path) -> str:
    """The hash of an audio file; empty where it cannot be read, which `FrameSource.frames_of` then says."""
    try:
        return content_hash(path)
    except OSError:
        return ""


@dataclass(frozen=True)
class FrameSource:
    """How recordings become frames: what an encoder hears of them, with an augmentation or without, from the cache or made.

    A transform takes part in the cache by its `key`, a text that tells all that it depends on; what comes from one without a key is
    not kept.
    """

    cache: FeatureCache = field(default_factory=FeatureCache)
    transform: Transform | None = None
    front_end: FrontEnd = LOG_MEL

    def frames_of(self, path: Path, content: str, number: int, check: bool = True) -> tuple[Tensor, float]:
        """What the front end makes of recording `number`, (n_frames, width) float16, and its speed.

        `content` is what `audio_content` gave; `check` as in `FeatureCache.read`. Raises DataError: no readable audio, silent, or
        changed since `content` was taken.
        """
        identity = getattr(self.transform, "key", None)
        keep = self.transform is None or identity is not None
        draw = (identity, number) if self.transform is not None else None
        settings = feature_settings() | ({"front_end": self.front_end.key} if self.front_end.key else {})
        key = key_of({**settings, "content": content, "transform": draw})
        found = self.cache.read(key, self.front_end.width, check) if keep else None
        if found is None:
            found = self._compute(path, number)
            if audio_content(path) != content:
                raise DataError(f"{path}: has changed while it was used: start again")
            if keep:
                self.cache.write(key, *found)
        return found

    def _compute(self, path: Path, number: int) -> tuple[Tensor, float]:
        notes: list[str] = []
        waveform = load_audio(path, notes)
        for note in notes if self.transform is None else ():
            logger.warning("used: %s: %s", path, note)
        fault = check_audio(waveform)
        if fault is not None:
            raise DataError(fault)
        waveform, speed = self.transform(waveform, number) if self.transform is not None else (waveform, 1.0)
        return self.front_end.make(waveform), speed


def feature_settings() -> dict[str, object]:
    """All that features depend on beside the recording: constants, and versions of this code and of the libraries below."""
    constants = {name: getattr(audio, name) for name in AUDIO_CONSTANTS}
    of_front_ends = {name: float(getattr(ends, name)) for name in FRONT_END_CONSTANTS}
    return {"version": FEATURE_VERSION, **constants, **of_front_ends, "libraries": _libraries()}


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("soundfile", "soxr", "torch", "torchaudio")}


@dataclass(frozen=True)
class Found:
    """A recording that can be used: of which corpus, how many frames it has, and its speed."""

    corpus: str
    utterance: Utterance
    n_frames: int
    speed: float

    @property
    def speaker(self) -> str:
        """The speaker, whose name is told apart from those of other corpora."""
        return f"{self.corpus}/{self.utterance.speaker}"


def assemble(
    corpora: Sequence[Corpus],
    found: Sequence[Found],
    phonemes: Sequence[str] | None,
    problems: Sequence[Problem],
    frames: Callable[[], Tensor],
    cache: FeatureCache,
) -> SegmentStore:
    """The store of recordings that stand one after another, each with MARGIN rows around it; `frames` gives its frames.

    Its tables of segments are mapped from files without a name in the folder of the cache. Raises DataError when there is no
    segment, or one of a phoneme outside `phonemes`, OSError.
    """
    spoken = [f for f in found if f.utterance.segments]
    if not spoken:
        raise DataError("no usable segment: " + ("; ".join(map(str, problems[:3])) or "the recordings hold no phoneme"))
    table = tuple(phonemes) if phonemes is not None else tuple(sorted({p for c in corpora for p in c.phoneme_counts()}))
    languages, speakers = sorted({f.utterance.language for f in spoken}), sorted({f.speaker for f in spoken})
    columns = _columns(_named(found, table, languages, speakers), 4, found, np.int64, cache)
    if bool((columns[0] < 0).any()):
        unknown = {s.phoneme for f in spoken for s in f.utterance.segments} - set(table)
        raise DataError(f"phonemes outside the given table: {', '.join(sorted(unknown))}")
    return SegmentStore(
        frames=frames(),
        **place(found, cache),
        **dict(zip(("label", "utterance", "language", "speaker"), columns, strict=True)),
        phonemes=table,
        languages=tuple(languages),
        speakers=tuple(speakers),
        utterance_ids=tuple(f"{f.corpus}/{f.utterance.id}" for f in found),
        audio=tuple(f.utterance.audio for f in found),
        problems=tuple(problems),
    )


def _named(found: Sequence[Found], *names: Sequence[str]) -> Iterator[np.ndarray]:
    """Label, recording, language and speaker of the segments of each recording, as places in their names: (4, n_segments).

    `names` are those of phonemes, languages and speakers; what is not among them is -1.
    """
    label_of, language_of, speaker_of = ({name: i for i, name in enumerate(each)} for each in names)
    for number, f in enumerate(found):
        labels = [label_of.get(s.phoneme, -1) for s in f.utterance.segments]
        others = number, language_of.get(f.utterance.language, -1), speaker_of.get(f.speaker, -1)
        yield np.array([labels, *([each] * len(labels) for each in others)], dtype=np.int64)


def place(found: Sequence[Found], cache: FeatureCache) -> dict[str, Any]:
    """Where things lie among the rows of a store: `first`, `length`, `start`, `end` and `unknown`. Raises OSError."""
    length = torch.tensor([f.n_frames for f in found])
    first = (length + 2 * MARGIN).cumsum(0) - length - MARGIN

    def parts() -> Iterator[np.ndarray]:
        for f, row in zip(found, first.tolist(), strict=True):
            # float64: float32 would lose fractions of a frame
            times = np.array([(s.start, s.end) for s in f.utterance.segments], dtype=np.float64).reshape(-1, 2)
            yield row + times.T * (FRAMES_PER_SECOND / f.speed)

    start, end = _columns(parts(), 2, found, np.float64, cache)
    rates = (FRAMES_PER_SECOND / f.speed for f in found)
    stretches = [
        (row + rate * begin, row + rate * stop)
        for f, row, rate in zip(found, first.tolist(), rates, strict=True)
        for begin, stop in f.utterance.unknown
    ]
    unknown = torch.tensor(stretches, dtype=torch.float64).reshape(-1, 2)
    return {"first": first, "length": length, "start": start, "end": end, "unknown": unknown}
