"""The exceptions that a person can act on (what is wrong, where, what to do), and the problems found in an input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with what could steer a terminal, or is no character (a byte of a file name that is not UTF-8), as escapes.

    Line breaks stay.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of what another package's error says, 200 characters at most; its type where it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


class MtlSpeechError(Exception):
    """Base of every error that the package raises on purpose; the command line prints it and exits with `exit_code`."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(MtlSpeechError):
    """A command, an option or a setting is wrong (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """Settings that cannot be used. Holds every problem found, not only the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(MtlSpeechError):
    """Audio, labels or a corpus that cannot be used."""


class PackError(MtlSpeechError):
    """A model, strategy or language pack that is damaged, foreign, or does not fit its base."""


@dataclass(frozen=True)
class Problem:
    """Something found wrong in an input: where, and why. `used` tells whether the thing was used all the same."""

    file: Path
    reason: str
    tier: str | None = None
    interval: int | None = None  # 1-based, as Praat counts
    used: bool = False

    def __str__(self) -> str:
        place = str(self.file)
        if self.tier is not None:
            place += f", tier '{self.tier}'"
        if self.interval is not None:
            place += f", interval {self.interval}"
        return printable(f"{place}: {self.reason}").replace("\n", "\\n")


def problem_of(file: Path, error: Exception) -> Problem:
    """What an error says of a file, which it may name first, as a problem of that file."""
    return Problem(file, str(error).removeprefix(f"{file}: "))


def kind_of(reason: str) -> str:
    """A reason without what differs from place to place: numbers, and quoted text other than labels."""
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r"(?<!label )'[^']*'", "'…'", reason))


def relative(problem: Problem, folder: Path) -> str:
    """A problem with its file named below `folder`."""
    return str(problem).replace(f"{folder}/", "", 1)


def problem_list(problems: Sequence[Problem], folder: Path) -> list[dict[str, object]]:
    """Problems as plain values for a report."""
    return [{"problem": relative(problem, folder), "used": problem.used} for problem in problems]
