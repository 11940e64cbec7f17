"""The learning curve: rises with K, ends with all, counts the tokens of the report, and chooses on training examples alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_speech.core.options import AdaptConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.strategy import new_learner
from mtl_speech.report import findings as module
from mtl_speech.report.findings import N_DRAWS, LearningCurve, learning_curve, mean_macro_f1
from mtl_speech.scoring.metrics import score
from mtl_speech.training.adapt import adapt_fold
from mtl_speech.training.base_learning import Examples, StepChoice
from mtl_speech.training.folds import Fold
from tests.helpers import PHONEMES, make_store, meta_config, tiny_base

WORDS = [[(number + place * place) % 6 for place in range(4)] for number in range(30)]
CONFIG = AdaptConfig(lang="pa", meta_steps=0)


def split(store: SegmentStore, n_test: int) -> Fold:
    """The segments of the last `n_test` recordings as the test."""
    names = store.utterance.unique()
    held = torch.isin(store.utterance, names[-n_test:])
    return Fold(store.select(torch.nonzero(~held).squeeze(1)), store.select(torch.nonzero(held).squeeze(1)), "so")


def strategy(fold: Fold) -> MetaLearner:
    learner = new_learner(tiny_base(), fold.train.phonemes, meta_config())
    prepare_learner(learner, fold.train, meta_config())
    return learner


@pytest.fixture(scope="module")
def fold() -> Fold:
    return split(make_store(WORDS, noise=1.2), 8)


@pytest.fixture(scope="module")
def curve(fold: Fold) -> LearningCurve:
    found = learning_curve(strategy, [fold], CONFIG)
    assert found is not None
    return found


def test_the_points_go_from_one_to_all(fold: Fold, curve: LearningCurve) -> None:
    most = int(torch.bincount(fold.train.label).max())
    assert [p.shots for p in curve.points] == [k for k in (1, 2, 5, 10, 20, 50) if k < most] + [None]
    assert curve.most == most
    assert [p.n_draws for p in curve.points] == [N_DRAWS] * (len(curve.points) - 1) + [1]
    assert curve.points[0].examples == len(fold.train.label.unique())
    assert curve.points[-1].examples == len(fold.train)
    assert all(p.macro_f1_ci95[0] <= p.macro_f1 <= p.macro_f1_ci95[1] for p in curve.points)
    assert curve.points[-1].macro_f1 > curve.points[0].macro_f1


def test_it_ends_where_the_experiment_is_when_phi_stays(fold: Fold, curve: LearningCurve) -> None:
    run = adapt_fold(strategy(fold), fold, CONFIG, meta_config())
    assert curve.points[-1].macro_f1 == pytest.approx(run.scores.macro_f1)
    assert curve.n == run.scores.n


def test_what_the_experiment_embedded_and_chose_is_not_done_again(
    fold: Fold, curve: LearningCurve, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = adapt_fold(strategy(fold), fold, CONFIG, meta_config())
    known = replace(run, learned=replace(run.learned, choice=replace(run.learned.choice, steps=0, rate=1.0)))
    monkeypatch.setattr("mtl_speech.report.findings.embed_segments", lambda *_: pytest.fail("embedded again"))
    assert learning_curve(strategy, [fold], CONFIG, adapted=[run]) == curve
    other = learning_curve(strategy, [fold], CONFIG, adapted=[known])
    assert other is not None and other.points[:-1] == curve.points[:-1]
    moved = adapt_fold(strategy(fold), fold, replace(CONFIG, meta_steps=1), meta_config())
    with pytest.raises(pytest.fail.Exception, match="embedded again"):
        learning_curve(strategy, [fold], CONFIG, adapted=[moved])


def test_the_test_tokens_choose_nothing(fold: Fold, curve: LearningCurve) -> None:
    """With other labels in the test the same heads are learned: their accuracy changes as the labels do."""
    labels = fold.test.label
    other = replace(fold, test=replace(fold.test, label=labels.roll(1)))
    again, other_curve = (learning_curve(strategy, [each], CONFIG) for each in (fold, other))
    assert again == curve
    assert other_curve is not None and other_curve.points[-1].macro_f1 < curve.points[-1].macro_f1


def test_many_examples_are_drawn_once_and_choose_nothing(
    fold: Fold, curve: LearningCurve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is what choosing and drawing cost: from many examples on both end, and the points stay."""
    chosen: list[int] = []

    def choose(examples: Examples) -> StepChoice:
        chosen.append(len(examples.labels))
        return StepChoice(2)

    monkeypatch.setattr(module, "choose_steps", choose)
    monkeypatch.setattr(module, "CHOOSE_UP_TO", curve.points[1].examples)
    monkeypatch.setattr(module, "DRAW_UP_TO", curve.points[0].examples)
    found = learning_curve(strategy, [fold], CONFIG, n_bootstrap=20)
    assert found is not None
    assert chosen == [point.examples for point in curve.points[:2]]
    assert [p.n_draws for p in found.points] == [N_DRAWS] + [1] * (len(curve.points) - 1)
    assert [(p.shots, p.examples) for p in found.points] == [(p.shots, p.examples) for p in curve.points]


def test_folds_are_counted_together(fold: Fold) -> None:
    swapped = Fold(fold.test, fold.train, "so")
    both = learning_curve(strategy, [fold, swapped], CONFIG)
    assert both is not None and both.n == len(fold.test) + len(fold.train)


def test_one_example_of_each_phoneme_makes_no_curve(fold: Fold) -> None:
    assert learning_curve(strategy, [fold], replace(CONFIG, shots=1)) is None


def test_phonemes_never_heard_are_left_out(fold: Fold, curve: LearningCurve) -> None:
    name = fold.train.phonemes[int(fold.train.label[0])]
    keep = torch.tensor([fold.train.phonemes[int(i)] != name for i in fold.train.label])
    without = replace(fold, train=fold.train.select(torch.nonzero(keep).squeeze(1)), inventory=PHONEMES)
    found = learning_curve(strategy, [without], CONFIG)
    assert found is not None
    assert found.n == curve.n - sum(fold.test.phonemes[int(i)] == name for i in fold.test.label)


def test_a_fold_whose_test_phonemes_were_never_heard_counts_nothing(fold: Fold, curve: LearningCurve) -> None:
    name = int(fold.train.label[0])
    only = [
        store.select(torch.nonzero((store.label == name) == held).squeeze(1))
        for store, held in ((fold.train, False), (fold.test, True))
    ]
    without = Fold(only[0], only[1], "so", inventory=PHONEMES)
    assert learning_curve(strategy, [without], CONFIG) is None
    assert learning_curve(strategy, [fold, without], CONFIG) == curve


def test_the_mean_over_draws_and_its_interval() -> None:
    true = ["p", "b"] * 20
    groups = [f"u{i // 4}" for i in range(40)]
    right, wrong = true, ["p"] * 40
    mean, (low, high) = mean_macro_f1(true, [right, wrong], groups, 400, 0)
    expected = [score(true, each, n_bootstrap=1).macro_f1 for each in (right, wrong)]
    assert mean == pytest.approx(np.mean(expected))
    assert low == pytest.approx(min(expected), abs=0.1) and high == pytest.approx(max(expected), abs=0.02)
    assert mean_macro_f1(true, [right], groups, 50, 0) == (1.0, (1.0, 1.0))
