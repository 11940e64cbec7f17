"""Common Voice's lists of clips: TSV without quoting, in which a sentence may hold anything, also a tab or the end of a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem

_CLIENT_ID = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{64})?")  # SHA-512, and SHA-256 in early releases
_NEEDED = ("client_id", "path")


@dataclass(frozen=True)
class ClipList:
    """The speaker (client_id) of each clip of a list, by the clip's name without suffix, and what was wrong in the list."""

    speakers: dict[str, str]
    problems: tuple[Problem, ...]


def read_clips(path: Path) -> ClipList:
    """Read one of the lists: validated.tsv, train.tsv, dev.tsv, test.tsv, ...

    The columns are found by their names, which differ between releases. A line is of use where its client_id is a hash and its path
    is not empty, whatever became of the sentence; one that does not begin so is the rest of a sentence with a line break.

    Raises DataError: no such file, not UTF-8, or no columns client_id and path.
    """
    speakers: dict[str, str] = {}
    problems = []
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            header = file.readline().rstrip("\r\n").split("\t")
            missing = [name for name in _NEEDED if name not in header]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}: not a list of Common Voice")
            places = [header.index(name) for name in _NEEDED]
            for number, line in enumerate(file, start=2):
                cells = line.rstrip("\r\n").split("\t")
                client, clip = (cells[place] if place < len(cells) else "" for place in places)
                reason = _reason(client, clip, speakers)
                if reason is None:
                    speakers[clip.removesuffix(".mp3")] = client
                    if len(cells) != len(header):
                        reason = f"{len(cells)} cells in place of {len(header)}: a tab or a line break in the sentence"
                        problems.append(Problem(path, f"line {number}: {reason}", used=True))
                elif line.strip():
                    problems.append(Problem(path, f"line {number}: {reason}; left out"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 text ({error}): it is part of Common Voice's archive"
        ) from error
    return ClipList(speakers, tuple(problems))


def _reason(client: str, clip: str, speakers: Mapping[str, str]) -> str | None:
    """Why a line is of no use; None where it is."""
    if not _CLIENT_ID.fullmatch(client):
        return f"'{client[:20]}' is no client_id"
    if not clip:
        return "no path of a clip"
    known = speakers.get(clip.removesuffix(".mp3"), client)
    return None if known == client else f"{clip} stands there with another client_id"
