"""Praat TextGrids: reading what Praat, the Montreal Forced Aligner and other tools write, and writing them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import read_limited
from mtl_speech.core.problems import Problem
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


@dataclass(frozen=True)
class Tier:
    """One interval tier with all its intervals as they stand in the file, silence included."""

    name: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class TextGrid:
    """A TextGrid as it stands in the file. `duration` in seconds; point tiers are left out."""

    path: Path
    duration: float
    tiers: tuple[Tier, ...]
    problems: tuple[Problem, ...] = ()


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

    def string(self) -> str:
        match = self._next()
        if match.group(1) is None:
            raise Malformed(f"text in quotes expected, not {match.group()[:40]!r}")
        return match.group(1).replace('""', '"')

    def numeral(self) -> str:
        """A number as it is written."""
        match = self._next()
        if match.group(2) is None:
            raise Malformed(f"a number expected, not {match.group()[:40]!r}")
        return match.group(2)

    def number(self) -> float:
        return float(self.numeral())

    def flag(self) -> bool:
        match = self._next()
        if match.group(3) is None:
            raise Malformed(f"<exists> expected, not {match.group()[:40]!r}")
        return match.group(3) == "<exists>"

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
    tokens = Tokens(read_text(path))
    try:
        _, end, n_tiers = header(tokens)
    except Malformed as error:
        raise DataError(
            f"{path}: not a Praat TextGrid (line {tokens.line}: {error}): save it again from Praat{tokens.hint}"
        ) from None
    tiers: list[tuple[str, list[Interval]]] = []
    problems: list[Problem] = []
    count = 0
    try:
        while count < n_tiers:
            count += 1
            _read_tier(tokens, tiers)
    except Malformed as error:
        reason = f"line {tokens.line}: {error}, in tier {count} of {n_tiers:g}; what follows is left out"
        problems.append(Problem(path, reason))
    return TextGrid(path, float(end), tuple(Tier(name, tuple(items)) for name, items in tiers), tuple(problems))


def read_labels(path: Path) -> Labels:
    """The `phones` and `words` tiers of a TextGrid.

    A phone tier under a near name ("Phones", "phone", "speaker - phones") is taken, with a problem that says so. Praat's backslash
    symbols are read as what Praat shows.

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

    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    grid = praat.Textgrid(0.0, duration)
    try:
        for name, intervals in tiers.items():
            outside = [each for each in intervals if each[0] < 0 or each[1] > duration]
            if outside:
                raise DataError(f"{path}: tier '{name}': {outside[0]} lies outside 0 to {duration} s")
            grid.addTier(IntervalTier(name, list(intervals), 0.0, duration), reportingMode="error")
        grid.save(str(beside), format="long_textgrid", includeBlankSpaces=True, reportingMode="error")
        os.replace(beside, path)
    except PraatioException as error:
        raise DataError(f"{path}: cannot be written as a TextGrid: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a TextGrid, in one of the encodings that Praat writes. Raises DataError."""
    raw = read_limited(path, MAX_BYTES, "a TextGrid of one recording")
    if raw.startswith(b"ooBinaryFile"):
        raise DataError(f"{path}: a binary TextGrid: save it in Praat as a text file")
    return decoded(raw)


def header(tokens: Tokens) -> tuple[str, str, float]:
    """Begin and end in seconds as they are written, and how many tiers the file claims."""
    if not tokens.string().startswith("ooTextFile"):
        raise Malformed('it does not begin with File type = "ooTextFile"')
    if tokens.string() != "TextGrid":
        raise Malformed("its object class is not TextGrid")
    start, end = tokens.numeral(), tokens.numeral()
    return start, end, tokens.number() if tokens.flag() else 0


def _read_tier(tokens: Tokens, tiers: list[tuple[str, list[Interval]]]) -> None:
    """Append the next tier; a point tier is read over. Claimed counts reserve no memory."""
    kind, name = tokens.string(), tokens.string()
    if kind not in ("IntervalTier", "TextTier"):
        raise Malformed(f"a tier is expected, not {kind[:40]!r}")
    tokens.number(), tokens.number()
    claimed = tokens.number()
    intervals: list[Interval] = []
    if kind == "IntervalTier":
        tiers.append((name.strip(), intervals))
    number = 0
    while number < claimed:
        number += 1
        start = tokens.number()
        end = tokens.number() if kind == "IntervalTier" else start
        intervals.append(Interval(start, end, tokens.string().strip(), number))
