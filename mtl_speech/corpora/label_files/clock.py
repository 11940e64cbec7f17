"""Label files that do not begin where their recording does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.labels import MISMATCH, ROUNDING, Interval, Labels
from mtl_speech.corpora.spans import union


def from_begin(labels: Labels, duration: float) -> Labels:
    """Labels with their times from the begin of a recording of `duration` seconds, and a problem where they were shifted.

    A file that begins late is of a part that was cut out, with the times of the whole: shifted if it is as long as the
    recording. If it ends where the recording ends, it is of the whole recording, of which the first part has no labels.

    Raises:
        DataError: it begins late and fits in neither way.
    """
    begin, end = labels.begin, labels.duration
    if end is None or abs(begin) <= ROUNDING:
        return labels
    shifted, kept = abs(end - begin - duration), abs(end - duration)
    which = f"begins at {begin:.2f} s, not at 0, and ends at {end:.2f} s"
    if shifted <= MISMATCH and shifted + ROUNDING < kept:
        return _shifted(
            labels, -begin, f"{which}: all its times are shifted by {-begin:.2f} s, to the recording's begin"
        )
    if abs(begin) <= MISMATCH:
        return labels
    if kept > MISMATCH or begin < 0:
        raise DataError(
            f"{labels.file}: {which}, which fits no recording of {duration:.2f} s: cut the recording and its labels alike, or save "
            "the labels with times that begin at 0"
        )
    reason = f"{which}, as the recording does: what is before {begin:.2f} s has no labels"
    problem = Problem(labels.file, reason, used=True)
    every = [replace(each, unlabelled=union((*each.unlabelled, (0.0, begin)))) for each in (labels, *labels.more)]
    return replace(every[0], problems=(*labels.problems, problem), more=tuple(every[1:]))


def _shifted(labels: Labels, by: float, reason: str) -> Labels:
    def moved(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
        return tuple(replace(each, start=each.start + by, end=each.end + by) for each in intervals)

    every = [
        replace(
            each,
            phones=moved(each.phones),
            words=moved(each.words),
            machine=moved(each.machine),
            duration=None if each.duration is None else each.duration + by,
            begin=0.0,
            unlabelled=tuple((start + by, end + by) for start, end in each.unlabelled),
        )
        for each in (labels, *labels.more)
    ]
    problems = (*labels.problems, Problem(labels.file, reason, used=True))
    return replace(every[0], problems=problems, more=tuple(every[1:]))
