"""IPA written together, cut into the phonemes of an inventory; what fits none of them is told character by character."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from mtl_speech.phonology.ipa_grammar import EJECTIVE, GLOTTAL_STOP, parse
from mtl_speech.phonology.phone_sets import LOOK_ALIKES, TIE
from mtl_speech.phonology.phonemes import is_modifier, named, normalise_ipa

_PARTS = LOOK_ALIKES | {"ɚ": "ə˞", "ɝ": "ɜ˞"}
_SEPARATORS = re.compile(r"[\s.|‖‿]")  # blanks, syllables, phrases, links


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
