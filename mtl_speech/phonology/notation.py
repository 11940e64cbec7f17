"""What notation a corpus is written in, judged by all its labels together, and what looks like IPA but is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mtl_speech.core.options import PHONE_SETS
from mtl_speech.phonology.phone_sets import ARPABET_TO_IPA, VOWEL_ORDER
from mtl_speech.phonology.phonemes import (
    UnmappableLabel,
    guess_phone_set,
    has_arpabet_vowels,
    is_silence,
    may_be_xsampa,
    modifier_of,
    to_ipa,
    without_position,
)

FIT = 0.5  # of all labels: a phone set that reads fewer is called wrong
BETTER = 0.8  # of all labels: a phone set that reads so many may be named instead of one that reads fewer
MUCH_BETTER = 0.95  # of all labels: a phone set that reads so many is named also where the other reads a half
MANY = 20  # labels: of fewer that no phone set reads each is told by itself
N_EXAMPLES = 3
_PINYIN_INITIALS = frozenset("zh ch sh".split())
_PINYIN_ONLY = frozenset("ang eng ing ong iang iong uang ueng ian uan uai iao ia ie iu ui uo ve van vn er".split())
# ARPAbet that is read as IPA without a word: as diphthongs, or a vowel and r.
_ARPABET_VOWELS = frozenset("iy er ae ao aw ay ey ow oy uw".split())


@dataclass(frozen=True)
class Notation:
    """The phone set of a corpus, what is to be said of it, and whether most labels are none of its phonemes.

    `doubts` are sentences on labels that are read, but perhaps not as they were meant.
    """

    phone_set: str
    guessed: bool
    unfit: str = ""
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.phone_set} ({'guessed from all labels together' if self.guessed else 'as given'})"


def notation_of(counts: Mapping[str, int], phone_set: str = "auto", y_beside_vowels: float = 0.0) -> Notation:
    """The notation of a corpus.

    Args:
        counts: how often each label stands in the corpus, silences included.
        phone_set: as the user gave it, or "auto" to guess it.
        y_beside_vowels: the share of labels "y" that touch a vowel (0 to 1).
    """
    guessed = phone_set == "auto"
    chosen = guess_phone_set(counts) if guessed else phone_set
    labels = {label: n for label, n in counts.items() if not is_silence(label) and not modifier_of(label, chosen)}
    total = sum(labels.values())
    read = _read(labels, chosen)
    unfit = _unfit(labels, chosen, read, total) if read < BETTER * total else ""
    doubts = tuple(_doubts(labels, chosen, y_beside_vowels)) if not unfit else ()
    if chosen == "xsampa" and counts.get("_") and max(map(len, labels), default=0) == 1:
        doubts += (
            f"'_' ({counts['_']:,} labels) is read as silence; if the labels are DISC, where it is d͡ʒ, give --phone-set disc",
        )
    return Notation(chosen, guessed, unfit, doubts)


def _read(labels: Mapping[str, int], phone_set: str) -> int:
    """How many labels of a corpus are phonemes of a phone set."""
    return sum(n for label, n in labels.items() if _is_phoneme(label, phone_set))


def _is_phoneme(label: str, phone_set: str) -> bool:
    try:
        return to_ipa(label, phone_set) is not None
    except UnmappableLabel:
        return False


def _unfit(labels: Mapping[str, int], chosen: str, read: int, total: int) -> str:
    """One sentence on a corpus whose labels are no phonemes, with the phone set that would fit best; nothing where a half fits
    and no other set is clearly better."""
    shares = {name: _read(labels, name) for name in PHONE_SETS[1:] if name != chosen and _plausible(labels, name)}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < (MUCH_BETTER if read >= FIT * total else BETTER) * total and (
        read >= FIT * total or total < MANY
    ):
        return ""
    wrong = [label for label, n in sorted(labels.items(), key=lambda each: -each[1]) if not _is_phoneme(label, chosen)]
    said = f"{total - read:,} of {total:,} labels are no phonemes of the phone set {chosen} ({_examples(wrong)}): "
    if shares[best] >= BETTER * total and shares[best] > read:
        return said + f"--phone-set {best} reads {shares[best]:,} of them and would fit best"
    return said + (
        f"no other phone set reads more than {max(shares[best], read):,} of them: write them in IPA, or one of the sets "
        f"{', '.join(PHONE_SETS[2:])}"
    )


def _plausible(labels: Iterable[str], phone_set: str) -> bool:
    """Whether labels may be of a phone set, whatever it reads of them: capitals of other notations mean other sounds."""
    plain = [without_position(label.strip()) for label in labels]
    if phone_set in ("xsampa", "disc"):
        return may_be_xsampa(plain)
    return phone_set != "arpabet" or has_arpabet_vowels(plain)


def _examples(labels: Iterable[str]) -> str:
    named = list(labels)
    more = ", …" if len(named) > N_EXAMPLES else ""
    return ", ".join(f"'{label[:20]}'" for label in named[:N_EXAMPLES]) + more


def _doubts(labels: Mapping[str, int], chosen: str, y_beside_vowels: float) -> list[str]:
    """Sentences on labels that are read as IPA but look like another notation."""
    if chosen not in ("ipa", "mfa", "voxcommunis", "espeak"):
        return []
    plain = {without_position(label.strip()).rstrip("012345") for label in labels}
    found = []
    if plain & _PINYIN_INITIALS and len(plain & _PINYIN_ONLY) >= 2 and plain & set("jqx"):
        read = [label for label in ("b", "d", "g", "j", "q", "x", "z", "c", "r") if label in plain]
        found.append(
            f"the labels look like Pinyin ({_examples(sorted(plain & (_PINYIN_INITIALS | _PINYIN_ONLY)))}), but are read as "
            f"IPA, where {', '.join(read)} are other sounds: write IPA, as p t k t͡ɕ t͡ɕʰ ɕ"
        )
        return found
    arpabet = sorted(label for label in plain if label.upper() in ARPABET_TO_IPA and len(label) > 1)
    doubtful = [label for label in arpabet if label in _ARPABET_VOWELS and _is_phoneme(label, chosen)]
    refused = [label for label in arpabet if not _is_phoneme(label, chosen)]
    if doubtful and (refused or {"iy", "er", "uw"} & set(doubtful)):
        n = sum(number for label, number in labels.items() if without_position(label.strip()).rstrip("012") in doubtful)
        pairs = ", ".join(f"'{label}'" for label in doubtful)
        found.append(
            f"{pairs} ({n:,} labels) are read as diphthongs of IPA, but look like ARPAbet: correct those labels"
        )
    if "y" in plain and "j" not in plain and y_beside_vowels >= 0.8:
        found.append(
            f"'y' ({labels.get('y', 0):,} labels) is read as the vowel y of IPA, as in French 'tu', but mostly stands beside a "
            "vowel: if it is the glide of 'yes', write j"
        )
    return found


def y_share(runs: Iterable[Iterable[str]]) -> float:
    """The share of labels "y" (0 to 1) with a vowel just before or after, in the labels of each recording in order."""
    beside = total = 0
    for run in runs:
        labels = [label.strip() for label in run]
        for place, label in enumerate(labels):
            if label == "y":
                around = labels[max(place - 1, 0) : place] + labels[place + 1 : place + 2]
                beside += any(each[:1] in VOWEL_ORDER for each in around if each)
                total += 1
    return beside / total if total else 0.0
