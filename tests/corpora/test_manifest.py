"""The splits that a recipe prepares: counts held against the published, speakers of one split alone, and the problems told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.corpora.manifest import SHOWN_PROBLEMS, Counts, check_disjoint, compare_counts, merged, validated


def corpus(name: str, *speakers: str, problems: tuple[Problem, ...] = ()) -> Corpus:
    utterances = (Utterance(f"{s}/a", Path(f"/d/{s}/a.wav"), "en", s, 2.0, (Segment("a", 0, 1),)) for s in speakers)
    return Corpus(name, tuple(utterances), problems)


PUBLISHED = Counts(40, 2_703, 5.4)


@pytest.mark.parametrize(
    ("found", "notes"),
    [
        (PUBLISHED, []),
        (Counts(40, 2_703, 5.42), []),
        (Counts(40, 2_703), []),
        (Counts(39, 2_704, 5.4), ["39 speakers, 1 fewer than the 40", "2,704 recordings, 1 more than the 2,703"]),
        (Counts(40, 2_703, 4.9), ["4.9 hours with labels, 0.5 fewer than the 5.4"]),
        (Counts(20, 2_703, 5.4), ["20 speakers, 20 fewer than the 40"]),
    ],
)
def test_counts_that_differ_are_told_with_by_how_much(found: Counts, notes: list[str]) -> None:
    assert compare_counts("dev", found, PUBLISHED) == [f"dev: {note} published" for note in notes]


def test_a_sample_is_called_one() -> None:
    (note,) = compare_counts("dev", Counts(19, 12, 0.1), PUBLISHED)
    assert note == "dev: a sample, 19 of 40 speakers; its counts are not checked"
    assert compare_counts("dev-clean-2", PUBLISHED, None) == ["dev-clean-2: no counts are published of it"]


def test_a_speaker_in_two_splits_or_an_empty_split_is_refused() -> None:
    check_disjoint({"train": corpus("c", "x"), "test": corpus("c", "y")})
    with pytest.raises(DataError, match="speaker x is in the splits 'train' and 'test'"):
        check_disjoint({"train": corpus("c", "x", "y"), "test": corpus("c", "x")})
    problem = Problem(Path("/d/z.wav"), "silent")
    with pytest.raises(DataError, match=r"no recording with labels is in the split 'test' \(/d/z\.wav: silent\)"):
        check_disjoint({"train": corpus("c", "x"), "test": corpus("c", problems=(problem,))})


def test_all_problems_are_written_and_the_first_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    problems = tuple(Problem(Path(f"/d/{n}.wav"), "silent") for n in range(SHOWN_PROBLEMS + 3))
    splits = {"train": corpus("c", "x", problems=problems), "test": corpus("c", "y", problems=problems)}
    with caplog.at_level(logging.WARNING, "mtl_speech"):
        found = validated(splits, ["train: a sample"], tmp_path, Path("/d"))
    assert found.notes == ("train: a sample",)
    assert (tmp_path / "problems.txt").read_text().splitlines() == [f"{n}.wav: silent" for n in range(len(problems))]
    rest = "and 3 more: all are in problems.txt"
    assert caplog.messages == [*(f"{n}.wav: silent" for n in range(SHOWN_PROBLEMS)), rest, "train: a sample"]
    assert (tmp_path / "manifest.csv").read_text().splitlines()[1:] == [
        "train,x/a,x,2.000,1,x/a.wav",
        "test,y/a,y,2.000,1,y/a.wav",
    ]


def test_corpora_become_one_and_keep_their_names_in_the_ids() -> None:
    problem = Problem(Path("/d/z.wav"), "silent")
    found = merged("train", [("a", corpus("a", "x", problems=(problem,))), ("b", corpus("b", "x"))])
    assert [u.id for u in found.utterances] == ["a/x/a", "b/x/a"] and found.problems == (problem,)
