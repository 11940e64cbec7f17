"""The lattice of spans: the best path and its probabilities, against an enumeration of all paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from mtl_speech.transcription.lattice import MAX_PHONE, MIN_PHONE, PathWeights, Spans, best_path, find_spans

N_CLASSES = 3
Part = tuple[int, int, int]  # first time, last time, class or -1


def all_paths(spans: Spans, time: int = 0, silent_before: bool = True) -> Iterator[tuple[Part, ...]]:
    """Every way from `time` to the end: silence goes on to the next time, a phone takes a span."""
    if time == len(spans.times) - 1:
        yield ()
        return
    for rest in all_paths(spans, time + 1, True):
        yield ((time, time + 1, -1), *rest)
    for start, end in zip(spans.start, spans.end, strict=True):
        if start == time:
            for label in range(N_CLASSES):
                for rest in all_paths(spans, int(end), False):
                    yield ((time, int(end), label), *rest)


def log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def score(path: tuple[Part, ...], spans: Spans, case: dict[str, np.ndarray], weights: PathWeights) -> float:
    """The score of a path, straight from its definition."""
    index = {(int(s), int(e)): k for k, (s, e) in enumerate(zip(spans.start, spans.end, strict=True))}
    total = 0.0
    for number, (first, last, label) in enumerate(path):
        a, b = spans.times[first], spans.times[last]
        if label >= 0:
            k = index[first, last]
            total += weights.label * case["labels"][k, label] - 0.5 * weights.duration * case["durations"][k, label]
            total += weights.speech * log_odds(case["speech"])[a:b].sum() + weights.phone
        both_silent = label < 0 and (number == 0 or path[number - 1][2] < 0)
        if first > 0 and not both_silent:
            total += weights.boundary * (log_odds(case["boundary"])[a] + weights.offset)
    return total


@pytest.fixture(params=range(4))
def lattice(request: pytest.FixtureRequest) -> tuple[Spans, dict[str, np.ndarray]]:
    rng = np.random.default_rng(request.param)
    n = 18
    boundary = np.full(n, 0.01)
    boundary[[3, 7, 10, 14]] = rng.uniform(0.1, 0.9, 4)
    spans = find_spans(boundary)
    case = {
        "labels": np.log(rng.dirichlet(np.ones(N_CLASSES), len(spans.start))),
        "durations": rng.uniform(0, 4, (len(spans.start), N_CLASSES)),
        "boundary": boundary,
        "speech": rng.uniform(0.2, 0.9, n),
    }
    return spans, case


def merged(path: tuple[Part, ...], times: np.ndarray) -> list[tuple[int, int, int]]:
    """A path in frames, silence in one piece."""
    found: list[tuple[int, int, int]] = []
    for first, last, label in path:
        if label < 0 and found and found[-1][2] < 0:
            found[-1] = (found[-1][0], int(times[last]), -1)
        else:
            found.append((int(times[first]), int(times[last]), label))
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_best_path_and_its_probabilities_are_those_of_all_paths(
    lattice: tuple[Spans, dict[str, np.ndarray]], temperature: float
) -> None:
    spans, case = lattice
    weights = PathWeights(temperature=temperature)
    paths = list(all_paths(spans))
    scores = np.array([score(path, spans, case, weights) for path in paths])
    pieces = best_path(spans, case["labels"], case["durations"], case["boundary"], case["speech"], weights)
    assert [(p.start, p.end, p.label) for p in pieces] == merged(paths[int(scores.argmax())], spans.times)
    share = np.exp(scores / temperature - np.logaddexp.reduce(scores / temperature))
    for piece in pieces:
        middle = (piece.start + piece.end) / 2
        agree = [
            any(spans.times[a] < middle < spans.times[b] and label == piece.label for a, b, label in path)
            for path in paths
        ]
        if not np.isin(middle, spans.times):  # a boundary in the middle belongs to neither side
            assert piece.confidence == pytest.approx(share[agree].sum(), abs=1e-9)


def test_pieces_cover_the_stretch_and_name_their_spans(lattice: tuple[Spans, dict[str, np.ndarray]]) -> None:
    spans, case = lattice
    pieces = best_path(spans, case["labels"], case["durations"], case["boundary"], case["speech"], PathWeights())
    assert pieces[0].start == 0 and pieces[-1].end == 18
    for one, other in itertools.pairwise(pieces):
        assert one.end == other.start and not (one.label == other.label == -1)
    for piece in pieces:
        assert (piece.span == -1) == (piece.label == -1)
        if piece.span >= 0:
            assert tuple(spans.frames[piece.span]) == (piece.start, piece.end)


def test_spans_join_all_maxima_that_are_near_enough() -> None:
    boundary = np.full(300, 0.001)
    boundary[[20, 21, 60, 61, 200]] = [0.5, 0.4, 0.5, 0.9, 0.02]  # 21 and 60 are no maxima; 200 is too unlikely
    spans = find_spans(boundary)
    assert spans.times.tolist() == [0, 20, 61, 300]
    assert sorted(map(tuple, spans.frames.tolist())) == [(0, 20), (0, 61), (20, 61)]
    assert (np.diff(spans.end) >= 0).all()


def test_a_span_is_neither_too_short_nor_too_long() -> None:
    boundary = np.zeros(MAX_PHONE + 6)
    boundary[[2, 3 + MIN_PHONE, MAX_PHONE + 2, MAX_PHONE + 5]] = 0.5
    lengths = np.diff(find_spans(boundary).frames, axis=1)
    assert lengths.min() >= MIN_PHONE and lengths.max() == MAX_PHONE


def test_silence_alone_is_one_piece() -> None:
    quiet = np.full(50, 1e-6)
    spans = find_spans(quiet)
    none = np.zeros((len(spans.start), N_CLASSES))
    (piece,) = best_path(spans, none - 1.0, none, quiet, quiet, PathWeights())
    assert (piece.start, piece.end, piece.label) == (0, 50, -1)
    assert piece.confidence > 0.99
