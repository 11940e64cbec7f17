"""The inventory of a language: phonemes in IPA from a text, from a file, from Epitran's map of a language, or from PHOIBLE."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.files import read_limited
from mtl_speech.phonology.ipa_text import letters_of
from mtl_speech.phonology.phonemes import UnmappableLabel, to_ipa

MAX_NAME = 250  # characters: text of an inventory that is longer is no name of a file
MAX_BYTES = 1 << 20  # of a file of phonemes
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
    spec = find_spec("epitran")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("inventory: Epitran is not installed: install the extra 'epitran' of mtl_speech")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "map"
    path = folder / f"{code}.csv"
    codes = sorted(each.stem for each in folder.glob("*.csv"))
    if code not in codes:
        near = [each for each in codes if each[:3] == code[:3]]
        raise UsageError(f"inventory: Epitran has no map '{code}'; it has {', '.join(near or codes)[:MAX_NAMED]}")
    rows = csv.reader(io.StringIO(read_limited(path, MAX_BYTES, "a map of Epitran").decode("utf-8-sig")))
    values = (_NO_LETTERS.sub("", row[1]) for row in list(rows)[1:] if len(row) > 1)
    phonemes, unknown = _split(letter for value in values for letter in letters_of(value))
    notes = [f"inventory: {len(phonemes)} phonemes that Epitran's map {code} writes"]
    return _checked(phonemes, notes, list(dict.fromkeys(unknown)), str(path))


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
    for what, held in (("marginal phonemes", marginal), ("tones", tones)):
        if held:
            notes.append(f"inventory: {what} are left out: {' '.join(held)}")
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
