"""Adaptation: nothing of the test reaches the learning, and nothing is scored that was not learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_speech.core.errors import DataError
from mtl_speech.core.options import AdaptConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.strategy import BaseModel, new_learner
from mtl_speech.scoring.metrics import score
from mtl_speech.training import base_learning
from mtl_speech.training.adapt import (
    Adaptation,
    adapt_fold,
    continue_meta_training,
    learn,
    logits_on,
    score_fold,
    target_rounds,
)
from mtl_speech.training.base_learning import fit_temperature
from mtl_speech.training.folds import Fold, divide_for_tasks
from mtl_speech.training.meta_train import MetaTrainer, trainable_state
from tests.helpers import frozen_bytes, make_store, meta_config, tiny_base, toy_store
from tests.helpers import predicted as all_predicted

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


# Who is scored


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
    assert {p.phoneme for p in result.scores.phonemes} == wanted == {token.true for token in result.tokens}
    assert {m.phoneme for m in result.scores.not_scored} == (set(n_train) | set(n_test)) - wanted
    assert all(n_train[p] + n_test[p] >= k + 1 for p in wanted)
    for phoneme in result.scores.phonemes:
        assert phoneme.n == n_test[phoneme.phoneme]
        assert phoneme.n_train == min(shots or 99, n_train[phoneme.phoneme]) == result.learned.n_train[phoneme.phoneme]
    assert set(result.learned.model.classes) == set(n_train)


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
    elsewhere = make_store([[4, 5, 6, 9, 10, 11]] * 3, noise=9.0, seed=77)
    results = [adapted(strategy, f) for f in (fold, replace(fold, test=replace(fold.test, label=shuffled)))]
    results.append(adapted(strategy, replace(fold, test=elsewhere)))
    for result in results[1:]:
        one, other = results[0].learned, result.learned
        assert other.choice == one.choice and other.history == one.history
        assert torch.equal(other.model.head.weight, one.model.head.weight)
        assert frozen_bytes(other.model.learner) == frozen_bytes(one.model.learner)
        assert result.scores != results[0].scores


def test_learning_alone_is_that_of_an_adaptation_and_needs_no_test_example(strategy: MetaLearner) -> None:
    fold, config = roomy_fold(), AdaptConfig(meta_steps=2)
    untested = replace(fold, test=fold.test.select(torch.arange(0)))
    alone, whole = learn(strategy, untested, config, META), adapt_fold(strategy, fold, config, META).learned
    assert torch.equal(alone.model.head.weight, whole.model.head.weight) and alone.history == whole.history
    assert alone.notes == whole.notes and alone.n_train == whole.n_train
    with pytest.raises(DataError, match="no phoneme has enough examples"):
        score_fold(alone, untested, config)


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
    own = {n: v for n, v in frozen_bytes(result.learned.model.learner).items() if ".layer." in n}
    assert sorted(own.values()) == sorted(frozen.values()), "the recogniser holds the Θ of the base"


def test_scores_are_those_of_the_recogniser_on_the_test(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    result = adapted(strategy, fold)
    true, predicted = ([getattr(token, key) for token in result.tokens] for key in ("true", "predicted"))
    groups = [fold.test.utterance_ids[int(i)] for i in fold.test.utterance]
    assert true == [fold.test.phonemes[int(i)] for i in fold.test.label]
    assert predicted == all_predicted(result.learned.model, fold.test)
    assert [f"toy/{token.recording}" for token in result.tokens] == groups
    expected = score(true, predicted, groups, result.learned.n_train, result.scores.not_scored)
    assert result.scores == expected
    assert result.scores.macro_f1 > 0.35, "twice what guessing one of six phonemes would give"


def test_the_same_seed_gives_the_same_recogniser_and_another_seed_another(strategy: MetaLearner) -> None:
    torch.manual_seed(0)
    one = adapted(strategy, roomy_fold(), shots=3, seed=1)
    torch.manual_seed(99)
    same, other = adapted(strategy, roomy_fold(), shots=3, seed=1), adapted(strategy, roomy_fold(), shots=3, seed=2)
    assert one.scores == same.scores
    assert one.learned.history == same.learned.history and one.learned.choice == same.learned.choice
    weights = [each.learned.model.head.weight for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_counts_of_what_was_trained(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    plain, moved = adapted(strategy, fold, 0).learned, adapted(strategy, fold, 2).learned
    assert plain.trainable_parameters == 6 * 12 + 6 and plain.history.rounds == []
    expected = sum(t.numel() for t in trainable_state(moved.model.learner).values())
    assert moved.trainable_parameters == expected and len(moved.history.rounds) == 2
    assert [row["round"] for row in moved.history.validations] == [0, 2]


def test_notes_say_what_was_done_and_why(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    result = adapted(strategy, fold).learned
    best = max(row["score"] for row in result.history.validations)
    assert "6 rounds (as asked for)" in result.notes[0] and "a quarter of the training recordings" in result.notes[0]
    assert f"macro-F1 {best:.3f}" in result.notes[0] and str(result.choice) in result.notes[1]
    tasks, valid = divide_for_tasks(fold.train, 0)
    given = adapted(strategy, replace(fold, train=tasks, valid=valid)).learned
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
    assert bool(result.learned.history.rounds) == (n_recordings == 3)  # of two, one is left for tasks: none is possible
    assert result.scores.n == 4


def test_what_phi_was_trained_on_does_not_make_the_model_sure_of_itself(strategy: MetaLearner) -> None:
    fold = roomy_fold()
    run = adapted(strategy, fold).learned
    tasks, valid = divide_for_tasks(fold.train, 0)
    logits, classes = logits_on(valid, run.model.learner, tasks, run.choice)
    assert run.model.temperature == pytest.approx(fit_temperature(logits, classes))
    assert run.model.temperature != pytest.approx(run.choice.temperature)
    assert adapted(strategy, fold, meta_steps=0).learned.model.temperature > 0
    plain = adapted(strategy, fold, meta_steps=0).learned
    assert plain.model.temperature == plain.choice.temperature
