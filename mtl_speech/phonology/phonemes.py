"""Phoneme labels: IPA normalisation, ARPAbet and TIMIT to IPA, articulatory features and order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.phonology.articulation import N_FEATURES, articulation_order, articulatory_features
from mtl_speech.phonology.ipa_grammar import EJECTIVE, GLOTTAL_STOP, parse
from mtl_speech.phonology.phone_sets import (
    AFFRICATES,
    ARPABET_TO_IPA,
    LOOK_ALIKES,
    MODIFIER_ORDER,
    SILENCE_LABELS,
    TABLES,
    TIE,
    TIMIT_TO_IPA,
    VOWEL_ORDER,
)

__all__ = [
    "ARPABET_TO_IPA",
    "MAX_LABEL",
    "N_FEATURES",
    "PHONE_SETS",
    "SILENCE_LABELS",
    "TIMIT_TO_IPA",
    "UnmappableLabel",
    "articulation_order",
    "articulatory_features",
    "guess_phone_set",
    "is_apostrophe",
    "is_modifier",
    "is_silence",
    "named",
    "normalise_ipa",
    "to_ipa",
]

PHONE_SETS = ("auto", "ipa", "arpabet", "timit", "mfa", "voxcommunis", "xsampa", "espeak")
MAX_LABEL = 64  # characters: no phoneme has so many, and to bring marks in order takes quadratic time

_BRACKETS = re.compile(r"^[<\[{(](.*)[>\]})]$")
_ARPABET = re.compile(r"([A-Za-z]+)[0-3]?(?:_[BIES])?")  # stress digit; Kaldi's position in the word
_XSAMPA = re.compile("|".join([*map(re.escape, sorted(TABLES["xsampa"], key=len, reverse=True)), "."]), re.DOTALL)
_COMBINING = "\u0300-\u036f\u1dc0-\u1dff"
_MARKS = f"[{_COMBINING}{MODIFIER_ORDER}]"


class UnmappableLabel(DataError):
    """A label that is no phoneme of its phone set."""


def named(characters: Iterable[str]) -> str:
    """Characters with their code points and names in Unicode, for a person who cannot tell them apart by sight."""
    names = {c: f"{c} (U+{ord(c):04X} {unicodedata.name(c, 'without a name')})" for c in characters}
    return ", ".join(names.values())


def is_silence(label: str) -> bool:
    """Whether a label means silence, a pause or noise: "", "sil", "SP", "<eps>", "spn", "h#", ..."""
    text = label.strip().lower()
    inner = _BRACKETS.match(text)
    return text in SILENCE_LABELS or (inner is not None and inner.group(1) in SILENCE_LABELS)


def is_apostrophe(label: str) -> bool:
    """Whether a label is an apostrophe alone, of whatever shape: by itself it is a glottal stop."""
    return len(label) <= MAX_LABEL and normalise_ipa(label) == EJECTIVE


def is_modifier(label: str) -> bool:
    """Whether a label has no letter of its own, such as the detached "ʰ" of "kː ʰ"."""
    if len(label) > MAX_LABEL:
        return False
    text = normalise_ipa(label)
    return bool(text) and re.fullmatch(f"{_MARKS}+", text) is not None


@lru_cache(maxsize=8192)
def normalise_ipa(label: str) -> str:
    """One spelling for one IPA label.

    Unicode NFD; look-alikes replaced (ASCII g, colon, straight apostrophe as ejective); affricates tied, so that "tʃ",
    "t͡ʃ", "t͜ʃ" and "ʧ" are one; tie bars between vowels dropped; modifiers in one order ("kʼʷ" is "kʷʼ"); a detached
    modifier joined ("kː ʰ" is "kʰː"); outer blanks and stress marks dropped. The label need not be valid IPA; one of more
    than MAX_LABEL characters stays as it is.
    """
    if len(label) > MAX_LABEL:
        return label
    text = unicodedata.normalize("NFD", label.strip())
    text = "".join(LOOK_ALIKES.get(character, character) for character in text)
    text = re.sub(rf"\s+(?={_MARKS})", "", text).strip()
    text = _clusters(text.replace("c\u0327", "ç")).replace("ç", "c\u0327")
    return text.replace("ə˞", "ɚ").replace("ɜ˞", "ɝ")


def _clusters(text: str) -> str:
    """The label with the marks of each letter in order, a tie bar in every affricate and none between vowels."""
    clusters = re.findall(f"[^{_COMBINING}{MODIFIER_ORDER}]{_MARKS}*|^{_MARKS}+", text)
    result = ""
    for index, cluster in enumerate(clusters):
        if re.match(_MARKS, cluster):  # marks that begin the label: a prenasal "ⁿ" or "ᵑ̊", or a detached modifier
            each_with_its_own = re.findall(f"^[{_COMBINING}]+|[{MODIFIER_ORDER}][{_COMBINING}]*", cluster)
            result += "".join(
                "".join(sorted(part, key=lambda c: (c not in MODIFIER_ORDER, _mark_order(c))))
                for part in sorted(each_with_its_own, key=lambda part: _mark_order(part[0]))
            )
            continue
        letter, marks = cluster[0], cluster[1:].replace(TIE, "")
        following = clusters[index + 1][0] if index + 1 < len(clusters) else ""
        result += letter + "".join(sorted(marks, key=_mark_order))
        affricate = letter + following in AFFRICATES and not any(mark in MODIFIER_ORDER for mark in marks)
        vowels = letter in VOWEL_ORDER and following in VOWEL_ORDER
        if affricate or (TIE in cluster and following and not vowels):
            result += TIE
    return result


def _mark_order(mark: str) -> tuple[int, int, str]:
    """Combining marks first, by class as Unicode has it and by code point; then modifier letters in their own order."""
    return (1, MODIFIER_ORDER.index(mark), mark) if mark in MODIFIER_ORDER else (0, unicodedata.combining(mark), mark)


@lru_cache(maxsize=8192)
def to_ipa(label: str, phone_set: str = "auto") -> str | None:
    """The IPA of a label, normalised; None for silence and noise.

    Args:
        label: as it stands in the label file.
        phone_set: "ipa", "arpabet" (any case, with or without stress digits, which are dropped), "timit" (the 61
            labels), "mfa", "voxcommunis", "espeak" (IPA with labels of their own), "xsampa", or "auto", which guesses "ipa",
            "arpabet" or "timit" from this one label; guess over a whole corpus with `guess_phone_set`.

    Raises:
        UnmappableLabel: the label is no phoneme of the phone set.
        UsageError: there is no such phone set.
    """
    if phone_set not in PHONE_SETS:
        raise UsageError(f"unknown phone set '{phone_set}': use one of {', '.join(PHONE_SETS)}")
    if len(label) > MAX_LABEL:
        raise UnmappableLabel(f"label '{label[:MAX_LABEL]}…' is longer than any phoneme")
    if is_silence(label):
        return None
    if phone_set == "auto":
        phone_set = guess_phone_set([label])
    if phone_set == "ipa":
        return GLOTTAL_STOP if is_apostrophe(label) else _checked_ipa(label)
    if phone_set == "xsampa":
        return _checked_ipa(_from_xsampa(label))
    if phone_set not in ("arpabet", "timit"):
        if is_apostrophe(label):
            return GLOTTAL_STOP
        return _checked_ipa(_own_labels(phone_set).get(normalise_ipa(label), label))
    name = "ARPAbet" if phone_set == "arpabet" else "TIMIT"
    found = _arpabet(label) if phone_set == "arpabet" else TIMIT_TO_IPA.get(label.strip().lower())
    if found is None:
        raise UnmappableLabel(f"label '{label}' is not in the {name} phone set")
    return normalise_ipa(found)


@lru_cache
def _own_labels(phone_set: str) -> dict[str, str]:
    """The table of a phone set that writes IPA in its own way, by label in one spelling."""
    return {normalise_ipa(label): ipa for label, ipa in TABLES[phone_set].items()}


def _from_xsampa(label: str) -> str:
    """The IPA of an X-SAMPA label. Raises UnmappableLabel that names the characters that are no symbol."""
    parts = _XSAMPA.findall(label.strip())
    unknown = [part for part in parts if part not in TABLES["xsampa"]]
    if unknown:
        raise UnmappableLabel(f"label '{label}' has characters that are not X-SAMPA: {named(unknown)}")
    return "".join(TABLES["xsampa"][part] for part in parts)


def _arpabet(label: str) -> str | None:
    match = _ARPABET.fullmatch(label.strip())
    return ARPABET_TO_IPA.get(match.group(1).upper()) if match else None


def guess_phone_set(labels: Iterable[str]) -> str:
    """The phone set that a collection of labels is written in: "arpabet", "timit" or "ipa" (also where there is none).

    IPA has no ASCII capitals, so capitals that are ARPAbet mean ARPAbet; TIMIT is told by several of its labels
    of two letters and more.
    """
    kinds = {label.strip() for label in labels if not is_silence(label)}
    if not kinds:
        return "ipa"
    if sum(label[:1].isupper() and _arpabet(label) is not None for label in kinds) >= 0.5 * len(kinds):
        return "arpabet"
    known = [label for label in kinds if label.lower() in TIMIT_TO_IPA]
    if len(known) >= 0.8 * len(kinds) and sum(len(label) > 1 for label in known) >= 3:
        return "timit"
    return "ipa"


def _checked_ipa(label: str) -> str:
    """The label in one spelling, if it is one segment by the grammar of IPA."""
    segment = parse(normalise_ipa(label))
    if segment.reason:
        raise UnmappableLabel(f"label '{label}' {segment.reason}")
    return segment.text
