"""Stretches of time as (start, end) in seconds: joined, and with others taken out of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Span = tuple[float, float]


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The time that is in any of the spans, sorted and apart; what has no length or no finite time is passed over."""
    found: list[Span] = []
    for start, end in sorted(each for each in spans if math.isfinite(sum(each)) and each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def without(spans: Sequence[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """The time that is in one of the spans and in none of the others; both as `union` gives them."""
    found: list[Span] = []
    first = 0
    for start, end in spans:
        while first < len(others) and others[first][1] <= start:
            first += 1
        place = first
        while place < len(others) and others[place][0] < end:
            if start < others[place][0]:
                found.append((start, others[place][0]))
            start = max(start, others[place][1])
            place += 1
        if start < end:
            found.append((start, end))
    return tuple(found)


def within(spans: Iterable[Span], seconds: float) -> tuple[Span, ...]:
    """What of the spans lies between 0 and `seconds`."""
    return union((max(start, 0.0), min(end, seconds)) for start, end in spans)
