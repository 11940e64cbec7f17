"""The report as one page, report.html: everything is inside, nothing is fetched, and all that comes from data is escaped.

So are clips: short stretches of test recordings, to hear and see what was confused, audio and a spectrogram of each.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_speech.core.files import json_text
from mtl_speech.corpora.audio import SAMPLE_RATE, load_audio
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.report.figures import most_confused
from mtl_speech.scoring.metrics import RELIABLE_FROM, Scores, Token

if TYPE_CHECKING:
    from jinja2 import Environment
    from numpy.typing import NDArray

N_SHADES = 6  # of a cell of a matrix
LETTERS_PER_COLUMN = 4  # of the name of a group that fit above a column of the matrix
CONTEXT = 0.25  # seconds before and after the segment
MAX_CLIP_SECONDS = 2.0  # of a segment; the rest is cut off
N_CONFUSIONS, PER_CONFUSION = 8, 2
MAX_BYTES = 3_000_000  # of audio and pictures together, as they stand in the page
_DYNAMIC_RANGE = 42.0  # dB below the loudest point that the spectrogram shows
_WINDOW, _HOP, _FFT = SAMPLE_RATE // 200, SAMPLE_RATE // 500, 256  # samples: 5 ms (wide band), 2 ms
_TOP = 8000  # Hz


def render(data: Mapping[str, Any], clips: Sequence[Clip] = ()) -> str:
    """The page of what report.json holds (`results.report_data`), with the audio and pictures of `clips`."""
    environment = _environment()
    script, style = (environment.get_template(name).render() for name in ("report.js", "report.css"))
    return environment.get_template("report.html").render(
        data=data,
        matrix=confusion_matrix(data),
        rows=phoneme_rows(data),
        clips=[_media(clip) for clip in clips],
        reliable_from=RELIABLE_FROM,
        script=script,
        style=style,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    found = Environment(
        loader=PackageLoader("mtl_speech"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"f3": f3, "percent": percent, "interval": interval, "thousands": thousands, "json": json_text}
    found.globals |= {"log_scale": log_scale, "ticks": curve_ticks, "shade": shade}
    return found


def f3(value: float | None, signed: bool = False) -> str:
    """A figure between 0 and 1 to three digits; a dash where there is none."""
    return "–" if value is None else (f"{value:+.3f}" if signed else f"{value:.3f}").replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(bounds: Sequence[float | None], signed: bool = False) -> str:
    """An interval, such as 0.412 to 0.530."""
    low, high = bounds
    return "–" if low is None or high is None else f"{f3(low, signed)} to {f3(high, signed)}"


def thousands(value: float) -> str:
    """A count, digits grouped by three."""
    return f"{value:,.0f}"


def log_scale(value: float, low: float, high: float, left: float, right: float) -> float:
    """The place between `left` and `right` of a value between `low` and `high`, on a logarithmic scale."""
    return round(left + (right - left) * math.log(value / low) / max(math.log(high / low), 1e-9), 1)


def curve_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round values that span `low` to `high`, about `n` of them and two at least."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= n)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    first -= first == last > 0
    return [round(i * step, 2) for i in range(first, max(last, 1) + 1)]


def phoneme_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the phoneme table in articulatory order: those scored and, each in its place, those that were not."""
    scored = {row["phoneme"]: row for row in data["scores"]["phonemes"]}
    missing = {row["phoneme"]: row for row in data["scores"]["not_scored"]}
    rows = missing | scored
    found = []
    for number, name in enumerate(articulation_order(rows)):
        place, manner = data["articulation"][name]
        row = {"order": number, "phoneme": name, "place": place, "manner": manner}
        found.append({**row, "scored": name in scored, **rows[name]})
    return found


def confusion_matrix(data: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix as the page shows it: ordered and grouped by articulation, a shade for each cell.

    Phonemes that were only predicted have a row without tokens. Of many phonemes those with the most errors are shown, as in the
    picture, for a page of 500 rows and columns would be too much for a browser; `n_all` tells how many there are.
    """
    labels, counts = data["scores"]["confusion"]["labels"], data["scores"]["confusion"]["counts"]
    order = most_confused(labels, np.asarray(counts))
    index = {label: i for i, label in enumerate(labels)}
    classes = data["articulation"]
    rows = []
    for name in order:
        line = [counts[index[name]][index[other]] for other in order]
        n = sum(counts[index[name]])
        cells = [
            {"n": count, "shade": shade(count / n) if n else 0, "right": other == name, "column": other}
            for other, count in zip(order, line, strict=True)
        ]
        rows.append({"phoneme": name, "n": n, "cells": cells, "manner": classes[name][1]})
    groups = [_group(key, len(list(those))) for key, those in groupby(order, lambda p: _key(classes[p]))]
    starts = {0}
    for group in groups[:-1]:
        starts.add(max(starts) + group["n"])
    return {"labels": order, "n_all": len(labels), "rows": rows, "groups": groups, "starts": starts}


def _key(place_and_manner: Sequence[str]) -> str:
    """The group of a phoneme in the matrix: consonants by place, vowels by height."""
    place, manner = place_and_manner
    return f"{place} vowel" if manner == "vowel" else place


def _group(name: str, n: int) -> dict[str, Any]:
    """A group of `n` columns; its name stands upright where it is too long for them."""
    return {"name": name, "n": n, "upright": len(name) > LETTERS_PER_COLUMN * n}


def shade(share: float) -> int:
    """The shade of a cell by its share of its row: 0 for none, up to N_SHADES; rare confusions can be told from none."""
    return 0 if share <= 0 else min(N_SHADES, 1 + int(math.sqrt(share) * N_SHADES))


def _media(clip: Clip) -> dict[str, Any]:
    """A clip as the page shows it: its token, where it lies in the stretch (from 0 to 1), and data URIs."""
    token = clip.token
    return {
        "token": token,
        "left": (token.start - clip.begin) / clip.seconds,
        "right": min(1.0, (token.end - clip.begin) / clip.seconds),
        "seconds": clip.seconds,
        "audio": "data:audio/flac;base64," + base64.b64encode(clip.flac).decode(),
        "picture": "data:image/png;base64," + base64.b64encode(clip.picture).decode(),
    }


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
