"""Which recording a label file belongs to whose name is not exactly that of one: names that tools have changed, and links."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mtl_speech.corpora.label_files.media_links import MediaLink, media_links

SURE, MARKED = range(2)  # how good a match is: by its name or a link; by its name without the mark of a copy or a tier
MIN_SHARED = 6  # letters, or one digit: with less, names that begin alike say nothing
MAX_LIKELY = 3  # recordings that a label file may belong to: more are a guess that helps nobody

# What Praat makes `_` in the name of an object (praat_cleanUpName), and blanks of other kinds.
_CLEANED = re.compile(r"[\s,.:;\\/()\[\]{}~`'<>*&^%#@!?$\"|]")
_MARKS = (
    "phones?|phonemes?|segments?|words?|utterances?|sentences?|transcripts?|transcriptions?|orthography|translations?|labels?|"
    "annotations?|annotated|aligned|alignments?|checked|corrected|textgrid|praat|elan|eaf|mfa|maus|ipa"
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

    With `anywhere` the folder of a name does not matter where no recording has the same; but one in a folder of the same name is
    nearer than others.
    """

    recordings: Mapping[str, Path]
    anywhere: bool = False

    def find(self, key: str, anywhere: bool = False) -> tuple[tuple[str, ...], str]:
        """The recordings of a name, and how it is theirs, in words; none where there is none."""
        if key in self.recordings:
            return (key,), "the names are the same"
        parent, _, name = key.rpartition("/")
        folder = _same_but_case(parent)
        for place in (folder, None) if self.anywhere or anywhere else (folder,):
            for (how, fold), table in zip(_FOLDS, self._tables, strict=True):
                found = table.get((place, fold(name)))
                if found:
                    near = [each for each in found if _last_folder(each) == _last_folder(key)] if place is None else []
                    return tuple(near or found), how
        return (), ""

    @cached_property
    def _tables(self) -> list[dict[tuple[str | None, str], list[str]]]:
        """For each of `_FOLDS` the ids by folder and name, and by name alone."""
        tables: list[dict[tuple[str | None, str], list[str]]] = [defaultdict(list) for _ in _FOLDS]
        for key in self.recordings:
            parent, _, name = key.rpartition("/")
            folder = _same_but_case(parent)
            for (_, fold), table in zip(_FOLDS, tables, strict=True):
                table[folder, fold(name)].append(key)
                table[None, fold(name)].append(key)
        return tables


def _last_folder(key: str) -> str:
    return _same_but_case(posixpath.basename(posixpath.dirname(key)))


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
        recordings = _bare_matches(names, key)
        if recordings:
            how = "without the mark of a tier, a tool or a copy the names are the same"
            yield Match(key, path, recordings, how, MARKED)


def _bare_matches(names: Names, key: str) -> tuple[str, ...]:
    """The recordings of a name without as few marks as can be of a copy, a tool or a tier at its end and its begin."""
    parent, slash, name = key.rpartition("/")
    bare = [name]
    while bare:
        shorter = (mark.sub("", each) for each in bare for mark in (_MARK_AFTER, _MARK_BEFORE))
        bare = [each for each in dict.fromkeys(shorter) if each and each not in bare]
        found = dict.fromkeys(each for one in bare for each in names.find(parent + slash + one)[0])
        if found:
            return tuple(found)
    return ()


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


def likely(recordings: Mapping[str, Path], labels: Sequence[tuple[str, Path]]) -> list[Match]:
    """The label files that a person would look at together with one of the recordings, which have no labels.

    In one folder: names of the same letters and digits, of which one goes on where the other ends, or that differ in a last part
    that is no number. In others: the same name, or a link to it.
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
        if not distinct and path.suffix.lower() == ".eaf":
            distinct = linked_recordings(elsewhere, key, media_links(path))
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
