"""Word lists with pronunciations: what a speaker may be asked to say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import read_limited
from mtl_speech.core.problems import Problem
from mtl_speech.phonology.ipa_grammar import joined
from mtl_speech.phonology.ipa_text import letters_of, segment
from mtl_speech.phonology.phonemes import (
    MAX_LABEL,
    UnmappableLabel,
    is_apostrophe,
    modifier_of,
    normalise_ipa,
    to_ipa,
)

MAX_BYTES = 64 << 20  # a million words have about so much


@dataclass(frozen=True)
class Word:
    """A word and its phonemes in IPA, normalised."""

    text: str
    phones: tuple[str, ...]


def read_words(path: Path, inventory: Collection[str]) -> tuple[list[Word], list[Problem]]:
    """The words of a list that have a pronunciation, each once, and why others cannot be used.

    A line is a word, a TAB, and its pronunciation in IPA as the last column, as in a dictionary of the Montreal Forced Aligner:
    phones apart by blanks, or written together (`split_phones`). Empty lines do not count. Of several pronunciations the first
    is taken.

    Raises DataError when the file cannot be read as UTF-8 text.
    """
    try:
        lines = read_limited(path, MAX_BYTES, "a list of words").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}): give a list with one word a line") from error
    words: dict[str, Word] = {}
    skipped: list[Problem] = []
    for number, line in enumerate(lines, 1):
        text, *columns = (part.strip() for part in line.split("\t"))
        if not any((text, *columns)):
            continue
        place = f"line {number}, '{text[:MAX_LABEL]}':"
        if not columns or not columns[-1]:
            skipped.append(Problem(path, f"{place} no pronunciation; write a TAB and its phones in IPA after the word"))
        elif text in words:
            skipped.append(Problem(path, f"{place} is there already; the first pronunciation is taken"))
        else:
            try:
                words[text] = Word(text, read_phones(columns[-1], inventory))
            except DataError as error:
                skipped.append(Problem(path, f"{place} {error}"))
    return list(words.values()), skipped


def read_phones(text: str, inventory: Collection[str]) -> tuple[str, ...]:
    """The phonemes of a pronunciation in IPA, normalised. Raises DataError where a part is none, or nothing is left."""
    parts: list[str] = []
    for part in text.split() if len(text.split()) > 1 else split_phones(text, inventory):
        if parts and len(parts[-1]) < MAX_LABEL and _belong_together(parts[-1], part):
            parts[-1] += part
        else:
            parts.append(part)
    phones = [to_ipa(part, "ipa") for part in parts]
    found = tuple(phone for phone in phones if phone is not None)
    if not found:
        raise DataError(f"'{text[:MAX_LABEL]}' has no phoneme")
    return found


def _belong_together(before: str, part: str) -> bool:
    """Whether one of two parts is a mark that the other can take, such as the "ʰ" of "kː ʰ" and the "ⁿ" of "ⁿ d"."""
    mark = modifier_of(part, "ipa")
    if mark and joined(normalise_ipa(before), mark):
        return True
    return bool(modifier_of(before, "ipa")) and not is_apostrophe(before)


def split_phones(text: str, inventory: Collection[str]) -> list[str]:
    """The phones of IPA written together: those of `inventory` if all are, the longest first; else a letter with its
    marks each, and two that are one phoneme of `inventory` are joined.

    Raises DataError for a text that is longer than any word.
    """
    try:
        if to_ipa(text, "ipa") is None:
            return [text]
    except UnmappableLabel:
        pass
    if len(text) > MAX_LABEL:
        raise DataError(f"'{text[:MAX_LABEL]}…' is too long to be taken apart: put blanks between its phones")
    known, unmatched = segment(text, inventory)
    if not unmatched:
        return list(known)
    return letters_of(text, inventory)
