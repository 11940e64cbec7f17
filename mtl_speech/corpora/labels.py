"""Labelled intervals to phoneme segments: the checks that every kind of label file shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.spans import Span, union, within, without
from mtl_speech.phonology.ipa_grammar import joined
from mtl_speech.phonology.phonemes import (
    MAX_LABEL,
    UnmappableLabel,
    change_of,
    is_apostrophe,
    is_silence,
    is_unknown,
    modifier_of,
    normalise_ipa,
    to_ipa,
)

ROUNDING = 0.001  # seconds: differences up to this are rounding, adjusted without a word
TOLERANCE = 0.020  # seconds: overlaps and overruns up to this are adjusted and reported as used; beyond it left out
MISMATCH = 0.1  # seconds: label file and recording may differ by so much without a word
MACHINE_LABELS = "phones-pred"  # the tier of a transcription: never taken for labels that a person has checked
_NO_LETTER = (
    "is a mark that neither the phoneme before it nor the one after it can take: write it on its letter; left out"
)
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
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)  # reason: its first interval, how often

    def add(self, interval: Interval, reason: str, used: bool = False) -> None:
        named = f"'{interval.label[:MAX_LABEL]}' " if interval.label else ""
        self.problems.append(Problem(self.file, named + reason, self.tier, interval.number, used))

    def changed(self, interval: Interval, reason: str) -> None:
        """Something that was read in another way than it stands; the same is told once, with its number."""
        first, number = self.changes.get(reason, (interval.number, 0))
        self.changes[reason] = first, number + 1

    def all(self) -> tuple[Problem, ...]:
        """The problems in the order of their intervals."""
        changes = [Problem(self.file, reason, self.tier, *about) for reason, about in self._counted()]
        return tuple(sorted((*self.problems, *changes), key=lambda problem: problem.interval or 0))

    def _counted(self) -> list[tuple[str, tuple[int, bool, int]]]:
        return [(reason, (first, True, number)) for reason, (first, number) in self.changes.items()]


@dataclass(frozen=True)
class Checked:
    """What is of use of the labels of a recording, as an `Utterance` has it, and what was found wrong."""

    segments: tuple[Segment, ...]
    words: tuple[tuple[str, float, float], ...]
    machine: tuple[Segment, ...]
    unknown: tuple[tuple[float, float], ...]
    problems: tuple[Problem, ...]


def check_labels(labels: Labels, duration: float, phone_set: str) -> Checked:
    """All that is checked of the labels of a recording of `duration` seconds."""
    segments, problems = find_segments(labels, duration, phone_set)
    words, of_words = find_words(labels, duration)
    transcribed = replace(labels, tier=MACHINE_LABELS, phones=labels.machine, duration=None)
    machine, of_machine = find_segments(transcribed, duration, "ipa")
    unknown, of_unknown = find_unknown(labels, segments, duration)
    every = (*labels.problems, *problems, *of_words, *of_machine, *of_unknown)
    return Checked(segments, words, machine, unknown, every)


def find_unknown(
    labels: Labels, segments: Sequence[Segment], duration: float
) -> tuple[tuple[Span, ...], tuple[Problem, ...]]:
    """The stretches (start, end) in seconds that have a label, and no segment: what is said or sounds there is not known.

    So every interval that was left out is one, whatever the reason; those of speech that nobody transcribed ("spn") and of noise,
    which are told here; and where others speak.
    """
    findings = _Findings(labels.file, labels.tier)
    spans = list(labels.unlabelled)
    for interval in labels.phones:
        if is_unknown(interval.label):
            findings.changed(
                interval, f"'{interval.label}': what sounds there is neither speech nor silence to a model"
            )
        if is_unknown(interval.label) or not is_silence(interval.label):
            spans.append((interval.start, interval.end))
    known = union((segment.start, segment.end) for segment in segments)
    unknown = without(within(spans, duration), known)
    return tuple(span for span in unknown if span[1] - span[0] > ROUNDING), findings.all()


def find_segments(labels: Labels, duration: float, phone_set: str) -> tuple[tuple[Segment, ...], tuple[Problem, ...]]:
    """The phoneme segments of a recording of `duration` seconds, and a problem for every interval changed or left out.

    Left out are intervals that overlap another by more than 20 ms or run past the end of the audio by more than 20 ms,
    that do not start before they end, or whose label is no phoneme. Smaller overlaps are split in the middle,
    smaller overruns cut. A detached mark (an interval "kː", then one "ʰ") is joined to the phoneme before it if that can take
    it, or to the one after it ("ⁿ", then "d"); an apostrophe that joins no voiceless obstruent is ʔ.
    """
    findings = _Findings(labels.file, labels.tier)
    if labels.duration is not None and abs(labels.duration - duration) > MISMATCH:
        reason = (
            f"made for {labels.duration:.2f} s of audio, but the recording has {duration:.2f} s: is it the right one?"
        )
        findings.problems.append(Problem(labels.file, reason, used=True))
    result = _phonemes(_disjoint(_inside(labels.phones, duration, findings), findings), phone_set, findings)
    return tuple(result), findings.all()


def _phonemes(intervals: Sequence[Interval], phone_set: str, findings: _Findings) -> list[Segment]:
    """The phonemes of intervals in time order, with detached marks joined to the phoneme that they can belong to."""
    result: list[Segment] = []
    ahead: Interval | None = None  # a mark that the phoneme before it cannot take
    for interval in intervals:
        before = result[-1] if result and interval.start - result[-1].end <= ROUNDING else None
        mark = modifier_of(interval.label, phone_set)
        if (
            mark
            and ahead is None
            and before is not None
            and len(before.phoneme) < MAX_LABEL
            and joined(before.phoneme, mark)
        ):
            phoneme = normalise_ipa(before.phoneme + mark)
            result[-1] = replace(before, phoneme=phoneme, end=interval.end)
            findings.changed(
                interval,
                f"'{interval.label}' is no phoneme of its own: joined to the one before it as '{phoneme}'",
            )
            continue
        if ahead is not None:
            interval = _with_mark(ahead, interval, phone_set, findings)
        ahead = None
        if mark and not is_apostrophe(mark):
            ahead = interval
            continue
        segment = _segment(interval, phone_set, findings)
        if segment is not None:
            result.append(segment)
    if ahead is not None:
        findings.add(ahead, _NO_LETTER)
    return result


def _with_mark(mark: Interval, interval: Interval, phone_set: str, findings: _Findings) -> Interval:
    """The interval with the mark that stands before it, where it can take it; else itself, and the mark is told."""
    label = mark.label.strip() + interval.label.strip()
    if interval.start - mark.end <= ROUNDING and not is_silence(interval.label):
        try:
            phoneme = to_ipa(label, phone_set)
        except UnmappableLabel:
            phoneme = None
        if phoneme is not None:
            findings.changed(
                mark, f"'{mark.label}' is no phoneme of its own: joined to the one after it as '{phoneme}'"
            )
            return replace(interval, start=mark.start, label=label)
    findings.add(mark, _NO_LETTER)
    return interval


def is_refused_label(problem: Problem) -> bool:
    """Whether a problem is that of a label that is no phoneme."""
    return not problem.used and problem.reason.startswith("label '") and problem.reason.endswith("; left out")


def _segment(interval: Interval, phone_set: str, findings: _Findings) -> Segment | None:
    """The phoneme of an interval, or None for silence and for a label that is none, with a problem."""
    try:
        phoneme = to_ipa(interval.label, phone_set)
    except UnmappableLabel as error:
        findings.problems.append(Problem(findings.file, f"{error}; left out", findings.tier, interval.number))
        return None
    if phoneme is None:
        return None
    change = change_of(interval.label, phone_set)
    if change:
        findings.changed(interval, change)
    return Segment(phoneme, interval.start, interval.end)


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
