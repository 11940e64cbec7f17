"""Phoneme labels: IPA in one spelling, other phone sets as IPA, and IPA written together cut into phonemes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.options import PHONE_SETS
from mtl_speech.phonology.articulation import analyse
from mtl_speech.phonology.phone_sets import (
    AFFRICATES,
    ARPABET_TO_IPA,
    LOOK_ALIKES,
    MODIFIER_ORDER,
    SILENCE_LABELS,
    UNKNOWN_LABELS,
    TABLES,
    TIE,
    TIMIT_TO_IPA,
    VOWEL_ORDER,
)

MAX_LABEL = 64  # characters: no phoneme has so many, and to bring marks in order takes quadratic time

_BRACKETS = re.compile(r"^[<\[{(](.*)[>\]})]$")
_ARPABET = re.compile(r"([A-Za-z]+)[0-3]?(?:_[BIES])?")  # stress digit; Kaldi's position in the word
_XSAMPA = re.compile("|".join([*map(re.escape, sorted(TABLES["xsampa"], key=len, reverse=True)), "."]), re.DOTALL)
_COMBINING = "\u0300-\u036f\u1dc0-\u1dff"
_MARKS = f"[{_COMBINING}{MODIFIER_ORDER}]"
_PARTS = LOOK_ALIKES | {"ɚ": "ə˞", "ɝ": "ɜ˞"}
_SEPARATORS = re.compile(r"[\s.|‖‿]")  # blanks, syllables, phrases, links


class UnmappableLabel(DataError):
    """A label that is no phoneme of its phone set."""


def named(characters: Iterable[str]) -> str:
    """Characters with their code points and names in Unicode, for a person who cannot tell them apart by sight."""
    names = {c: f"{c} (U+{ord(c):04X} {unicodedata.name(c, 'without a name')})" for c in characters}
    return ", ".join(names.values())


def is_silence(label: str) -> bool:
    """Whether a label means silence, a pause or noise: "", "sil", "SP", "<eps>", "spn", "h#", ..."""
    return not _bare(label).isdisjoint(SILENCE_LABELS)


def is_unknown(label: str) -> bool:
    """Whether a silence label means that something sounds, but not what: "spn", "<unk>", "laughter", "[noise]", ..."""
    return not _bare(label).isdisjoint(UNKNOWN_LABELS)


def _bare(label: str) -> set[str]:
    """A label in lower case, with and without the brackets around it."""
    text = label.strip().lower()
    inner = _BRACKETS.match(text)
    return {text, inner.group(1)} if inner is not None else {text}


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
        if re.match(_MARKS, cluster):  # marks that begin the label: a prenasal "ⁿ", or a detached modifier
            result += "".join(sorted(cluster, key=_mark_order))
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
    if phone_set in ("arpabet", "timit"):
        found = _arpabet(label) if phone_set == "arpabet" else TIMIT_TO_IPA.get(label.strip().lower())
        if found is None:
            name = "ARPAbet" if phone_set == "arpabet" else "TIMIT"
            raise UnmappableLabel(f"label '{label}' is not in the {name} phone set")
        return normalise_ipa(found)
    if phone_set == "xsampa":
        label = _from_xsampa(label)
    elif phone_set != "ipa":
        label = _own_labels(phone_set).get(normalise_ipa(label), label)
    return _checked_ipa(label)


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
    """The normalised label, if every character of it is known and it is one phoneme.

    One phoneme is a consonant (also an affricate, or a nasal and its stop) or a run of up to three vowels, with a glide
    before or a sonorant after it.
    """
    text = normalise_ipa(label)
    kinds, unknown = analyse(text)
    if unknown:
        raise UnmappableLabel(f"label '{label}' has characters that are not IPA here: {named(unknown)}")
    if not re.fullmatch(r"[OSNG]|NO|G?V{1,3}[SNG]?", kinds):
        raise UnmappableLabel(f"label '{label}' is more than one phoneme")
    return text


@dataclass(frozen=True)
class Unmatched:
    """A character of a text that is in no phoneme of the inventory there; `place` counts the characters of the text from 1."""

    character: str
    place: int

    def __str__(self) -> str:
        return f"character {self.place}: {named(self.character)}"


def segment(text: str, inventory: Collection[str]) -> tuple[tuple[str, ...], tuple[Unmatched, ...]]:
    """The phonemes of a text, and the characters that fit none: as few of these as can be, then as few phonemes as can be.

    So the longest phonemes are found, and a long one is not taken where the characters after it then fit nothing. Look-alikes are
    read as what they mean. A tie bar may be left out ("tʃ" is "t͡ʃ" of the inventory), but one that is written is never
    cut. A mark that no phoneme has is told, and its letter is taken without it.

    Args:
        text: IPA, with or without blanks, dots and stress marks, which are dropped.
        inventory: phonemes as `normalise_ipa` gives them.
    """
    wanted = {_loose(phoneme)[0]: phoneme for phoneme in sorted(inventory)}
    letters, places, tied = _loose(text)
    longest = max(map(len, wanted), default=0)
    # best[i]: cost (unmatched, phonemes) of the text from i on, and where its first part ends.
    best: list[tuple[int, int, int]] = [(0, 0, 0)] * (len(letters) + 1)
    for start in range(len(letters) - 1, -1, -1):
        blank = _SEPARATORS.fullmatch(letters[start])
        rest = best[start + 1]
        best[start] = (rest[0] + (not blank), rest[1], start + 1)
        for end in range(start + 1, min(start + longest, len(letters)) + 1):
            if letters[start:end] in wanted and not {start, end} & tied:
                unmatched, phonemes, _ = best[end]
                best[start] = min(best[start], (unmatched, phonemes + 1, end))
    found, others, start = [], [], 0
    while start < len(letters):
        end = best[start][2]
        part = letters[start:end]
        if part in wanted and best[start][0] == best[end][0]:
            found.append(wanted[part])
        elif not _SEPARATORS.fullmatch(part):
            others.append(Unmatched(part, places[start]))
        start = end
    return tuple(found), tuple(others)


def letters_of(text: str, inventory: Collection[str] = ()) -> list[str]:
    """The letters of IPA with their marks; letters under a tie are one, and so are two that are one phoneme of `inventory`."""
    parts: list[str] = []
    for character in normalise_ipa(text.replace(".", "")):
        last = parts[-1] if parts else ""
        if last and (is_modifier(character) or last.endswith(TIE) or last + character in inventory):
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def _loose(text: str) -> tuple[str, list[int], set[int]]:
    """A text without ties and what is dropped, its marks in one order; the place of each character in `text`; where ties were.

    A tie stands by the number of the character before which it stood.
    """
    letters: list[tuple[str, int]] = []
    tied: set[int] = set()
    for place, character in enumerate(text, start=1):
        for part in unicodedata.normalize("NFD", character):
            for each in _PARTS.get(part, part):
                if each == TIE:
                    tied.add(len(letters))
                else:
                    letters.append((each, place))
    return _ordered(letters), [place for _, place in letters], tied


def _ordered(letters: list[tuple[str, int]]) -> str:
    """The characters with the marks of each letter in the order of `normalise_ipa`; `letters` are sorted in place."""
    start = 0
    while start < len(letters):
        end = start + 1
        while end < len(letters) and is_modifier(letters[end][0]):
            end += 1
        order = normalise_ipa("".join(character for character, _ in letters[start:end]))
        letters[start:end] = sorted(letters[start:end], key=lambda item: order.find(item[0]))
        start = end
    return "".join(character for character, _ in letters)
