"""What lies in a folder: its recordings, and the labels that belong to each; and the recordings that a command line names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, printable, problem_of
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.contents import Contents as Contents
from mtl_speech.corpora.label_files import elan, label_lines, textgrid
from mtl_speech.corpora.label_files.ctm_files import read_ctm_files
from mtl_speech.corpora.labels import Labels, MissingPhones
from mtl_speech.corpora.pairing import SURE, Match, Names, find_matches, likely
from mtl_speech.corpora.partners import EmptyPhones, Partners, question, require_phones, taken_for
from mtl_speech.corpora.versions import choose_version, passed_over

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
    waiting = _find_recordings(folder, files, contents)
    names = Names(contents.recordings, anywhere=apart is not None)
    read_ctm_files(_ctm_files(folder, files, apart), contents, names)
    labels = _labels_of(folder if apart is None else apart, None if apart else files, contents)
    labels = [each for each in labels if apart is not None or each[0] not in waiting]
    partners = Partners(contents, READERS | dict(readers or {}), names)
    description = f"Labels of {folder.resolve().name}"
    failed = _read_label_files(labels, description, partners, apart)
    where = "beside it" if apart is None else f"below {apart}"
    for key, path in contents.recordings.items():
        if key not in contents.labels and key not in failed:
            contents.tell(path, f"no labels: no .TextGrid, .eaf or .PHN of the same name {where}, and no .ctm names it")
    return contents


def labels_beside(
    recordings: Mapping[str, Path],
    files: Sequence[tuple[str, Path]],
    more: Sequence[Match] = (),
    tier: str | None = None,
) -> Contents:
    """The labels of recordings by id, from label files, each with the id of its recording; as `scan` reads those of a folder.

    `more` are those of another name than their recording's, to be read where these have no phones. `tier` is the name of the tier
    of phones, or a pattern of names.
    """
    contents = Contents(dict(recordings))
    _read_label_files(files, "Labels", Partners(contents, READERS | readers_of(tier), Names({})), None, more)
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


def _find_recordings(folder: Path, files: Sequence[Path], contents: Contents) -> set[str]:
    """Find the recordings; one of a name is used. Returns the ids of those that cannot be read, whose labels have to wait."""
    versions: defaultdict[str, list[Path]] = defaultdict(list)
    unreadable: defaultdict[str, list[Path]] = defaultdict(list)
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    for path in files:
        key, suffix = key_of(folder, path), path.suffix.lower()
        if suffix in UNREADABLE_SUFFIXES:
            unreadable[key].append(path)
        elif suffix in AUDIO_SUFFIXES:
            versions[key].append(path)
        elif suffix in LABEL_SUFFIXES:
            waiting[key].append(path.name)
    for key, paths in versions.items():
        contents.recordings[key], told = choose_version(key, paths)
        contents.problems += told
    cased = {key.casefold(): path for key, path in contents.recordings.items()}
    for key, paths in unreadable.items():
        chosen = contents.recordings.get(key) or cased.get(key.casefold())
        labels = "".join(f"; until then its labels '{name}' are left out" for name in waiting.get(key, ())[:1])
        for path in paths:
            reason = f"{path.suffix.lower()} audio cannot be read: convert it to WAV or FLAC{labels}"
            contents.problems.append(Problem(path, reason) if chosen is None else passed_over(path, chosen))
    return {key for key in unreadable if key not in contents.recordings and key.casefold() not in cased}


def _labels_of(folder: Path, files: Sequence[Path] | None, contents: Contents) -> list[tuple[str, Path]]:
    """The label files below a folder, each with an id: that of its recording where it has the same name.

    Those of a folder apart, where no `files` are given, have that of the recording of their path, of the last parts of it, or of
    their file name alone.
    """
    if files is not None:
        return [(key_of(folder, path), path) for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    counts = Counter(tail for key in contents.recordings for tail in _tails(key))
    of_tail = {tail: key for key in contents.recordings for tail in _tails(key) if counts[tail] == 1}
    found = []
    for path in sorted(files_below(folder)):
        if path.suffix.lower() in LABEL_SUFFIXES:
            key = key_of(folder, path)
            own = contents.key_of_name.get(key) or next((of_tail[t] for t in _tails(key) if t in of_tail), None)
            found.append((own or key, path))
    return found


def _tails(key: str) -> Iterator[str]:
    """The last parts of an id, the longest first: "a/b/c", "b/c", "c"."""
    while key:
        yield key
        key = key.partition("/")[2]


def _read_label_files(
    files: Sequence[tuple[str, Path]],
    description: str,
    partners: Partners,
    apart: Path | None,
    more: Sequence[Match] = (),
) -> set[str]:
    """Read label files, each with an id. Returns the ids of recordings of which it is told why they have no labels."""
    contents = partners.contents
    exact = [(key, path) for key, path in files if key in contents.recordings]
    failed, without = _read_exact(exact, description, partners)
    others, matches = partners.find([(key, path) for key, path in files if key not in contents.recordings])
    partners.read([*matches, *more])
    for key, labels in without.empty:
        if key not in contents.labels:
            contents.take(key, labels)
        else:
            reason = f"has no phone in it; {contents.labels[key].file.name} is used"
            contents.tell(labels.file, reason, labels.tier, used=True)
    for key, problem in without.problems:
        used = contents.labels.get(key)
        beside = f"; {used.file.name} is used" if used is not None else ""
        contents.tell(problem.file, problem.reason + beside, used=used is not None)
        failed.add(key)
    bare = (key for key in contents.recordings if key not in contents.labels and key not in failed)
    _tell_of_no_recording(partners.ask(others, bare if apart is None else ()), contents, apart)
    return failed | partners.asked


@dataclass
class _Without:
    """Label files without phones, each with the id of its recording: what is missing, or labels of nothing but silence."""

    problems: list[tuple[str, Problem]] = field(default_factory=list)
    empty: list[tuple[str, Labels]] = field(default_factory=list)


def _read_exact(files: Sequence[tuple[str, Path]], description: str, partners: Partners) -> tuple[set[str], _Without]:
    """Read label files that have the name of a recording. Returns the ids of those that are broken, and what has no phones."""
    contents, failed, without = partners.contents, set[str](), _Without()
    for suffix, read in partners.readers.items():
        those = [(key, path) for key, path in files if path.suffix.lower() == suffix]
        for key, path in progress(those, description) if those else ():
            try:
                labels = read(path)
                require_phones(labels)
                contents.take(key, labels)
            except EmptyPhones:
                without.empty.append((key, labels))
            except MissingPhones as error:
                without.problems.append((key, problem_of(path, error)))
            except DataError as error:
                if _is_empty(path):
                    without.problems.append((key, Problem(path, "is an empty file")))
                    continue
                contents.problems.append(problem_of(path, error))
                failed.add(key)
    return failed, without


def _is_empty(path: Path) -> bool:
    """Whether there is nothing in a file."""
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def _tell_of_no_recording(files: Sequence[tuple[str, Path]], contents: Contents, apart: Path | None) -> None:
    """Tell of label files of no recording: those of a folder apart in one problem, as alignments may be of a larger corpus."""
    if apart is None:
        for _, path in files:
            contents.tell(path, "labels without a recording of the same name beside them; left out")
    elif files:
        which = f"{len(files):,}, such as {files[0][1].name}"
        contents.tell(apart, f"label files that are of no recording, or not of one alone: {which}; left out")


def _ctm_files(folder: Path, files: Sequence[Path], apart: Path | None) -> list[tuple[str, Path]]:
    """The CTM files, each with its own id: of the folder apart, else those beside the recordings."""
    below = sorted(files_below(apart)) if apart is not None else []
    for root, paths in ((apart, below), (folder, files)):
        found = [path for path in paths if path.suffix.lower() == ".ctm"]
        if found and root is not None:
            return [(key_of(root, path.with_suffix("")), path) for path in found]
    return []


@dataclass(frozen=True)
class Recording:
    """An audio file; its name in results: the path below the folder that was named, without suffix; its label files by suffix.

    `more` are label files that are its own by all but their name, to be read where `labels` have no phones; `doubt` asks whether
    others are, too.
    """

    name: str
    audio: Path
    labels: dict[str, Path] = field(default_factory=dict)  # such as ".textgrid"
    more: tuple[Match, ...] = ()
    doubt: Problem | None = None


def find_recordings(places: Sequence[Path]) -> tuple[list[Recording], list[Problem]]:
    """The recordings that files and folders hold, in the order given, and what cannot be one of them.

    A file is named by its stem. Of one recording in several formats the one without loss is taken; of several recordings of one
    name in different folders the first. Label files among the places are passed over, since they belong to recordings.
    """
    found = _Found()
    for place in places:
        if not place.exists():
            found.problems.append(Problem(place, "no such file or folder"))
        elif place.is_dir() and not has_audio(place):
            found.problems.append(Problem(place, "no audio files in this folder"))
        for root, path in _candidates(place):
            found.add(root, path, place.is_dir())
    return found.recordings(), found.problems


@dataclass
class _Found:
    """The files that are meant as recordings, by the name that the results have."""

    problems: list[Problem] = field(default_factory=list)
    _versions: dict[str, list[Path]] = field(default_factory=dict)
    _unreadable: list[tuple[str, Path]] = field(default_factory=list)
    _place: dict[str, tuple[Path, bool]] = field(default_factory=dict)  # where the labels of a name may lie

    def add(self, root: Path, path: Path, below: bool) -> None:
        """Add a file that is named below `root`; with `below` its labels may lie in another folder there."""
        name = key_of(root, path)
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            self._unreadable.append((name, path))
            return
        reason = unusable_name(path, root) or self._add_version(name, path)
        if reason is not None:
            self.problems.append(Problem(path, reason))
        else:
            self._place.setdefault(name, (root, below))

    def _add_version(self, name: str, path: Path) -> str | None:
        """Add a recording under a name. Returns why it cannot be, where one of another folder has the name."""
        those = self._versions.setdefault(name, [])
        if any(_same(path, other) for other in those):
            return None
        if those and those[0].parent.resolve() != path.parent.resolve():
            return f"its results would have the name '{name}', as those of {those[0]} have: rename one of the two"
        those.append(path)
        return None

    def recordings(self) -> list[Recording]:
        """One recording of each name, with its labels."""
        chosen: dict[str, Path] = {}
        for name, paths in self._versions.items():
            chosen[name], told = choose_version(name, paths)
            self.problems += told
        for name, path in self._unreadable:
            beside = name in chosen and chosen[name].parent == path.parent
            reason = "is no audio that can be read: convert it to WAV or FLAC"
            self.problems.append(passed_over(path, chosen[name]) if beside else Problem(path, reason))
        labels = _label_files({path.parent for path in chosen.values()})
        near = {place: _Near.of(*place) for place in set(self._place.values())}
        found = [Recording(name, path, labels[path.parent, key_of(path.parent, path)]) for name, path in chosen.items()]
        return [near[self._place[each.name]].added(each, self.problems) for each in found]


@dataclass(frozen=True)
class _Near:
    """The label files of a folder whose names are not quite those of its recordings."""

    recordings: Mapping[str, Path]
    matches: Mapping[str, Sequence[Match]]  # by the id of a recording
    doubts: Mapping[str, Match]

    @classmethod
    def of(cls, root: Path, below: bool) -> _Near:
        """Those of a folder, and with `below` of its subfolders."""
        files = sorted(files_below(root) if below else (path for path in root.iterdir() if path.is_file()))
        by_key = [(key_of(root, path), path) for path in files]
        recordings = {key: path for key, path in by_key if path.suffix.lower() in AUDIO_SUFFIXES}
        labels = [(key, path) for key, path in by_key if path.suffix.lower() in LABEL_SUFFIXES]
        others = [(key, path) for key, path in labels if key not in recordings]
        found = list(find_matches(Names(recordings), others)) if others else []
        sure: defaultdict[str, list[Match]] = defaultdict(list)
        for match in found:
            if len(match.recordings) == 1:
                sure[match.recordings[0]].append(match)
        bare = recordings.keys() - {key for key, _ in labels} - sure.keys()
        told = {match.path for match in found}
        found += likely({key: recordings[key] for key in bare}, [each for each in others if each[1] not in told])
        doubts = {key: match for match in found for key in match.recordings if key in bare}
        return cls(recordings, sure, doubts)

    def added(self, recording: Recording, problems: list[Problem]) -> Recording:
        """A recording with the label files that are its own by all but their name, which is told; else with the question."""
        more = self.matches.get(recording.name, ())
        labels = dict(recording.labels)
        for suffix in LABEL_SUFFIXES if not labels else ():
            sure = [each for each in more if each.path.suffix.lower() == suffix and each.rank == SURE]
            if len(sure) == 1 and not sure[0].shifted:
                labels[suffix] = sure[0].path
                problems.append(Problem(sure[0].path, taken_for(sure[0], recording.audio), used=True))
        rest = tuple(each for each in more if each.path not in labels.values())
        doubt = self.doubts.get(recording.name) if not labels and not rest else None
        asked = question(doubt, self.recordings) if doubt is not None else None
        return replace(recording, labels=labels, more=rest, doubt=asked)


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
