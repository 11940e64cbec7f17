"""Situations of public bug reports, as their folders stand in shared/cases: each is read as the people who met it would expect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtl_speech.corpora.audio import load_audio
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import build_store
from mtl_speech.model.segmenter import frame_targets
from tests.command_line import run

ROOT = Path(__file__).resolve().parents[1]
CASES = Path(os.environ.get("MTL_SPEECH_CASES", ROOT.parent / "shared" / "cases"))
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason=f"no cases at {CASES}; set MTL_SPEECH_CASES to where they are"
)


def read(number: str) -> Corpus:
    return read_corpus(next(CASES.glob(f"{number}-*")) / "input")


def phones(corpus: Corpus) -> dict[str, list[str]]:
    """The phonemes of each recording, by the last part of its name."""
    return {u.id.rpartition("/")[2]: [s.phoneme for s in u.segments] for u in corpus.utterances}


def lost(corpus: Corpus) -> list[str]:
    """What was left out."""
    return [str(problem) for problem in corpus.problems if not problem.used]


def test_01_backslash_symbols_of_praat() -> None:
    corpus = read("01")
    found = phones(corpus)
    assert found["w1"] == ["b", "ʌ", "t", "ɪ", "ʔ"] and found["w5"] == ["m", "i", "l", "ɑː", "ɡ", "ɾ", "u"]
    assert sum(corpus.phoneme_counts().values()) == 27 and not lost(corpus)


def test_02_names_that_praat_changed() -> None:
    corpus = read("02")
    assert len(corpus.utterances) == 4 and not lost(corpus)
    told = [str(problem) for problem in corpus.problems if problem.used]
    for utterance in corpus.utterances:
        assert any(utterance.audio.name in line and "_retake_.TextGrid" in line for line in told), told


def test_04_an_eaf_names_its_recording() -> None:
    corpus = read("04")
    assert [" ".join(each) for each in phones(corpus).values()] == ["k a l a", "k a l aː", "k o k o"] and not lost(
        corpus
    )


def test_05_the_lossless_recording_is_taken_and_a_video_is_no_fault() -> None:
    corpus = read("05")
    assert sorted(u.audio.name for u in corpus.utterances) == ["VC1-005-A.wav", "VC1-007-A.wav", "session1.wav"]
    assert not lost(corpus) and {p.file.suffix for p in corpus.problems if ".mp3" in str(p)}
    run("validate", next(CASES.glob("05-*")) / "input")


def test_06_an_apostrophe_is_no_ejective_vowel() -> None:
    corpus = read("06")
    assert not [phoneme for phoneme in corpus.phoneme_counts() if "ʼ" in phoneme]
    assert corpus.phoneme_counts()["ʔ"] == 8 or len([line for line in lost(corpus) if "ʔ" in line]) >= 1


@pytest.mark.parametrize("name", ["tape1.ogg", "tape2.mp3", "tape3.opus"])
def test_11_joined_recordings_are_read_to_their_end(name: str) -> None:
    waveform = load_audio(next(CASES.glob("11-*")) / "input" / name)
    assert len(waveform) / 16_000 == pytest.approx(1.39, abs=0.06)


def test_12_a_subdivision_has_the_order_of_its_chain() -> None:
    found = phones(read("12"))
    assert [" ".join(found[name]) for name in ("w0", "w1", "w2")] == ["k a l a", "k a l aː", "k o k o"]


def test_13_what_is_unknown_has_no_weight() -> None:
    corpus = read("13")
    store = build_store([corpus])
    _, weights = frame_targets(store)
    seen = 0
    for utterance, first in zip(corpus.utterances, store.first.tolist(), strict=True):
        for start, end in utterance.unknown:
            inside = weights[first + round(100 * start) + 1 : first + round(100 * end) - 1]
            assert not inside.any()
            seen += len(inside)
    assert seen > 70


def test_15_sound_files_of_praat() -> None:
    corpus = read("15")
    assert sorted(round(u.duration, 3) for u in corpus.utterances) == [0.531, 0.559, 0.566] and not lost(corpus)
