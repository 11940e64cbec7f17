"""Prepare Common Voice with the TextGrids of VoxCommunis: the clips that people found right, split by speaker.

Expects in the data folder (cv-corpus-RELEASE/pa-IN) the lists `{validated,train,dev,test}.tsv` and `clips/*.mp3`, and for each
clip a TextGrid of its name: in any folders below `alignments`, or beside it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, UsageError
from mtl_speech.core.files import atomic_write, csv_text
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.corpus import Corpus, split_by
from mtl_speech.corpora.folder import files_below, key_of
from mtl_speech.corpora.manifest import ClipList, Counts, Prepared, compare_counts, read_clips, speakers_of, validated
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.phonology.articulation import articulation_order

logger = logging.getLogger("mtl_speech.recipes")

LISTS = {"validated": "validated", "train": "train", "valid": "dev", "test": "test"}  # the file of each part
SPLITS = ("train", "valid", "test")
SHARES = (0.7, 0.1, 0.2)  # of the speakers, where they are split anew
# Clips of the lists of pa-IN by release, and hours of the validated ones, from Common Voice's own statistics (cv-dataset).
PUBLISHED = {
    release: {"validated": Counts(None, clips, hours), **{name: Counts(None, n) for name, n in parts.items()}}
    for release, clips, hours, parts in (
        ("8.0", 1_216, 1.62, {"train": 590, "valid": 266, "test": 360}),
        ("17.0", 1_505, 2.01, {"train": 732, "valid": 286, "test": 487}),
    )
}


def prepare(
    data_folder: Path,
    alignments: str,
    lang: str,
    split: str,
    seed: int,
    output: Path,
) -> Prepared:
    """Read the validated clips; the manifest and the examples of each phoneme go to `output`.

    `split` is "official", "client_id" (all validated clips, the speakers drawn by the seed), or "auto": the official one where no
    speaker is in two of its parts and none is empty.

    Raises DataError: the layout is another one, a part is empty, or a speaker is in two of them.
    """
    if split not in ("auto", "official", "client_id"):
        raise UsageError(f"split: '{split}': use auto, official or client_id")
    lists = {part: read_clips(data_folder / f"{name}.tsv") for part, name in LISTS.items()}
    corpus, notes = read_validated(data_folder, alignments, lang, lists)
    found = {part: Counts(None, len(held.speakers)) for part, held in lists.items()}
    found["validated"] = replace(found["validated"], hours=corpus.seconds / 3600)
    release = re.match(r"cv-corpus-([\d.]+)-\d", data_folder.resolve().parent.name)
    published = PUBLISHED.get(release[1] if release and data_folder.resolve().name == "pa-IN" else "", {})
    notes += [note for part, counts in found.items() for note in compare_counts(part, counts, published.get(part))]
    splits = {part: corpus.filter(lambda u, part=part: u.id in lists[part].speakers) for part in SPLITS}
    why = unfit(splits)
    if split == "client_id" or (split == "auto" and why):
        drawn = split_by(corpus, "speaker", SHARES, seed)
        splits = dict(zip(SPLITS, drawn, strict=True))
        notes.append(f"split anew by client_id, seed {seed}{f': {why}' if why else ''}")
    atomic_write(output / "phonemes.csv", examples_of_phonemes(splits))
    return validated(splits, notes, output, data_folder)


def read_validated(
    data_folder: Path,
    alignments: str,
    lang: str,
    lists: Mapping[str, ClipList],
) -> tuple[Corpus, list[str]]:
    """The clips of validated.tsv with their client_id as speaker, and notes on those left out; other clips are no problem."""
    clips = data_folder / "clips"
    labels = Path(alignments) if alignments else None
    if labels is not None and not labels.is_dir():
        raise DataError(f"{labels}: no such folder: give that of VoxCommunis's TextGrids as --alignments")
    corpus = read_corpus(clips, lang, "voxcommunis", labels=labels)
    speakers = lists["validated"].speakers
    problems = []
    for problem in corpus.problems:
        inside = problem.file.is_relative_to(clips)
        if not inside or key_of(clips, problem.file) in speakers:
            problems.append(problem)
    there = {key_of(clips, path) for path in files_below(clips) if path.suffix.lower() in AUDIO_SUFFIXES}
    problems += [
        Problem(data_folder / "validated.tsv", f"there is no clip {name}") for name in sorted(speakers.keys() - there)
    ]
    problems += [problem for held in lists.values() for problem in held.problems]
    problems.sort(key=lambda problem: problem.used)  # what is lost first
    kept = tuple(replace(u, speaker=speakers[u.id]) for u in corpus.utterances if u.id in speakers)
    notes = []
    if len(kept) < len(speakers):
        notes.append(
            f"{len(speakers) - len(kept):,} of {len(speakers):,} validated clips have no labels of use: see problems.txt"
        )
    logger.info("%d clips are not in validated.tsv: left out", len(there - speakers.keys()))
    return Corpus(data_folder.resolve().name, kept, tuple(problems)), notes


def unfit(splits: Mapping[str, Corpus]) -> str:
    """Why splits cannot be used: a part without a recording, or speakers in two parts; else nothing."""
    empty = [name for name, split in splits.items() if not split.utterances]
    if empty:
        return f"the official part '{empty[0]}' has no recording with labels"
    shared = {
        speaker
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test"))
        for speaker in speakers_of(splits[one]) & speakers_of(splits[other])
    }
    return f"{len(shared)} speakers are in two of the official parts, such as {min(shared)[:12]}…" if shared else ""


def examples_of_phonemes(splits: Mapping[str, Corpus]) -> str:
    """CSV: the examples of each phoneme in each part, so that one sees how many shots there can be."""
    counts = [splits[name].phoneme_counts() for name in SPLITS]
    phonemes = articulation_order({phoneme for each in counts for phoneme in each})
    return csv_text(("phoneme", *SPLITS), [(phoneme, *(each[phoneme] for each in counts)) for phoneme in phonemes])
