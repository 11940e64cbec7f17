"""Articulatory features of IPA phonemes (panphon), and an order for tables and confusion matrices."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_speech.errors import DataError, MtlSpeechError
from mtl_speech.phone_sets import (
    CONSONANT_ORDER,
    DIACRITIC_FEATURES,
    LETTER_STAND_INS,
    PRENASAL,
    TIE,
    VOWEL_ORDER,
)

if TYPE_CHECKING:
    import numpy as np

N_FEATURES = 24  # columns of panphon's table
_TONE_LETTERS = "˥˦˧˨˩"


@dataclass(frozen=True)
class _Table:
    """panphon's table: the names of its features, and the feature values (-1, 0, +1) of each segment (NFD)."""

    names: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]
    longest: int


def articulatory_features(phonemes: Sequence[str]) -> np.ndarray:
    """panphon's articulatory features of phonemes.

    Args:
        phonemes: IPA labels as `phonemes.normalise_ipa` gives them.

    Returns:
        float32 array (n, 24): -1, 0 or +1; for a composite such as a diphthong or a prenasalised stop the mean over its
        panphon segments.

    Raises:
        DataError: a label has a character that panphon does not know.
    """
    import numpy as np

    result = np.zeros((len(phonemes), N_FEATURES), dtype=np.float32)
    for index, phoneme in enumerate(phonemes):
        units, unknown = _units(phoneme)
        if unknown or not units:
            raise DataError(f"'{phoneme}' is not an IPA phoneme with known articulatory features")
        result[index] = np.mean([row for unit in units for row in unit], axis=0)
    return result


def analyse(phoneme: str) -> tuple[str, list[str]]:
    """The kind of each sound of a normalised IPA label, and its unknown characters.

    Kinds: V vowel or syllabic, G glide, N nasal, S other sonorant, O obstruent. Letters under one tie are one sound.
    """
    units, unknown = _units(phoneme)
    return "".join(_kind(unit[0]) for unit in units), unknown


def articulation_order(phonemes: Iterable[str]) -> list[str]:
    """The phonemes sorted: consonants by place (lips inwards) and manner, then vowels by height and backness."""
    return sorted(phonemes, key=_order_key)


def _order_key(phoneme: str) -> tuple[int, int, int, str]:
    spelled = phoneme.replace("c\u0327", "ç")
    letters = "".join(c for c in spelled if c == TIE or not (unicodedata.combining(c) or c in DIACRITIC_FEATURES))
    letters = letters.lstrip("".join(PRENASAL))
    if letters[:1] in VOWEL_ORDER:
        return 1, VOWEL_ORDER.index(letters[0]), len(letters), phoneme
    if letters in CONSONANT_ORDER:
        return 0, CONSONANT_ORDER.index(letters), len(phoneme), phoneme
    if letters[:1] in CONSONANT_ORDER:
        return 0, CONSONANT_ORDER.index(letters[0]), len(phoneme), phoneme
    return 2, 0, len(phoneme), phoneme


def _kind(row: Sequence[int]) -> str:
    value = dict(zip(_table().names, row, strict=True))
    if value["syl"] == 1:
        return "V"
    if value["son"] != 1:
        return "O"
    if value["nas"] == 1 and value["cons"] == 1:
        return "N"
    return "S" if value["cons"] == 1 else "G"


def _units(phoneme: str) -> tuple[list[list[tuple[int, ...]]], list[str]]:
    """The sounds of a label, each the feature rows of its letters (several under a tie), and its unknown characters."""
    table = _table()
    phoneme = unicodedata.normalize("NFD", phoneme)
    units: list[list[tuple[int, ...]]] = []
    unknown: list[str] = []
    position, tied = 0, False
    while position < len(phoneme):
        character = phoneme[position]
        if character == TIE and units:
            tied = True
        elif character in DIACRITIC_FEATURES and units:
            units[-1][-1] = _changed(units[-1][-1], DIACRITIC_FEATURES[character])
        else:
            segment, row = _longest_row(phoneme[position : position + table.longest])
            if row is None:
                unknown.append(character)
            elif tied:
                units[-1].append(row)
            else:
                units.append([row])
            tied = False
            position += len(segment) - 1
        position += 1
    return units, unknown


def _longest_row(text: str) -> tuple[str, tuple[int, ...] | None]:
    """The longest beginning of the text that has a feature row, and the row; else the first character and None."""
    rows = _table().rows
    for length in range(len(text), 0, -1):
        if text[:length] in rows:
            return text[:length], rows[text[:length]]
    return text[:1], None


def _changed(row: tuple[int, ...], features: dict[str, int]) -> tuple[int, ...]:
    return tuple(features.get(name, value) for name, value in zip(_table().names, row, strict=True))


@lru_cache(maxsize=1)
def _table() -> _Table:
    """panphon's table, read from its CSV file: its own FeatureTable takes two seconds and pandas to build."""
    from importlib.util import find_spec

    spec = find_spec("panphon")
    if spec is None or not spec.submodule_search_locations:
        raise MtlSpeechError("the package panphon is missing: install mtl-speech with its dependencies")
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "ipa_all.csv"
    sign = {"+": 1, "-": -1, "0": 0}
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    rows = {unicodedata.normalize("NFD", line[0]): tuple(sign[value] for value in line[1:]) for line in lines}
    rows = {segment: row for segment, row in rows.items() if segment[0] not in _TONE_LETTERS}
    rows |= {letter: rows[stand_in] for letter, stand_in in (LETTER_STAND_INS | PRENASAL).items()}
    return _Table(tuple(header[1:]), rows, max(map(len, rows)))
