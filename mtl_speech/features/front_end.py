"""What encoders hear of a recording: a row of numbers every 10 ms, made of its samples.

The built-in encoder hears the log-mel of Whisper, a convolutional one log-mel frames of its own, those of other makers the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.corpora.audio import (
    HOP_LENGTH,
    MEL_BANDS,
    WHISPER_BANDS,
    log_mel,
    stream_mel,
    whisper_mel,
)

WINDOW_FRAMES = 48  # 480 ms around the middle of a segment
MARGIN = WINDOW_FRAMES  # frames between two recordings, so that no window reaches into its neighbour
ACTIVE_RANGE = 30.0 / 10.0 * np.log(10.0)  # nats below the loudest frame (30 dB) that count as speech
FLOOR_RANGE = 50.0 / 10.0 * np.log(10.0)  # nats below the loudest frame (50 dB) at which the spectrum is cut off
PRIOR_FRAMES = 100.0  # weight of the flat prior in the mean of a recording: one second of speech
SCALE = 2.5  # nats per unit of the normalised features
ENERGY_STEP = 0.05  # nats: the steps in which `_LogMelRows` tells loud from soft
WHISPER_RANGE = 8.0  # powers of ten below the loudest value of a recording at which Whisper's log-mel is cut off
WHISPER_PEAK = 1.0  # that loudest value, as a power of ten, to which every recording is brought


Scaled = TypeVar("Scaled", Tensor, float)


class Rows(Protocol):
    """A front end at work on one recording, which may be too long to hold: all of its blocks first, then any of its rows."""

    def blocks(self, samples: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Blocks of samples -> blocks of rows (n_rows, width) float32, not normalised yet."""
        ...

    def finish(self, rows: Tensor) -> Tensor:
        """Rows of `blocks`, (n_rows, width), normalised by what the whole recording has."""
        ...


@dataclass(frozen=True)
class FrontEnd:
    """What an encoder hears of a recording: a row of `width` numbers every 10 ms, made of its samples.

    `key` names it in the cache; that of log-mel is empty. `rows` begins a recording. `quiet` is the value of the margins around a
    recording; None: they repeat its edge rows. `window` is how many rows around the middle of a segment are heard where segments
    are heard one by one.
    """

    key: str
    width: int
    rows: Callable[[], Rows]
    quiet: float | None = None
    window: int = 2 * MARGIN

    def make(self, waveform: np.ndarray) -> Tensor:
        """The rows of a recording that is held, (n_rows, width) float16."""
        rows = self.rows()
        return rows.finish(torch.cat(list(rows.blocks([waveform])))).half()

    def with_margins(self, rows: Tensor) -> Tensor:
        """The rows of a recording with MARGIN rows before and after."""
        if self.quiet is None:
            return torch.cat((rows[:1].expand(MARGIN, -1), rows, rows[-1:].expand(MARGIN, -1)))
        return F.pad(rows, (0, 0, MARGIN, MARGIN), value=self.quiet)


def normalise(mel: Tensor) -> Tensor:
    """Level- and channel-normalise one recording's log-mel (n_frames, MEL_BANDS), in nats of power.

    The mean over speech frames is taken off each band, shrunk towards a band-independent level: the shorter the recording, the
    less its mean knows of the channel and the more of its phonemes. A gain of the whole recording cancels, down to `log_mel`'s
    floor; silence before and after changes nothing but the frames it adds. Frames are told loud from soft in steps of ENERGY_STEP.
    """
    rows = _LogMelRows()
    rows.add(mel)
    return rows.finish(mel)


class _LogMelRows:
    """`normalise` for recordings too long to hold: the frames are summed by their energy, so that the speech frames can be told
    once the loudest is known."""

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Tensor, int]] = {}
        self._peak = -np.inf

    def blocks(self, samples: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As `Rows` says: (n_rows, MEL_BANDS)."""
        for mel in stream_mel(samples, log_mel):
            self.add(mel)
            yield mel

    def add(self, mel: Tensor) -> None:
        """Count a block of log-mel, (n_frames, MEL_BANDS)."""
        energy = mel.mean(1)
        self._peak = max(self._peak, float(energy.max()))
        steps = torch.floor(energy / ENERGY_STEP).long()
        for step in steps.unique().tolist():
            those = mel[steps == step].double()
            total, n = self._sums.get(step, (torch.zeros(mel.shape[1], dtype=torch.float64), 0))
            self._sums[step] = (total + those.sum(0), n + len(those))

    def finish(self, rows: Tensor) -> Tensor:
        """As `Rows` says."""
        floor = self._peak - FLOOR_RANGE
        active = [
            found for step, found in self._sums.items() if (step + 0.5) * ENERGY_STEP >= self._peak - ACTIVE_RANGE
        ]
        n = sum(count for _, count in active)
        mean = torch.stack([total for total, _ in active]).sum(0) / n
        mean = ((n * mean + PRIOR_FRAMES * mean.mean()) / (n + PRIOR_FRAMES)).to(rows)
        return (rows.clamp_min(floor) - mean) / SCALE


class _WhisperRows:
    """Whisper's log-mel, with the loudest value of the whole recording brought to WHISPER_PEAK: a gain cancels."""

    def __init__(self, bands: int) -> None:
        self._bands, self._peak = bands, -np.inf

    def blocks(self, samples: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As `Rows` says: (n_rows, bands)."""
        for mel in stream_mel(samples, lambda waveform: whisper_mel(waveform, self._bands)):
            self._peak = max(self._peak, float(mel.max()))
            yield mel

    def finish(self, rows: Tensor) -> Tensor:
        """As `Rows` says, scaled as Whisper hears them."""
        return whisper_scaled((rows - self._peak).clamp_min(-WHISPER_RANGE) + WHISPER_PEAK)


def whisper_scaled(mel: Scaled) -> Scaled:
    """The logarithm to the base 10 of mel power, of any shape, as Whisper's encoder takes it (Radford et al. 2023, section 2.2)."""
    return (mel + 4.0) / 4.0


class _SampleRows:
    """The samples, HOP_LENGTH a row, the last filled up with zeros."""

    def __init__(self, normalised: bool) -> None:
        self._normalised, self._n, self._sum, self._squares = normalised, 0, 0.0, 0.0

    def blocks(self, samples: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """As `Rows` says: (n_rows, HOP_LENGTH)."""
        held = np.zeros(0, dtype=np.float32)
        for block in samples:
            self._n += len(block)
            self._sum += float(block.sum(dtype=np.float64))
            self._squares += float(np.square(block, dtype=np.float64).sum())
            held = np.concatenate((held, block.astype(np.float32, copy=False)))
            whole = len(held) // HOP_LENGTH * HOP_LENGTH
            yield torch.from_numpy(held[:whole].copy()).view(-1, HOP_LENGTH)
            held = held[whole:]
        if len(held):
            yield F.pad(torch.from_numpy(held.copy()), (0, HOP_LENGTH - len(held))).view(-1, HOP_LENGTH)

    def finish(self, rows: Tensor) -> Tensor:
        """As `Rows` says; normalised to zero mean and unit variance, as the feature extractors of wav2vec 2.0 do it."""
        if not self._normalised:
            return rows
        mean = self._sum / self._n
        return (rows - mean) / (self._squares / self._n - mean**2 + 1e-7) ** 0.5


LOG_MEL = FrontEnd("", MEL_BANDS, _LogMelRows, None, WINDOW_FRAMES)
RAW = FrontEnd("raw", HOP_LENGTH, lambda: _SampleRows(False), 0.0)
RAW_NORMALISED = FrontEnd("raw, normalised", HOP_LENGTH, lambda: _SampleRows(True), 0.0)


def whisper_front_end(bands: int = WHISPER_BANDS) -> FrontEnd:
    """Whisper's log-mel of so many bands; its margins are silence. Those of the same number of bands are the same object."""
    if bands not in _WHISPER:
        quiet = whisper_scaled(WHISPER_PEAK - WHISPER_RANGE)
        _WHISPER[bands] = FrontEnd(f"whisper {bands}, peak {WHISPER_PEAK}", bands, lambda: _WhisperRows(bands), quiet)
    return _WHISPER[bands]


_WHISPER: dict[int, FrontEnd] = {}
