"""Corpora as tensors: normalised log-mel frames of all recordings in one matrix, and the segments that lie in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.audio import FRAMES_PER_SECOND, check_audio, load_audio, log_mel
from mtl_speech.corpus import Corpus, Problem, Utterance
from mtl_speech.errors import DataError

WINDOW_FRAMES = 48  # 480 ms around the middle of a segment
MARGIN = WINDOW_FRAMES  # frames between two recordings, so that no window reaches into its neighbour
ACTIVE_RANGE = 30.0 / 10.0 * np.log(10.0)  # nats below the loudest frame (30 dB) that count as speech
FLOOR_RANGE = 50.0 / 10.0 * np.log(10.0)  # nats below the loudest frame (50 dB) at which the spectrum is cut off
PRIOR_FRAMES = 100.0  # weight of the flat prior in the mean of a recording: one second of speech
ENERGY_STEP = 0.05  # nats: the steps in which `Normaliser` tells loud from soft
SCALE = 2.5  # nats per unit of the normalised features

PER_SEGMENT = ("start", "end", "label", "utterance", "language", "speaker")  # tensors of a store with a row a segment

Transform = Callable[[np.ndarray, int], tuple[np.ndarray, float]]


def normalise(mel: Tensor) -> Tensor:
    """Level- and channel-normalise one recording's log-mel (n_frames, MEL_BANDS), in nats of power.

    The mean over speech frames is taken off each band, shrunk towards a band-independent level: the shorter the recording, the
    less its mean knows of the channel and the more of its phonemes. A gain of the whole recording cancels exactly, down to
    `log_mel`'s floor; silence before and after changes nothing but the frames it adds.
    """
    energy = mel.mean(1)
    peak = energy.max()
    mel = mel.clamp_min(float(peak) - FLOOR_RANGE)
    active = mel[energy >= peak - ACTIVE_RANGE]
    level = active.mean()
    n = len(active)
    mean = (n * active.mean(0) + PRIOR_FRAMES * level) / (n + PRIOR_FRAMES)
    return (mel - mean) / SCALE


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


@dataclass(frozen=True)
class SegmentStore:
    """All segments of one or more corpora, as tensors.

    frames: (n_rows, MEL_BANDS) float16, the recordings one after another with MARGIN rows of edge frames around each.
    first, length: (n_utterances,) row of the first frame, and number of frames, of each recording.
    start, end: (n_segments,) float64, rows of `frames` at which a segment begins and ends (fractions of a frame allowed).
    label: (n_segments,) index into `phonemes`. utterance: (n_segments,) index into `utterance_ids`.
    language: (n_segments,) index into `languages`. speaker: (n_segments,) index into `speakers`.
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

    def __len__(self) -> int:
        return len(self.label)

    def windows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The feature windows of segments `index` (n,): (n, WINDOW_FRAMES, MEL_BANDS) float32, and spans (n, 2) within them.

        A segment longer than its window is cut to the window.
        """
        start, end = self.start[index], self.end[index]
        left = torch.round((start + end) / 2).long() - WINDOW_FRAMES // 2
        rows = left.unsqueeze(1) + torch.arange(WINDOW_FRAMES)
        spans = torch.stack((start - left, end - left), dim=1).clamp(0, WINDOW_FRAMES)
        return self.frames[rows].float(), spans.float()

    def select(self, index: Tensor) -> SegmentStore:
        """The store with only the segments `index` (n,); frames are shared, not copied."""
        return replace(self, **{key: getattr(self, key)[index] for key in PER_SEGMENT})


def build_store(
    corpora: Sequence[Corpus],
    phonemes: Sequence[str] | None = None,
    transform: Transform | None = None,
    progress: Callable[[Iterable[Utterance], str], Iterable[Utterance]] | None = None,
) -> SegmentStore:
    """Read all audio of `corpora`, whose names must differ, into one SegmentStore.

    `phonemes` fixes the label indices (default: the sorted phonemes of the corpora); other labels are an error. `transform`
    augments each recording: (waveform, its number) -> (waveform, speed). Recordings that cannot be read or are silent are left
    out, and told in `problems`.

    Raises DataError when no segment is left.
    """
    if not any(c.utterances for c in corpora):
        raise DataError("no recording with phoneme segments was found; run `mtl-speech validate` on the folder")
    table = tuple(phonemes) if phonemes is not None else tuple(sorted({p for c in corpora for p in c.phoneme_counts()}))
    owners = [c.name for c in corpora for _ in c.utterances]
    utterances = [u for c in corpora for u in c.utterances]
    parts: list[Tensor] = []
    rows: list[tuple[int, int, str]] = []
    segments: list[tuple[float, float, str, int, str, str]] = []
    problems: list[Problem] = []
    row = 0
    tracked = progress(utterances, "features") if progress is not None else utterances
    for owner, utterance in zip(owners, tracked, strict=True):
        try:
            mel, speed = _features(utterance, transform, len(rows))
        except DataError as error:
            problems.append(Problem(utterance.audio, str(error).removeprefix(f"{utterance.audio}: ")))
            continue
        first, rate = row + MARGIN, FRAMES_PER_SECOND / speed
        parts.append(torch.cat((mel[:1].expand(MARGIN, -1), mel, mel[-1:].expand(MARGIN, -1))).half())
        source = (len(rows), utterance.language, f"{owner}/{utterance.speaker}")
        segments += [(first + s.start * rate, first + s.end * rate, s.phoneme, *source) for s in utterance.segments]
        rows.append((first, len(mel), f"{owner}/{utterance.id}"))
        row += len(mel) + 2 * MARGIN
    if not segments:
        raise DataError("no usable segment: " + ("; ".join(map(str, problems[:3])) or "the recordings hold no phoneme"))
    return _assemble(parts, rows, segments, table, tuple(problems))


def _features(utterance: Utterance, transform: Transform | None, number: int) -> tuple[Tensor, float]:
    """Normalised log-mel frames (n_frames, MEL_BANDS) of a recording, and its speed. Raises DataError."""
    waveform = load_audio(utterance.audio)
    fault = check_audio(waveform)
    if fault is not None:
        raise DataError(fault)
    speed = 1.0
    if transform is not None:
        waveform, speed = transform(waveform, number)
    return normalise(log_mel(waveform)), speed


def _assemble(
    parts: list[Tensor],
    rows: list[tuple[int, int, str]],
    segments: list[tuple[float, float, str, int, str, str]],
    phonemes: tuple[str, ...],
    problems: tuple[Problem, ...],
) -> SegmentStore:
    languages = tuple(sorted({s[4] for s in segments}))
    speakers = tuple(sorted({s[5] for s in segments}))
    label_of, language_of, speaker_of = ({name: i for i, name in enumerate(t)} for t in (phonemes, languages, speakers))
    unknown = sorted({s[2] for s in segments} - set(label_of))
    if unknown:
        raise DataError(f"phonemes outside the given table: {', '.join(unknown)}")
    return SegmentStore(
        frames=torch.cat(parts),
        first=torch.tensor([r[0] for r in rows]),
        length=torch.tensor([r[1] for r in rows]),
        start=torch.tensor([s[0] for s in segments], dtype=torch.float64),  # float32 would lose fractions of a frame
        end=torch.tensor([s[1] for s in segments], dtype=torch.float64),
        label=torch.tensor([label_of[s[2]] for s in segments]),
        utterance=torch.tensor([s[3] for s in segments]),
        language=torch.tensor([language_of[s[4]] for s in segments]),
        speaker=torch.tensor([speaker_of[s[5]] for s in segments]),
        phonemes=phonemes,
        languages=languages,
        speakers=speakers,
        utterance_ids=tuple(r[2] for r in rows),
        problems=problems,
    )
