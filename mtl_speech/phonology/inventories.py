"""The inventory of a language (from a text, a file, a map of Epitran, or PHOIBLE), and lists of words in its phonemes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, UsageError
from mtl_speech.core.files import package_folder, read_limited
from mtl_speech.phonology.ipa_grammar import joined
from mtl_speech.phonology.phonemes import (
    MAX_LABEL,
    UnmappableLabel,
    is_apostrophe,
    is_silence,
    letters_of,
    modifier_of,
    normalise_ipa,
    segment,
    to_ipa,
)

MAX_NAME = 250  # characters: text of an inventory that is longer is no name of a file
MAX_BYTES = 1 << 20  # of a file of phonemes
MAX_WORDS_BYTES = 64 << 20  # a million words have about so much
MAX_PHOIBLE_BYTES = 256 << 20  # the whole of PHOIBLE has 24 million
MAX_NAMED = 500  # characters of labels that are no phoneme
_NO_LETTERS = re.compile(r"<[^>]*>|[˥˦˧˨˩\s]")  # tags of Epitran's rules, tones
EPITRAN, PHOIBLE = "epitran:", "phoible:"
PHOIBLE_COLUMNS = (
    "InventoryID",
    "Glottocode",
    "ISO6393",
    "LanguageName",
    "SpecificDialect",
    "Phoneme",
    "Marginal",
    "SegmentClass",
)


@dataclass(frozen=True)
class Phonemes:
    """The phonemes of a language, normalised, each once, and what is to be known of where they are from."""

    phonemes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find_inventory(text: str) -> Phonemes:
    """The inventory that an option names: phonemes, a file of them, "epitran:pan-Guru", or "phoible:FILE:LANGUAGE".

    LANGUAGE is an ISO 639-3 code, a Glottocode, or the number of an inventory; FILE is phoible.csv as PHOIBLE publishes it.

    Raises UsageError that says what is not there, or names all labels that are no phoneme.
    """
    if text.startswith(EPITRAN):
        return _from_epitran(text.removeprefix(EPITRAN))
    if text.startswith(PHOIBLE):
        path, colon, language = text.removeprefix(PHOIBLE).rpartition(":")
        if not (path and colon and language):
            raise UsageError(f"inventory: {text}: write phoible:FILE:LANGUAGE, such as phoible:phoible.csv:pan")
        return _from_phoible(Path(path), language)
    return Phonemes(read_inventory(text))


def _split(labels: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The phonemes of labels, each once, and the labels that are none."""
    found: dict[str, None] = {}
    unknown = []
    for label in labels:
        try:
            phoneme = to_ipa(label, "ipa")
        except UnmappableLabel:
            phoneme = None
        if phoneme is None:
            unknown.append(label)
        else:
            found[phoneme] = None
    return tuple(found), unknown


def read_inventory(text: str) -> tuple[str, ...]:
    """The phonemes of a language, normalised, each once: from a file (UTF-8) or the text itself, apart by blanks or commas.

    Raises UsageError that names all labels that are no phoneme, or the file that is not there.
    """
    path = Path(text)
    try:
        there = len(text) < MAX_NAME and path.is_file()
        content = read_limited(path, MAX_BYTES, "an inventory").decode("utf-8-sig") if there else text
    except (OSError, DataError, UnicodeDecodeError) as error:
        raise UsageError(f"inventory: {text[:80]} cannot be read as UTF-8 text ({error})") from error
    found, unknown = _split(content.replace(",", " ").split())
    if unknown:
        place = f"the file {text}" if content is not text else "a file of that name is not there either"
        raise UsageError(
            f"inventory: no phonemes in IPA: {' '.join(unknown)[:MAX_NAMED]} ({place}); correct or remove them"
        )
    if not found:
        raise UsageError(f"inventory: {text or 'the text'} names no phoneme; give phonemes in IPA, apart by blanks")
    return found


def _from_epitran(code: str) -> Phonemes:
    """The phonemes that Epitran's map of a language and script, such as "pan-Guru", can write.

    As Epitran's own lists of segments have them: a letter of IPA with its marks each, so a consonant and its inherent vowel are
    two, and so are the parts of a diphthong. Tones and what is no IPA are left out; the latter is told.
    """
    package = package_folder("epitran")
    if package is None:
        raise UsageError("inventory: Epitran is not installed: install the extra 'epitran' of mtl_speech")
    maps = {path.stem: path for path in sorted((package / "data" / "map").glob("*.csv"))}
    if code not in maps:
        near = [each for each in maps if each[:3] == code[:3]]
        raise UsageError(f"inventory: Epitran has no map '{code}'; it has {', '.join(near or maps)[:MAX_NAMED]}")
    rows = csv.reader(io.StringIO(read_limited(maps[code], MAX_BYTES, "a map of Epitran").decode("utf-8-sig")))
    values = (_NO_LETTERS.sub("", row[1]) for row in list(rows)[1:] if len(row) > 1)
    phonemes, unknown = _split(letter for value in values for letter in letters_of(value))
    notes = [f"inventory: {len(phonemes)} phonemes that Epitran's map {code} writes"]
    return _checked(phonemes, notes, list(dict.fromkeys(unknown)), str(maps[code]))


def _from_phoible(path: Path, language: str) -> Phonemes:
    """One of PHOIBLE's inventories of a language: the one named by its number, else the first of the language.

    Of alternative spellings ("t̪|t") the first is taken; tones and marginal phonemes are left out.
    """
    rows = [row for row in _phoible_rows(path) if language in (row["InventoryID"], row["Glottocode"], row["ISO6393"])]
    if not rows:
        raise UsageError(
            f"inventory: {path} has no inventory of '{language}': give an ISO 639-3 code, a Glottocode or a number"
        )
    inventories: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        inventories.setdefault(row["InventoryID"], []).append(row)
    number = min(inventories, key=lambda each: (not each.isdecimal(), int(each) if each.isdecimal() else 0, each))
    notes = [f"inventory: PHOIBLE's number {_about(inventories[number])}"]
    others = [_about(held) for each, held in inventories.items() if each != number]
    if others:
        notes.append(f"inventory: PHOIBLE has others of '{language}', to be named by number: {'; '.join(others)}")
    marginal = [row["Phoneme"] for row in inventories[number] if row["Marginal"].upper() == "TRUE"]
    tones = [row["Phoneme"] for row in inventories[number] if row["SegmentClass"] == "tone"]
    left_out = {"marginal phonemes": marginal, "tones": tones}
    notes += [f"inventory: {what} are left out: {' '.join(held)}" for what, held in left_out.items() if held]
    kept = [row["Phoneme"].split("|")[0] for row in inventories[number] if row["Phoneme"] not in (*marginal, *tones)]
    phonemes, unknown = _split(kept)
    return _checked(phonemes, notes, unknown, f"{path}, '{language}'")


def _about(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    dialect = f", {first['SpecificDialect']}" if first["SpecificDialect"] not in ("", "NA") else ""
    source = f", from {first['Source']}" if first.get("Source") else ""
    return f"{first['InventoryID']} ({first['LanguageName']}{dialect}{source}, {len(rows)} phonemes)"


def _phoible_rows(path: Path) -> Iterable[dict[str, str]]:
    try:
        text = read_limited(path, MAX_PHOIBLE_BYTES, "PHOIBLE").decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), restval=""))
    except (OSError, DataError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"inventory: {path} cannot be read as PHOIBLE's CSV ({error}): get phoible.csv of a release"
        ) from error
    missing = [name for name in PHOIBLE_COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UsageError(f"inventory: {path} is not PHOIBLE's phoible.csv: no column {', '.join(missing)}")
    return rows


def _checked(phonemes: tuple[str, ...], notes: list[str], unknown: list[str], place: str) -> Phonemes:
    if not phonemes:
        raise UsageError(f"inventory: {place} has no phoneme that is known here")
    if unknown:
        notes.append(f"inventory: not known here, left out: {' '.join(unknown)[:MAX_NAMED]}")
    return Phonemes(phonemes, tuple(notes))


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
        lines = read_limited(path, MAX_WORDS_BYTES, "a list of words").decode("utf-8-sig").splitlines()
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
    found = tuple(phone for phone in (to_ipa(part, "ipa") for part in parts) if phone is not None)
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
    if is_silence(text):
        return [text]
    if len(text) > MAX_LABEL:
        raise DataError(f"'{text[:MAX_LABEL]}…' is too long to be taken apart: put blanks between its phones")
    known, unmatched = segment(text, inventory)
    return letters_of(text, inventory) if unmatched else list(known)
