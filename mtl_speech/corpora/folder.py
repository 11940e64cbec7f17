"""What lies in a corpus folder: its recordings, and the labels that belong to each."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, printable
from mtl_speech.core.problems import Problem
from mtl_speech.core.spool import Kind, Spool
from mtl_speech.core.terminal import progress
from mtl_speech.corpora import ctm, elan, textgrid, timit
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.labels import MACHINE_LABELS, Interval, Labels, MissingPhones

LabelReader = Callable[[Path], Labels]

UNREADABLE_SUFFIXES = (
    *(".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp"),
    *(
        ".m4b",
        ".mka",
        ".alac",
        ".ac3",
        ".ape",
        ".wv",
        ".mpc",
        ".tta",
        ".spx",
        ".ra",
        ".rm",
        ".awb",
        ".qcp",
        ".gsm",
        ".vox",
    ),
    *(".dss", ".ds2", ".msv", ".dvf", ".dsf", ".dff", ".nsp", ".pcm", ".raw"),
)
_READERS: tuple[tuple[str, LabelReader], ...] = (
    (".phn", timit.read_labels),
    (".eaf", elan.read_labels),
    (".textgrid", textgrid.read_labels),  # the last one found for a recording is used
)
_INTERVAL = Kind[Interval](
    lambda each: (each.label, each.start, each.end, each.number),
    lambda label, start, end, number: Interval(start, end, label, number),
)
LABEL_SUFFIXES = tuple(suffix for suffix, _ in _READERS)
_STEM_SUFFIXES = (*AUDIO_SUFFIXES, *UNREADABLE_SUFFIXES, *LABEL_SUFFIXES)


@dataclass
class Contents:
    """Recordings and labels by id (the path below the folder without suffix), and what was wrong. The intervals of `labels` are in
    the file of `spool`."""

    recordings: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spool: Spool = field(default_factory=Spool)

    def take(self, key: str, labels: Labels) -> None:
        """Set the labels of a recording."""
        phones, words, machine = (self.spool.keep(t, _INTERVAL) for t in (labels.phones, labels.words, labels.machine))
        self.labels[key] = replace(labels, phones=phones, words=words, machine=machine)


def has_audio(folder: Path) -> bool:
    """Whether there is an audio file in the folder or below it."""
    return any(path.suffix.lower() in AUDIO_SUFFIXES for path in files_below(folder))


def scan(folder: Path, apart: Path | None = None, readers: Mapping[str, LabelReader] | None = None) -> Contents:
    """Find the recordings below a folder and read the labels of each, beside it or from the folder `apart`.

    `readers` stand in for those of the suffixes that they name.
    """
    contents = Contents()
    files = []
    for path in sorted(files_below(folder)):
        reason = unusable_name(path, folder) if path.suffix.lower() in (*_STEM_SUFFIXES, ".ctm") else None
        if reason is None:
            files.append(path)
        else:
            contents.problems.append(Problem(path, reason))
    _find_recordings(folder, files, contents)
    _read_ctm(folder, [path for path in files if path.suffix.lower() == ".ctm"], contents)
    labels = [(key_of(folder, path), path) for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    if apart is not None:
        labels = _labels_apart(apart, contents)
    failed = _read_label_files(labels, contents, f"Labels of {folder.resolve().name}", readers or {})
    where = "beside it" if apart is None else f"below {apart}"
    for key, path in contents.recordings.items():
        if key not in contents.labels and key not in failed:
            reason = f"no labels: no .TextGrid, .eaf or .PHN of the same name {where}, and no .ctm names it"
            contents.problems.append(Problem(path, reason))
    return contents


def labels_beside(recordings: Mapping[str, Path], files: Sequence[tuple[str, Path]]) -> Contents:
    """The labels of recordings by id, from label files, each with the id of its recording; as `scan` reads those of a folder."""
    contents = Contents(dict(recordings))
    _read_label_files(files, contents, "Labels")
    return contents


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; links to folders are followed, each folder once."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in names if not name.startswith("."))


def unusable_name(path: Path, folder: Path) -> str | None:
    """Why a file below `folder` cannot be a recording or its labels, by its name alone."""
    name = str(path.relative_to(folder))
    if printable(name) == name and "\n" not in name:
        return None
    return "its name, or a folder's, has a line break or another control character, or is not UTF-8: rename it"


def key_of(folder: Path, path: Path) -> str:
    """The id of the recording that a file belongs to: "a.WAV", "a.WAV.wav" and "a.TextGrid" belong to "a".

    In Unicode's composed form (NFC), since some systems write the names of files decomposed.
    """
    relative = path.relative_to(folder)
    while relative.suffix.lower() in _STEM_SUFFIXES:
        relative = relative.with_suffix("")
    return unicodedata.normalize("NFC", relative.as_posix())


def _find_recordings(folder: Path, files: list[Path], contents: Contents) -> None:
    for path in files:
        key, suffix = key_of(folder, path), path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            contents.problems.append(Problem(path, f"{suffix} audio cannot be read: convert it to WAV or FLAC"))
        elif suffix in AUDIO_SUFFIXES:
            first = contents.recordings.setdefault(key, path)
            if first != path:
                contents.problems.append(
                    Problem(path, f"a second recording of '{key}', left out: {first.name} is used")
                )


def _labels_apart(folder: Path, contents: Contents) -> list[tuple[str, Path]]:
    """The label files below a folder, each with the id of the recording that it names by its path or its file name alone.

    What is of no recording is told in one problem: alignments of a whole corpus may be used on a part of it.
    """
    keys, found, others = _keys_by_name(contents), [], []
    for path in sorted(files_below(folder)):
        if path.suffix.lower() in LABEL_SUFFIXES:
            name = key_of(folder, path)
            key = keys.get(name) or keys.get(name.rpartition("/")[2])
            if key is None:
                others.append(path)
            else:
                found.append((key, path))
    if others:
        reason = f"label files that are of no recording, or not of one alone: {len(others):,}, such as {others[0].name}; left out"
        contents.problems.append(Problem(folder, reason))
    return found


def _keys_by_name(contents: Contents) -> dict[str, str]:
    """The ids of the recordings by what may name them: the id, or the file name alone where only one has it."""
    stems = Counter(key.rpartition("/")[2] for key in contents.recordings)
    keys = {key.rpartition("/")[2]: key for key in contents.recordings if stems[key.rpartition("/")[2]] == 1}
    return keys | {key: key for key in contents.recordings}


def _read_label_files(
    files: Sequence[tuple[str, Path]],
    contents: Contents,
    description: str,
    readers: Mapping[str, LabelReader] = {},
) -> set[str]:
    """Read label files, each with the id of its recording. Returns the ids of recordings whose labels cannot be used."""
    failed: set[str] = set()
    without: list[tuple[str, Path, str]] = []  # id, label file, and what is missing
    for suffix, read in _READERS:
        those = [(key, path) for key, path in files if path.suffix.lower() == suffix]
        for key, path in progress(those, description) if those else ():
            try:
                _read_one(key, path, readers.get(suffix, read), contents, failed)
            except MissingPhones as error:
                without.append((key, path, str(error).removeprefix(f"{path}: ")))
    for key, path, reason in without:
        used = contents.labels.get(key)
        beside = f"; {used.file.name} is used" if used is not None else ""
        contents.problems.append(Problem(path, reason + beside, used=used is not None))
    return failed | {key for key, _, _ in without}


def _read_one(key: str, path: Path, read: LabelReader, contents: Contents, failed: set[str]) -> None:
    """Read the label file of one recording. Raises MissingPhones."""
    if key not in contents.recordings:
        contents.problems.append(Problem(path, "labels without a recording of the same name beside them; left out"))
        return
    try:
        labels = read(path)
    except MissingPhones:
        raise
    except DataError as error:
        contents.problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
        failed.add(key)
        return
    other = contents.labels.get(key)
    if other is not None and other.file.suffix.lower() == ".eaf":
        reason = (
            f"is used; {other.file.name}, which has a tier '{other.tier}' too, is not: move away the one not wanted"
        )
        contents.problems.append(Problem(path, reason, used=True))
    elif other is not None:
        contents.problems.append(Problem(other.file, f"labels of '{key}' left out: {path.name} is used"))
    contents.take(key, labels)


def _read_ctm(folder: Path, paths: list[Path], contents: Contents) -> None:
    """The labels of a CTM file of phones, and the words of one of words, for the recordings that they name."""
    for path in paths:
        if path.stem.startswith(MACHINE_LABELS):
            reason = (
                "holds machine labels, which are not read: to use them, check them and rename the file to phones.ctm"
            )
            contents.problems.append(Problem(path, reason, used=True))
    paths = [path for path in paths if not path.stem.startswith(MACHINE_LABELS)]
    words = [path for path in paths if "word" in path.stem.lower()]
    phones = [path for path in paths if path not in words]
    for path in phones[1:] + words[1:]:
        contents.problems.append(Problem(path, f"left out: {(words if path in words else phones)[0].name} is used"))
    spoken = _ctm_by_key(words[0], contents) if words else {}
    for key, labels in (_ctm_by_key(phones[0], contents) if phones else {}).items():
        contents.take(key, replace(labels, words=spoken[key].phones) if key in spoken else labels)


def _ctm_by_key(path: Path, contents: Contents) -> dict[str, Labels]:
    """The labels of a CTM file by the id of the recording; it may be named by its id or by its file name alone."""
    try:
        read, problems = ctm.read_labels(path)
    except DataError as error:
        contents.problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
        return {}
    contents.problems.extend(problems)
    named = {unicodedata.normalize("NFC", name): labels for name, labels in read.items()}
    keys = _keys_by_name(contents)
    for name in named:
        if name not in keys:
            reason = f"names the recording '{name}', which is not there or not there once; left out"
            contents.problems.append(Problem(path, reason))
    return {keys[name]: labels for name, labels in named.items() if name in keys}
