"""The exceptions that a person can act on (what is wrong, where, what to do), and the problems found in an input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    count: int = 1  # how often the same was found: the place is the first

    @property
    def said(self) -> str:
        """The reason, and how often it was found."""
        return f"{self.reason} ({self.count:,} times)" if self.count > 1 else self.reason

    def __str__(self) -> str:
        place = str(self.file)
        if self.tier is not None:
            place += f", tier '{self.tier}'"
        if self.interval is not None:
            place += f", interval {self.interval}"
        return printable(f"{place}: {self.said}").replace("\n", "\\n")


def problem_of(file: Path, error: Exception) -> Problem:
    """What an error says of a file, which it may name first, as a problem of that file."""
    return Problem(file, str(error).removeprefix(f"{file}: "))


def kind_of(reason: str) -> str:
    """A reason without what differs from place to place: numbers, and quoted text other than labels."""
    reason = re.sub(r"^label '.*?' is read as '.*?'(?=$|,)", "label '…' is read as '…'", reason)
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r"(?<!label )'[^']*'", "'…'", reason))


def once_each(problems: Sequence[Problem]) -> list[Problem]:
    """The problems in order, those changes of intervals that say the same once, at their first place, with their number."""
    seen: dict[str, int] = {}
    result: list[Problem] = []
    for problem in problems:
        place = seen.get(problem.reason) if problem.used and problem.interval is not None else None
        if place is not None:
            result[place] = replace(result[place], count=result[place].count + problem.count)
            continue
        if problem.used and problem.interval is not None:
            seen[problem.reason] = len(result)
        result.append(problem)
    return result


N_NAMED = 3  # of the problems of one kind


def in_groups(problems: Sequence[Problem], lost: str = "left out", kept: str = "changed") -> list[str]:
    """The problems in lines, `lost` before `kept`: of a kind that repeats three examples, and its number."""
    lines: list[str] = []
    for used, what in ((False, lost), (True, kept)):
        kinds: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem.used == used:
                kinds.setdefault(_family(problem.reason), []).append(problem)
        for those in kinds.values():
            lines += [f"{what}: {problem}" for problem in _examples(those)]
            if len(those) > N_NAMED:
                lines.append(f"{what}: {len(those) - N_NAMED:,} more of this kind, {len(those):,} in all")
    return lines


def _family(reason: str) -> str:
    """The kind of a reason, whatever the label that it is about."""
    about_a_label = re.match(r"label '.*?' ([a-z][^:'(]*)", reason)
    return about_a_label[1] if about_a_label and "is read as" not in reason else kind_of(reason)


def _examples(problems: Sequence[Problem]) -> list[Problem]:
    """Three of the problems, in order; with different reasons, if there are so many."""
    different = list({problem.reason: place for place, problem in reversed(list(enumerate(problems)))}.values())
    others = [place for place in range(len(problems)) if place not in different]
    return [problems[place] for place in sorted((sorted(different) + others)[:N_NAMED])]


def relative(problem: Problem, folder: Path) -> str:
    """A problem with its file named below `folder`."""
    return str(problem).replace(f"{folder}/", "", 1)


def problem_list(problems: Sequence[Problem], folder: Path) -> list[dict[str, object]]:
    """Problems as plain values for a report."""
    return [{"problem": relative(problem, folder), "used": problem.used} for problem in problems]
