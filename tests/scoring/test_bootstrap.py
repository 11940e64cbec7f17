"""Intervals of means and of paired differences, against SciPy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mtl_speech.core.errors import DataError
from mtl_speech.scoring.bootstrap import check_lengths, interval_text, mean_interval, paired_difference


def test_mean_interval_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.1, size=12)
    mean, half_width = mean_interval(torch.tensor(values))
    low, high = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval() -> None:
    mean, half_width = mean_interval([0.5])
    assert mean == 0.5
    assert np.isnan(half_width)
    found = paired_difference([0.5], [0.2])
    assert found.mean == pytest.approx(0.3)
    assert np.isnan(found.ci95).all()


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1, 0.2]]])
def test_mean_interval_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one finite number"):
        mean_interval(values)


def test_paired_difference_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    task = rng.normal(0.5, 0.2, size=90)  # what makes a task hard is common to both systems
    a, b = task + rng.normal(0.03, 0.05, size=90), task + rng.normal(0, 0.05, size=90)
    found = paired_difference(a, b, n_bootstrap=5000)
    expected = stats.bootstrap((a - b,), np.mean, n_resamples=5000, method="percentile", rng=2).confidence_interval
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.n == 90
    np.testing.assert_allclose(found.ci95, expected, atol=0.001)
    turned = paired_difference(b, a, n_bootstrap=5000)
    assert turned.mean == pytest.approx(-found.mean)
    assert turned.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))
    assert found == paired_difference(a, b, n_bootstrap=5000)
    assert found != paired_difference(a, b, n_bootstrap=5000, seed=1)


def test_hierarchical_bootstrap_agrees_with_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    sizes = [3, 30, 12, 8, 20]
    groups = [name for name, size in zip("edcba", sizes, strict=True) for _ in range(size)]
    order = rng.permutation(len(groups))
    groups = [groups[i] for i in order]
    effect = dict(zip("edcba", rng.normal(0, 0.1, size=5), strict=True))
    a = np.array([effect[g] for g in groups]) + rng.normal(0, 0.05, size=len(groups))
    members = [a[np.array(groups) == g] for g in "abcde"]
    samples = []
    for _ in range(4000):
        drawn = [members[i] for i in rng.integers(5, size=5)]
        samples.append(np.concatenate([rng.choice(values, size=len(values)) for values in drawn]).mean())
    found = paired_difference(a, np.zeros_like(a), groups, n_bootstrap=5000)
    np.testing.assert_allclose(found.ci95, np.quantile(samples, [0.025, 0.975]), atol=0.012)
    plain = paired_difference(a, np.zeros_like(a), n_bootstrap=5000)
    assert found.ci95[1] - found.ci95[0] > 2 * (plain.ci95[1] - plain.ci95[0])
    assert found.mean == plain.mean


def test_values_within_groups_are_drawn_too() -> None:
    values = np.random.default_rng(4).normal(size=50)
    one_group = paired_difference(values, np.zeros(50), ["pa"] * 50)
    assert one_group.ci95[0] < values.mean() < one_group.ci95[1]


def test_paired_difference_refuses_unequal_lists() -> None:
    with pytest.raises(ValueError, match="`b` has 2 entries, expected 1"):
        paired_difference([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="`groups` has 1 entries, expected 2"):
        paired_difference([0.1, 0.2], [0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="`b` must be"):
        paired_difference([0.1, 0.2], [0.1, float("nan")])
    with pytest.raises(DataError, match="nothing to score"):
        check_lengths(0, 1)


def test_interval_text() -> None:
    assert interval_text((0.4125, 0.53)) == "[0.412, 0.530]"
    assert interval_text((-0.004, 0.0271), signed=True) == "[-0.004, +0.027]"
    assert interval_text((float("nan"), float("nan"))) == "[-]"
