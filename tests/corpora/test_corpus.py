"""A corpus is counted, filtered and split without leakage."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError, Problem, UsageError
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance, split_by


def corpus_of(n_speakers: int, per_speaker: int) -> Corpus:
    utterances = [
        Utterance(
            f"s{s}/{u}", Path(f"s{s}/{u}.wav"), "pa", f"s{s}", 1.5, (Segment("a", 0, 0.1), Segment("k", 0.1, 0.2))
        )
        for s in range(n_speakers)
        for u in range(per_speaker)
    ]
    return Corpus("made", tuple(utterances), (Problem(Path("x"), "why"),))


def test_counts_seconds_and_filter() -> None:
    corpus = corpus_of(2, 3)
    assert corpus.phoneme_counts() == {"a": 6, "k": 6}
    assert corpus.seconds == pytest.approx(9.0)
    kept = corpus.filter(lambda utterance: utterance.speaker == "s1")
    assert {utterance.speaker for utterance in kept.utterances} == {"s1"}
    assert kept.problems == corpus.problems


def test_a_problem_says_where() -> None:
    problem = Problem(Path("a.TextGrid"), "overlaps", tier="phones", interval=7)
    assert str(problem) == "a.TextGrid, tier 'phones', interval 7: overlaps"


@pytest.mark.parametrize("key", ["speaker", "utterance", lambda utterance: utterance.id[-1]])
def test_parts_share_no_group_and_lose_nothing(key: object) -> None:
    corpus = corpus_of(20, 5)
    parts = split_by(corpus, key, [0.6, 0.2, 0.2], seed=3)  # type: ignore[arg-type]
    assert sorted(u.id for part in parts for u in part.utterances) == sorted(u.id for u in corpus.utterances)
    group = key if callable(key) else (lambda utterance: getattr(utterance, "id" if key == "utterance" else "speaker"))
    groups = [{group(u) for u in part.utterances} for part in parts]
    assert all(groups)
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    total = sum(map(len, groups))
    assert [len(g) for g in groups] == [0.6 * total, 0.2 * total, 0.2 * total]


def test_split_depends_on_the_seed_and_not_on_the_order() -> None:
    corpus = corpus_of(20, 2)
    shuffled = list(corpus.utterances)
    random.Random(0).shuffle(shuffled)

    def speakers(source: Corpus, seed: int) -> list[set[str]]:
        return [{u.speaker for u in part.utterances} for part in split_by(source, "speaker", [0.5, 0.5], seed)]

    assert speakers(corpus, 1) == speakers(replace(corpus, utterances=tuple(shuffled)), 1)
    assert speakers(corpus, 1) != speakers(corpus, 2)
    # The same on every machine and in every process: these do not come from hash() or a generator's state.
    assert speakers(corpus_of(4, 1), 1)[0] == {"s0", "s3"}


def test_each_part_gets_a_group() -> None:
    for fractions in ([0.9, 0.05, 0.05], [0.05, 0.05, 0.9]):
        parts = split_by(corpus_of(3, 1), "speaker", fractions, seed=0)
        assert [len(part.utterances) for part in parts] == [1, 1, 1]
    with pytest.raises(DataError, match="too few for 3 parts"):
        split_by(corpus_of(2, 9), "speaker", [0.8, 0.1, 0.1], seed=0)


@pytest.mark.parametrize("fractions", [[], [0.5], [0.5, 0.6], [1.2, -0.2], [1.0, 0.0]])
def test_fractions_must_add_up(fractions: list[float]) -> None:
    with pytest.raises(UsageError, match="sum 1"):
        split_by(corpus_of(3, 1), "speaker", fractions, seed=0)


def test_unknown_key() -> None:
    with pytest.raises(UsageError, match="'speaker'"):
        split_by(corpus_of(3, 1), "word", [0.5, 0.5], seed=0)
