"""Folds: no recording on both sides, no segment lost, and phonemes with too few examples named."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core.errors import DataError
from mtl_speech.core.options import AdaptConfig
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.store import SegmentStore
from mtl_speech.training import folds as module
from mtl_speech.training.folds import Fold, few_shot_index, make_folds, too_few
from tests.helpers import make_store, tiny_base, toy_corpus

BASE = tiny_base()


def fold_of(train: Sequence[Sequence[int]], test: Sequence[Sequence[int]], noise: float = 1.0, seed: int = 5) -> Fold:
    """A fold whose recordings hold these phonemes."""
    store = make_store([*train, *test], noise=noise, seed=seed)
    held = store.utterance >= len(train)
    return Fold(*(store.select(torch.nonzero(mask).squeeze(1)) for mask in (~held, held)), how="by hand")


def names(store: SegmentStore, key: str = "utterance") -> set[str]:
    table = {"utterance": store.utterance_ids, "speaker": store.speakers}[key]
    return {table[int(i)] for i in getattr(store, key)}


# Holding out


def check_folds(folds: Sequence[Fold], corpus: Corpus, config: AdaptConfig) -> None:
    everything = Counter(s.phoneme for u in corpus.utterances for s in u.segments)
    for fold in folds:
        assert not names(fold.train) & names(fold.test), "a recording lies on both sides"
        counted = Counter(fold.train.phonemes[int(i)] for part in (fold.train, fold.test) for i in part.label)
        assert counted == everything, "a segment is lost or there twice"


@pytest.mark.parametrize(("n_utterances", "n_speakers", "n_folds"), [(2, 1, 2), (4, 2, 4), (9, 4, 5), (24, 4, 5)])
def test_few_recordings_take_turns(tmp_path: Path, n_utterances: int, n_speakers: int, n_folds: int) -> None:
    corpus = toy_corpus(tmp_path, n_utterances, n_speakers, "ab")
    folds = make_folds(corpus, None, AdaptConfig(), BASE)
    check_folds(folds, corpus, AdaptConfig())
    assert len(folds) == n_folds
    tested = [name for fold in folds for name in names(fold.test)]
    assert sorted(tested) == sorted(f"toy/{u.id}" for u in corpus.utterances), "each recording is tested once"
    assert folds[0].how == f"{n_folds}-fold cross-validation over {n_utterances} recordings"


@pytest.mark.parametrize(("n_utterances", "n_speakers"), [(12, 6), (30, 10)])
def test_whole_speakers_are_held_out_where_there_are_some(tmp_path: Path, n_utterances: int, n_speakers: int) -> None:
    corpus = toy_corpus(tmp_path, n_utterances, n_speakers, "ab")
    drawn = set()
    for seed in range(4):
        config = AdaptConfig(seed=seed, test_share=0.3)
        (fold,) = make_folds(corpus, None, config, BASE)
        check_folds([fold], corpus, config)
        assert not names(fold.train, "speaker") & names(fold.test, "speaker")
        assert len(names(fold.test, "speaker")) == round(0.3 * n_speakers)
        assert fold.how == f"{round(0.3 * n_speakers)} of {n_speakers} speakers held out, drawn by the seed"
        (again,) = make_folds(corpus, None, config, BASE)
        assert names(again.test) == names(fold.test)
        drawn.add(frozenset(names(fold.test)))
    assert len(drawn) > 1


def test_recordings_are_held_out_where_there_are_many_of_few_speakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_RECORDINGS", 30)
    corpus = toy_corpus(tmp_path, 30, 2, "ab")
    (fold,) = make_folds(corpus, None, AdaptConfig(test_share=0.2), BASE)
    check_folds([fold], corpus, AdaptConfig())
    assert len(names(fold.test)) == 6 and "6 of 30 recordings" in fold.how
    fewer = corpus.filter(lambda u: u.id != "s0/u0")
    assert len(make_folds(fewer, None, AdaptConfig(), BASE)) == 5, "one below: they take turns"


def test_a_test_folder_is_the_test(tmp_path: Path) -> None:
    train, test = toy_corpus(tmp_path / "a", 3, 1, "ab"), toy_corpus(tmp_path / "b", 2, 1, "ab")
    (fold,) = make_folds(train, test, AdaptConfig(), BASE)
    assert names(fold.train) == {f"train/s0/u{i}" for i in range(3)}, "names that occur in both folders are kept apart"
    assert names(fold.test) == {f"test/s0/u{i}" for i in range(2)}
    assert fold.how == "the test folder"


def test_a_recording_in_training_and_test_is_refused(tmp_path: Path) -> None:
    train, test = toy_corpus(tmp_path / "a", 3, 1, "ab"), toy_corpus(tmp_path / "b", 2, 1, "ab")
    with pytest.raises(DataError, match="a recording cannot be both"):
        make_folds(train, train, AdaptConfig(), BASE)
    shutil.copy(train.utterances[2].audio, test.utterances[1].audio)  # another name, the same recording
    with pytest.raises(DataError, match="u1.wav lies in the training and in the test folder .there as .*u2.wav"):
        make_folds(train, test, AdaptConfig(), BASE)


def test_a_single_recording_cannot_be_both_learned_from_and_tested_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one recording cannot be both"):
        make_folds(toy_corpus(tmp_path, 1, 1, "ab"), None, AdaptConfig(), BASE)


def test_recordings_that_cannot_be_used_are_left_out_before_the_division(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 5, 1, "ab")
    soundfile.write(corpus.utterances[1].audio, np.zeros(16_000), 16_000)
    silent = replace(corpus.utterances[3], segments=())
    corpus = replace(corpus, utterances=(*corpus.utterances[:3], silent, corpus.utterances[4]))
    folds = make_folds(corpus, None, AdaptConfig(), BASE)
    assert len(folds) == 3 and folds[0].how == "3-fold cross-validation over 3 recordings"
    assert sorted(n for f in folds for n in names(f.test)) == ["toy/s0/u0", "toy/s0/u2", "toy/s0/u4"]
    assert [p.file for p in folds[0].train.problems] == [corpus.utterances[1].audio]
    only = corpus.filter(lambda u: u.id in ("s0/u0", "s0/u1", "s0/u3"))
    with pytest.raises(DataError, match="one recording cannot be both"):
        make_folds(only, None, AdaptConfig(), BASE)


def test_speakers_whose_recordings_cannot_be_used_do_not_count(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 10, 5, "ab")
    for utterance in corpus.utterances:
        if utterance.speaker == "s0":
            shutil.copy(__file__, utterance.audio)
    folds = make_folds(corpus, None, AdaptConfig(), BASE)
    assert len(folds) == 5 and "8 recordings" in folds[0].how  # four speakers are left: too few to hold some out


def test_more_folds_than_recordings_are_not_made(tmp_path: Path) -> None:
    assert module.N_FOLDS == 5
    assert len(make_folds(toy_corpus(tmp_path, 3, 3, "ab"), None, AdaptConfig(), BASE)) == 3


# Who is scored


def test_phonemes_with_too_few_examples_are_named_and_not_scored() -> None:
    # Training and test examples: 0 has 3 + 1, 1 has 2 + 1, 2 has 3 + 0, 3 has 0 + 2, 4 has 3 + 2.
    fold = fold_of([[0, 1, 2, 4], [0, 1, 2, 4], [0, 2, 4]], [[0, 1, 3, 4], [3, 4]])
    counts = {"a": 3, "b": 2, "d": 3, "i": 3}
    found = {item.phoneme: (item.n_examples, item.reason) for item in too_few(fold, counts, 3)}
    assert set(found) == {"b", "d", "e"}
    assert found["b"] == (3, "fewer than 3 examples left to learn from")
    assert found["d"][0] == 3 and "no example left to test on" in found["d"][1]
    assert found["e"][0] == 2 and "to learn from" in found["e"][1]
    assert {item.phoneme for item in too_few(fold, counts, None)} == {"d", "e"}
    capped = {item.phoneme: item for item in too_few(fold, dict.fromkeys(counts, 1), 1)}
    assert {phoneme: item.n_examples for phoneme, item in capped.items()} == {"d": 3, "e": 2}, "all that there are"
    assert capped["e"].reason == "no example left to learn from"


# K shots


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40), n_shot=st.integers(1, 5), seed=st.integers(0, 9))
def test_few_shot_index_takes_k_of_each_class_or_all_there_are(labels: list[int], n_shot: int, seed: int) -> None:
    values = torch.tensor(labels)
    index = few_shot_index(values, n_shot, seed)
    assert torch.equal(index, index.sort().values) and len(index.unique()) == len(index)
    for c in set(labels):
        assert int((values[index] == c).sum()) == min(n_shot, labels.count(c))
    assert torch.equal(index, few_shot_index(values, n_shot, seed))
    more = few_shot_index(values, n_shot + 1, seed)
    assert set(index.tolist()) <= set(more.tolist()), "more shots keep the fewer"


def test_few_shot_index_is_random_by_the_seed_and_none_means_all() -> None:
    labels = torch.arange(3).repeat(20)
    drawn = {tuple(few_shot_index(labels, 2, seed).tolist()) for seed in range(10)}
    assert len(drawn) > 5
    assert few_shot_index(labels, None, 0).tolist() == list(range(60))
