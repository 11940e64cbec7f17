"""A synthetic Punjabi corpus, made offline by espeak-ng from the words that the package brings: for demo and tests.

Its labels are what espeak-ng said, not what a dictionary has, in the symbols of `LABELS`. Words are disjoint
between training, validation and test; voices are not: all variants of a voice share the same recorded consonants, so
that an unseen one would test nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.files import content_hash, temporary_sibling
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.voice.espeak import RATES, Request, Speech, pronounce, speak
from mtl_speech.phonology.phonemes import normalise_ipa

# Variants that neither clip nor echo (an echo fills the silence of a stop's closure, and its boundary is lost).
VOICES = ("", "m1", "m3", "m4", "m6", "m7", "Alex", "adam", "f1", "Annie", "aunty", "linda", "steph")
DEFAULT_WORDS = 720
PITCH_RANGE = (30, 70)
# Words with a rare phoneme are said by several voices until the split has so many tokens of it.
MIN_TOKENS = {"train": 20, "valid": 7, "test": 12}
MAX_SAYINGS = 4
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
_INVISIBLE = dict.fromkeys((0x200B, 0x200C, 0x200D, 0xFEFF))
_NOT_SPEECH = {"spn", "sil"}
README = """\
Synthetic Punjabi speech, made by espeak-ng (a formant synthesiser) from lists of words: no human voice is in it.
Figures measured on it tell nothing about how human Punjabi is recognised.

train/, valid/ and test/ hold different words. Below each, one folder for each voice, with 16 kHz WAV files and
TextGrids that have the tiers 'words' and 'phones' (IPA). manifest.json says how each file was made, and the SHA-256 of
its bytes.
"""


@dataclass(frozen=True)
class _Planned:
    """One utterance of the corpus to be made."""

    split: str
    word: int  # index in punjabi_words()
    request: Request

    @property
    def name(self) -> str:
        """Path below the corpus folder, without suffix."""
        voice = "-".join(filter(None, (self.request.voice, self.request.variant)))
        return f"{self.split}/{voice}/w{self.word:04}"


def make_punjabi_corpus(
    folder: Path, seed: int = 0, n_words: int | None = DEFAULT_WORDS, voices: Sequence[str] = VOICES
) -> dict[str, dict[str, int]]:
    """Makes a corpus of spoken Punjabi words below `folder`, in the layout that `read_corpus` reads.

    `folder`/{train,valid,test}/<voice>/<word>.wav and .TextGrid, README.txt and manifest.json. The same arguments give
    the same bytes on one machine. The folder takes its name when it is complete.

    Args:
        folder: must not exist, or be empty.
        seed: of the choice of words, voices, speaking rates and pitches.
        n_words: how many different words (half of them for training, a third for test); None for all.
        voices: espeak-ng's voice variants, "" for the plain voice.

    Returns:
        Tokens of each phoneme, by split.

    Raises:
        DataError: the folder is not empty.
        UsageError: no voices, or `n_words` is too small or too large.
        MtlSpeechError: espeak-ng is not installed, or has no such variant.
    """
    folder = Path(folder)
    _check(folder, voices)
    rng = random.Random(seed)
    spoken = sayable_words()
    plan = _plan(share_words(spoken, n_words, rng), spoken, voices, rng)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(folder)
    try:
        tokens = _write(temporary, plan, {"seed": seed, "n_words": n_words, "voices": list(voices)})
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tokens


def _check(folder: Path, voices: Sequence[str]) -> None:
    """Refuses what cannot be done before any work."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already and is not an empty folder: choose another or remove it")
    if not voices or len(set(voices)) != len(voices):
        raise UsageError("voices must be different variants of espeak-ng, at least one")


def _plan(
    shares: Mapping[str, Sequence[int]],
    spoken: Mapping[int, tuple[str, ...]],
    voices: Sequence[str],
    rng: random.Random,
) -> list[_Planned]:
    """Who says which word how: each once, words with rare phonemes up to `MAX_SAYINGS` times, by different voices."""
    words = punjabi_words()
    planned: list[_Planned] = []
    for split, indices in shares.items():
        sayings = _sayings(indices, spoken, MIN_TOKENS[split], min(MAX_SAYINGS, len(voices)))
        turn = rng.sample(voices, len(voices))
        for index in indices:
            for _ in range(sayings[index]):
                turn.append(turn.pop(0))
                request = Request(words[index], "pa", turn[-1], rng.randint(*RATES), rng.randint(*PITCH_RANGE))
                planned.append(_Planned(split, index, request))
    return sorted(planned, key=lambda each: (voices.index(each.request.variant), each.name))


def _sayings(
    indices: Sequence[int], spoken: Mapping[int, tuple[str, ...]], min_tokens: int, max_sayings: int
) -> Counter[int]:
    """How often each word is said so that, where it can be, every phoneme has `min_tokens` tokens."""
    sayings = Counter(indices)
    tokens = Counter(phoneme for index in indices for phoneme in spoken[index])
    for phoneme in sorted(tokens, key=lambda each: (tokens[each], each)):
        having = [index for index in indices if phoneme in spoken[index]]
        while tokens[phoneme] < min_tokens:
            index = min(having, key=lambda each: sayings[each])
            if sayings[index] >= max_sayings:
                break
            sayings[index] += 1
            tokens.update(spoken[index])
    return sayings


def _write(folder: Path, plan: Sequence[_Planned], settings: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Says what is planned and writes all files; gives the tokens of each phoneme, by split."""
    tokens: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    utterances: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    speeches = speak([each.request for each in plan], labels=LABELS)
    for each, speech in zip(progress(plan, "speaking Punjabi"), speeches, strict=True):
        labels, request = [label for *_, label in speech.segments], each.request
        if not labels or not INVENTORY.issuperset(labels):
            left_out.append(each.name)
            continue
        _write_utterance(folder / each.name, speech)
        tokens[each.split].update(labels)
        utterances[each.name] = {"text": request.text, "rate": request.rate, "pitch": request.pitch}
    (folder / "README.txt").write_text(README, encoding="utf-8")
    counts = {split: dict(sorted(each.items())) for split, each in tokens.items()}
    manifest = {
        "synthetic": True,
        "engine": f"espeak-ng {speech.version}",
        **settings,
        "left_out": left_out,
        "tokens": counts,
        "utterances": dict(sorted(utterances.items())),
        **_hashes(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return counts


def _write_utterance(path: Path, speech: Speech) -> None:
    """Writes a WAV file and its TextGrid, with `path` but for the suffix."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path.with_suffix(".wav"), speech.samples, SAMPLE_RATE, subtype="PCM_16")
    word = (speech.segments[0][0], speech.segments[-1][1], speech.request.text)
    tiers = {"words": [word], "phones": list(speech.segments)}
    write_textgrid(path.with_suffix(".TextGrid"), len(speech.samples) / SAMPLE_RATE, tiers)


def _hashes(folder: Path) -> dict[str, Any]:
    """SHA-256 of each file, and of the list of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): content_hash(path) for path in paths}
    listing = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return {"files": hashes, "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def punjabi_words() -> list[str]:
    """All different words of the package's lists, in Gurmukhi (Unicode NFC) and in their order: the dictionary's first.

    Phrases are taken apart. Left out: entries that are not words, and spellings with characters that are not Gurmukhi.
    Licences: `mtl_speech/data/punjabi/README.md`.
    """
    folder = files("mtl_speech") / "data" / "punjabi"
    lines = (folder / "punjabi_cv.dict").read_text(encoding="utf-8").splitlines()
    entries = [line.partition("\t") for line in lines]
    found = [text for text, _, phones in entries if not _NOT_SPEECH & set(phones.split())]
    for name in ("punjabi_words.txt", "punjabi_rare.txt"):
        found += (folder / name).read_text(encoding="utf-8").split()
    texts = [unicodedata.normalize("NFC", text.translate(_INVISIBLE)) for text in found]
    return list(dict.fromkeys(text for text in texts if _GURMUKHI.fullmatch(text)))


def sayable_words() -> dict[int, tuple[str, ...]]:
    """Index in `punjabi_words()` to phonemes as espeak-ng has them, for the words that a corpus can hold.

    Left out: words with a phone outside `INVENTORY` (mostly where espeak-ng reads an English word), words of one phone,
    and of words that sound the same all but the first.
    """
    spoken = pronounce(punjabi_words(), "pa", labels=LABELS)
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
    phonemes = {
        phoneme: column
        for column, phoneme in enumerate(sorted({each for phones in spoken.values() for each in phones}))
    }
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
