"""The grammar of one segment of IPA: its letters, ties and marks, what may join what, and why a label is no segment."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache

from mtl_speech.phonology.articulation import analyse
from mtl_speech.phonology.phone_sets import CONSONANT_ORDER, MODIFIER_ORDER, PLACES, PRENASAL, PRESTOP, TIE, VOWEL_ORDER

EJECTIVE = "ʼ"
GLOTTAL_STOP = "ʔ"
CLICKS = "ʘǀǃǂǁ‼"
_TONES = "\u0300\u0301\u0302\u030b\u030c\u030f\u1dc4\u1dc5\u1dc6\u1dc7\u1dc8"
_STOPS = "pbtdʈɖcɟkɡqɢ"
_RELEASES = "sfθxʃɕʂçχɬɸvzðɣʒʑʐʝʁɮβrɾɽʀʙlɭʎʟmnɳɲŋɴɱɹɻɺ"
_RELEASED = "ʰʱʼ"  # a letter with one of these is over: no release can follow
_GLOTTAL = "hɦʔ"  # of a sonorant's features, but never the part of a diphthong: "ah" and "ʔa" are two
_CLICK_FRONT, _CLICK_BACK = "mnɲŋɴkɡqɢ", "xχkqʔhɦɣʁ"
# A place in the mouth takes in its neighbours: c͡ɕ, d͡r and t͡ʃ are made without moving on.
_NEIGHBOURS = (
    {"labial"}, {"dental/alveolar", "postalveolar", "retroflex"}, {"postalveolar", "palatal"}, {"velar", "uvular"},
)  # fmt: skip
_TWO_PLACES = {"ɡɓ", "ɠɓ", "tʙ", "dʙ"}  # made at two places at once, beside those of phone_sets.AFFRICATES
_SINGLE = re.compile(r"[OSNG]|NO|G?V{1,3}[SNG]?")

# The kinds of sound (`articulation.analyse`) that a mark with an interval of its own may join; one not named joins any.
_JOINS = (
    dict.fromkeys("ʰʱʷᶣᵊ", "ONSG")
    | dict.fromkeys("ⁿᵐᵑᶮᶯˡˢᶻᶿˣᶠᵛᶲᵝᶴᶾᶳᶼᶝᶽᵡʶʳʴᵇᵈᵍᶢᵗᵖᵏ\u031a", "O")
    | dict.fromkeys("˞ᴱ\u032f", "V")
    | dict.fromkeys(_TONES, "VN")
    | {"\u0303": "VGS", "\u0329": "ONSG"}
)
# Letters of ASCII and of other notations that people write for a sound of IPA.
_ADVICE = {
    "?": "ʔ (U+0294) is the glottal stop", "ʾ": "ʔ (U+0294) is the glottal stop", "ʿ": "ʕ (U+0295) is the pharyngeal",
    "š": "š is ʃ in IPA", "ž": "ž is ʒ in IPA", "č": "č is t͡ʃ in IPA", "ǰ": "ǰ is d͡ʒ in IPA", "ñ": "ñ is ɲ in IPA",
    "ř": "ř is r̝ in IPA", "ś": "ś is ɕ or sʲ in IPA", "ź": "ź is ʑ or zʲ in IPA", "ć": "ć is t͡ɕ or c in IPA",
    "ƛ": "ƛ is t͡ɬ in IPA", "λ": "λ is d͡ɮ or ʎ in IPA", "ᴅ": "ᴅ is ɾ or d̺ in IPA", "ł": "ł is ɬ or ɫ in IPA",
}  # fmt: skip


@dataclass(frozen=True)
class Letter:
    """A letter of IPA with what is written on it: combining diacritics, modifier letters, and a tie to the letter after it."""

    base: str
    diacritics: str = ""
    modifiers: str = ""
    tied: bool = False

    @property
    def text(self) -> str:
        return self.base + self.diacritics + self.modifiers + TIE * self.tied


@dataclass(frozen=True)
class IpaSegment:
    """One segment: the modifiers before it (prenasal, preaspiration, ...), and its letters. `reason` says why it is none."""

    onset: str
    letters: tuple[Letter, ...]
    reason: str = ""

    @property
    def text(self) -> str:
        return self.onset + "".join(letter.text for letter in self.letters)

    @property
    def bases(self) -> str:
        """The letters without ties and marks."""
        return "".join(letter.base for letter in self.letters)

    @property
    def length(self) -> str:
        """The length marks at its end: "ː", "ˑ", or none."""
        return "".join(mark for mark in self.letters[-1].modifiers if mark in "ːˑ") if self.letters else ""

    @property
    def is_ejective(self) -> bool:
        return any(EJECTIVE in letter.modifiers for letter in self.letters)

    @property
    def sounds(self) -> tuple[tuple[Letter, ...], ...]:
        """The letters, those under one tie together."""
        groups: list[list[Letter]] = [[]]
        for letter in self.letters:
            groups[-1].append(letter)
            if not letter.tied:
                groups.append([])
        return tuple(tuple(group) for group in groups if group)


@lru_cache(maxsize=8192)
def parse(text: str) -> IpaSegment:
    """The segment that a label is, in one spelling; with a `reason` if it is none.

    A segment is a consonant, also with two places or as a contour of a stop and its homorganic releases (d͡r, nd͡r), a
    nasal and its stop, a click with what accompanies it (ŋ͡ǃ, k͡ǃ͡x), or a run of up to three vowels with a glide before or
    a sonorant after them. Before it may stand marks: prenasal ⁿ, prestopped ᵈ, preaspirated ʰ, preglottalised ˀ.

    Args:
        text: a label as `phonemes.normalise_ipa` gives it.
    """
    segment = _split(text)
    unknown = analyse("".join(letter.text for letter in segment.letters))[1]
    if unknown or not segment.letters:
        return replace(segment, reason=_unknown(text, unknown if segment.letters else []))
    segment = _breathy(_click_front(segment))
    kinds = _kinds(segment)
    reason = _wrong_mark(segment, kinds) or _wrong_onset(segment, kinds)
    if reason:
        return replace(segment, reason=reason)
    if any(letter.base in CLICKS for letter in segment.letters):
        return _click(segment)
    glottal = len(segment.sounds) > 1 and any(sound[0].base in _GLOTTAL for sound in segment.sounds)
    if _SINGLE.fullmatch(kinds) and not glottal:
        return segment
    start = 1 if kinds[:1] == "N" and len(segment.sounds[0]) == 1 else 0
    if _is_contour(segment.letters[start:]):
        return replace(segment, letters=segment.letters[:start] + _tied(segment.letters[start:]))
    return replace(segment, reason=_several(segment))


def joined(phoneme: str, mark: str) -> bool:
    """Whether a mark with an interval of its own may join the phoneme before it; both as `normalise_ipa` gives them.

    An ejective mark joins a voiceless obstruent made in the mouth alone: elsewhere an apostrophe is a glottal stop.
    """
    segment = parse(phoneme)
    if segment.reason or not segment.letters:
        return False
    kind = _kinds(segment)[-1:]
    last = segment.letters[-1]
    if any(kind not in _JOINS.get(each, "VONSG") for each in mark):
        return False
    if EJECTIVE in mark:
        return kind == "O" and not segment.is_ejective and "ˀ" not in last.modifiers and _is_voiceless(segment)
    return True


def _split(text: str) -> IpaSegment:
    """The onset and the letters of a text."""
    start = 0
    while start < len(text) and _is_mark(text[start]):
        start += 1
    letters: list[Letter] = []
    for character in text[start:]:
        if character == TIE:
            letters[-1] = replace(letters[-1], tied=True)
        elif not _is_mark(character):
            letters.append(Letter(character))
        elif character in MODIFIER_ORDER or letters[-1].modifiers:
            letters[-1] = replace(letters[-1], modifiers=letters[-1].modifiers + character)
        else:
            letters[-1] = replace(letters[-1], diacritics=letters[-1].diacritics + character)
    if letters and letters[-1].tied:
        letters[-1] = replace(letters[-1], tied=False)
    return IpaSegment(text[:start], tuple(letters))


def _is_mark(character: str) -> bool:
    return character in MODIFIER_ORDER or character in "˥˦˧˨˩" or unicodedata.combining(character) != 0


def _kinds(segment: IpaSegment) -> str:
    """The kind of each sound: V vowel, G glide, N nasal, S other sonorant, O obstruent."""
    return "".join(analyse("".join(letter.text for letter in sound))[0][:1] for sound in segment.sounds)


def _is_voiceless(segment: IpaSegment) -> bool:
    voiceless = "ptʈckqɸfθsʃʂçxχɬɕᵗᵖᵏꞎ"
    return segment.letters[-1].base in voiceless and "\u032c" not in segment.letters[-1].diacritics


def _unknown(text: str, unknown: list[str]) -> str:
    """Why a label with characters that are no IPA, or with marks alone, is no segment."""
    characters = dict.fromkeys(unknown or text)
    names = ", ".join(f"{c} (U+{ord(c):04X} {unicodedata.name(c, 'without a name')})" for c in characters)
    advice = [_ADVICE[c] for c in characters if c in _ADVICE]
    return f"has characters that are not IPA here: {names}" + (f"; {advice[0]}" if advice else "")


def _wrong_mark(segment: IpaSegment, kinds: str) -> str:
    """Why a mark cannot stand on its letter; else nothing."""
    kind_of = {letter: kind for sound, kind in zip(segment.sounds, kinds, strict=True) for letter in sound}
    for letter, kind in kind_of.items():
        composed = unicodedata.normalize("NFC", letter.base + letter.diacritics)
        advice = f"; {_ADVICE[composed]}" if composed in _ADVICE else ""
        if EJECTIVE in letter.modifiers and kind == "V":
            return (
                f"has an ejective mark {EJECTIVE} on the vowel {letter.base}: if it is a glottal stop, give it an interval of "
                f"its own, labelled {GLOTTAL_STOP} (U+0294)"
            )
        tones = [mark for mark in letter.diacritics if mark in _TONES]
        if tones and kind in "OS":
            return f"has a tone ({unicodedata.name(tones[0])}) on the consonant {letter.base}{advice}"
        if advice:
            return f"has {composed}, a letter of another notation{advice}"
    return ""


def _wrong_onset(segment: IpaSegment, kinds: str) -> str:
    """Why a mark cannot stand before the first letter; else nothing."""
    first, letter = kinds[:1], segment.letters[0].base
    for place, mark in enumerate(segment.onset):
        if mark in PRENASAL and first != "O":
            return f"has a prenasal {mark} before {letter}, which is no obstruent"
        if mark in PRESTOP and first not in "NSO":
            return f"has a prestopped {mark} before {letter}, which is no consonant of that kind"
        if mark == EJECTIVE:
            return (
                f"begins with an ejective mark: write ˀ{letter} if it is preglottalised, or give {GLOTTAL_STOP} an interval "
                "of its own"
            )
        on_mark = place > 0 and mark in "\u0325\u0330\u0324"  # such as the ring of ᵑ̊ǃ
        if mark not in PRENASAL and mark not in PRESTOP and mark not in "ʰʱˀʷ" and not on_mark:
            return f"begins with {mark}, which stands after its letter"
        if first == "V" and mark != "ˀ":
            return f"has {mark} before the vowel {letter}: it stands before consonants alone"
    return ""


def _click_front(segment: IpaSegment) -> IpaSegment:
    """A click with its front as letters: ᶢǃ is ɡ͡ǃ, ᵑǃ is ŋ͡ǃ."""
    small = {"ᶢ": "ɡ", "ᵍ": "ɡ", "ᵏ": "k", "ᵑ": "ŋ"}
    match = re.fullmatch(r"(.*)([ᶢᵍᵏᵑ])([\u0300-\u036f]*)", segment.onset)
    if match is None or not segment.letters or segment.letters[0].base not in CLICKS:
        return segment
    return IpaSegment(match[1], (Letter(small[match[2]], match[3], "", True), *segment.letters))


def _breathy(segment: IpaSegment) -> IpaSegment:
    """A consonant released into ɦ is one with ʱ: tɦ is tʱ."""
    *front, last = segment.letters
    if last != Letter("ɦ") or not front or front[-1].base in (*VOWEL_ORDER, *_GLOTTAL):
        return segment
    if any(mark in _RELEASED for mark in front[-1].modifiers) or front[-1].base in CLICKS:
        return segment
    return replace(segment, letters=(*front[:-1], replace(front[-1], modifiers=front[-1].modifiers + "ʱ", tied=False)))


def _click(segment: IpaSegment) -> IpaSegment:
    """A click with what accompanies it, all under one tie but for a nasal before a stop (ŋɡ͡ǃ)."""
    bases = segment.bases
    if not re.fullmatch(rf"[{_CLICK_FRONT}]{{0,2}}[{CLICKS}][{_CLICK_BACK}]{{0,2}}", bases):
        return replace(segment, reason=_several(segment))
    start = 1 if re.match(rf"[mnɲŋɴ][kɡqɢ][{CLICKS}]", bases) else 0
    return replace(segment, letters=segment.letters[:start] + _tied(segment.letters[start:]))


def _is_contour(letters: tuple[Letter, ...]) -> bool:
    """Whether a stop and releases at its own place, none of which is over before the next begins."""
    if not 2 <= len(letters) <= 3 or letters[0].base not in _STOPS + "ɠ":
        return False
    if any(mark in _RELEASED for letter in letters[:-1] for mark in letter.modifiers):
        return False
    if letters[0].base + letters[1].base in _TWO_PLACES:
        return len(letters) == 2
    place = _place(letters[0].base)
    rest = letters[1:]
    return all(each.base in _RELEASES and _near(place, _place(each.base)) for each in rest)


def _tied(letters: tuple[Letter, ...]) -> tuple[Letter, ...]:
    return (*(replace(letter, tied=True) for letter in letters[:-1]), letters[-1])


def _place(base: str) -> str:
    """The place of articulation of a consonant, by its letter; empty for what has none."""
    base = "ç" if base == "c\u0327" else base
    if base not in CONSONANT_ORDER:
        return ""
    place = CONSONANT_ORDER.index(base)
    return [name for first, name in PLACES.items() if CONSONANT_ORDER.index(first) <= place][-1]


def _near(one: str, other: str) -> bool:
    return bool(one) and any({one, other} <= group for group in _NEIGHBOURS)


def _several(segment: IpaSegment) -> str:
    """Why several sounds are no segment, and what to write if they are one."""
    sounds = ["".join(letter.text for letter in sound) for sound in segment.sounds]
    last = segment.letters[-1]
    if last.base in "hɦ" and len(sounds) == 2 and segment.letters[0].base not in VOWEL_ORDER:
        mark = "ʰ" if last.base == "h" else "ʱ"
        return f"is more than one phoneme ({' '.join(sounds)}): write {sounds[0]}{mark} if they are one consonant"
    vowels = all(letter.base in VOWEL_ORDER for letter in segment.letters)
    tie = "" if vowels or len(sounds) > 3 else f", or join them by a tie bar ({TIE.join(sounds)}) if they are one sound"
    return f"is more than one phoneme ({' '.join(sounds)}): give each an interval of its own{tie}"
