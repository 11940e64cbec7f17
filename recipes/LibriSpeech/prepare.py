"""Prepare LibriSpeech as it is distributed, with alignments of the Montreal Forced Aligner: read, check, split.

Expects `{train-clean-100,dev-clean,...}/SPEAKER/CHAPTER/` with `SPEAKER-CHAPTER-UTT.flac` and `SPEAKER-CHAPTER.trans.txt`, and
for each recording a TextGrid of its name: beside it, or in any folders below `alignments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.folder import files_below
from mtl_speech.corpora.label_files.label_lines import lines_of
from mtl_speech.corpora.manifest import Counts, Prepared, compare_counts, merged, validated
from mtl_speech.corpora.reading import read_corpus

# Speakers and hours: Panayotov et al. (2015), table 1. Recordings: what others count in the archives (TensorFlow Datasets).
PUBLISHED = {
    "train-clean-100": Counts(251, 28_539, 100.6),
    "train-clean-360": Counts(921, 104_014, 363.6),
    "train-other-500": Counts(1_166, 148_688, 496.7),
    "dev-clean": Counts(40, 2_703, 5.4),
    "dev-other": Counts(33, 2_864, 5.3),
    "test-clean": Counts(40, 2_620, 5.4),
    "test-other": Counts(33, 2_939, 5.1),
}


def prepare(
    data_folder: Path,
    alignments: str,
    parts: dict[str, Sequence[str]],
    output: Path,
) -> Prepared:
    """Read the parts of each split, such as {"train": ["train-clean-100"], ...}; the manifest goes to `output`.

    Raises DataError: a part is missing or empty, or a speaker is in two splits.
    """
    subsets = read_subsets(data_folder / "SPEAKERS.TXT")
    splits, notes = {}, []
    for split, names in parts.items():
        held = []
        for name in names:
            corpus = read_part(data_folder, name, alignments)
            notes += compare_counts(name, _counted(data_folder / name, corpus), PUBLISHED.get(name))
            strangers = sorted({u.speaker for u in corpus.utterances if subsets.get(u.speaker, name) != name})
            if strangers:
                raise DataError(
                    f"{data_folder / name}: speaker {strangers[0]} belongs to {subsets[strangers[0]]} by SPEAKERS.TXT: put the "
                    "folder back there"
                )
            held.append((name, corpus))
        splits[split] = merged(split, held)
    return validated(splits, notes, output, data_folder)


def read_part(data_folder: Path, name: str, alignments: str) -> Corpus:
    """One of the folders of the corpus; the speaker is the first folder in it."""
    folder = data_folder / name
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: the parts of LibriSpeech are {', '.join(PUBLISHED)}")
    labels = Path(alignments) if alignments else None
    if labels is not None and not labels.is_dir():
        raise DataError(
            f"{labels}: no such folder: give that of the TextGrids as --alignments, or merge it with the corpus"
        )
    own = [] if labels is None else [path for path in (labels / name, labels / "LibriSpeech" / name) if path.is_dir()]
    corpus = read_corpus(folder, "en", "arpabet", labels=own[0] if own else labels)
    utterances = tuple(replace(u, speaker=u.id.partition("/")[0]) for u in corpus.utterances)
    return Corpus(name, utterances, (*corpus.problems, *check_transcripts(folder)))


def read_subsets(path: Path) -> dict[str, str]:
    """The part of each speaker by SPEAKERS.TXT ("ID | SEX | SUBSET | MINUTES | NAME"); nothing where there is none."""
    if not path.is_file():
        return {}
    rows = [line.split("|") for line in lines_of(path) if not line.startswith(";")]
    return {row[0].strip(): row[2].strip() for row in rows if len(row) >= 3}


def check_transcripts(folder: Path) -> list[Problem]:
    """Recordings without a line in the .trans.txt of their chapter, lines without a recording, and lines without a text."""
    problems, named = [], set()
    files = sorted(files_below(folder))
    recordings = {path.stem: path for path in files if path.suffix == ".flac"}
    for path in (path for path in files if path.name.endswith(".trans.txt")):
        for number, line in enumerate(lines_of(path), start=1):
            name, _, text = line.strip().partition(" ")
            if not name:
                continue
            named.add(name)
            if name not in recordings:
                problems.append(Problem(path, f"line {number}: there is no recording {name}.flac"))
            elif not text.strip():
                problems.append(Problem(path, f"line {number}: {name} has no text", used=True))
    without = sorted(recordings.keys() - named)
    return problems + [Problem(recordings[name], "has no line in a .trans.txt", used=True) for name in without]


def _counted(folder: Path, corpus: Corpus) -> Counts:
    """Speakers and recordings that are there, with labels or without; hours of those with labels."""
    recordings = [path.relative_to(folder) for path in files_below(folder) if path.suffix == ".flac"]
    return Counts(len({path.parts[0] for path in recordings}), len(recordings), corpus.seconds / 3600)
