"""Phoneme labels: IPA in one spelling, other phone sets as IPA, and IPA written together cut into phonemes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.options import PHONE_SETS
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
    UNKNOWN_LABELS,
    VOWEL_ORDER,
)

CLOSED_SETS = ("arpabet", "timit", "disc")  # what is not in their tables is refused
MIN_GUESS = 5  # different labels from which X-SAMPA and its like are guessed
MAX_LABEL = 64  # characters: no phoneme has so many, and to bring marks in order takes quadratic time

_BRACKETS = re.compile(r"^[<\[{(](.*)[>\]})]$")
_ARPABET = re.compile(r"([A-Za-z]+)[0-3]?")  # stress digit
_POSITION = re.compile(r"(?<=.)_[BIES]$")  # Kaldi's and gentle's: begin, inside, end, single
_AFFRICATE_OF_XSAMPA = re.compile(r"[tT]`?_[sS]")  # a tie, not a position
_XSAMPA = re.compile("|".join([*map(re.escape, sorted(TABLES["xsampa"], key=len, reverse=True)), "."]), re.DOTALL)
# ARPAbet in small letters that is no phoneme of IPA, or a strange one.
_NO_IPA = frozenset("aa ae ah ao eh er hh ih iy uh uw ch dh jh ng sh th zh".split())
_XSAMPA_ALONE = re.compile(r"[A-Z@{}&\\`~]")  # characters that IPA has not, nor people who number their labels
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


@lru_cache(maxsize=1 << 14)
def is_silence(label: str) -> bool:
    """Whether a label means silence, a pause or noise: "", "sil", "SP", "<eps>", "spn", "h#", ..."""
    return not _bare(label).isdisjoint(SILENCE_LABELS)


@lru_cache(maxsize=1 << 14)
def is_unknown(label: str) -> bool:
    """Whether a silence label means that something sounds, but not what: "spn", "<unk>", "laughter", "[noise]", ..."""
    return not _bare(label).isdisjoint(UNKNOWN_LABELS)


def _bare(label: str) -> set[str]:
    """A label in lower case, with and without the brackets around it."""
    text = without_position(label.strip()).lower()
    inner = _BRACKETS.match(text)
    return {text, inner.group(1)} if inner is not None else {text}


def without_position(label: str) -> str:
    """A label without Kaldi's or gentle's mark of the place in its word: "AH0_B" is "AH0". "t_S" is X-SAMPA's affricate."""
    return label if _AFFRICATE_OF_XSAMPA.fullmatch(label) else _POSITION.sub("", label)


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
        label: as it stands in the label file. Kaldi's and gentle's position in the word ("AH0_B") is dropped, but for X-SAMPA.
        phone_set: "ipa", "arpabet" (any case, with or without stress digits, which are dropped), "timit" (the 61
            labels), "mfa", "voxcommunis", "espeak" (IPA with labels of their own), "xsampa", "disc", or "auto", which guesses
            "ipa", "arpabet" or "timit" from this one label; guess over a whole corpus with `guess_phone_set`.

    Raises:
        UnmappableLabel: the label is no phoneme of the phone set.
        UsageError: there is no such phone set.
    """
    if phone_set not in PHONE_SETS:
        raise UsageError(f"unknown phone set '{phone_set}': use one of {', '.join(PHONE_SETS)}")
    if len(label) > MAX_LABEL:
        raise UnmappableLabel(f"label '{label[:MAX_LABEL]}…' is longer than any phoneme")
    if phone_set == "disc" and label.strip() in TABLES["disc"]:  # "_" and "#" are sounds there
        return normalise_ipa(TABLES["disc"][label.strip()])
    if is_silence(label):
        return None
    if phone_set == "auto":
        phone_set = guess_phone_set([label])
    if phone_set == "xsampa":
        return _checked_ipa(_from_xsampa(label), label)
    if phone_set not in CLOSED_SETS:
        plain = without_position(label.strip())
        if is_apostrophe(plain):
            return GLOTTAL_STOP
        return _checked_ipa(_own_labels(phone_set).get(normalise_ipa(plain), plain), label)
    name = {"arpabet": "ARPAbet", "timit": "TIMIT", "disc": "DISC"}[phone_set]
    plain = without_position(label.strip())
    found = _arpabet(plain) if phone_set == "arpabet" else TIMIT_TO_IPA.get(plain.lower())
    found = None if phone_set == "disc" else found
    if found is None:
        raise UnmappableLabel(f"label '{label}' is not in the {name} phone set")
    return normalise_ipa(found)


def modifier_of(label: str, phone_set: str) -> str:
    """The marks that a label without a letter stands for ("ʰ", in X-SAMPA "_h"), normalised; nothing for any other label."""
    if len(label) > MAX_LABEL or phone_set in CLOSED_SETS:
        return ""
    text = label
    if phone_set == "xsampa":
        try:
            text = _from_xsampa(label)
        except UnmappableLabel:
            return ""
    return normalise_ipa(text) if is_modifier(text) else ""


@lru_cache(maxsize=8192)
def change_of(label: str, phone_set: str) -> str:
    """What reading a label in its phone set changed in it, for a message: stress, ties, look-alikes, the order of marks.

    Nothing where IPA stays as it is but for Unicode's form, where a table of the phone set gives the IPA, and for a label that
    cannot be read.
    """
    try:
        found = to_ipa(label, phone_set)
    except UnmappableLabel:
        return ""
    if found is None:
        return ""
    text = label.strip()
    plain = without_position(text)
    position = ["positions in the word (_B, _I, _E, _S)"] if plain != text else []
    if phone_set in CLOSED_SETS:
        stress = ["stress digits"] if phone_set == "arpabet" and plain[-1:].isdecimal() else []
        return f"{' and '.join(stress + position)} of labels are dropped" if stress or position else ""
    if phone_set != "xsampa" and position:
        return f"{position[0]} of labels are dropped"
    written = _from_xsampa(label) if phone_set == "xsampa" else _own_labels(phone_set).get(normalise_ipa(text), text)
    same = unicodedata.normalize("NFD", written) == found
    return "" if same else f"label '{text}' is read as '{unicodedata.normalize('NFC', found)}'"


@lru_cache
def _own_labels(phone_set: str) -> dict[str, str]:
    """The table of a phone set that writes IPA in its own way, by label in one spelling; of IPA itself there is none."""
    return {normalise_ipa(label): ipa for label, ipa in TABLES.get(phone_set, {}).items()}


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
    """The phone set that a collection of labels is written in, judged by all of them together; "ipa" where there is none.

    IPA has no ASCII capitals, so capitals that are ARPAbet mean ARPAbet, if its vowels of two letters are among them; TIMIT is
    told by several of its labels of two letters and more. X-SAMPA, espeak's and DISC are guessed from five labels on, where
    they read more than IPA does.
    """
    raw = {label.strip() for label in labels}
    kinds = {without_position(label) for label in raw if not is_silence(label)}
    if not kinds:
        return "ipa"
    if _is_disc(raw):
        return "disc"
    if _is_arpabet(kinds):
        return "arpabet"
    known = [label for label in kinds if label.lower() in TIMIT_TO_IPA]
    if len(known) >= 0.8 * len(kinds) and sum(len(label) > 1 for label in known) >= 3:
        return "timit"
    lower = [label for label in kinds if _arpabet(label) is not None]
    telling = {label.rstrip("0123").lower() for label in lower} & _NO_IPA
    stressed = any(label[-1:].isdecimal() for label in lower)
    if len(lower) >= 0.8 * len(kinds) and (len(telling) >= 3 or (telling and stressed)):
        return "arpabet"
    return _ipa_or_xsampa(raw, kinds) if len(kinds) >= MIN_GUESS else "ipa"


def _is_arpabet(kinds: set[str]) -> bool:
    """Whether capitals are ARPAbet: a half of the labels are, and they are not the capitals of another notation."""
    capitals = [label for label in kinds if label[:1].isupper() and _arpabet(label) is not None]
    if len(capitals) < 0.5 * len(kinds):
        return False
    return not set("AEIOU") & kinds or has_arpabet_vowels(kinds)


def has_arpabet_vowels(labels: Iterable[str]) -> bool:
    """Whether there are vowels of ARPAbet among labels: they have two letters ("AA1"), unlike those of other capitals ("A")."""
    names = (label.rstrip("0123").upper() for label in labels)
    return any(len(name) > 1 and name[0] in "AEIOU" and name in ARPABET_TO_IPA for name in names)


def may_be_xsampa(labels: Iterable[str]) -> bool:
    """Whether labels have what X-SAMPA or DISC has and IPA has not, and are not the capitals of another notation alone."""
    given = list(labels)
    return any(label[:1].islower() for label in given) and any(_XSAMPA_ALONE.search(label) for label in given)


def _is_disc(raw: set[str]) -> bool:
    """Whether labels are CELEX's DISC: one character each, some of which no other phone set has."""
    short = {label for label in raw if len(label) == 1}
    if len(short) < MIN_GUESS or len(short) < 0.9 * len(raw - {""}) or len(short & set("123456789{}IEUVQ@NSTDZ")) < 5:
        return False
    return "$" in short or {"#", "_"} <= short or ("_" in short and len(short & set("1245678")) >= 2)


def _ipa_or_xsampa(raw: set[str], kinds: set[str]) -> str:
    """Which of IPA, espeak's IPA and X-SAMPA reads the labels best; IPA unless another one is clearly better."""
    as_ipa = {label for label in kinds if modifier_of(label, "ipa") or _is_read(label, "ipa")}
    spoken = {label for label in raw if not is_silence(label)}
    as_xsampa = {label for label in spoken if modifier_of(label, "xsampa") or _is_read(label, "xsampa")}
    ipa, xsampa = len(as_ipa) / len(kinds), len(as_xsampa) / len(spoken)
    others = kinds - as_ipa
    if xsampa >= 0.8 and any(label[:1].islower() for label in kinds):  # a notation of capitals alone is none of the two
        apostrophes = any("'" in label for label in kinds)  # an ejective in IPA, palatal in X-SAMPA
        gained = sum(_XSAMPA_ALONE.search(label) is not None for label in as_xsampa - as_ipa)
        if gained > 0 and ((xsampa == 1 and gained > 1 and not apostrophes) or (gained > 2 and ipa < 0.85)):
            return "xsampa"
    if any(normalise_ipa(label) in _own_labels("espeak") for label in others):
        return "espeak"
    return "ipa"


def _is_read(label: str, phone_set: str) -> bool:
    try:
        return to_ipa(label, phone_set) is not None
    except UnmappableLabel:
        return False


def _checked_ipa(text: str, label: str) -> str:
    """The text in one spelling, if it is one segment by the grammar of IPA; `label` is how it was written, for the message."""
    parsed = parse(normalise_ipa(text))
    if parsed.reason:
        raise UnmappableLabel(f"label '{label}' {parsed.reason}")
    return parsed.text


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
        if character == EJECTIVE and (not last or "ejective" in parse(last + EJECTIVE).reason):
            parts.append(GLOTTAL_STOP)  # an apostrophe after a vowel or at the begin
            continue
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
