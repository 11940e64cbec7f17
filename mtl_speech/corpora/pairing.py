"""Which recording a label file belongs to whose name is not exactly that of one: names that tools have changed, and links."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_speech.corpora.media_links import MediaLink, media_links

SURE, MARKED = range(2)  # how good a match is: by its name or a link; by its name without the mark of a copy or a tier
MIN_SHARED = 6  # letters, or one digit: with less, names that begin alike say nothing
MAX_LIKELY = 3  # recordings that a label file may belong to: more are a guess that helps nobody

# What Praat makes `_` in the name of an object (praat_cleanUpName), and blanks of other kinds.
_CLEANED = re.compile(r"[\s,.:;\\/()\[\]{}~`'<>*&^%#@!?$\"|]")
_MARKS = (
    "phones?|phonemes?|segments?|labels?|annotations?|annotated|aligned|alignments?|checked|corrected|textgrid|praat|elan|eaf|mfa|"
    "maus|ipa"
)
_COPIES = "copy|kopie|copie|copia"
_MARK_AFTER = re.compile(
    rf"[\s_.@\-(\[]+(?:{_MARKS})[)\]_]?$|[\s_.\-]+(?:{_COPIES})[\s_]*\d{{0,2}}$|\s*\(\d{{1,2}}\)$|__\d{{1,2}}_$",
    re.IGNORECASE,
)
_MARK_BEFORE = re.compile(rf"^(?:(?:{_MARKS})[\s_.@\-]+|(?:copy of|kopie von|copie de|copia de)\s+)", re.IGNORECASE)
_LAST_PART = re.compile(r"[\W_]+([^\W_]+)[\W_]*$")


@dataclass(frozen=True)
class Match:
    """A label file, and the recordings by id that it may belong to: it is theirs where there is one. `how` says why, in words."""

    key: str
    path: Path
    recordings: tuple[str, ...]
    how: str
    rank: int = SURE
    shifted: bool = False  # an .eaf whose times begin elsewhere than the recording


def _same_but_case(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _praat(name: str) -> str:
    return _CLEANED.sub("_", name)


_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("the names differ in capitals only", _same_but_case),
    ("the names differ only in what Praat writes as _", _praat),
    ("the names differ only in capitals and in what Praat writes as _", lambda name: _same_but_case(_praat(name))),
)


@dataclass
class Names:
    """The ids of recordings, to be found by names that are not quite theirs.

    With `anywhere` the folder of a name does not matter where no recording has the same.
    """

    recordings: Mapping[str, Path]
    anywhere: bool = False
    _tables: list[dict[tuple[str | None, str], list[str]]] = field(init=False)

    def __post_init__(self) -> None:
        self._tables = [defaultdict(list) for _ in _FOLDS]
        for key in self.recordings:
            parent, _, name = key.rpartition("/")
            for (_, fold), table in zip(_FOLDS, self._tables, strict=True):
                table[_same_but_case(parent), fold(name)].append(key)
                table[None, fold(name)].append(key)

    def find(self, key: str) -> tuple[tuple[str, ...], str]:
        """The recordings of a name, and how it is theirs, in words; none where there is none."""
        if key in self.recordings:
            return (key,), "the names are the same"
        parent, _, name = key.rpartition("/")
        for place in (_same_but_case(parent), None) if self.anywhere else (_same_but_case(parent),):
            for (how, fold), table in zip(_FOLDS, self._tables, strict=True):
                found = table.get((place, fold(name)))
                if found:
                    return tuple(found), how
        return (), ""


def find_matches(names: Names, labels: Sequence[tuple[str, Path]]) -> Iterator[Match]:
    """The label files, each with its own id, that belong to a recording, or to one of several that are named."""
    for key, path in labels:
        recordings, how = names.find(key)
        shifted = False
        if path.suffix.lower() == ".eaf":
            links = media_links(path)
            shifted = bool(linked_recordings(names, key, [link for link in links if link.shifted]))
            linked = linked_recordings(names, key, links)
            if len(linked) > 1:
                linked = tuple(each for each in linked if each in recordings) or linked
            if linked:
                recordings, how = linked, "it links that recording"
        if recordings:
            yield Match(key, path, recordings, how, shifted=shifted)
            continue
        for bare in _without_marks(key):
            recordings, _ = names.find(bare)
            if recordings:
                how = "without the mark of a tier, a tool or a copy the names are the same"
                yield Match(key, path, recordings, how, MARKED)
                break


def linked_recordings(names: Names, key: str, links: Sequence[MediaLink]) -> tuple[str, ...]:
    """The recordings that the links of the label file `key` lead to, in the folder that is read and nowhere else."""
    found = (_linked(names, key.rpartition("/")[0], link) for link in links)
    return tuple(dict.fromkeys(each for several in found for each in several))


def _linked(names: Names, parent: str, link: MediaLink) -> tuple[str, ...]:
    """The recordings that a link of a file in the folder `parent` leads to: by its path below it, else by its last part."""
    places = [posixpath.normpath(posixpath.join(parent, path)) for path in link.paths]
    places += [posixpath.join(parent, posixpath.basename(path)) for path in link.paths]
    for place in places:
        stem = unicodedata.normalize("NFC", posixpath.splitext(place)[0])
        if stem and not stem.startswith(("/", "../")):
            recordings, _ = names.find(stem)
            if recordings:
                return recordings
    return ()


def _without_marks(key: str) -> Iterator[str]:
    """An id without the marks of a copy, a tool or a tier at the end or the begin of its name, one after the other."""
    parent, slash, name = key.rpartition("/")
    while True:
        bare = _MARK_AFTER.sub("", name) or name
        if bare == name:
            bare = _MARK_BEFORE.sub("", name) or name
        if bare == name:
            return
        name = bare
        yield parent + slash + name


def likely(recordings: Mapping[str, Path], labels: Sequence[tuple[str, Path]]) -> list[Match]:
    """The label files that a person would look at together with one of the recordings, which have no labels.

    In one folder: names of the same letters and digits, of which one goes on where the other ends, or that differ in a last part
    that is no number. In others: the same name.
    """
    tables: list[dict[tuple[str, str], list[str]]] = [defaultdict(list) for _ in range(3)]
    whole, begins, parts = tables
    for key in recordings:
        parent, _, name = key.rpartition("/")
        whole[parent, _letters(name)].append(key)
        for begin in _begins(name):
            begins[parent, begin].append(key)
        parts[parent, _without_last_part(name)].append(key)
    elsewhere = Names(recordings, anywhere=True)
    result = []
    for key, path in labels:
        parent, _, name = key.rpartition("/")
        found = [*whole.get((parent, _letters(name)), ())]
        found += begins.get((parent, _letters(name)), ())
        found += [each for begin in _begins(name) for each in whole.get((parent, begin), ())]
        found = found or parts.get((parent, _without_last_part(name)), [])
        distinct = tuple(dict.fromkeys(found)) or elsewhere.find(key)[0]
        if 0 < len(distinct) <= MAX_LIKELY:
            result.append(Match(key, path, distinct, ""))
    return result


def _letters(name: str) -> str:
    """The letters and digits of a name, without marks and capitals; the name itself where it has none."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(each for each in plain if each.isalnum()) or name


def _begins(name: str) -> list[str]:
    """The letters and digits of a name without its last part, without its last two, and so on."""
    begins = []
    while (last := _LAST_PART.search(name)) is not None and last.start() > 0:
        name = name[: last.start()]
        begins.append(_letters(name))
    return begins


def _without_last_part(name: str) -> str:
    """The letters and digits of a name without its last part; another's never, where that is a number or what remains is short."""
    last = _LAST_PART.search(name)
    begin = _letters(name[: last.start()]) if last is not None and not last[1].isdecimal() else ""
    is_name = len(begin) >= MIN_SHARED or any(each.isdecimal() for each in begin)
    return begin if is_name else f"{_letters(name)}\0"
