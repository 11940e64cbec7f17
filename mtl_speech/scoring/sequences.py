"""How good a transcription is: phone error rates, boundaries, and whether its confidences are what they say.

Every interval is a 95 % percentile bootstrap interval over recordings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Segment
from mtl_speech.phonology.articulation import articulatory_features
from mtl_speech.scoring.bootstrap import encode, pair, percentile, ratio
from mtl_speech.transcription.transcript import SILENCE, Phone, Transcription

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TOLERANCE = 0.020  # seconds: how far a boundary may lie from that of the reference
N_BINS = 15  # of confidence, of equal width
_ROUNDING = 0.001  # seconds: times that differ by so much are one boundary
_SLACK = 1e-6  # what sums of fractions may be off by

# What is counted in a recording, one column each; after them, for each bin: tokens, right ones, sum of confidences.
_COUNTS = (
    "n_phones",
    "substitutions",
    "deletions",
    "insertions",
    "feature_cost",
    "n_boundaries",
    "n_found",
    "n_matched",
)
_TOLD = frozenset(_COUNTS) - {"feature_cost", "n_matched"}  # those that `SequenceScores` has too


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; nan where there is nothing to measure, or too few recordings for an interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with a confidence above `low` up to `high`: their number, mean confidence and share that is right (nan: none)."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class SequenceScores:
    """What `score_transcriptions` found.

    `n_phones` counts reference phones, `n_found` the boundaries that were predicted. Errors are in shares of the reference phones.
    """

    n_recordings: int
    n_phones: int
    substitutions: int
    deletions: int
    insertions: int
    n_boundaries: int
    n_found: int
    tolerance: float
    phone_error_rate: Estimate
    feature_error_rate: Estimate
    boundary_precision: Estimate
    boundary_recall: Estimate
    boundary_f1: Estimate
    r_value: Estimate
    calibration_error: Estimate
    reliability: tuple[ReliabilityBin, ...]


def score_transcriptions(
    references: Sequence[Sequence[Segment]],
    found: Sequence[Transcription],
    tolerance: float = TOLERANCE,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> SequenceScores:
    """Compare transcriptions with the labelled phones of the same recordings, in the same order.

    A boundary is right if it lies within `tolerance` seconds of one of the reference, each of which counts for one only; the begin
    and the end of the recording are none. A phone counts as right for the calibration if the reference has the same phoneme for
    most of its time.

    Raises DataError when there is no reference phone, ValueError when lengths differ or `n_bootstrap` is below 1.
    """
    if len(references) != len(found):
        raise ValueError(f"`found` has {len(found)} entries, expected {len(references)}: one for each")
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}")
    if not any(references):
        raise DataError("nothing to score: there is no labelled phone in the reference")
    counts = np.stack([_counts(*each, tolerance) for each in zip(references, found, strict=True)])
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=n_bootstrap) @ counts
    totals = counts.sum(0)
    values, resampled = _figures(totals), _figures(draws)

    def estimate(name: str) -> Estimate:
        known = pair(percentile(resampled[name])) if len(counts) > 1 else (float("nan"), float("nan"))
        return Estimate(float(values[name]), known)

    told: dict[str, Any] = {name: estimate(name) for name in values}
    told |= {name: int(n) for name, n in zip(_COUNTS, totals, strict=False) if name in _TOLD}
    return SequenceScores(
        n_recordings=len(counts),
        tolerance=tolerance,
        reliability=_bins(totals[len(_COUNTS) :].reshape(N_BINS, 3)),
        **told,
    )


def outside(found: Transcription, unknown: Sequence[tuple[float, float]]) -> Transcription:
    """A transcription without the phones that lie for the most part in stretches (start, end) of which nobody knows what is said.

    There is no reference for these, so they are no insertions, and neither right nor wrong.
    """

    def covered(phone: Phone) -> float:
        return sum(max(0.0, min(phone.end, end) - max(phone.start, start)) for start, end in unknown)

    kept = tuple(phone for phone in found.phones if 2 * covered(phone) <= phone.end - phone.start)
    return replace(found, phones=kept)


def phone_errors(reference: Sequence[str], found: Sequence[str]) -> tuple[int, int, int]:
    """Substitutions, deletions and insertions of the cheapest alignment of two sequences of phonemes (by jiwer)."""
    import jiwer

    if not reference:
        return 0, 0, len(found)
    aligned = jiwer.process_words(" ".join(reference), " ".join(found))
    return aligned.substitutions, aligned.deletions, aligned.insertions


def feature_distance(reference: Sequence[str], found: Sequence[str]) -> float:
    """The edit distance of two sequences of phonemes in which a substitution costs what the two differ by.

    That is half the mean absolute difference of their 24 articulatory features (-1, 0, +1), so 0 to 1, as panphon substitutes; a
    deletion or an insertion costs 1, so that this is never more than the plain distance. Raises DataError for a label that is no
    IPA phoneme.
    """
    phonemes = sorted({*reference, *found})
    features = articulatory_features(phonemes)
    differences = np.abs(features[:, None] - features[None]).mean(2) / 2
    columns = encode(found, tuple(phonemes))
    steps = np.arange(len(found) + 1, dtype=np.float64)
    row = steps
    for i, phoneme in enumerate(encode(reference, tuple(phonemes)), 1):
        best = np.minimum(row[1:] + 1, row[:-1] + differences[phoneme][columns])
        # Insertions: each step to the right costs 1.
        row = np.minimum.accumulate(np.concatenate([[i], best]) - steps) + steps
    return float(row[-1])


def boundaries(spans: Sequence[tuple[float, float]], duration: float) -> list[float]:
    """The times at which something begins or ends inside a recording of `duration` seconds, from ordered spans of phones.

    Where one span follows another at once there is one boundary. The begin and the end of the recording are none.
    """
    found: list[float] = []
    for time in sorted(time for span in spans for time in span):
        if _ROUNDING < time < duration - _ROUNDING and (not found or time - found[-1] > _ROUNDING):
            found.append(time)
    return found


def matches(reference: Sequence[float], found: Sequence[float], tolerance: float = TOLERANCE) -> int:
    """The largest number of pairs of ordered times, one of each list, no more than `tolerance` apart, each in one pair at most."""
    i = j = count = 0
    while i < len(reference) and j < len(found):
        gap = found[j] - reference[i]
        if abs(gap) <= tolerance + _SLACK:
            count += 1
        i += gap >= -tolerance - _SLACK
        j += gap <= tolerance + _SLACK
    return count


def r_value(n_matched: Any, n_reference: Any, n_found: Any) -> Any:
    """The R-value of boundaries (Räsänen, Laine, Altosaar 2009): 1 if all are right; too many or too few of them lower it.

    With the hit rate HR = n_matched / n_reference and the over-segmentation OS = n_found / n_reference - 1, the distances are
    r1 = sqrt((1 - HR)² + OS²) and r2 = (HR - 1 - OS) / √2, and R is 1 - (r1 + |r2|) / 2. Numbers or arrays of counts; nan without a
    boundary in the reference.
    """
    hit_rate, over = ratio(n_matched, n_reference, np.nan), ratio(n_found, n_reference, np.nan) - 1
    return 1 - (np.hypot(1 - hit_rate, over) + np.abs(hit_rate - 1 - over) / np.sqrt(2)) / 2


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike) -> float:
    """The mean distance between confidence and share of right predictions (Guo et al. 2017, equation 3), over 15 bins.

    `confidence` in 0 to 1 and `correct` (true or false), both (n,). Nan without a prediction. Of few predictions it comes out too
    large, since chance moves every bin away from its confidence.
    """
    return float(_calibration_error(_bin_counts(confidence, correct)))


def reliability(confidence: ArrayLike, correct: ArrayLike) -> tuple[ReliabilityBin, ...]:
    """The 15 bins of a reliability diagram; arguments as for `expected_calibration_error`."""
    return _bins(_bin_counts(confidence, correct))


def right_by_time(reference: Sequence[Segment], found: Transcription) -> list[bool]:
    """Of each spoken phone, in order: whether the reference has the same phoneme for most of its time, silence included."""
    segments = sorted(reference, key=lambda segment: segment.start)
    ends = [segment.end for segment in segments]
    result = []
    for phone in found.spoken:
        shares: defaultdict[str, float] = defaultdict(float)
        place = bisect_right(ends, phone.start)
        while place < len(segments) and segments[place].start < phone.end:
            segment = segments[place]
            shares[segment.phoneme] += min(phone.end, segment.end) - max(phone.start, segment.start)
            place += 1
        shares[SILENCE] = phone.end - phone.start - sum(shares.values())
        result.append(max(shares, key=shares.__getitem__) == phone.phoneme)
    return result


def _counts(reference: Sequence[Segment], found: Transcription, tolerance: float) -> NDArray[np.float64]:
    """The counts of one recording, (len(_COUNTS) + 3 N_BINS,)."""
    true, guessed = [s.phoneme for s in reference], [p.phoneme for p in found.spoken]
    wanted = boundaries([(s.start, s.end) for s in reference], found.duration)
    set_ = boundaries([(p.start, p.end) for p in found.spoken], found.duration)
    errors = (*phone_errors(true, guessed), feature_distance(true, guessed))
    numbers = (len(true), *errors, len(wanted), len(set_), matches(wanted, set_, tolerance))
    bins = _bin_counts([p.confidence for p in found.spoken], right_by_time(reference, found))
    return np.concatenate([np.array(numbers, np.float64), bins.ravel()])


def _figures(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The figures of counts (..., len(_COUNTS) + 3 N_BINS), each (...)."""
    n = {name: counts[..., i] for i, name in enumerate(_COUNTS)}
    errors = n["substitutions"] + n["deletions"] + n["insertions"]
    wanted, set_, matched = n["n_boundaries"], n["n_found"], n["n_matched"]
    return {
        "phone_error_rate": ratio(errors, n["n_phones"], np.nan),
        "feature_error_rate": ratio(n["feature_cost"], n["n_phones"], np.nan),
        "boundary_precision": ratio(matched, set_, np.nan),
        "boundary_recall": ratio(matched, wanted, np.nan),
        "boundary_f1": ratio(2 * matched, wanted + set_, np.nan),
        "r_value": r_value(matched, wanted, set_),
        "calibration_error": _calibration_error(
            counts[..., len(_COUNTS) :].reshape(*counts.shape[:-1], N_BINS, 3),
        ),
    }


def _bin_counts(confidence: ArrayLike, correct: ArrayLike) -> NDArray[np.float64]:
    """For each bin of confidence: predictions, right ones, and the sum of confidences: (N_BINS, 3)."""
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise ValueError(
            f"expected one confidence and one truth for each prediction, got {sure.shape} and {right.shape}"
        )
    if sure.size and not (sure.min() >= 0 and sure.max() <= 1 + _SLACK):
        raise ValueError("confidences must be from 0 to 1")
    place = np.clip(np.ceil(sure * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
    columns = (np.ones_like(sure), right, sure)
    return np.stack([np.bincount(place, weights=column, minlength=N_BINS) for column in columns], axis=1)


def _calibration_error(bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The expected calibration error (...) of bin counts (..., N_BINS, 3)."""
    return ratio(np.abs(bins[..., 1] - bins[..., 2]).sum(-1), bins[..., 0].sum(-1), np.nan)


def _bins(counts: NDArray[np.float64]) -> tuple[ReliabilityBin, ...]:
    accuracy, confidence = (ratio(counts[:, i], counts[:, 0], np.nan) for i in (1, 2))
    return tuple(
        ReliabilityBin(i / N_BINS, (i + 1) / N_BINS, int(counts[i, 0]), float(confidence[i]), float(accuracy[i]))
        for i in range(N_BINS)
    )
