"""The values of a text file of Praat's, by the rules that Praat reads them by.

Quoted strings, numbers and <flags> are values where they stand free, and all other words are decoration: so the long and the short
form of a TextGrid are one."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_VALUES = 4_000_000  # numbers and strings: the phones and words of ten hours have under 2 million

_TOKEN = re.compile(
    r'"([^"]*(?:""[^"]*)*)"|(?<!\S)([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|(<exists>|<absent>)|(")'
    r"|(?<!\S)((?:[-+\d]|\.\d)\S*)|(?<!\S)![^\r\n]*"
)
_COMMA = re.compile(r"(?<!\S)[-+]?\d+,\d+(?!\S)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_SHOWN = 40  # characters of what stands in the file, in a message
_STRING, _NUMBER, _FLAG, _OPEN, _NO_NUMBER = 1, 2, 3, 4, 5  # groups of _TOKEN; the last begins as a number and is none


class Malformed(Exception):
    """The file does not go on as it must."""


class Tokens:
    """The values of a file one after the other.

    `taken` names, by what is odd about it, the first line with what Praat does not read and is read here all the same.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = self._count = 0
        self._matches: Iterator[re.Match[str]] = _TOKEN.finditer(text)
        self._ahead: re.Match[str] | None = None  # a value that was looked at
        self._fault: tuple[int, str] | None = None  # of a string that was given out already: where, and what
        self.taken: dict[str, int] = {}

    def _found(self) -> re.Match[str] | None:
        """The next value; None at the end."""
        if self._fault is not None:
            self._position, reason = self._fault
            raise Malformed(reason)
        if self._ahead is not None:
            match, self._ahead = self._ahead, None
            return match
        for match in self._matches:
            if match.lastindex is not None:  # not a comment
                self._position = match.start()
                self._count += 1
                if self._count > MAX_VALUES:
                    raise Malformed(f"it has more than {MAX_VALUES:,} numbers and strings")
                return match
        self._position = len(self._text)
        return None

    def _value(self, group: int, expected: str) -> str:
        """The next value, which must be of the kind that this group of `_TOKEN` is."""
        match = self._found()
        if match is None:
            raise Malformed("the file ends")
        if match.lastindex == _OPEN:
            raise Malformed(f"{expected} expected, not a quote that nothing closes: {self._shown(match.start())}")
        if match.lastindex == _NO_NUMBER and match.end() == len(self._text):
            raise Malformed("the file ends within a number")
        if match.lastindex != group:
            raise Malformed(f"{expected} expected, not {match.group()[:_SHOWN]!r}")
        return match.group(group)

    def string(self) -> str:
        """Text in quotes. What follows its closing quote without a blank is a fault of the next value."""
        text = self._value(_STRING, "text in quotes")
        start, end = self._position, self._position + len(text) + 2
        if end < len(self._text) and not self._text[end].isspace():
            reason = f"{self._shown(end)} stands after a closing quote: a quote inside a label is written twice"
            first = self._line_of(start)
            self._fault = end, reason + (f" (the text begins on line {first})" if first != self._line_of(end) else "")
        if start and not self._text[start - 1].isspace():
            self.taken.setdefault("no blank before a quote", self.line)
        return text.replace('""', '"')

    def numeral(self) -> str:
        """A number as it is written."""
        text = self._value(_NUMBER, "a number")
        if text[0] == ".":
            self.taken.setdefault("a number that begins with a point", self.line)
        return text

    def number(self) -> float:
        return float(self.numeral())

    def flag(self) -> bool:
        return self._value(_FLAG, "<exists>") == "<exists>"

    def more(self) -> bool:
        """Whether another number follows; not where the file ends. Raises Malformed where there is another value."""
        match = self._found()
        if match is None:
            return False
        if match.lastindex != _NUMBER:
            raise Malformed(f"a number expected, not {match.group()[:_SHOWN]!r}")
        self._ahead = match
        return True

    def end(self) -> None:
        """Raise Malformed where something follows."""
        match = self._found()
        if match is not None:
            raise Malformed(f"the end is expected, not {match.group()[:_SHOWN]!r}")

    def _shown(self, position: int) -> str:
        """What stands there, to the end of the line."""
        return repr(_LINE_END.split(self._text[position : position + _SHOWN], maxsplit=1)[0].rstrip())

    @property
    def first_line(self) -> str:
        """What the file begins with, for a message."""
        return self._shown(0)

    @property
    def hint(self) -> str:
        """What to do besides where numbers are written with a comma; else nothing."""
        return ", with a point in its numbers, not a comma" if _COMMA.search(self._text) else ""

    @property
    def line(self) -> int:
        return self._line_of(self._position)

    def _line_of(self, position: int) -> int:
        return len(_LINE_END.findall(self._text, 0, position)) + 1
