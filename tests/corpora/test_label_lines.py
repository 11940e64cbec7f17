"""TIMIT's label files and CTM, which have a line for each label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.label_files import label_lines
from mtl_speech.corpora.reading import read_corpus
from tests.corpora.label_folders import audio

TIMIT_PHN = (
    "0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 4800 ih\n4800 5600 tcl\n5600 8000 s\n8000 9600 ax-h\n9600 16000 h#\n"
)


@pytest.mark.parametrize("upper", [True, False])
def test_timit(tmp_path: Path, upper: bool) -> None:
    def cased(name: str) -> str:
        return name.upper() if upper else name

    folder = tmp_path / "dr1" / "fcjf0"
    folder.mkdir(parents=True)
    wave = 0.3 * np.sin(np.arange(16_000) / 7)
    soundfile.write(folder / cased("sa1.wav"), wave, 16_000, format="NIST", subtype="PCM_16")
    (folder / cased("sa1.phn")).write_text(TIMIT_PHN)
    (folder / cased("sa1.wrd")).write_text("1600 8000 jits\n")
    (folder / cased("sa1.txt")).write_text("0 16000 Jits.\n")
    corpus = read_corpus(tmp_path, "en")
    (utterance,) = corpus.utterances
    assert corpus.problems == ()
    assert utterance.speaker == "fcjf0"
    expected = [("d͡ʒ", 0.1, 0.2), ("ɪ", 0.2, 0.3), ("t", 0.3, 0.35), ("s", 0.35, 0.5), ("ə̥", 0.5, 0.6)]
    assert [(s.phoneme, s.start, s.end) for s in utterance.segments] == expected
    assert utterance.words == (("jits", 0.1, 0.5),)


def test_timit_copies_with_two_suffixes(tmp_path: Path) -> None:
    audio(tmp_path / "SA1.WAV.wav")
    (tmp_path / "SA1.PHN").write_text(TIMIT_PHN)
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["SA1"]


def test_a_closure_apart_from_its_release_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.phn"
    path.write_text("0 800 dcl\n900 1600 d\n1600 2400 tcl\n2400 3200 k\n")
    assert [phone.label for phone in label_lines.read_phn(path).phones] == ["dcl", "d", "tcl", "k"]


def test_bad_lines_of_timit(tmp_path: Path) -> None:
    path = tmp_path / "a.phn"
    path.write_text("0 1600 b\nx y z\n\n1600 3200\n3200 4800 iy\n")
    labels = label_lines.read_phn(path)
    assert [(phone.label, phone.number) for phone in labels.phones] == [("b", 1), ("iy", 5)]
    assert [problem.interval for problem in labels.problems] == [2, 4]
    path.write_text("hello\n")
    with pytest.raises(DataError, match="first-sample"):
        label_lines.read_phn(path)
    with pytest.raises(DataError, match="cannot be read"):
        label_lines.read_phn(tmp_path / "none.phn")


CTM = ";; comment\na 1 0.10 0.20 P_B 0.9\na 1 0.30 0.20 AA1_E\nb A 0.00 0.50 K\nc 1 0 0.1 T\nb A 0.9 nan T\nb A 0.95\n"


def test_ctm(tmp_path: Path) -> None:
    for name in ("a", "b"):
        audio(tmp_path / "s1" / f"{name}.wav")
    audio(tmp_path / "s1" / "d.wav")
    (tmp_path / "phones.ctm").write_text(CTM)
    (tmp_path / "words.ctm").write_text("a 1 0.1 0.4 pa\n")
    corpus = read_corpus(tmp_path, "en")
    assert {u.id: [s.phoneme for s in u.segments] for u in corpus.utterances} == {"s1/a": ["p", "ɑ"], "s1/b": ["k"]}
    assert corpus.utterances[0].segments[1] == Segment("ɑ", 0.3, 0.5)
    assert corpus.utterances[0].words == (("pa", 0.1, 0.5),)
    told = [str(problem).removeprefix(f"{tmp_path}/") for problem in corpus.problems]
    dropped = "positions in the word (_B, _I, _E, _S) of labels are dropped"
    assert len(told) == 6
    assert told[0].startswith("phones.ctm: names the recording 'c'")
    assert told[1].startswith("phones.ctm, interval 7: 'b A 0.95' is not")
    assert told[2] == f"phones.ctm, tier 'a', interval 2: {dropped}"
    assert told[3] == f"phones.ctm, tier 'a', interval 3: stress digits and {dropped}"
    assert told[4].startswith("phones.ctm, tier 'b', interval 6: 'T' has a time that is not a finite number")
    assert told[5].startswith("s1/d.wav: no labels")


def test_ctm_names_by_path_where_names_repeat(tmp_path: Path) -> None:
    for name in ("s1/a", "s2/a"):
        audio(tmp_path / f"{name}.wav")
    (tmp_path / "all.ctm").write_text("s1/a 1 0.1 0.2 p\na 1 0.1 0.2 p\n")
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus.utterances] == ["s1/a"]
    assert any("recording 'a'" in problem.reason for problem in corpus.problems)
    (tmp_path / "all.ctm").write_text("nothing\n")
    with pytest.raises(DataError, match="start duration label"):
        label_lines.read_ctm(tmp_path / "all.ctm")
    assert "no line of the form" in read_corpus(tmp_path).problems[0].reason


def test_a_reader_stands_in_for_that_of_a_suffix(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    (tmp_path / "a.PHN").write_text(TIMIT_PHN)
    read = {".phn": label_lines.read_folded_phn}
    (plain,), (folded,) = (read_corpus(tmp_path, "en", "timit", readers=r).utterances for r in (None, read))
    assert [s.phoneme for s in plain.segments] == ["d͡ʒ", "ɪ", "t", "s", "ə̥"]
    assert [(s.phoneme, s.start) for s in folded.segments] == [("d͡ʒ", 0.15), ("ɪ", 0.2), ("s", 0.35), ("ə", 0.5)]


def test_a_label_file_is_read_folded(tmp_path: Path) -> None:
    path = tmp_path / "a.PHN"
    path.write_text("0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 4800 Q\n4800 5600 IX\n5600 8000 what\n")
    labels = [(phone.label, phone.number) for phone in label_lines.read_folded_phn(path).phones]
    assert labels == [("sil", 1), ("sil", 2), ("jh", 3), ("ix", 5), ("what", 6)]
