"""Praat TextGrids: reading what Praat, the Montreal Forced Aligner and other tools write, and writing them.

What is of use of a damaged one is read for labels; one that is to be written again is read whole, times digit for digit, or not
at all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import read_limited, replacing
from mtl_speech.corpora.label_files import praat_symbols
from mtl_speech.corpora.label_files.praat_text import Malformed, Tokens
from mtl_speech.corpora.label_files.tiers import labels_of_tiers
from mtl_speech.corpora.labels import Interval, Labels, MissingPhones, decoded, in_time_order

MAX_BYTES = 64 << 20  # a TextGrid of an hour has under 10 MB
INTERVALS, POINTS = "IntervalTier", "TextTier"
_CHRONOLOGICAL = "Praat chronological TextGrid text file"


@dataclass(frozen=True)
class Tier:
    """A tier of intervals or of points. Times are numerals; an entry is (start, end, label), or (time, label) of a point."""

    kind: str
    name: str
    start: str
    end: str
    entries: Sequence[tuple[str, ...]]

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The entries of a tier of intervals, silence included, labels without blanks around them."""
        return tuple(
            Interval(float(start), float(end), label.strip(), number)
            for number, (start, end, label) in enumerate(self.entries, 1)
        )


@dataclass(frozen=True)
class TextGrid:
    """The tiers of a TextGrid, and what could not be read of it. `start` and `end` are numerals, in seconds.

    `after` are problems of what Praat reads over: what stands after the last tier.
    """

    start: str
    end: str
    tiers: tuple[Tier, ...] = ()
    problems: tuple[Problem, ...] = ()
    after: tuple[Problem, ...] = ()

    @property
    def duration(self) -> float:
        """Where it ends, in seconds."""
        return float(self.end)

    @property
    def begin(self) -> float:
        """Where it begins, in seconds: by its head, or by its entries where they begin earlier."""
        firsts = (tier.entries[0][0] for tier in self.tiers if tier.entries)
        return min(float(time) for time in (self.start, *firsts))


def read_textgrid(path: Path) -> TextGrid:
    """The interval tiers of a TextGrid: long, short or chronological; UTF-8, UTF-16 or Latin-1; byte-order mark or none.

    A file that breaks off or goes wrong after its header gives what stands before that, with a problem.

    Raises:
        DataError: no TextGrid, a binary one, or larger than any real one.
    """
    tokens = Tokens(_read_text(path))
    try:
        head = _header(tokens)
    except Malformed as error:
        raise DataError(
            f"{path}: not a Praat TextGrid (line {tokens.line}: {error}; it begins with {tokens.first_line}): save it again from "
            f"Praat{tokens.hint}"
        ) from None
    tiers: list[Tier] = []
    problems: list[Problem] = []
    after: list[Problem] = []
    try:
        _read_tiers(tokens, head, tiers)
    except Malformed as error:
        where = "" if head.chronological else f", in tier {len(tiers) or 1} of {head.n_tiers:g}"
        problems.append(Problem(path, f"line {tokens.line}: {error}{where}; what follows is left out{_advice(tokens)}"))
    else:
        try:
            tokens.end()
        except Malformed as error:
            after.append(Problem(path, f"line {tokens.line}: {error}; what follows is left out"))
    problems += [
        Problem(path, f"line {line}: {reason}, which Praat does not read: save it again from Praat", used=True)
        for reason, line in tokens.taken.items()
    ]
    named = (replace(tier, name=tier.name.strip()) for tier in tiers if tier.kind == INTERVALS)
    return TextGrid(head.start, head.end, tuple(named), tuple(problems), tuple(after))


def _advice(tokens: Tokens) -> str:
    return f": save it again from Praat{tokens.hint}" if tokens.hint else ""


def read_whole(path: Path) -> TextGrid:
    """A TextGrid with all its tiers in their order, of intervals and of points, labels and numerals as they stand.

    Raises:
        DataError: no TextGrid, or one that breaks off, goes wrong or goes on after its last tier, so that it cannot be kept whole.
    """
    text = _read_text(path)
    if "\ufffd" in text or re.search("[\x80-\x9f]", text):
        raise DataError(f"{path}: is neither UTF-8, UTF-16 nor Latin-1 throughout: save it again from Praat, as UTF-8")
    tokens = Tokens(text)
    tiers: list[Tier] = []
    try:
        head = _header(tokens)
        _read_tiers(tokens, head, tiers)
        tokens.end()
    except Malformed as error:
        raise DataError(
            f"{path}: cannot be kept whole (line {tokens.line}: {error}): save it again from Praat, or move it away"
        ) from None
    return TextGrid(head.start, head.end, tuple(replace(tier, entries=tuple(tier.entries)) for tier in tiers))


def read_labels(path: Path, tier: str | None = None) -> Labels:
    """The phones and words of a TextGrid, as `labels_of_tiers` chooses them; `tier` is the name of the phones, or a pattern.

    Raises:
        MissingPhones: no tier could be the phone tier.
        DataError: the file cannot be read, or not as far as its phones.
    """
    grid = read_textgrid(path)
    tiers = [(each.name, tuple(in_time_order(each.intervals))) for each in grid.tiers]
    tiers, changes = praat_symbols.decode(path, tiers)
    problems = (*grid.problems, *grid.after, *changes)
    try:
        labels = labels_of_tiers(path, tiers, "interval tiers", problems, grid.duration, tier)
    except MissingPhones as error:
        lost = [problem.reason for problem in problems if not problem.used]
        if lost:
            raise DataError(f"{path}: {lost[0]}, the tier of phones with it: save it again from Praat") from None
        raise error
    if grid.begin == 0:
        return labels
    every = [replace(each, begin=grid.begin) for each in (labels, *labels.more)]
    return replace(every[0], more=tuple(every[1:]))


def write_textgrid(path: Path, duration: float, tiers: Mapping[str, Sequence[tuple[float, float, str]]]) -> None:
    """Write a TextGrid (long form, UTF-8) in one step: either the whole file is there afterwards or the old one.

    Args:
        path: the file; its folder must exist.
        duration: of the recording, in seconds.
        tiers: name to intervals (start, end, label) in seconds; gaps between them become empty intervals.

    Raises:
        DataError: intervals that overlap, end before they start, or lie outside the recording.
    """
    from praatio import textgrid as praat
    from praatio.data_classes.interval_tier import IntervalTier
    from praatio.utilities.errors import PraatioException

    grid = praat.Textgrid(0.0, duration)
    try:
        for name, intervals in tiers.items():
            outside = [each for each in intervals if each[0] < 0 or each[1] > duration]
            if outside:
                raise DataError(f"{path}: tier '{name}': {outside[0]} lies outside 0 to {duration} s")
            grid.addTier(IntervalTier(name, list(intervals), 0.0, duration), reportingMode="error")
        with replacing(path) as temporary:
            grid.save(str(temporary), format="long_textgrid", includeBlankSpaces=True, reportingMode="error")
    except PraatioException as error:
        raise DataError(f"{path}: cannot be written as a TextGrid: {error}") from error


def long_form(grid: TextGrid) -> str:
    """The text of a TextGrid in Praat's long form."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += [f"xmin = {grid.start} ", f"xmax = {grid.end} "]
    lines += ["tiers? <exists> ", f"size = {len(grid.tiers)} ", "item []: "]
    for number, tier in enumerate(grid.tiers, 1):
        entry, names = (
            ("intervals", ("xmin", "xmax", "text")) if tier.kind == INTERVALS else ("points", ("number", "mark"))
        )
        lines += [f"    item [{number}]:", f'        class = "{tier.kind}" ', f"        name = {_quoted(tier.name)} "]
        lines += [f"        xmin = {tier.start} ", f"        xmax = {tier.end} "]
        lines += [f"        {entry}: size = {len(tier.entries)} "]
        for place, (*times, label) in enumerate(tier.entries, 1):
            values = (*times, _quoted(label))
            lines += [f"        {entry} [{place}]:"]
            lines += [f"            {name} = {value} " for name, value in zip(names, values, strict=True)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _read_text(path: Path) -> str:
    """The text of a TextGrid, in one of the encodings that Praat writes. Raises DataError."""
    raw = read_limited(path, MAX_BYTES, "a TextGrid of one recording")
    if raw.startswith(b"ooBinaryFile"):
        raise DataError(f"{path}: a binary TextGrid: save it in Praat as a text file")
    return decoded(raw)


@dataclass(frozen=True)
class _Head:
    """What a TextGrid begins with: begin and end in seconds as they are written, and how many tiers it claims."""

    start: str
    end: str
    n_tiers: float
    chronological: bool = False


def _header(tokens: Tokens) -> _Head:
    kind = tokens.string()
    if kind == _CHRONOLOGICAL:
        return _Head(tokens.numeral(), tokens.numeral(), tokens.number(), chronological=True)
    if not kind.startswith("ooTextFile"):
        raise Malformed('it does not begin with File type = "ooTextFile"')
    if tokens.string() != "TextGrid":
        raise Malformed("its object class is not TextGrid")
    start, end = tokens.numeral(), tokens.numeral()
    return _Head(start, end, tokens.number() if tokens.flag() else 0)


def _read_tiers(tokens: Tokens, head: _Head, tiers: list[Tier]) -> None:
    """Append all tiers, with the entries before a fault where there is one. Claimed counts reserve no memory."""
    for _ in _counted(head.n_tiers):
        tier, entries = _begin_tier(tokens)
        tiers.append(tier)
        if not head.chronological:
            claimed = tokens.number()
            while len(entries) < claimed:
                entries.append(_entry(tokens, tier.kind))
    while head.chronological and tokens.more():
        number = tokens.number()
        if number not in range(1, len(tiers) + 1):
            raise Malformed(f"the number of a tier is expected, 1 to {len(tiers)}, not {number:g}")
        tier = tiers[int(number) - 1]
        assert isinstance(tier.entries, list)
        tier.entries.append(_entry(tokens, tier.kind))


def _counted(claimed: float) -> Iterator[int]:
    return itertools.takewhile(lambda number: number < claimed, itertools.count())


def _begin_tier(tokens: Tokens) -> tuple[Tier, list[tuple[str, ...]]]:
    """A tier without its entries, and the list for them."""
    kind, name = tokens.string(), tokens.string()
    if kind not in (INTERVALS, POINTS):
        raise Malformed(f"a tier is expected, not {kind[:40]!r}")
    entries: list[tuple[str, ...]] = []
    return Tier(kind, name, tokens.numeral(), tokens.numeral(), entries), entries


def _entry(tokens: Tokens, kind: str) -> tuple[str, ...]:
    times = [tokens.numeral() for _ in range(2 if kind == INTERVALS else 1)]
    return (*times, tokens.string())
