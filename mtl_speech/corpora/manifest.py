"""What a recipe prepares: the splits of a corpus, checked against each other and the published counts, and their manifest."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import atomic_write, csv_text
from mtl_speech.corpora.corpus import Corpus

logger = logging.getLogger(__name__)
HOURS_TOLERANCE = 0.01  # of the published hours: they are rounded, and a few recordings have no alignment
SHOWN_PROBLEMS = 20  # in the log; all of them stand in problems.txt
_CLIENT_ID = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{64})?")  # SHA-512, and SHA-256 in early releases
_NEEDED = ("client_id", "path")


@dataclass(frozen=True)
class Counts:
    """How much there is of a part of a corpus; None: not published, or not counted."""

    speakers: int | None
    recordings: int
    hours: float | None = None


@dataclass(frozen=True)
class Prepared:
    """The splits "train", "valid" and "test", and what is to be known of them with every figure."""

    splits: dict[str, Corpus]
    notes: tuple[str, ...]


def validated(splits: dict[str, Corpus], notes: Iterable[str], folder: Path, root: Path) -> Prepared:
    """The splits once they are found disjoint; their manifest is written to `folder`, paths below `root`, and the notes logged.

    Raises DataError as `check_disjoint`, OSError.
    """
    check_disjoint(splits)
    log_splits(splits)
    write_manifest(folder, splits, root)
    found = Prepared(splits, tuple(notes))
    for note in found.notes:
        logger.warning("%s", note)
    return found


def speakers_of(corpus: Corpus) -> set[str]:
    """The speakers of a corpus."""
    return {utterance.speaker for utterance in corpus.utterances}


def compare_counts(part: str, found: Counts, published: Counts | None) -> list[str]:
    """What differs from the published counts, and by how much; nothing where all agree.

    A part with fewer than half of the speakers (of the recordings, where no number of speakers is published) is taken for a sample:
    only that is told.
    """
    if published is None:
        return [f"{part}: no counts are published of it"]
    kind = "recordings" if published.speakers is None else "speakers"
    has, wants = getattr(found, kind), getattr(published, kind)
    if 2 * has < wants:
        return [f"{part}: a sample, {has} of {wants} {kind}; its counts are not checked"]
    notes = []
    for name in ("speakers", "recordings"):
        has, wants = getattr(found, name), getattr(published, name)
        if wants is not None and has != wants:
            notes.append(f"{part}: {has:,} {name}, {_difference(has - wants)} the {wants:,} published")
    if found.hours is not None and published.hours is not None:
        gap = found.hours - published.hours
        if abs(gap) > HOURS_TOLERANCE * published.hours:
            more = "more" if gap > 0 else "fewer"
            notes.append(
                f"{part}: {found.hours:.1f} hours with labels, {abs(gap):.1f} {more} than the {published.hours:.1f} published"
            )
    return notes


def _difference(gap: int) -> str:
    return f"{abs(gap):,} {'more' if gap > 0 else 'fewer'} than"


def check_disjoint(splits: Mapping[str, Corpus]) -> None:
    """Raises DataError where a split is empty, or two of them have a speaker in common: the figures would flatter."""
    split_of: dict[str, str] = {}
    for name, corpus in splits.items():
        if not corpus.utterances:
            hint = f" ({corpus.problems[0]})" if corpus.problems else ""
            raise DataError(f"corpus '{corpus.name}': no recording with labels is in the split '{name}'{hint}")
        for speaker in sorted(speakers_of(corpus)):
            if split_of.setdefault(speaker, name) != name:
                raise DataError(
                    f"corpus '{corpus.name}': speaker {speaker} is in the splits '{split_of[speaker]}' and '{name}': "
                    "leave the speaker in one of them"
                )


def log_splits(splits: Mapping[str, Corpus]) -> None:
    """Tell the size of each split."""
    for name, split in splits.items():
        logger.info(
            "%s: %d speakers, %d recordings, %d phones, %.1f min",
            name,
            len(speakers_of(split)),
            len(split.utterances),
            sum(split.phoneme_counts().values()),
            split.seconds / 60,
        )


def write_manifest(folder: Path, splits: Mapping[str, Corpus], root: Path) -> None:
    """Write manifest.csv, a line for each recording with its path below `root`, and problems.txt; the first problems are logged.

    Raises OSError.
    """
    columns = ("split", "id", "speaker", "seconds", "phones", "audio")
    rows = [
        (name, u.id, u.speaker, f"{u.duration:.3f}", len(u.segments), u.audio.relative_to(root).as_posix())
        for name, split in splits.items()
        for u in split.utterances
    ]
    atomic_write(folder / "manifest.csv", csv_text(columns, rows).removeprefix("\ufeff"))
    problems = list(dict.fromkeys(_below(problem, root) for split in splits.values() for problem in split.problems))
    atomic_write(folder / "problems.txt", "".join(f"{problem}\n" for problem in problems))
    for problem in problems[:SHOWN_PROBLEMS]:
        logger.warning("%s", problem)
    if len(problems) > SHOWN_PROBLEMS:
        logger.warning("and %d more: all are in problems.txt", len(problems) - SHOWN_PROBLEMS)


def _below(problem: Problem, root: Path) -> str:
    return str(problem).replace(f"{root}/", "")


def merged(name: str, parts: Iterable[tuple[str, Corpus]]) -> Corpus:
    """Several corpora as one; the name of the part stands before the id of a recording."""
    held = list(parts)
    utterances = tuple(replace(u, id=f"{part}/{u.id}") for part, corpus in held for u in corpus.utterances)
    return Corpus(name, utterances, tuple(p for _, corpus in held for p in corpus.problems))


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
