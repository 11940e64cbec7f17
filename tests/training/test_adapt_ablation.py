"""The ablation: three systems on the same examples and the same test, each differing in what its row says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.scale_shift import distance_from_identity, scale_shift_layers
from mtl_speech.model.strategy import BaseModel, new_learner
from mtl_speech.scoring.metrics import macro_f1_difference, score
from mtl_speech.training import adapt as module
from mtl_speech.training import base_learning
from mtl_speech.training.adapt import (
    BASELINE,
    CURRICULUM,
    META_TRANSFER,
    Ablation,
    Adaptation,
    ablate,
    adapt_fold,
    baseline_learner,
    pooled,
)
from mtl_speech.training.folds import Fold
from tests.helpers import frozen_bytes, make_store, meta_config, tiny_base, toy_store

META = meta_config(n_way=(2,), theta_init="posterior", meta_steps=8, validate_every=4, outer_lr=0.02, hard_ratio=0.5)
CONFIG = AdaptConfig(shots=4, meta_steps=8)


def folds() -> list[Fold]:
    """Two folds of a cross-validation over twelve recordings."""
    rng = np.random.default_rng(0)
    store = make_store([rng.permutation([4, 5, 6, 9, 10]).tolist() for _ in range(12)], noise=2.5, seed=5)
    found = []
    for test in (store.utterance < 6, store.utterance >= 6):
        parts = (store.select(torch.nonzero(mask).squeeze(1)) for mask in (~test, test))
        found.append(Fold(*parts, how="by hand"))
    return found


def column(runs: Sequence[Adaptation], key: str) -> list[str]:
    """One entry of each token of all folds."""
    return [getattr(token, key) for token in pooled(runs)]


def strategy_on(base: BaseModel) -> MetaLearner:
    store = toy_store()
    learner = new_learner(base, store.phonemes, META)
    prepare_learner(learner, store, META)
    return learner


@pytest.fixture(scope="module", autouse=True)
def few_choices() -> Iterator[None]:
    """A short list of numbers of steps to choose from, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))
        yield


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture(scope="module")
def result(base: BaseModel) -> Ablation:
    return ablate(base, strategy_on(base), folds(), CONFIG, META)


def test_three_rows_in_the_order_of_the_steps(result: Ablation) -> None:
    assert [row.name for row in result.rows] == [BASELINE, META_TRANSFER, CURRICULUM] == list(result.systems)
    assert all(len(runs) == 2 for runs in result.systems.values())


def test_all_systems_learn_from_the_same_examples_and_are_tested_on_the_same_tokens(result: Ablation) -> None:
    for key in ("true", "recording"):
        lists = [column(runs, key) for runs in result.systems.values()]
        assert lists[0] == lists[1] == lists[2] and len(lists[0]) == 60
    assert column(result.systems[BASELINE], "true") == [
        fold.test.phonemes[int(i)] for fold in folds() for i in fold.test.label
    ]
    for fold in range(2):
        assert len({tuple(runs[fold].learned.n_train.items()) for runs in result.systems.values()}) == 1
    predictions = [tuple(column(runs, "predicted")) for runs in result.systems.values()]
    assert predictions[0] != predictions[1]


def test_rows_hold_the_scores_of_all_folds_together_and_paired_differences(result: Ablation) -> None:
    previous: Sequence[Adaptation] | None = None
    for row, runs in zip(result.rows, result.systems.values(), strict=True):
        true, predicted, groups = (column(runs, key) for key in ("true", "predicted", "recording"))
        scores = score(true, predicted, groups)
        assert (row.macro_f1, row.macro_f1_ci95) == (scores.macro_f1, scores.macro_f1_ci95)
        assert (row.micro_f1, row.micro_f1_ci95) == (scores.micro_f1, scores.micro_f1_ci95)
        assert row.seconds == pytest.approx(sum(run.learned.seconds for run in runs))
        if previous is None:
            assert row.difference_to_previous is None
        else:
            expected = macro_f1_difference(true, predicted, column(previous, "predicted"), groups)
            assert row.difference_to_previous == expected
        previous = runs


def test_the_baseline_is_the_frozen_base_and_a_head_from_scratch(base: BaseModel, result: Ablation) -> None:
    fold = folds()[0]
    learner, settings = baseline_learner(base, fold, META)
    assert learner.theta_init == "random" and not settings.whiten
    diagonal = learner.whitener.diagonal()
    assert torch.equal(learner.whitener, diagonal[0] * torch.eye(12)), "centred only"
    for run in result.systems[BASELINE]:
        assert run.learned.history.rounds == [] and run.learned.trainable_parameters == 5 * 12 + 5
        layers = scale_shift_layers(run.learned.model.learner.encoder)
        assert distance_from_identity(layers.values()).item() == 0
        assert run.learned.model.learner.theta_init == "random"
    assert result.rows[0].trainable_parameters < result.rows[1].trainable_parameters


def test_the_baseline_knows_nothing_of_the_test(base: BaseModel) -> None:
    fold = folds()[0]
    other = replace(fold, test=folds()[1].test)
    one, same = (baseline_learner(base, each, META)[0] for each in (fold, other))
    assert frozen_bytes(one) == frozen_bytes(same)


def test_only_the_last_row_draws_hard_tasks(result: Ablation) -> None:
    hard = {
        name: [row["hard"] for run in runs for row in run.learned.history.rounds]
        for name, runs in result.systems.items()
    }
    assert len(hard[META_TRANSFER]) == len(hard[CURRICULUM]) == 2 * 8
    assert not any(hard[META_TRANSFER]) and any(hard[CURRICULUM])


def test_meta_transfer_and_curriculum_start_from_the_same_strategy_which_does_not_move(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = strategy_on(base)
    before, frozen = frozen_bytes(strategy), frozen_bytes(base.encoder)
    starts: list[tuple[dict[str, bytes], float, int]] = []

    def spied(
        learner: MetaLearner, fold: Fold, config: AdaptConfig, meta: MetaTrainConfig, *rest: object
    ) -> Adaptation:
        starts.append((frozen_bytes(learner), meta.hard_ratio, config.meta_steps or 0))
        return adapt_fold(learner, fold, config, meta, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "adapt_fold", spied)
    given: list[Fold] = []
    ablate(base, lambda fold: (given.append(fold), strategy)[1], folds()[:1], replace(CONFIG, meta_steps=2), META)
    assert [ratio for _, ratio, _ in starts[1:]] == [0.0, 0.5] and [steps for *_, steps in starts] == [0, 2, 2]
    assert starts[1][0] == starts[2][0] == before == frozen_bytes(strategy)
    assert frozen_bytes(base.encoder) == frozen and len(given) == 1


def test_the_same_seed_gives_the_same_table(base: BaseModel, result: Ablation) -> None:
    torch.manual_seed(3)
    again = ablate(base, strategy_on(base), folds(), CONFIG, META)
    assert [replace(row, seconds=0.0) for row in again.rows] == [replace(row, seconds=0.0) for row in result.rows]
