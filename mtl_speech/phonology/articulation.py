"""Articulatory features of IPA phonemes (panphon), and an order for tables and confusion matrices."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mtl_speech.core.errors import DataError, MtlSpeechError
from mtl_speech.core.files import package_folder
from mtl_speech.phonology.phone_sets import (
    CONSONANT_ORDER,
    DIACRITIC_FEATURES,
    HEIGHTS,
    LETTER_MANNERS,
    LETTER_STAND_INS,
    PLACES,
    PRENASAL,
    PRESTOP,
    TIE,
    VOWEL_ORDER,
)

if TYPE_CHECKING:
    import numpy as np

N_FEATURES = 24  # columns of panphon's table
RIDGE = 1.0  # how little an example is trusted beside the regression that predicts it
_TONE_LETTERS = "˥˦˧˨˩"
_BEFORE = "ʰʱˀʷ\u0325\u0330\u0324"  # marks that may stand before a letter


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

    rows = [_mean_row(phoneme) for phoneme in phonemes]
    return np.array(rows, dtype=np.float32).reshape(len(rows), N_FEATURES)


@lru_cache(maxsize=8192)
def _mean_row(phoneme: str) -> tuple[float, ...]:
    units, unknown = _units(phoneme)
    if unknown or not units:
        raise DataError(f"'{phoneme}' is not an IPA phoneme with known articulatory features")
    rows = [row for unit in units for row in unit]
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def articulatory_regression(known: Sequence[str], counts: Sequence[float], new: Sequence[str]) -> np.ndarray:
    """Weights that predict something linear of new phonemes, such as a row of θ, from what is known of others.

    A ridge regression on the articulatory features with a free constant, in its dual form: the prediction for new[i] is
    Σ_j weights[i, j] · known_j. It goes on beyond the known phonemes: where p, b and t are known, d is about b + t − p.

    Args:
        known: phonemes, IPA as `articulatory_features` takes it; one may stand there several times.
        counts: how many examples each of them is the mean of; above 0.
        new: the phonemes to predict; those of them that are in `known` take part in their own prediction.

    Returns:
        float64 array (n_new, n_known) whose rows sum to 1.

    Raises:
        DataError: a label has a character that panphon does not know.
    """
    import numpy as np

    features, wanted = (articulatory_features(names).astype(np.float64) / 2 for names in (known, new))
    ridge = RIDGE * np.diag(1 / np.asarray(counts, dtype=np.float64))
    inverse = np.linalg.inv(features @ features.T + ridge)
    weights = wanted @ features.T @ inverse
    constant = inverse.sum(1) / inverse.sum()
    result: np.ndarray = weights + (1 - weights.sum(1, keepdims=True)) * constant
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


def articulation_class(phoneme: str) -> tuple[str, str]:
    """Where and how a phoneme is made, in words: ("labial", "plosive"), ("close", "vowel"), ("other", "other").

    Places stand side by side in `articulation_order`; most manners do within their place.
    """
    kind, place, *_ = _order_key(phoneme)
    if kind == 2:
        return "other", "other"
    order, starts = (VOWEL_ORDER, HEIGHTS) if kind else (CONSONANT_ORDER, PLACES)
    where = [name for first, name in starts.items() if order.index(first) <= place][-1]
    return (where, "vowel") if kind else (where, _manner(phoneme))


def _manner(phoneme: str) -> str:
    """How a consonant is made, from panphon's features; from its letter where panphon does not tell."""
    letters = _without_onset(phoneme)
    click = next((letter for letter in letters if LETTER_MANNERS.get(letter) == "click"), letters[:1])
    if click in LETTER_MANNERS:
        return LETTER_MANNERS[click]
    units, _ = _units(letters)
    first, last = (dict(zip(_table().names, row, strict=True)) for row in (units[0][0], units[0][-1]))
    if first["nas"] == 1 and first["son"] == 1:
        return "nasal"
    if first["son"] == 1:
        return "lateral" if first["lat"] == 1 else "approximant"
    if first["cont"] == 1:
        return "fricative"
    return "affricate" if last["cont"] == 1 or first["delrel"] == 1 else "plosive"


def _without_onset(phoneme: str) -> str:
    """The phoneme from its first letter on."""
    start = 0
    while start < len(phoneme) and (phoneme[start] in PRENASAL or phoneme[start] in DIACRITIC_FEATURES):
        start += 1
    return phoneme[start:]


def _order_key(phoneme: str) -> tuple[int, int, int, str]:
    spelled = phoneme.replace("c\u0327", "ç")
    letters = "".join(c for c in spelled if c == TIE or not (unicodedata.combining(c) or c in DIACRITIC_FEATURES))
    letters = letters.lstrip("".join((*PRENASAL, *PRESTOP)))
    click = [letter for letter in letters if LETTER_MANNERS.get(letter) == "click"]
    if click:
        return 0, CONSONANT_ORDER.index(click[0]), len(phoneme), phoneme
    if letters[:1] in VOWEL_ORDER:
        return 1, VOWEL_ORDER.index(letters[0]), len(letters), phoneme
    for consonant in (letters, letters[:1]):
        if consonant in CONSONANT_ORDER:
            return 0, CONSONANT_ORDER.index(consonant), len(phoneme), phoneme
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
    before: dict[str, int] = {}  # what marks before the first letter change in it: the "ʰ" of "ʰp"
    while position < len(phoneme):
        character = phoneme[position]
        if character == TIE and units:
            tied = True
        elif character in DIACRITIC_FEATURES and units:
            units[-1][-1] = _changed(units[-1][-1], DIACRITIC_FEATURES[character])
        else:
            segment, row = _longest_row(phoneme[position : position + table.longest])
            if row is None and not units and character in _BEFORE:
                before |= DIACRITIC_FEATURES[character]
            elif row is None:
                unknown.append(character)
            elif tied:
                units[-1].append(row)
            else:
                units.append(
                    [row if len(units) or segment in PRENASAL or segment in PRESTOP else _changed(row, before)]
                )
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
    folder = package_folder("panphon")
    if folder is None:
        raise MtlSpeechError("the package panphon is missing: install mtl-speech with its dependencies")
    sign = {"+": 1, "-": -1, "0": 0}
    with open(folder / "data" / "ipa_all.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    rows = {unicodedata.normalize("NFD", line[0]): tuple(sign[value] for value in line[1:]) for line in lines}
    rows = {segment: row for segment, row in rows.items() if segment[0] not in _TONE_LETTERS}
    rows |= {letter: rows[stand_in] for letter, stand_in in (LETTER_STAND_INS | PRENASAL | PRESTOP).items()}
    return _Table(tuple(header[1:]), rows, max(map(len, rows)))
