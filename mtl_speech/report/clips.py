"""Short stretches of test recordings for a report, to hear and see what was confused: audio and a spectrogram of each."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_speech.corpora.audio import SAMPLE_RATE, load_audio
from mtl_speech.scoring.metrics import Scores
from mtl_speech.scoring.tokens import Token

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTEXT = 0.25  # seconds before and after the segment
MAX_CLIP_SECONDS = 2.0  # of a segment; the rest is cut off
N_CONFUSIONS, PER_CONFUSION = 8, 2
MAX_BYTES = 3_000_000  # of audio and pictures together, as they stand in the page
_DYNAMIC_RANGE = 42.0  # dB below the loudest point that the spectrogram shows
_WINDOW, _HOP, _FFT = SAMPLE_RATE // 200, SAMPLE_RATE // 500, 256  # samples: 5 ms (wide band), 2 ms
_TOP = 8000  # Hz


@dataclass(frozen=True)
class Clip:
    """A test segment in its surroundings. `begin` and `seconds` are those of the stretch that is cut out of the recording."""

    token: Token
    begin: float
    seconds: float
    flac: bytes
    picture: bytes  # a PNG: time from left to right over `seconds`, 0 to 8 kHz from below

    def facts(self) -> dict[str, Any]:
        """What report.json says of the clip: all but its audio and picture."""
        return {"token": self.token, "begin": self.begin, "seconds": self.seconds}


@dataclass(frozen=True)
class Clips:
    """The clips of the worst confusions; `left_out` more did not fit into the page."""

    clips: tuple[Clip, ...]
    left_out: int

    def facts(self) -> dict[str, Any]:
        """What report.json says of them."""
        return {"clips": [clip.facts() for clip in self.clips], "left_out": self.left_out}


def worst_confusions(scores: Scores, n: int) -> list[dict[str, Any]]:
    """The pairs of phonemes that were confused most often, with the share of the true phoneme's tokens."""
    counts = scores.confusion
    pairs = [
        {
            "true": scores.labels[row],
            "predicted": scores.labels[column],
            "n": int(counts[row, column]),
            "of": int(counts[row].sum()),
            "share": float(counts[row, column] / counts[row].sum()),
        }
        for row, column in np.argwhere(counts)
        if row != column
    ]
    return sorted(pairs, key=lambda p: (-p["n"], -p["share"], p["true"], p["predicted"]))[:n]


def cut_clips(
    scores: Scores, tokens: Sequence[Token], recordings: Mapping[str, Path], max_bytes: int = MAX_BYTES
) -> Clips:
    """The clips of the worst confusions; of each those first of which the model was surest.

    recordings: the audio file of each recording by its id. Raises DataError where one cannot be read any more.
    """
    of_pair: dict[tuple[str, str], list[Token]] = defaultdict(list)
    for token in tokens:
        of_pair[token.true, token.predicted].append(token)
    clips: list[Clip] = []
    size = left_out = 0
    for confusion in worst_confusions(scores, N_CONFUSIONS):
        those = of_pair[confusion["true"], confusion["predicted"]]
        surest = sorted(those, key=lambda t: (-np.nan_to_num(t.confidence), t.recording, t.start))
        for token in surest[:PER_CONFUSION]:
            clip = cut(token, load_audio(recordings[token.recording]))
            size += (len(clip.flac) + len(clip.picture)) * 4 // 3  # base64
            if size > max_bytes:
                left_out += 1
            else:
                clips.append(clip)
    return Clips(tuple(clips), left_out)


def cut(token: Token, samples: NDArray[np.float32]) -> Clip:
    """The clip of a token from the samples (n,) of its recording at 16 kHz, with CONTEXT on either side where there is."""
    import soundfile

    end = min(token.end, token.start + MAX_CLIP_SECONDS)
    first = max(0, round((token.start - CONTEXT) * SAMPLE_RATE))
    stretch = samples[first : round((end + CONTEXT) * SAMPLE_RATE)]
    peak = float(np.abs(stretch).max(initial=0.0))
    level = stretch * (0.7 / peak) if peak > 0 else stretch
    stream = io.BytesIO()
    soundfile.write(stream, level, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    seconds = len(stretch) / SAMPLE_RATE
    return Clip(token, first / SAMPLE_RATE, seconds, stream.getvalue(), spectrogram(stretch))


def spectrogram(samples: NDArray[np.float32]) -> bytes:
    """A wide-band spectrogram of samples (n,) at 16 kHz as a PNG, dark where there is energy, as in Praat."""
    from matplotlib.image import imsave
    from numpy.lib.stride_tricks import sliding_window_view

    padded = np.pad(np.diff(samples, prepend=np.float32(0)), _WINDOW // 2)  # the difference lifts high frequencies
    frames = sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, _FFT)[:, : _TOP * _FFT // SAMPLE_RATE + 1]) ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-12)).T
    stream = io.BytesIO()
    top = float(decibels.max())
    imsave(stream, decibels, vmin=top - _DYNAMIC_RANGE, vmax=top, cmap="gray_r", origin="lower", format="png")
    return stream.getvalue()
