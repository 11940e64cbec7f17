"""F1 scores against scikit-learn, and their intervals against plain loops and simulated coverage."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from mtl_speech.core.errors import DataError
from mtl_speech.scoring.metrics import (
    NotScored,
    episode_class_f1,
    episode_macro_f1,
    macro_f1_difference,
    score,
)

PHONEMES = ["p", "t̪ʰ", "d͡ʒ", "ɑ̃", "ɳ", "s", "ʃ", "ə"]


def tokens(n: int, seed: int, accuracy: float = 0.6, true_classes: int = 6) -> tuple[list[str], list[str], list[str]]:
    """True and predicted phonemes and utterances of `n` tokens; the last phonemes occur only as predictions."""
    rng = np.random.default_rng(seed)
    true = rng.choice(true_classes, size=n, p=np.arange(1, true_classes + 1) / sum(range(true_classes + 1)))
    predicted = np.where(rng.random(n) < accuracy, true, rng.integers(len(PHONEMES), size=n))
    return [PHONEMES[i] for i in true], [PHONEMES[i] for i in predicted], [f"u{i // 7}" for i in range(n)]


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Macro-F1 over the classes of `true`, written as plainly as possible."""
    each = []
    for c in np.unique(true):
        right = np.sum((true == c) & (predicted == c))
        each.append(2 * right / (np.sum(true == c) + np.sum(predicted == c)))
    return float(np.mean(each))


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    true, predicted, groups = tokens(200, seed)
    labels = sorted(set(true))
    assert set(predicted) - set(true), "the case of a class that was only predicted must be covered"
    scores = score(true, predicted, groups, n_bootstrap=50)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    assert [p.phoneme for p in scores.phonemes] == labels
    assert [p.n for p in scores.phonemes] == list(support)
    np.testing.assert_allclose([p.precision for p in scores.phonemes], precision)
    np.testing.assert_allclose([p.recall for p in scores.phonemes], recall)
    np.testing.assert_allclose([p.f1 for p in scores.phonemes], f1)
    assert scores.macro_f1 == pytest.approx(f1_score(true, predicted, labels=labels, average="macro"))
    assert scores.micro_f1 == pytest.approx(f1_score(true, predicted, labels=labels, average="micro"))
    assert scores.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert scores.labels == tuple(sorted({*true, *predicted}))
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(true, predicted, labels=scores.labels))
    assert (scores.n, scores.n_groups) == (200, len(set(groups)))


def test_a_phoneme_never_predicted_has_no_nan() -> None:
    (found,) = score(["p", "p"], ["t", "t"]).phonemes
    assert (found.precision, found.recall, found.f1) == (0.0, 0.0, 0.0)
    assert found.f1_ci95[0] == 0.0 < found.f1_ci95[1] < 1.0


def test_support_examples_and_phonemes_not_scored_are_reported() -> None:
    missing = NotScored("ɽ", 2, "fewer than K + 1 = 6 examples")
    scores = score(["p"] * 5 + ["s"] * 4, ["p"] * 9, n_train={"p": 30}, not_scored=[missing])
    assert [(p.phoneme, p.n, p.n_train, p.reliable) for p in scores.phonemes] == [
        ("p", 5, 30, True),
        ("s", 4, 0, False),
    ]
    assert scores.not_scored == (missing,)
    assert [p.n_train for p in score(["p"], ["p"]).phonemes] == [None]


def test_token_bootstrap_agrees_with_scipy() -> None:
    true, predicted, _ = tokens(120, 1)
    scores = score(true, predicted, n_bootstrap=3000)
    pair = (np.array(true), np.array(predicted))
    options = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 2500, "rng": 5}
    expected = stats.bootstrap(pair, macro_f1, **options).confidence_interval
    np.testing.assert_allclose(scores.macro_f1_ci95, expected, atol=0.012)

    def micro(t: np.ndarray, p: np.ndarray) -> float:
        return float(2 * np.sum(t == p) / (len(t) + np.sum(np.isin(p, t))))

    expected = stats.bootstrap(pair, micro, **options).confidence_interval
    np.testing.assert_allclose(scores.micro_f1_ci95, expected, atol=0.012)


def test_group_bootstrap_agrees_with_a_plain_loop() -> None:
    true, predicted, _ = tokens(150, 2)
    rng = np.random.default_rng(3)
    groups = sorted(f"u{i}" for i in rng.integers(25, size=150))  # groups of many sizes
    t, p, members = (
        np.array(true),
        np.array(predicted),
        [np.flatnonzero(np.array(groups) == g) for g in sorted(set(groups))],
    )
    samples = []
    for _ in range(2000):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        samples.append(macro_f1(t[drawn], p[drawn]))
    scores = score(true, predicted, groups, n_bootstrap=3000)
    np.testing.assert_allclose(scores.macro_f1_ci95, np.quantile(samples, [0.025, 0.975]), atol=0.012)


def test_copies_of_a_token_in_its_group_add_no_certainty() -> None:
    true, predicted, _ = tokens(80, 4)
    utterances = [str(i) for i in range(80)]
    once = score(true, predicted, utterances)
    often = score(true * 9, predicted * 9, utterances * 9)
    as_tokens = score(true * 9, predicted * 9)
    assert often.macro_f1_ci95 == pytest.approx(once.macro_f1_ci95)
    width, token_width = (s.micro_f1_ci95[1] - s.micro_f1_ci95[0] for s in (often, as_tokens))
    assert token_width == pytest.approx(width / 3, rel=0.15)


def test_one_group_falls_back_to_tokens() -> None:
    true, predicted, _ = tokens(60, 5)
    alone = score(true, predicted, ["only"] * 60)
    assert alone == score(true, predicted)
    assert alone.n_groups == 0
    assert alone.macro_f1_ci95[0] < alone.macro_f1 < alone.macro_f1_ci95[1]


def test_same_seed_same_intervals() -> None:
    true, predicted, groups = tokens(100, 6)
    assert score(true, predicted, groups, seed=1) == score(true, predicted, groups, seed=1)
    assert score(true, predicted, groups, seed=1) != score(true, predicted, groups, seed=2)


def test_five_right_of_five_is_not_certainty() -> None:
    scores = score(["p"] * 5, ["p"] * 5)
    low = stats.binomtest(5, 5).proportion_ci(method="wilson").low
    assert scores.phonemes[0].f1_ci95 == (pytest.approx(2 * low / (1 + low)), 1.0)


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    prior, recall = np.array([0.5, 0.2, 0.15, 0.1, 0.05]), np.array([0.8, 0.7, 0.5, 0.6, 0.4])
    joint = prior[:, None] * np.where(np.eye(5, dtype=bool), recall, (1 - recall[:, None]) / 4)
    population = 2 * joint.diagonal() / (joint.sum(0) + joint.sum(1))
    macro, phoneme = [], []
    for i in range(200):
        cells = rng.choice(25, size=150, p=joint.ravel())
        scores = score([str(c // 5) for c in cells], [str(c % 5) for c in cells], n_bootstrap=200, seed=i)
        macro.append(scores.macro_f1_ci95[0] <= population.mean() <= scores.macro_f1_ci95[1])
        phoneme += [p.f1_ci95[0] <= population[int(p.phoneme)] <= p.f1_ci95[1] for p in scores.phonemes]
    assert 0.88 <= np.mean(macro) <= 0.995
    assert 0.93 <= np.mean(phoneme) <= 0.99


def test_a_thousand_resamples_are_fast() -> None:
    rng = np.random.default_rng(8)
    true, predicted = ([str(i) for i in rng.integers(50, size=5000)] for _ in range(2))
    for groups in (None, [str(i // 2) for i in range(5000)]):
        start = time.process_time()
        score(true, predicted, groups, n_bootstrap=1000)
        assert time.process_time() - start < 2.0


def test_score_refuses_what_it_cannot_score() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        score([], [])
    with pytest.raises(ValueError, match="`predicted` has 1 entries, expected 2"):
        score(["p", "s"], ["p"])
    with pytest.raises(ValueError, match="`groups` has 3 entries"):
        score(["p", "s"], ["p", "s"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="n_bootstrap"):
        score(["p"], ["p"], n_bootstrap=0)


@pytest.mark.parametrize("grouped", [False, True])
def test_macro_f1_difference_is_paired(grouped: bool) -> None:
    true, b, groups = tokens(140, 9)
    rng = np.random.default_rng(10)
    a = [t if rng.random() < 0.2 else p for t, p in zip(true, b, strict=True)]  # b with some errors put right
    t, pa, pb = np.array(true), np.array(a), np.array(b)
    units = (
        [np.flatnonzero(np.array(groups) == g) for g in sorted(set(groups))]
        if grouped
        else list(np.arange(140)[:, None])
    )
    samples = []
    for _ in range(2000):
        drawn = np.concatenate([units[i] for i in rng.integers(len(units), size=len(units))])
        samples.append(macro_f1(t[drawn], pa[drawn]) - macro_f1(t[drawn], pb[drawn]))
    found = macro_f1_difference(true, a, b, groups if grouped else None, n_bootstrap=3000)
    assert found.mean == pytest.approx(macro_f1(t, pa) - macro_f1(t, pb))
    assert found.mean > 0
    assert found.n == 140
    np.testing.assert_allclose(found.ci95, np.quantile(samples, [0.025, 0.975]), atol=0.006)
    same = macro_f1_difference(true, a, a)
    assert (same.mean, same.ci95) == (0.0, (0.0, 0.0))


def test_episode_f1_is_that_of_scikit_learn_task_by_task() -> None:
    rng = np.random.default_rng(11)
    true, predicted = rng.integers(4, size=(30, 12)), rng.integers(5, size=(30, 12))
    class_f1, macro = episode_class_f1(true, predicted, 5), episode_macro_f1(true, predicted, 5)
    assert class_f1.shape == (30, 5)
    for task in range(30):
        present = sorted(set(true[task]))
        expected = f1_score(true[task], predicted[task], labels=present, average=None, zero_division=0)
        np.testing.assert_allclose(class_f1[task, present], expected)
        assert np.isnan(np.delete(class_f1[task], present)).all()
        assert macro[task] == pytest.approx(expected.mean())
    assert np.isnan(class_f1[:, 4]).all()  # class 4 is never true
    as_tensors = episode_macro_f1(torch.tensor(true), torch.tensor(predicted, dtype=torch.int32), 5)
    np.testing.assert_array_equal(as_tensors, macro)


def test_masked_queries_do_not_count() -> None:
    rng = np.random.default_rng(12)
    true, predicted = rng.integers(3, size=(6, 10)), rng.integers(3, size=(6, 10))
    lengths = np.array([10, 7, 3, 1, 0, 9])
    mask = np.arange(10) < lengths[:, None]
    padded = np.where(mask, true, -1)
    ragged = episode_macro_f1(torch.tensor(padded), torch.tensor(predicted), 3, torch.tensor(mask))
    for task, n in enumerate(lengths):
        if n:
            alone = episode_macro_f1(true[task : task + 1, :n], predicted[task : task + 1, :n], 3)
            assert ragged[task] == pytest.approx(alone[0])
    assert np.isnan(ragged[4])
    assert np.isnan(episode_class_f1(padded, predicted, 3, mask)[4]).all()


def test_episode_f1_refuses_other_shapes_and_classes() -> None:
    with pytest.raises(ValueError, match=r"expected one shape \(n_tasks, n_query\)"):
        episode_macro_f1(np.zeros((2, 3), int), np.zeros((2, 4), int), 2)
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 2"):
        episode_macro_f1(np.array([[0, 1]]), np.array([[0, 2]]), 2)
    with pytest.raises(ValueError, match="from 0 to 1, got -1"):
        episode_macro_f1(np.array([[-1, 1]]), np.array([[0, 1]]), 2)
