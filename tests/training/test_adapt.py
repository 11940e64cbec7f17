"""Adaptation: nothing of the test reaches the learning, and nothing is scored that was not learned."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.core.config import AdaptConfig
from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.strategy import BaseModel, new_learner, prepare_learner
from mtl_speech.scoring.metrics import score
from mtl_speech.training import adapt, base_learning
from mtl_speech.training.adapt import (
    Adaptation,
    Fold,
    adapt_fold,
    continue_meta_training,
    divide_for_tasks,
    logits_on,
    make_folds,
    target_rounds,
    too_few,
)
from mtl_speech.training.base_learning import fit_temperature
from mtl_speech.training.meta_train import MetaTrainer, trainable_state
from tests.helpers import frozen_bytes, make_store, meta_config, predicted, tiny_base, toy_corpus, toy_store

META = meta_config(theta_init="posterior", guess_share=0.2, meta_steps=6, validate_every=3, outer_lr=0.02)


@pytest.fixture(scope="module", autouse=True)
def few_choices() -> Iterator[None]:
    """A short list of numbers of steps to choose from, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))
        yield


@pytest.fixture
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture
def strategy(base: BaseModel) -> MetaLearner:
    """Prepared on languages of the phonemes a to o."""
    store = toy_store()
    learner = new_learner(base, store.phonemes[:9], META)
    prepare_learner(learner, replace(store, phonemes=store.phonemes[:9]), META)
    return learner


def fold_of(train: Sequence[Sequence[int]], test: Sequence[Sequence[int]], noise: float = 1.0, seed: int = 5) -> Fold:
    """A fold whose recordings hold these phonemes."""
    store = make_store([*train, *test], noise=noise, seed=seed)
    held = store.utterance >= len(train)
    return Fold(*(store.select(torch.nonzero(mask).squeeze(1)) for mask in (~held, held)), how="by hand")


def roomy_fold(n_train: int = 12, noise: float = 1.5) -> Fold:
    rng = np.random.default_rng(0)
    recordings = [rng.permutation([4, 5, 6, 9, 10, 11]).tolist() for _ in range(n_train + 6)]
    return fold_of(recordings[:n_train], recordings[n_train:], noise)


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
    folds = make_folds(corpus, None, AdaptConfig())
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
        (fold,) = make_folds(corpus, None, config)
        check_folds([fold], corpus, config)
        assert not names(fold.train, "speaker") & names(fold.test, "speaker")
        assert len(names(fold.test, "speaker")) == round(0.3 * n_speakers)
        assert fold.how == f"{round(0.3 * n_speakers)} of {n_speakers} speakers held out, drawn by the seed"
        (again,) = make_folds(corpus, None, config)
        assert names(again.test) == names(fold.test)
        drawn.add(frozenset(names(fold.test)))
    assert len(drawn) > 1


def test_recordings_are_held_out_where_there_are_many_of_few_speakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "MIN_RECORDINGS", 30)
    corpus = toy_corpus(tmp_path, 30, 2, "ab")
    (fold,) = make_folds(corpus, None, AdaptConfig(test_share=0.2))
    check_folds([fold], corpus, AdaptConfig())
    assert len(names(fold.test)) == 6 and "6 of 30 recordings" in fold.how
    assert len(make_folds(corpus.filter(lambda u: u.id != "s0/u0"), None, AdaptConfig())) == 5, (
        "one below: they take turns"
    )


def test_a_test_folder_is_the_test(tmp_path: Path) -> None:
    train, test = toy_corpus(tmp_path / "a", 3, 1, "ab"), toy_corpus(tmp_path / "b", 2, 1, "ab")
    (fold,) = make_folds(train, test, AdaptConfig())
    assert names(fold.train) == {f"train/s0/u{i}" for i in range(3)}, "names that occur in both folders are kept apart"
    assert names(fold.test) == {f"test/s0/u{i}" for i in range(2)}
    assert fold.how == "the test folder"


def test_a_recording_in_training_and_test_is_refused(tmp_path: Path) -> None:
    train, test = toy_corpus(tmp_path / "a", 3, 1, "ab"), toy_corpus(tmp_path / "b", 2, 1, "ab")
    with pytest.raises(DataError, match="a recording cannot be both"):
        make_folds(train, train, AdaptConfig())
    shutil.copy(train.utterances[2].audio, test.utterances[1].audio)  # another name, the same recording
    with pytest.raises(DataError, match="u1.wav lies in the training and in the test folder .there as .*u2.wav"):
        make_folds(train, test, AdaptConfig())


def test_a_single_recording_cannot_be_both_learned_from_and_tested_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one recording cannot be both"):
        make_folds(toy_corpus(tmp_path, 1, 1, "ab"), None, AdaptConfig())


def test_recordings_that_cannot_be_used_are_left_out_before_the_division(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 5, 1, "ab")
    soundfile.write(corpus.utterances[1].audio, np.zeros(16_000), 16_000)
    silent = replace(corpus.utterances[3], segments=())
    corpus = replace(corpus, utterances=(*corpus.utterances[:3], silent, corpus.utterances[4]))
    folds = make_folds(corpus, None, AdaptConfig())
    assert len(folds) == 3 and folds[0].how == "3-fold cross-validation over 3 recordings"
    assert sorted(n for f in folds for n in names(f.test)) == ["toy/s0/u0", "toy/s0/u2", "toy/s0/u4"]
    assert [p.file for p in folds[0].train.problems] == [corpus.utterances[1].audio]
    only = corpus.filter(lambda u: u.id in ("s0/u0", "s0/u1", "s0/u3"))
    with pytest.raises(DataError, match="one recording cannot be both"):
        make_folds(only, None, AdaptConfig())


def test_speakers_whose_recordings_cannot_be_used_do_not_count(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 10, 5, "ab")
    for utterance in corpus.utterances:
        if utterance.speaker == "s0":
            shutil.copy(__file__, utterance.audio)
    folds = make_folds(corpus, None, AdaptConfig())
    assert len(folds) == 5 and "8 recordings" in folds[0].how  # four speakers are left: too few to hold some out


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


@pytest.mark.parametrize("shots", [1, 2, 3, 4, None])
def test_phonemes_with_fewer_than_k_plus_one_examples_are_never_scored(
    strategy: MetaLearner, shots: int | None
) -> None:
    train = [[0, 1, 2, 4, 9], [0, 1, 2, 4, 9], [0, 2, 4, 9], [4, 9]]
    test = [[0, 1, 3, 4, 9], [3, 4, 9]]
    fold = fold_of(train, test)
    result = adapt_fold(strategy, fold, AdaptConfig(shots=shots, meta_steps=0), META)
    k = shots or 1
    n_train, n_test = (Counter(fold.train.phonemes[p] for u in part for p in u) for part in (train, test))
    wanted = {p for p in n_test if n_train[p] >= k}
    assert {p.phoneme for p in result.scores.phonemes} == wanted == set(result.true)
    assert {m.phoneme for m in result.scores.not_scored} == (set(n_train) | set(n_test)) - wanted
    assert all(n_train[p] + n_test[p] >= k + 1 for p in wanted)
    for phoneme in result.scores.phonemes:
        assert phoneme.n == n_test[phoneme.phoneme]
        assert phoneme.n_train == min(shots or 99, n_train[phoneme.phoneme]) == result.n_train[phoneme.phoneme]
    assert set(result.model.classes) == set(n_train)


def test_nothing_to_score_is_an_error(strategy: MetaLearner) -> None:
    with pytest.raises(DataError, match="no phoneme has enough examples"):
        adapt_fold(strategy, fold_of([[0, 1], [0, 1]], [[2, 3]]), AdaptConfig(), META)


# No leak


def adapted(strategy: MetaLearner, fold: Fold, meta_steps: int | None = 6, **settings: object) -> Adaptation:
    config = AdaptConfig(meta_steps=meta_steps, **settings)  # type: ignore[arg-type]
    return adapt_fold(strategy, fold, config, META)


def test_what_is_learned_and_chosen_does_not_depend_on_the_test(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    shuffled = fold.test.label[torch.randperm(len(fold.test), generator=torch.Generator().manual_seed(0))]
    other = make_store([[4, 5, 6, 9, 10, 11]] * 3, noise=9.0, seed=77)
    results = [adapted(strategy, f) for f in (fold, replace(fold, test=replace(fold.test, label=shuffled)))]
    results.append(adapted(strategy, replace(fold, test=other)))
    for result in results[1:]:
        assert result.choice == results[0].choice and result.history == results[0].history
        assert torch.equal(result.model.head.weight, results[0].model.head.weight)
        assert frozen_bytes(result.model.learner) == frozen_bytes(results[0].model.learner)
        assert result.scores != results[0].scores


def test_tasks_are_drawn_of_training_recordings_that_choose_nothing(
    strategy: MetaLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = roomy_fold()
    tasks, valid = divide_for_tasks(fold.train, 0)
    assert not names(tasks) & names(valid) and names(tasks) | names(valid) == names(fold.train)
    assert len(names(valid)) == 3 and len(tasks) + len(valid) == len(fold.train)
    assert names(divide_for_tasks(fold.train, 0)[1]) == names(valid) != names(divide_for_tasks(fold.train, 1)[1])
    seen: set[str] = set()
    init = MetaTrainer.__init__

    def spied(self: MetaTrainer, learner: MetaLearner, store: SegmentStore, *rest: object) -> None:
        seen.update(names(store))
        init(self, learner, store, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MetaTrainer, "__init__", spied)
    adapted(strategy, fold)
    assert seen == names(tasks)
    seen.clear()
    adapted(strategy, replace(fold, valid=valid))
    assert seen == names(fold.train), "validation recordings that are given free all training recordings for tasks"


def test_tasks_of_the_target_train_the_rows_of_their_own_phonemes(strategy: MetaLearner, base: BaseModel) -> None:
    """The store numbers phonemes in its own way, the rows of θ in the strategy's."""
    store = make_store([[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]], phonemes=("s", "m", "a"))
    learner = new_learner(base, ("a", "b", "m", "s", "t"), replace(META, theta_init="previous"))
    with torch.no_grad():
        learner.theta.copy_(0.1 * torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
    before = learner.theta.detach().clone()
    held = store.utterance == 3
    parts = [store.select(torch.nonzero(mask).squeeze(1)) for mask in (~held, held)]
    settings = replace(META, theta_init="previous", guess_share=0.0, hard_ratio=0.0)
    history = continue_meta_training(learner, *parts, settings)
    moved = (learner.theta.detach() - before).abs().amax(1) > 0
    if max(history.validations, key=lambda row: row["score"])["round"] > 0:
        assert moved.tolist() == [True, False, True, True, False]
    hard = {phoneme for entered in history.hard_classes for _, phoneme in entered}
    assert hard <= {"s", "m", "a"} and hard


# What an adaptation is


def test_the_strategy_and_theta_capital_stay_as_they_were(strategy: MetaLearner, base: BaseModel) -> None:
    before, frozen = frozen_bytes(strategy), frozen_bytes(base.encoder)
    result = adapted(strategy, roomy_fold())
    assert frozen_bytes(strategy) == before and frozen_bytes(base.encoder) == frozen
    assert strategy.phonemes == roomy_fold().train.phonemes[:9], "no rows were added to the strategy"
    own = {n: v for n, v in frozen_bytes(result.model.learner).items() if ".layer." in n}
    assert sorted(own.values()) == sorted(frozen.values()), "the recogniser holds the Θ of the base"


def test_scores_are_those_of_the_recogniser_on_the_test(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    result = adapted(strategy, fold)
    assert list(result.true) == [fold.test.phonemes[int(i)] for i in fold.test.label]
    assert list(result.predicted) == predicted(result.model, fold.test)
    assert list(result.groups) == [fold.test.utterance_ids[int(i)] for i in fold.test.utterance]
    expected = score(result.true, result.predicted, result.groups, result.n_train, result.scores.not_scored)
    assert result.scores == expected
    assert result.scores.macro_f1 > 0.35, "twice what guessing one of six phonemes would give"


def test_the_same_seed_gives_the_same_recogniser_and_another_seed_another(strategy: MetaLearner) -> None:
    torch.manual_seed(0)
    one = adapted(strategy, roomy_fold(), shots=3, seed=1)
    torch.manual_seed(99)
    same, other = adapted(strategy, roomy_fold(), shots=3, seed=1), adapted(strategy, roomy_fold(), shots=3, seed=2)
    assert one.scores == same.scores and one.history == same.history and one.choice == same.choice
    assert torch.equal(one.model.head.weight, same.model.head.weight)
    assert not torch.equal(one.model.head.weight, other.model.head.weight)


def test_counts_of_what_was_trained(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    plain, moved = adapted(strategy, fold, 0), adapted(strategy, fold, 2)
    assert plain.trainable_parameters == 6 * 12 + 6 and plain.history.rounds == []
    expected = sum(t.numel() for t in trainable_state(moved.model.learner).values())
    assert moved.trainable_parameters == expected and len(moved.history.rounds) == 2
    assert [row["round"] for row in moved.history.validations] == [0, 2]


def test_notes_say_what_was_done_and_why(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    result = adapted(strategy, fold)
    best = max(row["score"] for row in result.history.validations)
    assert "6 rounds (as asked for)" in result.notes[0] and "a quarter of the training recordings" in result.notes[0]
    assert f"macro-F1 {best:.3f}" in result.notes[0] and str(result.choice) in result.notes[1]
    tasks, valid = divide_for_tasks(fold.train, 0)
    given = adapted(strategy, replace(fold, train=tasks, valid=valid))
    assert "the validation recordings" in given.notes[0]


# When to meta-train on the target


def test_meta_training_on_the_target_needs_enough_examples_and_feasible_tasks() -> None:
    fold = roomy_fold()
    tasks, _ = divide_for_tasks(fold.train, 0)
    n = len(fold.train)
    assert target_rounds(fold.train, tasks, AdaptConfig(enough_segments=n), META) == (6, f"{n} examples: enough")
    rounds, why = target_rounds(fold.train, tasks, AdaptConfig(enough_segments=n + 1), META)
    assert rounds == 0 and "too few" in why
    assert target_rounds(fold.train, tasks, AdaptConfig(meta_steps=3), META) == (3, "as asked for")
    assert target_rounds(fold.train, tasks, AdaptConfig(meta_steps=0), META)[0] == 0
    one = fold.train.select(torch.nonzero(fold.train.utterance == 0).squeeze(1))
    rounds, why = target_rounds(fold.train, one, AdaptConfig(enough_segments=1), META)
    assert rounds == 0 and "fewer than 3 phonemes lie in two recordings" in why


@pytest.mark.parametrize("n_recordings", [1, 2, 3])
def test_few_long_recordings_are_adapted_to_without_tasks_of_their_own(
    strategy: MetaLearner, n_recordings: int
) -> None:
    fold = fold_of([[4, 5, 6, 9] * 6] * n_recordings, [[4, 5, 6, 9]])
    config = AdaptConfig(enough_segments=20)
    result = adapt_fold(strategy, fold, config, META)
    assert bool(result.history.rounds) == (n_recordings == 3)  # of two, one is left for tasks: none is possible
    assert result.scores.n == 4


def test_more_folds_than_recordings_are_not_made(tmp_path: Path) -> None:
    assert adapt.N_FOLDS == 5
    assert len(make_folds(toy_corpus(tmp_path, 3, 3, "ab"), None, AdaptConfig())) == 3


def test_what_phi_was_trained_on_does_not_make_the_model_sure_of_itself(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    run = adapted(strategy, fold)
    tasks, valid = divide_for_tasks(fold.train, 0)
    logits, classes = logits_on(valid, run.model.learner, tasks, run.choice)
    assert run.model.temperature == pytest.approx(fit_temperature(logits, classes))
    assert run.model.temperature != pytest.approx(run.choice.temperature)
    assert adapted(strategy, fold, meta_steps=0).model.temperature > 0
    plain = adapted(strategy, fold, meta_steps=0)
    assert plain.model.temperature == plain.choice.temperature
