"""The labels in CTM files: one for a whole folder, or one for each recording."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtl_speech.core.errors import DataError, problem_of
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.contents import Contents
from mtl_speech.corpora.label_files import label_lines
from mtl_speech.corpora.labels import MACHINE_LABELS, Labels
from mtl_speech.corpora.pairing import Names, find_matches


def read_ctm_files(paths: Sequence[tuple[str, Path]], contents: Contents, names: Names) -> None:
    """The labels of CTM files of phones, and the words of those of words, for the recordings that they name.

    Of a recording that several name the first file is used.
    """
    phones: list[tuple[str, Path]] = []
    words: list[tuple[str, Path]] = []
    for key, path in paths:
        if path.stem.startswith(MACHINE_LABELS):
            advice = "to use them, check them and rename the file to phones.ctm"
            contents.tell(path, f"holds machine labels, which are not read: {advice}", used=True)
        else:
            is_words = "word" in path.stem.lower() and key not in contents.recordings
            (words if is_words else phones).append((key, path))
    spoken = _first_of_each(words, contents, names)
    for key, labels in _first_of_each(phones, contents, names).items():
        contents.take(key, replace(labels, words=spoken[key].phones if key in spoken else ()))


def _first_of_each(paths: Sequence[tuple[str, Path]], contents: Contents, names: Names) -> dict[str, Labels]:
    """The labels of CTM files by the id of the recording, of each from the first file that has it."""
    found: dict[str, Labels] = {}
    for own, path in paths:
        read = _ctm_by_key(own, path, contents, names)
        again = [key for key in read if key in found]
        if again:
            which = f"of {len(again):,} recordings, such as '{again[0]}'"
            contents.tell(path, f"labels {which}, are left out: '{found[again[0]].file.name}' is used")
        found = read | found
    return found


def _ctm_by_key(own: str, path: Path, contents: Contents, names: Names) -> dict[str, Labels]:
    """The labels of a CTM file by the id of the recording; it may be named by its id or by its file name alone.

    A name that tools have changed is that of the only recording that it can be of; so is the only name in a file that is named as
    a recording, whatever it is.
    """
    try:
        read, problems = label_lines.read_ctm(path)
    except DataError as error:
        contents.problems.append(problem_of(path, error))
        return {}
    contents.problems.extend(problems)
    named = {unicodedata.normalize("NFC", name): labels for name, labels in read.items()}
    own_name = {own.rpartition("/")[2]: own} if own in contents.recordings else {}
    exact = {name: contents.key_of_name.get(name) or own_name.get(name) for name in named}
    found = {key: named[name] for name, key in exact.items() if key is not None}
    for name in (name for name, key in exact.items() if key is None):
        stem, suffix = os.path.splitext(name)
        keys, how = names.find(stem if suffix.lower() in AUDIO_SUFFIXES else name, anywhere=True)
        if len(keys) != 1 and len(named) == 1:
            match = next(find_matches(names, [(own, path)]), None)
            keys, how = (match.recordings, "the file has the name of the recording") if match else ((), "")
        if len(keys) == 1 and keys[0] not in found:
            contents.tell(path, f"'{name}' in it is taken for '{contents.recordings[keys[0]].name}': {how}", used=True)
            found[keys[0]] = named[name]
        else:
            contents.tell(path, f"names the recording '{name}', which is not there or not there once; left out")
    return found
