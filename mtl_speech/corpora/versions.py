"""Of one recording that lies in a folder in several formats, which file is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, problem_of
from mtl_speech.corpora.audio import audio_duration

LOSSY_SUFFIXES = (".opus", ".ogg", ".oga", ".mp3", ".mp2", ".mpga")


def choose_version(key: str, paths: Sequence[Path]) -> tuple[Path, list[Problem]]:
    """The file to use of a recording with the id `key`, and what is to be said of the others.

    The first without loss is used, else the first of all; one that cannot be opened only where no other can.
    """
    ordered = sorted(paths, key=lambda path: path.suffix.lower() in LOSSY_SUFFIXES)
    if len(ordered) == 1:
        return ordered[0], []
    damaged: dict[Path, Problem] = {}
    for path in ordered:
        try:
            audio_duration(path, [])
            break
        except DataError as error:
            damaged[path] = problem_of(path, error)
    if len(damaged) == len(ordered):
        damaged.clear()  # the first is used, and told of where it is read
    chosen = next(path for path in ordered if path not in damaged)
    return chosen, [_told(key, path, chosen, damaged.get(path)) for path in ordered if path != chosen]


def passed_over(path: Path, chosen: Path) -> Problem:
    """What is said of a file that cannot be read, such as a video, beside a recording of the same name that can."""
    return Problem(path, f"is passed over: '{chosen.name}' beside it is used", used=True)


def _told(key: str, path: Path, chosen: Path, damaged: Problem | None) -> Problem:
    """What is said of a file that is not chosen. Two of one format need not be the same recording: that is for a person to see."""
    suffix = path.suffix.lower()
    if damaged is not None:
        return Problem(path, f"{damaged.reason}; '{chosen.name}' is used in its place")
    if suffix == chosen.suffix.lower():
        return Problem(path, f"a second recording of '{key}', left out: '{chosen.name}' is used")
    if suffix in LOSSY_SUFFIXES and chosen.suffix.lower() not in LOSSY_SUFFIXES:
        return Problem(path, f"is passed over: '{chosen.name}', the same recording without loss, is used", used=True)
    return Problem(path, f"a second recording of '{key}', passed over: '{chosen.name}' is used", used=True)
