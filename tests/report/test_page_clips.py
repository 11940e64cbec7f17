"""Clips of confusions: the right stretch of the right recording, as sound and picture, and no more than fits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mtl_speech.core.errors import DataError
from mtl_speech.report.page import CONTEXT, MAX_CLIP_SECONDS, cut, cut_clips, spectrogram, worst_confusions
from mtl_speech.scoring.metrics import Scores, Token, score
from tests.helpers import tone


def scores_of(tokens: list[Token]) -> Scores:
    return score([t.true for t in tokens], [t.predicted for t in tokens], n_bootstrap=5)


def confused(folder: Path, n: int = 3) -> tuple[list[Token], dict[str, Path]]:
    """Tokens of two recordings, a as e three times with rising confidence and b as p once, and where the recordings are."""
    recordings = {name: folder / f"{name}.wav" for name in ("one", "two")}
    for number, path in enumerate(recordings.values()):
        soundfile.write(path, tone(2.0, 200.0 + 300 * number), 16_000)
    tokens = [Token("one", 0.2 * i, 0.2 * i + 0.1, "a", "e", 0.5 + 0.1 * i) for i in range(n)]
    return [*tokens, Token("two", 0.5, 0.7, "b", "p", 0.9), Token("two", 1.0, 1.1, "a", "a", 0.99)], recordings


def test_the_worst_confusions_are_the_most_frequent() -> None:
    found = worst_confusions(score([*"aaabbb", "c"], [*"eeebpp", "p"], n_bootstrap=5), 2)
    assert found == [
        {"true": "a", "predicted": "e", "n": 3, "of": 3, "share": 1.0},
        {"true": "b", "predicted": "p", "n": 2, "of": 3, "share": 2 / 3},
    ]
    assert worst_confusions(score(["a"], ["a"], n_bootstrap=5), 5) == []


def test_clips_are_of_the_worst_confusions_the_surest_first(tmp_path: Path) -> None:
    tokens, recordings = confused(tmp_path)
    found = cut_clips(scores_of(tokens), tokens, recordings)
    assert [(c.token.true, c.token.confidence) for c in found.clips] == [("a", 0.7), ("a", 0.6), ("b", 0.9)]
    assert found.left_out == 0
    facts = found.facts()["clips"]
    assert [set(fact) for fact in facts] == [{"token", "begin", "seconds"}] * 3


def test_a_clip_is_the_segment_with_its_surroundings(tmp_path: Path) -> None:
    samples = np.zeros(32_000, np.float32)
    samples[16_000:17_600] = tone(0.1, 440.0)
    clip = cut(Token("u", 1.0, 1.1, "a", "e", 0.5), samples)
    heard, rate = soundfile.read(io.BytesIO(clip.flac), dtype="float32")
    assert rate == 16_000 and len(heard) == round((0.1 + 2 * CONTEXT) * 16_000)
    assert (clip.begin, clip.seconds) == (pytest.approx(1.0 - CONTEXT), pytest.approx(0.1 + 2 * CONTEXT))
    begin = round(CONTEXT * 16_000)
    assert np.abs(heard[:begin]).max() == 0 == np.abs(heard[begin + 1600 :]).max()
    assert np.abs(heard).max() == pytest.approx(0.7, abs=0.01)  # every clip is as loud


def test_clips_at_the_edges_and_very_long_ones_are_cut() -> None:
    samples = tone(5.0, 300.0)
    first = cut(Token("u", 0.0, 0.1, "a", "e", 0.5), samples)
    assert (first.begin, first.seconds) == (0.0, pytest.approx(0.1 + CONTEXT))
    last = cut(Token("u", 4.9, 5.0, "a", "e", 0.5), samples)
    assert last.seconds == pytest.approx(0.1 + CONTEXT)
    assert cut(Token("u", 1.0, 4.9, "a", "e", 0.5), samples).seconds == pytest.approx(MAX_CLIP_SECONDS + 2 * CONTEXT)
    assert cut(Token("u", 0.5, 0.6, "a", "e", 0.5), np.zeros(16_000, np.float32)).flac


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    tokens, recordings = confused(tmp_path)
    one = cut_clips(scores_of(tokens), tokens, recordings).clips[0]
    room = (len(one.flac) + len(one.picture)) * 4 // 3 + 10
    found = cut_clips(scores_of(tokens), tokens, recordings, room)
    assert (len(found.clips), found.left_out) == (1, 2)


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    tokens, recordings = confused(tmp_path)
    recordings["one"].unlink()
    with pytest.raises(DataError, match="one.wav: no such audio file"):
        cut_clips(scores_of(tokens), tokens, recordings)


def test_the_spectrogram_shows_where_the_energy_is() -> None:
    low_then_high = np.concatenate([np.sin(2 * np.pi * f * np.arange(4800) / 16_000) for f in (1000.0, 6000.0)])
    image = np.asarray(Image.open(io.BytesIO(spectrogram(low_then_high.astype(np.float32)))).convert("L")).astype(float)
    height, width = image.shape
    assert width == pytest.approx(300, abs=3)  # 2 ms a column
    left, right = image[:, : width // 2 - 10].mean(1), image[:, width // 2 + 10 :].mean(1)
    assert left.argmin() == pytest.approx(height * (1 - 1000 / 8000), abs=height * 0.05)  # 0 Hz is at the bottom
    assert right.argmin() == pytest.approx(height * (1 - 6000 / 8000), abs=height * 0.05)
