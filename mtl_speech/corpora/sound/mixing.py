"""How the channels of a recording become one: by their mean, unless that loses what one of them has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import soundfile

SILENT_PEAK = 1e-3  # full scale is 1: a recording whose peak is below this (-60 dB) is silent
# Peaks that are worth scaling up, of formats that are fine enough: below them the steps would be heard. Others are as coarse as
# 16 bits, where a peak of SILENT_PEAK is 33 steps.
_LOWEST_PEAK = {"FLOAT": 1e-6, "DOUBLE": 1e-6, "PCM_32": 1e-6, "PCM_24": 1e-5}
_HUGE = 1e30  # no sample is as large
_CANCELLED = 0.05  # share that the mean has left of the power that channels without relation would leave it


@dataclass(frozen=True)
class Mix:
    """The channel that is taken (None: the mean of all), the factor of its samples, and what there is to say."""

    channel: int | None = None
    gain: float = 1.0
    notes: tuple[str, ...] = ()

    def apply(self, block: np.ndarray) -> np.ndarray:
        """Samples (n, channels) as (n,), float32."""
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):  # what is no number then is told later
            mono = block.mean(axis=1, dtype=np.float32) if self.channel is None else block[:, self.channel]
        return mono if self.gain == 1.0 else mono * np.float32(self.gain)


def may_be_odd(file: soundfile.SoundFile) -> bool:
    """Whether a recording may need another mix than the mean as it is; else its samples need not be looked at twice."""
    return file.channels > 1 or file.subtype in _LOWEST_PEAK


def find_mix(blocks: Iterable[np.ndarray], subtype: str) -> Mix:
    """The mix of a recording, from its samples (n, channels) in blocks; no more of them than are needed."""
    levels: _Levels | None = None
    for block in blocks:
        levels = levels or _Levels.of(block.shape[1])
        levels.add(block)
        if block.shape[1] == 1 and levels.peaks[-1] >= SILENT_PEAK:
            break
    if levels is None or levels.n == 0 or not levels.finite:
        return Mix()
    mix, peak = levels.mix()
    if _LOWEST_PEAK.get(subtype, SILENT_PEAK) <= peak < SILENT_PEAK:
        said = f"quiet: its peak is {peak:.1e} of full scale; scaled by it"
        mix = replace(mix, gain=1 / peak, notes=(*mix.notes, said))
    return mix


@dataclass
class _Levels:
    """Peaks, sums and sums of squares of n samples of each channel, and last of their mean."""

    peaks: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    n: int = 0
    finite: bool = True

    @classmethod
    def of(cls, channels: int) -> _Levels:
        import numpy as np

        return cls(np.zeros(channels + 1), np.zeros(channels + 1), np.zeros(channels + 1))

    def add(self, block: np.ndarray) -> None:
        import numpy as np

        mean = Mix().apply(block)
        self.n += len(block)
        for i, samples in enumerate((*block.T, mean)):
            peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
            self.finite = self.finite and peak < _HUGE
            if self.finite:
                self.peaks[i] = max(self.peaks[i], peak)
                self.sums[i] += float(samples.sum(dtype=np.float64))
                self.squares[i] += float(np.square(samples, dtype=np.float64).sum())

    def mix(self) -> tuple[Mix, float]:
        """The mix without its gain, and its peak."""
        power = self.squares / self.n - (self.sums / self.n) ** 2
        channels, peak = power[:-1], float(self.peaks[-1])
        best = int(channels.argmax())
        louder = float(self.peaks[best])
        if len(channels) == 1 or power[best] <= 0:
            return Mix(), peak
        name = f"channel {best + 1} of {len(channels)}"
        if power[-1] < _CANCELLED * channels.sum() / len(channels) ** 2:
            said = f"its channels cancel each other in their mean (opposite phase); {name} alone is used"
            return Mix(best, notes=(said,)), louder
        if peak < SILENT_PEAK <= louder:
            said = f"the mean of its channels is silent (a peak of {peak:.1e} of full scale); {name} alone is used"
            return Mix(best, notes=(said,)), louder
        return Mix(), peak
