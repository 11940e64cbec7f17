"""What is held out for validation, and which folders are languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl_speech.commands.train import hold_out, hold_out_many, only_phonemes, read_languages
from mtl_speech.core.errors import DataError
from mtl_speech.core.options import MetaTrainOptions
from mtl_speech.core.run import Run
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from tests.command_line import labelled_folder


def corpus(name: str, n_speakers: int, n_recordings: int = 12) -> Corpus:
    segments = (Segment("a", 0.0, 0.1), Segment("b", 0.1, 0.2))
    return Corpus(
        name,
        tuple(
            Utterance(f"u{i}", Path(f"u{i}.wav"), "und", f"s{i % n_speakers}", 0.3, segments)
            for i in range(n_recordings)
        ),
    )


def test_speakers_are_held_out_where_there_are_enough() -> None:
    rest, held, how = hold_out(corpus("x", 6), 0.3, 0)
    assert how == "held-out speakers" and len(held.utterances) == 4
    assert not {u.speaker for u in rest.utterances} & {u.speaker for u in held.utterances}
    rest, held, how = hold_out(corpus("x", 2), 0.25, 0)
    assert how == "held-out recordings" and len(held.utterances) == 3
    assert len({u.id for u in (*rest.utterances, *held.utterances)}) == 12


def test_whole_languages_are_held_out_where_there_are_enough() -> None:
    corpora = [corpus(name, 2) for name in "abcde"]
    rest, held, how = hold_out_many(corpora, 0.4, 0)
    assert (len(rest), len(held)) == (3, 2) and {c.name for c in (*rest, *held)} == set("abcde")
    assert how == f"held-out languages {', '.join(c.name for c in held)}"
    assert hold_out_many(corpora, 0.4, 0)[1] == held
    rest, held, how = hold_out_many(corpora[:4], 0.25, 0)
    assert (len(rest), len(held), how) == (4, 4, "held-out recordings")


def test_other_phonemes_are_taken_out_and_counted() -> None:
    kept, n_others = only_phonemes(corpus("x", 2), ["a"])
    assert n_others == 12 and kept.phoneme_counts() == {"a": 12}
    assert only_phonemes(corpus("x", 2), ["c"]) == (Corpus("x", ()), 24)


def test_subfolders_named_by_languages_are_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pan", "hi"):
        labelled_folder(tmp_path / name, 2, 1)
    many = read_languages(tmp_path, MetaTrainOptions(), Run())
    assert [(c.name, c.utterances[0].language, c.utterances[0].speaker) for c in many] == [
        ("hi", "hi", "s0"),
        ("pan", "pa", "s0"),
    ]
    assert "2 languages (hi, pa)" in capsys.readouterr().out
    (one,) = read_languages(tmp_path, MetaTrainOptions(lang="sw"), Run(quiet=True))
    assert {u.language for u in one.utterances} == {"sw"} and len(one.utterances) == 4
    labelled_folder(tmp_path / "Speaker 3", 2, 1)
    (one,) = read_languages(tmp_path, MetaTrainOptions(), Run())
    assert len(one.utterances) == 6 and "one corpus" in capsys.readouterr().out


def test_labels_apart_are_divided_as_the_languages_are(tmp_path: Path) -> None:
    for name in ("pan", "hi"):
        labelled_folder(tmp_path / "data" / name, 2, 1)
        for path in sorted((tmp_path / "data" / name).rglob("*.TextGrid")):
            target = tmp_path / "labels" / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    options = MetaTrainOptions(labels=tmp_path / "labels")
    assert [len(each.utterances) for each in read_languages(tmp_path / "data", options, Run(quiet=True))] == [2, 2]
    (tmp_path / "labels" / "hi").rename(tmp_path / "labels" / "hin")
    with pytest.raises(DataError, match="has no folder for hi: divide the labels"):
        read_languages(tmp_path / "data", options, Run(quiet=True))
    with pytest.raises(DataError, match="no such folder: give the folder of the label files as --labels"):
        read_languages(tmp_path / "data", MetaTrainOptions(labels=tmp_path / "none"), Run(quiet=True))
