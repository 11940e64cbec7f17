"""What lies in a folder: its recordings, and the labels that belong to each; and the recordings that a command line names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from mtl_speech.core.cache import Kind, Spool
from mtl_speech.core.errors import DataError, Problem, printable, problem_of
from mtl_speech.core.terminal import progress
from mtl_speech.corpora import elan, label_lines, textgrid
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.labels import MACHINE_LABELS, Interval, Labels, MissingPhones

LabelReader = Callable[[Path], Labels]

# Sound that cannot be read: it has to be converted.
UNREADABLE_SUFFIXES = tuple(
    f".{name}"
    for name in "m4a aac mp4 wma webm amr 3gp m4b mka alac ac3 ape wv mpc tta spx ra rm awb qcp gsm vox dss ds2 msv dvf dsf dff "
    "nsp pcm raw".split()
)
# The formats of label files that stand beside a recording. They are read in this order, and the last one found is used.
READERS: dict[str, LabelReader] = {
    ".phn": label_lines.read_phn,
    ".eaf": elan.read_labels,
    ".textgrid": textgrid.read_labels,
}
LABEL_SUFFIXES = tuple(READERS)


def readers_of(tier: str | None) -> dict[str, LabelReader]:
    """The readers of the formats that have tiers, for a tier of that name or pattern; for none as in `READERS`."""
    return {".eaf": partial(elan.read_labels, tier=tier), ".textgrid": partial(textgrid.read_labels, tier=tier)}


_STEM_SUFFIXES = (*AUDIO_SUFFIXES, *UNREADABLE_SUFFIXES, *LABEL_SUFFIXES)
_INTERVAL = Kind[Interval](
    lambda each: (each.label, each.start, each.end, each.number),
    lambda label, start, end, number: Interval(start, end, label, number),
)


@dataclass
class Contents:
    """Recordings and labels by id (the path below the folder without suffix), and what was wrong. The intervals of `labels` are in
    the file of `spool`."""

    recordings: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spool: Spool = field(default_factory=Spool)

    def tell(self, file: Path, reason: str, tier: str | None = None, used: bool = False) -> None:
        """Add a problem."""
        self.problems.append(Problem(file, reason, tier, used=used))

    def take(self, key: str, labels: Labels) -> None:
        """Set the labels of a recording; those that it has already are left out, which is told."""
        other, name = self.labels.get(key), labels.file.name
        if other is not None and other.file.suffix.lower() == ".eaf":
            both = f"{other.file.name}, which has a tier '{other.tier}' too, is not: move away the one not wanted"
            self.tell(labels.file, f"is used; {both}", used=True)
        elif other is not None:
            self.tell(other.file, f"labels of '{key}' left out: {name} is used")
        first, *more = (self._kept(each) for each in (labels, *labels.more))
        self.labels[key] = replace(first, more=tuple(more))

    def _kept(self, labels: Labels) -> Labels:
        phones, words, machine = (self.spool.keep(t, _INTERVAL) for t in (labels.phones, labels.words, labels.machine))
        return replace(labels, phones=phones, words=words, machine=machine)

    def every_labels(self) -> Iterator[Labels]:
        """The labels of all recordings, and of each of their speakers."""
        for labels in self.labels.values():
            yield from (labels, *labels.more)

    @cached_property
    def key_of_name(self) -> dict[str, str]:
        """The ids of the recordings by what may name them: the id, or the file name alone where only one has it."""
        names = {key: key.rpartition("/")[2] for key in self.recordings}
        counts = Counter(names.values())
        alone = {name: key for key, name in names.items() if counts[name] == 1}
        return alone | {key: key for key in self.recordings}


def has_audio(folder: Path) -> bool:
    """Whether there is an audio file in the folder or below it."""
    return any(path.suffix.lower() in AUDIO_SUFFIXES for path in files_below(folder))


def scan(folder: Path, apart: Path | None = None, readers: Mapping[str, LabelReader] | None = None) -> Contents:
    """Find the recordings below a folder and read the labels of each, beside it or from the folder `apart`.

    `readers` stand in for those of the suffixes that they name.
    """
    contents = Contents()
    known = [path for path in sorted(files_below(folder)) if path.suffix.lower() in (*_STEM_SUFFIXES, ".ctm")]
    faults = {path: unusable_name(path, folder) for path in known}
    contents.problems += [Problem(path, fault) for path, fault in faults.items() if fault is not None]
    files = [path for path in known if faults[path] is None]
    _find_recordings(folder, files, contents)
    _read_ctm([path for path in files if path.suffix.lower() == ".ctm"], contents)
    beside = [path for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    labels = [(key_of(folder, path), path) for path in beside] if apart is None else _labels_apart(apart, contents)
    failed = _read_label_files(labels, contents, f"Labels of {folder.resolve().name}", READERS | dict(readers or {}))
    where = "beside it" if apart is None else f"below {apart}"
    for key, path in contents.recordings.items():
        if key not in contents.labels and key not in failed:
            contents.tell(path, f"no labels: no .TextGrid, .eaf or .PHN of the same name {where}, and no .ctm names it")
    return contents


def labels_beside(
    recordings: Mapping[str, Path], files: Sequence[tuple[str, Path]], tier: str | None = None
) -> Contents:
    """The labels of recordings by id, from label files, each with the id of its recording; as `scan` reads those of a folder.

    `tier` is the name of the tier of phones, or a pattern of names.
    """
    contents = Contents(dict(recordings))
    _read_label_files(files, contents, "Labels", READERS | readers_of(tier))
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


def _find_recordings(folder: Path, files: Sequence[Path], contents: Contents) -> None:
    for path in files:
        key, suffix = key_of(folder, path), path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            contents.tell(path, f"{suffix} audio cannot be read: convert it to WAV or FLAC")
        elif suffix in AUDIO_SUFFIXES and key in contents.recordings:
            contents.tell(path, f"a second recording of '{key}', left out: {contents.recordings[key].name} is used")
        elif suffix in AUDIO_SUFFIXES:
            contents.recordings[key] = path


def _labels_apart(folder: Path, contents: Contents) -> list[tuple[str, Path]]:
    """The label files below a folder, each with the id of the recording that it names by its path or its file name alone.

    What is of no recording is told in one problem: alignments of a whole corpus may be used on a part of it.
    """
    found: dict[Path, str | None] = {}
    for path in sorted(files_below(folder)):
        if path.suffix.lower() in LABEL_SUFFIXES:
            name = key_of(folder, path)
            found[path] = contents.key_of_name.get(name) or contents.key_of_name.get(name.rpartition("/")[2])
    others = [path.name for path, key in found.items() if key is None]
    if others:
        which = f"{len(others):,}, such as {others[0]}"
        contents.tell(folder, f"label files that are of no recording, or not of one alone: {which}; left out")
    return [(key, path) for path, key in found.items() if key is not None]


def _read_label_files(
    files: Sequence[tuple[str, Path]], contents: Contents, description: str, readers: Mapping[str, LabelReader]
) -> set[str]:
    """Read label files, each with the id of its recording. Returns the ids of recordings whose labels cannot be used."""
    failed: set[str] = set()
    without: list[tuple[str, Problem]] = []  # id, and what is missing
    for suffix, read in readers.items():
        those = [(key, path) for key, path in files if path.suffix.lower() == suffix]
        for key, path in progress(those, description) if those else ():
            if key not in contents.recordings:
                contents.tell(path, "labels without a recording of the same name beside them; left out")
                continue
            try:
                contents.take(key, read(path))
            except MissingPhones as error:
                without.append((key, problem_of(path, error)))
            except DataError as error:
                contents.problems.append(problem_of(path, error))
                failed.add(key)
    for key, problem in without:
        used = contents.labels.get(key)
        beside = f"; {used.file.name} is used" if used is not None else ""
        contents.tell(problem.file, problem.reason + beside, used=used is not None)
    return failed | {key for key, _ in without}


def _read_ctm(paths: Sequence[Path], contents: Contents) -> None:
    """The labels of a CTM file of phones, and the words of one of words, for the recordings that they name."""
    phones: list[Path] = []
    words: list[Path] = []
    for path in paths:
        those = words if "word" in path.stem.lower() else phones
        if path.stem.startswith(MACHINE_LABELS):
            advice = "to use them, check them and rename the file to phones.ctm"
            contents.tell(path, f"holds machine labels, which are not read: {advice}", used=True)
        elif those:
            contents.tell(path, f"left out: {those[0].name} is used")
        else:
            those.append(path)
    spoken = {key: labels.phones for path in words for key, labels in _ctm_by_key(path, contents).items()}
    for path in phones:
        for key, labels in _ctm_by_key(path, contents).items():
            contents.take(key, replace(labels, words=spoken.get(key, ())))


def _ctm_by_key(path: Path, contents: Contents) -> dict[str, Labels]:
    """The labels of a CTM file by the id of the recording; it may be named by its id or by its file name alone."""
    try:
        read, problems = label_lines.read_ctm(path)
    except DataError as error:
        contents.problems.append(problem_of(path, error))
        return {}
    contents.problems.extend(problems)
    named = {unicodedata.normalize("NFC", name): labels for name, labels in read.items()}
    for name in (name for name in named if name not in contents.key_of_name):
        contents.tell(path, f"names the recording '{name}', which is not there or not there once; left out")
    return {contents.key_of_name[name]: labels for name, labels in named.items() if name in contents.key_of_name}


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
        elif place.is_dir() and not has_audio(place):
            problems.append(Problem(place, "no audio files in this folder"))
        for root, path in _candidates(place):
            is_audio, name = path.suffix.lower() in AUDIO_SUFFIXES, key_of(root, path)
            reason = (
                unusable_name(path, root) if is_audio else "is no audio that can be read: convert it to WAV or FLAC"
            )
            if reason is None and not _same(found.setdefault(name, path), path):
                first = found[name]
                reason = f"its results would have the name '{name}', as those of {first} have: rename one of the two"
            if reason is not None:
                problems.append(Problem(path, reason))
    labels = _label_files({path.parent for path in found.values()})
    named = ((name, path, labels[path.parent, key_of(path.parent, path)]) for name, path in found.items())
    return [Recording(*each) for each in named], problems


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
