"""What is found wrong in an input: where it stands, why it cannot be used, and its kind, for counting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import printable


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
