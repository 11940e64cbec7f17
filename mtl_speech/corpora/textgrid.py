"""Praat TextGrids: reading what Praat, the Montreal Forced Aligner and other tools write, and writing them.

What is of use of a damaged one is read for labels; one that is to be written again is read whole, times digit for digit, or not
at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import read_limited, replacing
from mtl_speech.corpora import praat_symbols
from mtl_speech.corpora.labels import Interval, Labels, decoded, labels_of_tiers

MAX_BYTES = 64 << 20  # a TextGrid of an hour has under 10 MB
MAX_VALUES = 4_000_000  # numbers and strings: the phones and words of ten hours have under 2 million

# Praat reads numbers and quoted strings that stand free, and <flags>; all else is decoration. So long and short files
# are one format.
_TOKEN = re.compile(
    r'"([^"]*(?:""[^"]*)*)"|(?<!\S)([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|(<exists>|<absent>)|![^\r\n]*'
)
_COMMA = re.compile(r"(?<!\S)\d+,\d+(?!\S)")
_LINE_END = re.compile(r"\r\n|\r|\n")
INTERVALS, POINTS = "IntervalTier", "TextTier"


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
    """The tiers of a TextGrid, and what could not be read of it. `start` and `end` are numerals, in seconds."""

    start: str
    end: str
    tiers: tuple[Tier, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def duration(self) -> float:
        """Where it ends, in seconds."""
        return float(self.end)


class Malformed(Exception):
    """The file does not go on as a TextGrid must."""


class Tokens:
    """The values of a TextGrid one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = self._count = 0
        self._matches: Iterator[re.Match[str]] = _TOKEN.finditer(text)

    def _next(self) -> re.Match[str]:
        for match in self._matches:
            if match.lastindex is not None:  # not a comment
                self._position = match.start()
                self._count += 1
                if self._count > MAX_VALUES:
                    raise Malformed(f"it has more than {MAX_VALUES:,} numbers and strings")
                return match
        self._position = len(self._text)
        raise Malformed("the file ends")

    def _value(self, group: int, expected: str) -> str:
        """The next value, which must be of the kind that this group of `_TOKEN` is."""
        match = self._next()
        if match.group(group) is None:
            raise Malformed(f"{expected} expected, not {match.group()[:40]!r}")
        return match.group(group)

    def string(self) -> str:
        return self._value(1, "text in quotes").replace('""', '"')

    def numeral(self) -> str:
        """A number as it is written."""
        return self._value(2, "a number")

    def number(self) -> float:
        return float(self.numeral())

    def flag(self) -> bool:
        return self._value(3, "<exists>") == "<exists>"

    def end(self) -> None:
        """Nothing follows."""
        for match in self._matches:
            if match.lastindex is not None:
                self._position = match.start()
                raise Malformed(f"the end is expected, not {match.group()[:40]!r}")

    @property
    def hint(self) -> str:
        """What to do besides where numbers are written with a comma; else nothing."""
        return ", with a point in its numbers, not a comma" if _COMMA.search(self._text) else ""

    @property
    def line(self) -> int:
        return len(_LINE_END.findall(self._text, 0, self._position)) + 1


def read_textgrid(path: Path) -> TextGrid:
    """The interval tiers of a TextGrid: long or short form; UTF-8, UTF-16 or Latin-1; byte-order mark or none.

    A file that breaks off or goes wrong after its header gives what stands before that, with a problem.

    Raises:
        DataError: no TextGrid, a binary one, or larger than any real one.
    """
    tokens = Tokens(_read_text(path))
    try:
        start, end, n_tiers = _header(tokens)
    except Malformed as error:
        raise DataError(
            f"{path}: not a Praat TextGrid (line {tokens.line}: {error}): save it again from Praat{tokens.hint}"
        ) from None
    tiers: list[Tier] = []
    problems: list[Problem] = []
    count = 0
    try:
        while count < n_tiers:
            count += 1
            _read_tier(tokens, tiers)
    except Malformed as error:
        reason = f"line {tokens.line}: {error}, in tier {count} of {n_tiers:g}; what follows is left out"
        problems.append(Problem(path, reason))
    named = (replace(tier, name=tier.name.strip()) for tier in tiers if tier.kind == INTERVALS)
    return TextGrid(start, end, tuple(named), tuple(problems))


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
        start, end, n_tiers = _header(tokens)
        while len(tiers) < n_tiers:
            _read_tier(tokens, tiers)
        tokens.end()
    except Malformed as error:
        raise DataError(
            f"{path}: cannot be kept whole (line {tokens.line}: {error}): save it again from Praat, or move it away"
        ) from None
    return TextGrid(start, end, tuple(replace(tier, entries=tuple(tier.entries)) for tier in tiers))


def read_labels(path: Path) -> Labels:
    """The `phones` and `words` tiers of a TextGrid, as `labels_of_tiers` chooses them; backslash symbols as Praat shows them.

    Raises:
        MissingPhones: no tier or several tiers could be the phone tier.
        DataError: the file cannot be read.
    """
    grid = read_textgrid(path)
    tiers, changes = praat_symbols.decode(path, [(tier.name, tier.intervals) for tier in grid.tiers])
    return labels_of_tiers(path, tiers, "interval tiers", (*grid.problems, *changes), grid.duration)


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


def _header(tokens: Tokens) -> tuple[str, str, float]:
    """Begin and end in seconds as they are written, and how many tiers the file claims."""
    if not tokens.string().startswith("ooTextFile"):
        raise Malformed('it does not begin with File type = "ooTextFile"')
    if tokens.string() != "TextGrid":
        raise Malformed("its object class is not TextGrid")
    start, end = tokens.numeral(), tokens.numeral()
    return start, end, tokens.number() if tokens.flag() else 0


def _read_tier(tokens: Tokens, tiers: list[Tier]) -> None:
    """Append the next tier, with the entries before a fault where there is one. Claimed counts reserve no memory."""
    kind, name = tokens.string(), tokens.string()
    if kind not in (INTERVALS, POINTS):
        raise Malformed(f"a tier is expected, not {kind[:40]!r}")
    start, end, claimed = tokens.numeral(), tokens.numeral(), tokens.number()
    entries: list[tuple[str, ...]] = []
    tiers.append(Tier(kind, name, start, end, entries))
    while len(entries) < claimed:
        times = [tokens.numeral() for _ in range(2 if kind == INTERVALS else 1)]
        entries.append((*times, tokens.string()))
