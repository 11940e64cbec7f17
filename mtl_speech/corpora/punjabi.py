"""The Punjabi words that the package brings, the names of espeak-ng's Punjabi phones, and how words are shared out."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from mtl_speech.core.errors import UsageError
from mtl_speech.corpora.espeak import pronounce
from mtl_speech.phonology.phonemes import normalise_ipa

SPLITS: dict[str, float] = {"train": 0.5, "valid": 1 / 6, "test": 1 / 3}  # share of the words
MIN_WORDS = 60

# espeak-ng's Punjabi IPA to Punjabi's phonemes in the symbols of VoxCommunis (so of Common Voice's alignments). In its
# source t and d are dental, c and ɟ affricates; ʌ is ə under stress. Punjabi has no breathy stops, but espeak-ng reads
# them where they are written inside a word.
LABELS: dict[str, str] = {
    "ə": "ə", "ʌ": "ə", "a": "ɑ", "ɪ": "ɪ", "i": "i", "ʊ": "ʊ", "u": "u", "e": "e", "ɛ": "ɛ", "o": "o", "ɔ": "ɔ",
    "ə̃": "ə̃", "ʌ̃": "ə̃", "ã": "ɑ̃", "ɪ̃": "ɪ̃", "ĩ": "ĩ", "ʊ̃": "ʊ̃", "ũ": "ũ", "ẽ": "ẽ", "ɛ̃": "ɛ̃", "õ": "õ", "ɔ̃": "ɔ̃",
    "p": "p", "pʰ": "pʰ", "b": "b", "bʰ": "bʱ", "t": "t̪", "tʰ": "t̪ʰ", "d": "d̪", "dʰ": "d̪ʱ",
    "ʈ": "ʈ", "ʈʰ": "ʈʰ", "ɖ": "ɖ", "ɖʰ": "ɖʱ", "c": "t͡ʃ", "cʰ": "t͡ʃʰ", "ɟ": "d͡ʒ", "ɟʰ": "d͡ʒʱ",
    "k": "k", "kʰ": "kʰ", "ɡ": "ɡ", "ɡʰ": "ɡʱ", "m": "m", "n": "n", "ɳ": "ɳ", "ɲ": "ɲ", "ŋ": "ŋ",
    "ɾ": "ɾ", "r.": "ɽ", "l": "l", "ɭ": "ɭ", "v": "ʋ", "j": "j",
    "s": "s", "z": "z", "ʃ": "ʃ", "f": "f", "x": "x", "ɣ": "ɣ", "h": "ɦ",
}  # fmt: skip
INVENTORY: frozenset[str] = frozenset(normalise_ipa(label) for label in LABELS.values())

_GURMUKHI = re.compile("[\u0a00-\u0a7f]+")
_NOT_SPEECH = {"spn", "sil"}


@dataclass(frozen=True)
class Word:
    """A word in Gurmukhi (Unicode NFC) with its phonemes in IPA where the dictionary has them, else none."""

    text: str
    phones: tuple[str, ...] = ()


def punjabi_words() -> list[Word]:
    """All different words of the package's lists, in their order: the dictionary's first.

    Phrases are taken apart. Left out: entries that are not words, and spellings with characters that are not Gurmukhi.
    Licences: `mtl_speech/data/punjabi/README.md`.
    """
    folder = files("mtl_speech") / "data" / "punjabi"
    found: dict[str, Word] = {}
    for line in (folder / "punjabi_cv.dict").read_text(encoding="utf-8").splitlines():
        text, _, phones = line.partition("\t")
        _add(found, text, tuple(normalise_ipa(phone) for phone in phones.split()))
    for name in ("punjabi_words.txt", "punjabi_rare.txt"):
        for text in (folder / name).read_text(encoding="utf-8").split():
            _add(found, text, ())
    return list(found.values())


def _add(found: dict[str, Word], text: str, phones: tuple[str, ...]) -> None:
    text = unicodedata.normalize("NFC", text.translate(dict.fromkeys((0x200B, 0x200C, 0x200D, 0xFEFF))))
    if _GURMUKHI.fullmatch(text) and not _NOT_SPEECH & set(phones):
        found.setdefault(text, Word(text, phones))


def sayable_words() -> dict[int, tuple[str, ...]]:
    """Index in `punjabi_words()` to phonemes as espeak-ng has them, for the words that a corpus can hold.

    Left out: words with a phone outside `INVENTORY` (mostly where espeak-ng reads an English word), words of one phone,
    and of words that sound the same all but the first.
    """
    spoken = pronounce([word.text for word in punjabi_words()], "pa", labels=LABELS)
    first: dict[tuple[str, ...], int] = {}
    for index, phones in enumerate(spoken):
        if len(phones) > 1 and INVENTORY.issuperset(phones):
            first.setdefault(phones, index)
    return {index: phones for phones, index in first.items()}


def share_words(spoken: Mapping[int, tuple[str, ...]], n_words: int | None, rng: random.Random) -> dict[str, list[int]]:
    """Chooses words and shares them out to `SPLITS`, so that each split has as much as possible of every phoneme.

    Greedy: the split furthest behind its share takes the word that adds most, where a token of a phoneme of which the
    split has n already counts 1 / (1 + n). Ties are broken by `rng`.

    Args:
        spoken: as `sayable_words` gives it.
        n_words: how many words; None for all.
        rng: the source of chance.

    Raises:
        UsageError: `n_words` is below `MIN_WORDS` or more than there are.
    """
    import numpy as np

    wanted = len(spoken) if n_words is None else n_words
    if not MIN_WORDS <= wanted <= len(spoken):
        raise UsageError(f"number of words {wanted} is not from {MIN_WORDS} to {len(spoken)}")
    indices = rng.sample(sorted(spoken), len(spoken))
    phonemes = {phoneme: column for column, phoneme in enumerate(sorted(INVENTORY))}
    tokens = np.zeros((len(indices), len(phonemes)), dtype=np.int64)
    for row, index in enumerate(indices):
        for phoneme in spoken[index]:
            tokens[row, phonemes[phoneme]] += 1
    counts = {split: np.zeros(len(phonemes), dtype=np.int64) for split in SPLITS}
    shares: dict[str, list[int]] = {split: [] for split in SPLITS}
    for _ in range(wanted):
        split = min(SPLITS, key=lambda name: (len(shares[name]) + 1) / SPLITS[name])
        row = int(np.argmax(tokens @ (1_000_000 // (1 + counts[split]))))
        shares[split].append(indices[row])
        counts[split] += tokens[row]
        tokens[row] = 0
    return shares
