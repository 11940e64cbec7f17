"""The recordings that a command line names: audio files, and folders with all that lies in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_speech.core.errors import Problem
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.folder import LABEL_SUFFIXES, UNREADABLE_SUFFIXES, files_below, key_of, unusable_name


@dataclass(frozen=True)
class Recording:
    """An audio file; its name in results: the path below the folder that was named, without suffix; its label files by suffix."""

    name: str
    audio: Path
    labels: dict[str, Path] = field(default_factory=dict)  # such as ".textgrid"


def find_recordings(places: Sequence[Path]) -> tuple[list[Recording], list[Problem]]:
    """The recordings that files and folders hold, in the order given, and what cannot be one of them.

    A file is named by its stem. Of several recordings of one name the first is taken. Label files among the places are passed over,
    since they belong to recordings.
    """
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for place in places:
        if not place.exists():
            problems.append(Problem(place, "no such file or folder"))
        elif place.is_dir() and not any(path.suffix.lower() in AUDIO_SUFFIXES for path in files_below(place)):
            problems.append(Problem(place, "no audio files in this folder"))
        for root, path in _candidates(place):
            if path.suffix.lower() not in AUDIO_SUFFIXES:
                problems.append(Problem(path, "is no audio that can be read: convert it to WAV or FLAC"))
                continue
            if reason := unusable_name(path, root):
                problems.append(Problem(path, reason))
                continue
            name = key_of(root, path)
            first = found.setdefault(name, path)
            if not _same(first, path):
                reason = f"its results would have the name '{name}', as those of {first} have: rename one of the two"
                problems.append(Problem(path, reason))
    labels = _label_files({path.parent for path in found.values()})
    return [
        Recording(name, path, labels[path.parent, key_of(path.parent, path)]) for name, path in found.items()
    ], problems


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file."""
    try:
        return one == other or one.samefile(other)
    except OSError:  # a link that leads nowhere, or in a circle
        return False


def _candidates(place: Path) -> Iterator[tuple[Path, Path]]:
    """Files that are meant as recordings, each with the folder that names are relative to."""
    if place.is_file() and place.suffix.lower() not in LABEL_SUFFIXES:
        yield place.parent, place
    elif place.is_dir():
        suffixes = (*AUDIO_SUFFIXES, *UNREADABLE_SUFFIXES)
        yield from ((place, path) for path in sorted(files_below(place)) if path.suffix.lower() in suffixes)


def _label_files(folders: set[Path]) -> defaultdict[tuple[Path, str], dict[str, Path]]:
    """The label files in folders, by suffix, for each folder and stem."""
    labels: defaultdict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in LABEL_SUFFIXES:
                labels[folder, key_of(folder, path)][path.suffix.lower()] = path
    return labels
