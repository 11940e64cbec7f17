"""Labelled intervals to phoneme segments: the checks that every kind of label file shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.corpus import Segment
from mtl_speech.phonology.phonemes import MAX_LABEL, UnmappableLabel, is_modifier, is_silence, normalise_ipa, to_ipa

ROUNDING = 0.001  # seconds: differences up to this are rounding, adjusted without a word
TOLERANCE = 0.020  # seconds: overlaps and overruns up to this are adjusted and reported as used; beyond it left out
MISMATCH = 0.1  # seconds: label file and recording may differ by so much without a word
MACHINE_LABELS = "phones-pred"  # the tier of a transcription: never taken for labels that a person has checked
_LAST = (math.inf, math.inf)


class MissingPhones(DataError):
    """A label file without a tier of phones."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled time span in seconds; `number` is its 1-based place in the file (interval or line)."""

    start: float
    end: float
    label: str
    number: int


@dataclass(frozen=True)
class Labels:
    """What a label file says of one recording, before any check. `tier` names the phone tier in problems.

    Of several speakers the first has the labels of the others in `more`. Times are in seconds.
    """

    file: Path
    tier: str | None
    phones: Sequence[Interval]
    words: Sequence[Interval] = ()
    problems: tuple[Problem, ...] = ()
    duration: float | None = None  # seconds, where the file states it
    machine: Sequence[Interval] = ()  # the tier of a transcription
    speaker: str = ""  # as the tier is named
    notation: str = ""  # the phone set of the tool that names its tiers so
    begin: float = 0.0  # where the file says that its recording begins
    unlabelled: Sequence[tuple[float, float]] = ()  # others speak there, or nobody labelled it; sorted and apart
    more: tuple[Labels, ...] = ()


def in_time_order(intervals: Iterable[Interval]) -> list[Interval]:
    """The intervals by their times, whatever the order of the file; those without a finite time come last."""
    return sorted(intervals, key=lambda each: (each.start, each.end) if math.isfinite(each.start + each.end) else _LAST)


@dataclass
class _Findings:
    """Collects the problems of one tier."""

    file: Path
    tier: str | None
    problems: list[Problem] = field(default_factory=list)

    def add(self, interval: Interval, reason: str, used: bool = False) -> None:
        named = f"'{interval.label[:MAX_LABEL]}' " if interval.label else ""
        self.problems.append(Problem(self.file, named + reason, self.tier, interval.number, used))


@dataclass(frozen=True)
class Checked:
    """What is of use of the labels of a recording, as an `Utterance` has it, and what was found wrong."""

    segments: tuple[Segment, ...]
    words: tuple[tuple[str, float, float], ...]
    machine: tuple[Segment, ...]
    problems: tuple[Problem, ...]


def check_labels(labels: Labels, duration: float, phone_set: str) -> Checked:
    """All that is checked of the labels of a recording of `duration` seconds."""
    segments, problems = find_segments(labels, duration, phone_set)
    words, of_words = find_words(labels, duration)
    transcribed = replace(labels, tier=MACHINE_LABELS, phones=labels.machine, duration=None)
    machine, of_machine = find_segments(transcribed, duration, "ipa")
    return Checked(segments, words, machine, (*labels.problems, *problems, *of_words, *of_machine))


def find_segments(labels: Labels, duration: float, phone_set: str) -> tuple[tuple[Segment, ...], tuple[Problem, ...]]:
    """The phoneme segments of a recording of `duration` seconds, and a problem for every interval changed or left out.

    Left out are intervals that overlap another by more than 20 ms or run past the end of the audio by more than 20 ms,
    that do not start before they end, or whose label is no phoneme. Smaller overlaps are split in the middle,
    smaller overruns cut. A detached modifier (an interval "kː", then one "ʰ") is joined to the phoneme before it.
    """
    findings = _Findings(labels.file, labels.tier)
    if labels.duration is not None and abs(labels.duration - duration) > MISMATCH:
        reason = (
            f"made for {labels.duration:.2f} s of audio, but the recording has {duration:.2f} s: is it the right one?"
        )
        findings.problems.append(Problem(labels.file, reason, used=True))
    result: list[Segment] = []
    for interval in _disjoint(_inside(labels.phones, duration, findings), findings):
        touches = bool(result) and interval.start - result[-1].end <= ROUNDING
        if touches and is_modifier(interval.label) and len(result[-1].phoneme) < MAX_LABEL:
            joined = normalise_ipa(result[-1].phoneme + interval.label)
            result[-1] = replace(result[-1], phoneme=joined, end=interval.end)
            findings.add(interval, f"is no phoneme of its own: joined to the one before it as '{joined}'", used=True)
            continue
        try:
            phoneme = to_ipa(interval.label, phone_set)
            result += [] if phoneme is None else [Segment(phoneme, interval.start, interval.end)]
        except UnmappableLabel as error:
            findings.problems.append(Problem(labels.file, f"{error}; left out", labels.tier, interval.number))
    return tuple(result), tuple(sorted(findings.problems, key=lambda problem: problem.interval or 0))


def find_words(labels: Labels, duration: float) -> tuple[tuple[tuple[str, float, float], ...], tuple[Problem, ...]]:
    """The words as (text, start, end) in seconds inside the recording, and the problems found."""
    findings = _Findings(labels.file, "words")
    named = (interval for interval in labels.words if not is_silence(interval.label))
    words = [(each.label.strip(), each.start, each.end) for each in _inside(named, duration, findings)]
    return tuple(words), tuple(findings.problems)


def _inside(intervals: Iterable[Interval], duration: float, findings: _Findings) -> Iterator[Interval]:
    """The intervals cut to 0..duration seconds, without those that cannot be used."""
    for interval in intervals:
        start, end = interval.start, interval.end
        fault, overrun = _fault(start, end, duration), max(end - duration, -start)
        reason = f"{fault}; left out" if fault else ""
        if not fault and overrun > ROUNDING:
            reason = f"({start:.3f} to {end:.3f} s) runs {1000 * overrun:.0f} ms out of the audio; cut"
        if reason and not is_silence(interval.label):  # what is wrong with a silence loses nothing
            findings.add(interval, reason, used=not fault)
        if not fault:
            yield replace(interval, start=max(start, 0.0), end=min(end, duration)) if overrun > 0 else interval


def _fault(start: float, end: float, duration: float) -> str:
    """Why a time span cannot be used in a recording of `duration` seconds; empty, if it can."""
    if not (math.isfinite(start) and math.isfinite(end)):
        return "has a time that is not a finite number"
    if start >= end:
        return f"starts at {start:.3f} s and ends at {end:.3f} s"
    if max(end - duration, -start) > TOLERANCE or start >= duration:
        where = f"past the end of the audio at {duration:.3f} s" if end > duration else "before the audio begins"
        return f"({start:.3f} to {end:.3f} s) lies {where}"
    return ""


def _disjoint(intervals: Iterable[Interval], findings: _Findings) -> list[Interval]:
    """The intervals in time order without those that overlap; small overlaps are split in the middle."""
    ordered = sorted(intervals, key=lambda interval: (interval.start, interval.end))
    doubtful: set[int] = set()
    furthest = 0  # index of the interval that ends last so far
    for index in range(1, len(ordered)):
        before, here = ordered[furthest], ordered[index]
        overlap = before.end - here.start
        shortest = min(before.end - before.start, here.end - here.start)
        if overlap > TOLERANCE or overlap >= shortest:
            for one, other in ((furthest, here), (index, before)):
                if one not in doubtful:
                    findings.add(
                        ordered[one], f"overlaps '{other.label[:MAX_LABEL]}' (interval {other.number}); left out"
                    )
                    doubtful.add(one)
        elif overlap > 0:
            boundary = here.start + (overlap / 2 if overlap > ROUNDING else 0.0)
            ordered[furthest], ordered[index] = replace(before, end=boundary), replace(here, start=boundary)
            if overlap > ROUNDING:
                findings.add(
                    here,
                    f"overlaps '{before.label[:MAX_LABEL]}' by {1000 * overlap:.0f} ms; split in the middle",
                    used=True,
                )
        if ordered[index].end > ordered[furthest].end:
            furthest = index
    return [interval for index, interval in enumerate(ordered) if index not in doubtful]


def decoded(raw: bytes) -> str:
    """The text of a label file: UTF-8, UTF-16 with or without a byte-order mark, or else Latin-1."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw[:4]:
        return raw.decode("utf-16-be" if raw[:1] == b"\0" else "utf-16-le", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
