"""Figures on random data against references that share no code with them: SciPy, scikit-learn, panphon, plain loops."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from panphon import FeatureTable
from scipy import optimize, special, stats
from sklearn.metrics import confusion_matrix, f1_score

from benchmarks.coverage import coverage, f1_trial, language_trial, transcription_trial
from mtl_speech.report.findings import mean_macro_f1
from mtl_speech.scoring.bootstrap import resampled_counts
from mtl_speech.scoring.metrics import macro_f1_difference, score
from mtl_speech.scoring.sequences import feature_distance, r_value
from mtl_speech.training.base_learning import TEMPERATURE_PRIOR, fit_temperature


def some_tokens(n: int, n_classes: int, seed: int) -> tuple[np.ndarray, ...]:
    """True classes, two predictions and recordings of many sizes, each (n,)."""
    rng = np.random.default_rng(seed)
    true = (n_classes * rng.random(n) ** 1.5).astype(int)
    a, b = (np.where(rng.random(n) < share, true, rng.integers(n_classes, size=n)) for share in (0.6, 0.5))
    return true, a, b, (n / 5 * rng.random(n) ** 1.3).astype(int)


def texts(*arrays: np.ndarray) -> list[list[str]]:
    return [[f"{number:03}" for number in each] for each in arrays]


# F1 and its intervals


def test_hundreds_of_phonemes_are_scored_as_scikit_learn_does_in_little_memory() -> None:
    true, predicted, _, recordings = some_tokens(40_000, 400, 0)
    t, p, groups = texts(true, predicted, recordings)
    tracemalloc.start()
    scores = score(t, p, groups, n_bootstrap=100)
    by_token = score(t, p, n_bootstrap=100)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert peak < 150, f"{peak:.0f} MB"  # a matrix of recordings and phonemes alone would be of 77 MB, three times
    labels = sorted({*t})
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(t, p, labels=list(scores.labels)))
    for average, found in (("macro", scores.macro_f1), ("micro", scores.micro_f1)):
        assert found == pytest.approx(f1_score(t, p, labels=labels, average=average))
    np.testing.assert_allclose([item.f1 for item in scores.phonemes], f1_score(t, p, labels=labels, average=None))
    assert by_token.macro_f1_ci95[0] < scores.macro_f1 < by_token.macro_f1_ci95[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_resampled_counts_are_those_of_the_tokens_drawn(grouped: bool) -> None:
    true, a, b, recordings = some_tokens(120, 9, 1)
    recordings = np.unique(recordings, return_inverse=True)[1]
    found = resampled_counts(true, [a, b], recordings if grouped else None, 9, 40, np.random.default_rng(5))
    keys = [tuple(key) for key in zip(true, a, b, strict=True)]
    distinct = sorted(set(keys))
    unit = recordings if grouped else np.array([distinct.index(key) for key in keys])
    share = np.bincount(unit) / len(unit)
    n_units = len(share)
    draw = np.random.default_rng(5)
    weights = draw.multinomial(*((n_units, np.full(n_units, 1 / n_units)) if grouped else (len(true), share)), size=40)
    expected = np.zeros((40, 2, 3, 9))
    for sample in range(40):
        for i, u in enumerate(unit):
            times = weights[sample, u] / (1 if grouped else np.sum(unit == u))
            for number, predicted in enumerate((a[i], b[i])):
                expected[sample, number, 0, true[i]] += times * (predicted == true[i])
                expected[sample, number, 1, true[i]] += times
                expected[sample, number, 2, predicted] += times
    np.testing.assert_allclose(found, expected)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """From the definition, over the classes of `true`."""
    right, n_true, n_found = (np.bincount(each, minlength=10) for each in (true[true == predicted], true, predicted))
    return float((2 * right / np.maximum(n_true + n_found, 1))[n_true > 0].mean())


def test_the_cluster_bootstrap_is_that_of_scipy_over_recordings() -> None:
    """SciPy draws the numbers of recordings; the statistic takes their tokens."""
    true, a, b, recordings = some_tokens(160, 6, 2)
    members = [np.flatnonzero(recordings == u) for u in np.unique(recordings)]

    def over(drawn: np.ndarray) -> np.ndarray:
        return np.concatenate([members[int(i)] for i in drawn])

    def gain(drawn: np.ndarray) -> float:
        i = over(drawn)
        return macro_f1(true[i], a[i]) - macro_f1(true[i], b[i])

    options = {"vectorized": False, "method": "percentile", "n_resamples": 1000, "rng": 3}
    numbers = (np.arange(len(members)),)
    t, p, q, groups = texts(true, a, b, recordings)
    theirs = stats.bootstrap(numbers, lambda drawn: macro_f1(true[over(drawn)], a[over(drawn)]), **options)
    np.testing.assert_allclose(score(t, p, groups).macro_f1_ci95, theirs.confidence_interval, atol=0.015)
    theirs = stats.bootstrap(numbers, gain, **options)
    np.testing.assert_allclose(macro_f1_difference(t, p, q, groups).ci95, theirs.confidence_interval, atol=0.015)


def test_the_interval_of_the_learning_curve_draws_recordings_and_predictions() -> None:
    true, a, b, recordings = some_tokens(150, 5, 4)
    members = [np.flatnonzero(recordings == u) for u in np.unique(recordings)]
    rng = np.random.default_rng(6)
    samples = []
    for _ in range(1000):
        i = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        samples.append(np.mean([macro_f1(true[i], (a, b)[k][i]) for k in rng.integers(2, size=2)]))
    t, p, q, groups = texts(true, a, b, recordings)
    mean, ci95 = mean_macro_f1(t, [p, q], groups, 3000, 0)
    assert mean == pytest.approx((macro_f1(true, a) + macro_f1(true, b)) / 2)
    np.testing.assert_allclose(ci95, np.quantile(samples, [0.025, 0.975]), atol=0.015)


@pytest.mark.slow
def test_intervals_hold_the_value_of_the_population_where_recordings_differ() -> None:
    """benchmarks/coverage.py gives the figures of 500 trials and more sizes; they stand in docs/reliability.md."""
    f1, languages, transcriptions = f1_trial(100), language_trial(20), transcription_trial(100)
    found = coverage(f1, 150) | coverage(languages, 300) | coverage(transcriptions, 150)
    for name, share in found.items():
        assert 0.87 <= share <= 0.995 or name.endswith("by tokens"), f"{name}: {share}"
    assert 0.93 <= found["F1 of a phoneme"] <= 0.98


# Transcriptions


def test_the_r_value_is_that_of_the_paper_on_random_counts() -> None:
    """In per cent, as in Räsänen et al. (2009), equations 4 to 7."""
    rng = np.random.default_rng(0)
    reference, found = rng.integers(1, 60, size=(2, 300))
    hits = (rng.random(300) * (np.minimum(reference, found) + 1)).astype(int)
    for n_hit, n_reference, n_found in zip(hits, reference, found, strict=True):
        hr, os = 100 * n_hit / n_reference, 100 * (n_found / n_reference - 1)
        r1, r2 = ((100 - hr) ** 2 + os**2) ** 0.5, (-os + hr - 100) / 2**0.5
        assert r_value(n_hit, n_reference, n_found) == pytest.approx(1 - (abs(r1) + abs(r2)) / 200)
    np.testing.assert_allclose(
        r_value(hits, reference, found)[:5], [r_value(*each) for each in zip(hits[:5], reference, found, strict=False)]
    )


def test_the_weighted_distance_is_the_cheapest_alignment_by_panphons_features() -> None:
    table = FeatureTable()
    sounds = "p b t d k s z m n l a e i o u".split()
    vector = {sound: np.array(table.word_array(sorted(table.names), sound)[0]) for sound in sounds}
    rng = np.random.default_rng(1)

    def cheapest(a: Sequence[str], b: Sequence[str]) -> float:
        if not a or not b:
            return len(a) + len(b)
        change = np.abs(vector[a[0]] - vector[b[0]]).sum() / 2 / 24
        return min(change + cheapest(a[1:], b[1:]), 1 + cheapest(a[1:], b), 1 + cheapest(a, b[1:]))

    for _ in range(15):
        a, b = (rng.choice(sounds, size=rng.integers(0, 5)).tolist() for _ in range(2))
        assert feature_distance(a, b) == pytest.approx(cheapest(a, b), abs=1e-6)


# Temperature


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_the_most_likely_one_by_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.uniform(0.3, 4) * rng.standard_normal((30 * 4**seed, 7))
    labels = np.array([rng.choice(7, p=special.softmax(row / 1.7)) for row in logits])

    def loss(x: np.ndarray) -> float:
        chosen = special.log_softmax(logits * np.exp(-x[0]), axis=1)[np.arange(len(labels)), labels]
        return float(-chosen.sum() - stats.norm.logpdf(x[0], scale=TEMPERATURE_PRIOR))

    best = optimize.minimize(loss, [0.0], method="BFGS").x[0]
    assert fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels)) == pytest.approx(np.exp(best), rel=1e-3)
