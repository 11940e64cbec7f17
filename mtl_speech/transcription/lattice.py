"""Segmentation and labels together: the best path through a lattice of spans (a semi-Markov model), and how sure it is.

A path covers a stretch of frames with phones and silence. Its score adds up, for every phone, the log-probability of its label
given its span and how usual its duration is; for every boundary of a phone, the log-odds that the segmenter gives one there; and
for every frame, the log-odds of speech against silence. Viterbi finds the best path, forward and backward sums the share of all
paths that agree with it (Sarawagi and Cohen 2004, Semi-Markov Conditional Random Fields; Glass 2003, segment-based recognition).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CANDIDATE = 0.03  # probability of a boundary from which on a local maximum may be one
MIN_PHONE, MAX_PHONE = 2, 80  # frames of 10 ms
SILENT, PHONE = 0, 1  # states of a path


@dataclass(frozen=True)
class PathWeights:
    """How the terms of a path's score are weighted; chosen on validation languages (docs/decisions.md).

    `offset` is added to the log-odds of a boundary, `phone` to the score of every phone. `temperature` divides the scores of paths
    where probabilities are made of them.
    """

    boundary: float = 0.75
    offset: float = 1.0
    label: float = 1.0
    duration: float = 0.6
    speech: float = 0.5
    phone: float = 0.2
    temperature: float = 1.05


@dataclass(frozen=True)
class Spans:
    """The spans that a phone can take.

    times: (n_times,) rising frames, 0 and the last among them; start, end: (n_spans,) indices into `times`, in the order of `end`.
    """

    times: IntArray
    start: IntArray
    end: IntArray

    @property
    def frames(self) -> IntArray:
        """(n_spans, 2): first frame of each span, and the frame after its last."""
        return np.stack((self.times[self.start], self.times[self.end]), axis=1)


@dataclass(frozen=True)
class Piece:
    """A part of the best path, in frames. `label` is the index of a class, -1 for silence. `span` is its index in `Spans`, or -1.

    `confidence`: the share of all paths that have the same label in its middle.
    """

    start: int
    end: int
    label: int
    span: int
    confidence: float


def find_spans(boundary: FloatArray) -> Spans:
    """The spans between local maxima of the probability of a boundary, (n_frames,)."""
    n = len(boundary)
    before, after = np.r_[0.0, boundary[:-1]], np.r_[boundary[1:], 0.0]
    peaks = np.flatnonzero((boundary > CANDIDATE) & (boundary >= before) & (boundary >= after))
    times = np.unique(np.r_[0, peaks, n])
    first = np.searchsorted(times, times - MAX_PHONE)
    starts = [np.arange(low, j) for j, low in enumerate(first)]
    start = np.concatenate(starts)
    end = np.repeat(np.arange(len(times)), [len(each) for each in starts])
    long_enough = times[end] - times[start] >= MIN_PHONE
    return Spans(times, start[long_enough], end[long_enough])


def best_path(
    spans: Spans,
    labels: FloatArray,
    durations: FloatArray,
    boundary: FloatArray,
    speech: FloatArray,
    weights: PathWeights,
) -> list[Piece]:
    """The best path, silence merged.

    labels: (n_spans, n_classes) log-probabilities; durations: (n_spans, n_classes) squared deviations of the log-duration from that
    of the class, in standard deviations; boundary, speech: (n_frames,) probabilities.
    """
    scores = weights.label * labels - 0.5 * weights.duration * durations
    spoken = np.r_[0.0, np.cumsum(weights.speech * _log_odds(speech))]
    scores = scores + (spoken[spans.times[spans.end]] - spoken[spans.times[spans.start]] + weights.phone)[:, None]
    edges = weights.boundary * (_log_odds(boundary[np.minimum(spans.times, len(boundary) - 1)]) + weights.offset)
    edges[0] = edges[-1] = 0.0
    path = _viterbi(spans, scores.max(axis=1), edges)
    sure = _Posterior(spans, scores / weights.temperature, edges / weights.temperature)
    pieces = []
    for start, end, span in path:
        label = int(scores[span].argmax()) if span >= 0 else -1
        pieces.append(Piece(start, end, label, span, sure.at((start + end) / 2, label)))
    return pieces


def _log_odds(p: FloatArray) -> FloatArray:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def _viterbi(spans: Spans, best: FloatArray, edges: FloatArray) -> list[tuple[int, int, int]]:
    """(first frame, frame after the last, span or -1) of the parts of the best path.

    best: (n_spans,) score of each span with its best label; edges: (n_times,) score of a boundary of a phone.
    """
    n = len(spans.times)
    value = np.full((n, 2), -np.inf)
    value[0, SILENT] = 0.0
    came: list[list[tuple[int, int, int]]] = [[(0, SILENT, -1)] * 2 for _ in range(n)]  # time, state, span
    by_end = np.searchsorted(spans.end, np.arange(n + 1))
    for j in range(1, n):
        low, high = by_end[j], by_end[j + 1]
        if high > low:
            starts = spans.start[low:high]
            reached = value[starts].max(axis=1) + edges[starts] + best[low:high]
            k = int(reached.argmax())
            value[j, PHONE] = reached[k]
            i = int(starts[k])
            came[j][PHONE] = (i, int(value[i].argmax()), low + k)
        still, ended = value[j - 1, SILENT], value[j - 1, PHONE] + edges[j - 1]
        value[j, SILENT] = max(still, ended)
        came[j][SILENT] = (j - 1, PHONE if ended > still else SILENT, -1)
    parts: list[tuple[int, int, int]] = []
    j, state = n - 1, int(value[n - 1].argmax())
    while j > 0:
        i, before, span = came[j][state]
        first, last = int(spans.times[i]), int(spans.times[j])
        if span < 0 and parts and parts[-1][2] < 0:
            parts[-1] = (first, parts[-1][1], -1)
        else:
            parts.append((first, last, int(span)))
        j, state = i, before
    return parts[::-1]


class _Posterior:
    """Probabilities of spans with labels, and of silence, over all paths.

    scores: (n_spans, n_classes); edges: (n_times,).
    """

    def __init__(self, spans: Spans, scores: FloatArray, edges: FloatArray) -> None:
        n = len(spans.times)
        peak = scores.max(axis=1)
        within = np.exp(scores - peak[:, None])
        total = within.sum(axis=1)
        self.label_share = within / total[:, None]
        weight = peak + np.log(total)
        forward, backward = np.full((n, 2), -np.inf), np.full((n, 2), -np.inf)
        forward[0, SILENT] = 0.0
        backward[n - 1] = 0.0
        by_end = np.searchsorted(spans.end, np.arange(n + 1))
        for j in range(1, n):
            low, high = by_end[j], by_end[j + 1]
            starts = spans.start[low:high]
            into = np.logaddexp(forward[starts, SILENT], forward[starts, PHONE]) + edges[starts] + weight[low:high]
            forward[j, PHONE] = np.logaddexp.reduce(into)
            forward[j, SILENT] = np.logaddexp(forward[j - 1, SILENT], forward[j - 1, PHONE] + edges[j - 1])
        order = np.argsort(spans.start, kind="stable")
        by_start = np.searchsorted(spans.start[order], np.arange(n + 1))
        for i in range(n - 2, -1, -1):
            out = order[by_start[i] : by_start[i + 1]]
            phone = np.logaddexp.reduce(weight[out] + backward[spans.end[out], PHONE]) + edges[i]
            silence = backward[i + 1, SILENT]
            backward[i, SILENT] = np.logaddexp(phone, silence)
            backward[i, PHONE] = np.logaddexp(phone, silence + edges[i])
        whole = np.logaddexp(forward[n - 1, SILENT], forward[n - 1, PHONE])
        ahead = np.logaddexp(forward[spans.start, SILENT], forward[spans.start, PHONE]) + edges[spans.start]
        self.spans = spans
        self.span_share = np.exp(ahead + weight + backward[spans.end, PHONE] - whole)

    def at(self, frame: float, label: int) -> float:
        """The probability that `frame` lies in a phone of the class `label`, or in silence for -1."""
        times, spans = self.spans.times, self.spans
        here = (times[spans.start] < frame) & (frame < times[spans.end])
        shares = self.span_share[here]
        if label < 0:
            return float(np.clip(1.0 - shares.sum(), 0.0, 1.0))
        return float(np.clip((shares * self.label_share[here, label]).sum(), 0.0, 1.0))
