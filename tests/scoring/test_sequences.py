"""Phone error rates, boundaries and calibration against jiwer, panphon, brute force and worked examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Segment
from mtl_speech.scoring.sequences import (
    N_BINS,
    boundaries,
    expected_calibration_error,
    feature_distance,
    matches,
    outside,
    phone_errors,
    r_value,
    reliability,
    right_by_time,
    score_transcriptions,
)
from mtl_speech.transcription.transcript import Phone, Transcription

SOUNDS = ["p", "b", "t", "d", "t͡ʃ", "a", "i", "u", "m", "s"]
sequences = st.lists(st.sampled_from(SOUNDS), max_size=9)


def segments(*spans: tuple[str, float, float]) -> tuple[Segment, ...]:
    return tuple(Segment(*span) for span in spans)


def transcription(duration: float, *spans: tuple[str, float, float] | tuple[str, float, float, float]) -> Transcription:
    """Spoken phones with their confidences (0.5 by default), silence between them."""
    phones: list[Phone] = []
    at = 0.0
    for label, start, end, *sure in spans:
        if start > at:
            phones.append(Phone("", at, start, 1.0))
        phones.append(Phone(label, start, end, sure[0] if sure else 0.5))
        at = end
    if at < duration:
        phones.append(Phone("", at, duration, 1.0))
    return Transcription(duration, tuple(phones))


# Phone errors


def edit_distance(a: Sequence[str], b: Sequence[str], cost: object = None) -> float:
    """The textbook recursion, cell by cell."""
    table = np.zeros((len(a) + 1, len(b) + 1))
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            change = float(x != y) if cost is None else cost(x, y)  # type: ignore[operator]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + change)
    return float(table[-1, -1])


@given(sequences, sequences)
def test_errors_are_those_of_the_textbook(a: list[str], b: list[str]) -> None:
    substitutions, deletions, insertions = phone_errors(a, b)
    assert substitutions + deletions + insertions == edit_distance(a, b)
    assert insertions - deletions == len(b) - len(a)


def test_errors_of_a_worked_example() -> None:
    assert phone_errors(["k", "a", "t"], ["k", "o", "t", "s"]) == (1, 0, 1)
    assert phone_errors(["k", "a", "t"], []) == (0, 3, 0)
    assert phone_errors([], ["k"]) == (0, 0, 1)


@given(sequences, sequences)
def test_the_weighted_distance_is_that_of_the_textbook_and_no_more_than_the_plain_one(
    a: list[str], b: list[str]
) -> None:
    found = feature_distance(a, b)
    assert found == pytest.approx(edit_distance(a, b, lambda x, y: feature_distance([x], [y])), abs=1e-6)
    assert abs(len(a) - len(b)) <= found + 1e-9 <= sum(phone_errors(a, b)) + 2e-9
    assert found == pytest.approx(feature_distance(b, a), abs=1e-6)


def test_substitutions_cost_what_they_do_in_panphon() -> None:
    from panphon.distance import Distance

    theirs = Distance()
    for a, b in (("pat", "bad"), ("sum", "zun"), ("kita", "ɡuda"), ("masti", "nazdu")):
        assert feature_distance(list(a), list(b)) == pytest.approx(theirs.feature_edit_distance(a, b), abs=1e-6)
    assert feature_distance(list("kita"), ["t", "a"]) == 2.0  # unlike panphon, where what is left out costs less than 1
    assert feature_distance(["p"], ["b"]) == pytest.approx(1 / 24)  # they differ in voice alone


def test_a_label_that_is_no_phoneme_has_no_distance() -> None:
    with pytest.raises(DataError, match="'7'"):
        feature_distance(["p"], ["7"])


# Boundaries


def test_a_boundary_between_two_spans_counts_once_and_the_ends_of_the_recording_not_at_all() -> None:
    assert boundaries([(0.1, 0.2), (0.2, 0.3), (0.5, 0.6)], 0.7) == [0.1, 0.2, 0.3, 0.5, 0.6]
    assert boundaries([(0.0, 0.2), (0.2004, 0.7)], 0.7) == [0.2]
    assert boundaries([], 0.7) == []


times = st.lists(st.integers(0, 60), max_size=12).map(lambda each: sorted(x / 100 for x in each))


@given(times, times, st.sampled_from([0.0, 0.01, 0.02, 0.05]))
def test_no_matching_has_more_pairs(reference: list[float], found: list[float], tolerance: float) -> None:
    near = np.array([[abs(r - f) <= tolerance + 1e-9 for f in found] for r in reference]).reshape(
        len(reference), len(found)
    )
    largest = int((maximum_bipartite_matching(csr_matrix(near)) >= 0).sum()) if near.size else 0
    assert matches(reference, found, tolerance) == largest


def test_the_edge_of_the_tolerance_is_inside() -> None:
    assert matches([0.1], [0.12], 0.02) == matches([0.3], [0.28], 0.02) == 1
    assert matches([0.1], [0.1201], 0.02) == 0
    assert matches([0.1], [0.09, 0.11], 0.02) == 1


def test_the_r_value_of_worked_examples() -> None:
    assert r_value(10, 10, 10) == 1.0
    # HR = 0.8, OS = 0.2: r1 = sqrt(0.04 + 0.04) = 0.28284, r2 = (-0.2 - 0.2) / sqrt(2) = -0.28284
    assert r_value(8, 10, 12) == pytest.approx(1 - 0.28284, abs=1e-5)
    # nothing found: HR = 0, OS = -1: r1 = sqrt(2), r2 = 0
    assert r_value(0, 10, 0) == pytest.approx(1 - math.sqrt(2) / 2)
    # twice as many as there are hit them all: OS = 1, r1 = 1, r2 = -1 / sqrt(2)
    assert r_value(10, 10, 20) == pytest.approx(1 - (1 + 1 / math.sqrt(2)) / 2)
    assert math.isnan(r_value(0, 0, 3))


# Calibration


def plain_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Guo et al. 2017, bin by bin."""
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.sum() / len(confidence) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def test_the_calibration_error_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(500)
    right = rng.random(500) < sure**2
    assert expected_calibration_error(sure, right) == pytest.approx(plain_calibration_error(sure, right))
    assert expected_calibration_error([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0)
    assert expected_calibration_error([1.0, 1.0], [True, False]) == 0.5
    assert math.isnan(expected_calibration_error([], []))


def test_bins_hold_every_prediction_once() -> None:
    bins = reliability([0.0, 1 / 15, 0.5, 1.0, 1.0], [False, True, True, True, False])
    assert len(bins) == N_BINS and [b.n for b in bins if b.n] == [2, 1, 2]
    assert (bins[0].low, bins[0].high, bins[0].accuracy) == (0.0, 1 / 15, 0.5)
    assert (bins[-1].confidence, bins[-1].accuracy) == (1.0, 0.5)
    assert math.isnan(bins[3].accuracy)


def test_confidences_that_are_none_are_refused() -> None:
    for wrong in ([1.2], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            expected_calibration_error(wrong, [True])
    with pytest.raises(ValueError, match="one truth for each"):
        expected_calibration_error([0.5], [True, False])


def test_a_phone_is_right_where_the_reference_says_the_same_for_most_of_its_time() -> None:
    reference = segments(("a", 0.1, 0.2), ("b", 0.2, 0.3), ("a", 0.3, 0.4))
    found = transcription(0.8, ("a", 0.1, 0.24), ("a", 0.24, 0.3), ("b", 0.35, 0.5), ("a", 0.5, 0.7))
    assert right_by_time(reference, found) == [True, False, False, False]
    assert right_by_time((), found) == [False] * 4


# All together


def some_pairs(n: int, seed: int) -> tuple[list[tuple[Segment, ...]], list[Transcription]]:
    """References of random phones, and transcriptions of them with errors."""
    rng = np.random.default_rng(seed)
    references, found = [], []
    for _ in range(n):
        edges = 0.05 + np.arange(rng.integers(2, 9)) * 0.08
        labels = rng.choice(SOUNDS, len(edges))
        spans = [(str(p), round(e, 3), round(e + 0.08, 3)) for p, e in zip(labels, edges, strict=True)]
        kept = [span for span in spans if rng.random() > 0.1]
        moved = [(p if rng.random() > 0.2 else "a", s + 0.001 * rng.integers(0, 40), e) for p, s, e in kept]
        references.append(segments(*spans))
        found.append(transcription(spans[-1][2] + 0.1, *((*m, rng.random()) for m in moved)))
    return references, found


def test_scores_are_ratios_of_sums_and_the_errors_those_of_jiwer() -> None:
    references, found = some_pairs(30, 0)
    scores = score_transcriptions(references, found, n_bootstrap=200)
    true = [" ".join(s.phoneme for s in each) for each in references]
    guessed = [" ".join(p.phoneme for p in each.spoken) for each in found]
    theirs = jiwer.process_words(true, guessed)
    assert scores.phone_error_rate.value == pytest.approx(theirs.wer)
    counts = (theirs.substitutions, theirs.deletions, theirs.insertions)
    assert (scores.substitutions, scores.deletions, scores.insertions) == counts
    assert scores.feature_error_rate.value < scores.phone_error_rate.value
    hits = 0
    for reference, each in zip(references, found, strict=True):
        wanted = boundaries([(s.start, s.end) for s in reference], each.duration)
        hits += matches(wanted, boundaries([(p.start, p.end) for p in each.spoken], each.duration))
    precision, recall = hits / scores.n_found, hits / scores.n_boundaries
    assert scores.boundary_precision.value == pytest.approx(precision)
    assert scores.boundary_recall.value == pytest.approx(recall)
    assert scores.boundary_f1.value == pytest.approx(2 * precision * recall / (precision + recall))
    sure = [p.confidence for each in found for p in each.spoken]
    right = [r for pair in zip(references, found, strict=True) for r in right_by_time(*pair)]
    assert scores.calibration_error.value == pytest.approx(expected_calibration_error(sure, right))
    assert sum(b.n for b in scores.reliability) == len(sure)


def test_intervals_resample_recordings() -> None:
    references, found = some_pairs(40, 1)
    scores = score_transcriptions(references, found, n_bootstrap=3000)
    n = np.array([len(each) for each in references])
    errors = np.array(
        [
            sum(phone_errors([s.phoneme for s in r], [p.phoneme for p in f.spoken]))
            for r, f in zip(references, found, strict=True)
        ]
    )
    rng = np.random.default_rng(5)
    samples = []
    for _ in range(3000):
        drawn = rng.integers(40, size=40)
        samples.append(errors[drawn].sum() / n[drawn].sum())
    np.testing.assert_allclose(scores.phone_error_rate.ci95, np.quantile(samples, [0.025, 0.975]), atol=0.012)
    for name in ("boundary_f1", "r_value", "calibration_error", "feature_error_rate"):
        estimate = getattr(scores, name)
        assert estimate.ci95[0] < estimate.ci95[1]
    assert score_transcriptions(references, found) == score_transcriptions(references, found)


def test_what_is_right_has_no_error_and_what_is_empty_finds_nothing() -> None:
    reference = segments(("p", 0.1, 0.2), ("a", 0.2, 0.4))
    right = score_transcriptions([reference] * 2, [transcription(0.5, ("p", 0.1, 0.2, 1.0), ("a", 0.2, 0.4, 1.0))] * 2)
    figures = (right.phone_error_rate, right.feature_error_rate, right.calibration_error)
    assert [each.value for each in figures] == [0.0, 0.0, 0.0]
    assert [each.value for each in (right.boundary_precision, right.boundary_recall, right.r_value)] == [1.0, 1.0, 1.0]
    empty = score_transcriptions([reference], [transcription(0.5)])
    assert (empty.phone_error_rate.value, empty.deletions, empty.n_found) == (1.0, 2, 0)
    assert (empty.boundary_recall.value, empty.boundary_f1.value) == (0.0, 0.0)
    assert math.isnan(empty.boundary_precision.value) and math.isnan(empty.calibration_error.value)
    assert all(math.isnan(bound) for bound in empty.phone_error_rate.ci95)  # one recording has no interval


def test_silence_split_in_two_adds_no_boundary() -> None:
    phones = (Phone("", 0, 0.05, 1), Phone("", 0.05, 0.1, 1), Phone("p", 0.1, 0.2, 0.9), Phone("", 0.2, 0.5, 1))
    scores = score_transcriptions([segments(("p", 0.1, 0.2))], [Transcription(0.5, phones)])
    assert (scores.n_boundaries, scores.n_found, scores.boundary_f1.value) == (2, 2, 1.0)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        score_transcriptions([()], [transcription(0.5)])
    with pytest.raises(ValueError, match="`found` has 0 entries"):
        score_transcriptions([segments(("p", 0.1, 0.2))], [])
    with pytest.raises(ValueError, match="n_bootstrap"):
        score_transcriptions([segments(("p", 0.1, 0.2))], [transcription(0.5)], n_bootstrap=0)


def test_an_hour_is_scored_in_seconds() -> None:
    rng = np.random.default_rng(2)
    spans = [(str(p), 0.1 * i, 0.1 * (i + 1)) for i, p in enumerate(rng.choice(SOUNDS, 6000), 1)]
    scores = score_transcriptions([segments(*spans)], [transcription(700.0, *spans)])
    assert scores.phone_error_rate.value == 0.0 and scores.n_phones == 6000


def test_phones_found_where_nobody_knows_what_is_said_are_no_insertions() -> None:
    reference = segments(("p", 0.0, 0.2), ("a", 0.7, 0.9))
    found = transcription(1.0, ("p", 0.0, 0.2), ("t", 0.25, 0.4), ("i", 0.4, 0.66), ("a", 0.7, 0.9))
    assert score_transcriptions([reference], [found], n_bootstrap=1).insertions == 2
    masked = score_transcriptions([reference], [outside(found, [(0.2, 0.6)])], n_bootstrap=1)
    assert (masked.insertions, masked.deletions, masked.substitutions, masked.n_found) == (0, 0, 0, 3)
    half = outside(found, [(0.2, 0.5)])
    assert [phone.phoneme for phone in half.spoken] == ["p", "i", "a"], "of 'i' the larger part is known"
    assert outside(found, ()) == found
