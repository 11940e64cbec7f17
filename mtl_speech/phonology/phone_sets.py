"""The phone sets and IPA conventions that `phonemes` works with: the tables, some of them read from data/phone_sets.tsv."""

from __future__ import annotations

from importlib.resources import files


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _read_table() -> dict[str, dict[str, str]]:
    """The IPA of each label by phone set. The file says where each set is from."""
    text = (files("mtl_speech") / "data" / "phone_sets.tsv").read_text(encoding="utf-8")
    tables: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, label, ipa = line.split("\t")
            tables.setdefault(name, {})[label] = ipa
    return tables


TABLES = _read_table()
CMU_TO_IPA = TABLES["cmu"]  # stress is dropped before the look-up, so AH is one phoneme with and without it
ARPABET_TO_IPA: dict[str, str] = CMU_TO_IPA | TABLES["arpabet"]
TIMIT_TO_IPA: dict[str, str] = {label: ipa for label, ipa in TABLES["timit"].items() if ipa}

# A closure of TIMIT is the beginning of its stop: the reader joins it with the release that follows.
TIMIT_CLOSURES: dict[str, tuple[str, ...]] = {
    "bcl": ("b",), "dcl": ("d", "jh"), "gcl": ("g",), "pcl": ("p",), "tcl": ("t", "ch"), "kcl": ("k",),
}  # fmt: skip

# Lee and Hon (1989) fold TIMIT's 61 labels to 48 and 39. These are the ones that change; a glottal stop ("q") is left out.
_TO_48: dict[str, str | None] = {
    "ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw", "h#": "sil", "pau": "sil",
    "bcl": "vcl", "dcl": "vcl", "gcl": "vcl", "pcl": "cl", "tcl": "cl", "kcl": "cl", "q": None,
}  # fmt: skip
TIMIT_48_TO_39: dict[str, str] = {
    "ao": "aa", "ax": "ah", "el": "l", "en": "n", "ix": "ih", "zh": "sh", "cl": "sil", "vcl": "sil", "epi": "sil",
}  # fmt: skip
SILENCES_48 = frozenset({"sil", "epi", "cl", "vcl"})  # one class of the 39, and no phoneme
# What scoring folds, in IPA: a phoneme of the 48 to the one of the 39 that it counts as.
IPA_48_TO_39: dict[str, str] = {
    TIMIT_TO_IPA[label]: TIMIT_TO_IPA[folded] for label, folded in TIMIT_48_TO_39.items() if label not in SILENCES_48
}

# Labels of what is not a phoneme: silence, pauses, breath and noise (compared in lower case, without brackets).
# "spn" is the Montreal Forced Aligner's "spoken noise": speech whose phones are not known.
SILENCE_LABELS: frozenset[str] = frozenset(
    {
        "", "sil", "sp", "spn", "ssil", "silence", "pau", "pause", "h#", "epi", "eps", "<p:>", "#", "##", "_", "-",
        "ns", "nsn", "noise", "vocnoise", "lau", "laugh", "laughter", "br", "breath", "cough", "lip", "gap", "unk",
        "xxx", "cutoff",
    }
)  # fmt: skip

# Those of them under which something sounds, of which it is not known what: no silence for a model to learn, and no error to
# count. A breath is none: nothing is said there.
UNKNOWN_LABELS: frozenset[str] = frozenset(
    {"spn", "ns", "nsn", "noise", "vocnoise", "lau", "laugh", "laughter", "cough", "lip", "unk", "xxx", "cutoff"}
)

# Characters that look like an IPA character and mean it, after Unicode NFD. The empty string: not part of a phoneme.
LOOK_ALIKES: dict[str, str] = {
    "g": "ɡ", ":": "ː", "'": "ʼ", "’": "ʼ", "′": "ʼ", "ʻ": "ʔ", "‘": "ʔ", "ʾ": "ʔ", "\u035c": "\u0361", "\u0311": "\u032f",
    "\u0331": "\u0320", "\u030a": "\u0325", "\u030d": "\u0329", "ε": "ɛ", "ɩ": "ɪ", "ι": "ɪ", "ɷ": "ʊ", "φ": "ɸ",
    "γ": "ɣ", "α": "ɑ", "ß": "β", "ꞵ": "β", "ꭓ": "χ", "ǝ": "ə", "ә": "ə", "а": "a", "е": "e", "о": "o", "ӕ": "æ",
    "∫": "ʃ", "ʤ": "d͡ʒ", "ʧ": "t͡ʃ", "ʦ": "t͡s", "ʣ": "d͡z", "ʨ": "t͡ɕ", "ʥ": "d͡ʑ", "!": "ǃ", "ˈ": "", "ˌ": "",
    "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "",
}  # fmt: skip

# Stop + fricative that is one affricate, written with or without a tie; labial-velars too.
AFFRICATES: frozenset[str] = frozenset(
    _names("ts dz tʃ dʒ tɕ dʑ tʂ dʐ ʈʂ ɖʐ tɬ dɮ pf bv tθ dð kx qχ cç ɟʝ kp ɡb ŋm")
)  # fmt: skip

TIE = "\u0361"

# Modifier letters in the order in which a label is written: release, secondary articulation, phonation, length.
MODIFIER_ORDER = "ᵖᵇᵗᵈᵏᵍᶢˢᶻᶿˣᶠᵛᶲᵝᶴᶾᶳᶼᶝᶽᵡʶʳʴˡⁿᵐᵑᶮᶯᵊ˞ʷᶣʲˠˤᴱˀʰʱʼːˑ"
PRENASAL: dict[str, str] = {"ᵐ": "m", "ⁿ": "n", "ᶯ": "ɳ", "ᶮ": "ɲ", "ᵑ": "ŋ"}
PRESTOP: dict[str, str] = {"ᵖ": "p", "ᵇ": "b", "ᵗ": "t", "ᵈ": "d", "ᵏ": "k", "ᵍ": "ɡ", "ᶢ": "ɡ"}

# panphon has no row for these letters: the row that stands in.
LETTER_STAND_INS: dict[str, str] = {
    "ɝ": "ɜ˞", "ɚ": "ə˞", "ʡ": "ʔ", "ʢ": "ʕ", "ʜ": "ħ", "ɿ": "z̩", "ʅ": "ʐ̩", "ȵ": "ɲ", "ȶ": "c", "ȡ": "ɟ", "ȴ": "ʎ",
    "ⱱ": "v", "ᶑ": "ɗ", "‼": "ǃ", "ꞎ": "ɬ",
}  # fmt: skip

# What a diacritic changes where panphon has no row for the letter with it. Empty: too fine for panphon's 24 features.
DIACRITIC_FEATURES: dict[str, dict[str, int]] = {
    "ː": {"long": 1}, "ʰ": {"sg": 1}, "ʱ": {"sg": 1}, "ʼ": {"cg": 1}, "ˀ": {"cg": 1}, "ʷ": {"round": 1, "lab": 1},
    "ʲ": {"hi": 1, "back": -1}, "ˠ": {"hi": 1, "back": 1}, "ˤ": {"lo": 1, "back": 1}, "ᶣ": {"round": 1, "hi": 1},
    "\u0303": {"nas": 1}, "ⁿ": {"nas": 1}, "\u0325": {"voi": -1}, "\u032c": {"voi": 1}, "\u0324": {"sg": 1},
    "\u0330": {"cg": 1}, "\u0329": {"syl": 1}, "\u032f": {"syl": -1}, "˞": {"cor": 1}, "\u0323": {"cor": 1},
    "ˢ": {"delrel": 1, "strid": 1}, "ᶻ": {"delrel": 1, "strid": 1}, "ᶿ": {"delrel": 1}, "ˣ": {"delrel": 1},
    "ˡ": {"lat": 1}, "\u0301": {"hitone": 1}, "\u0300": {"hitone": -1}, "˥": {"hitone": 1}, "˦": {"hitone": 1},
    "˨": {"hitone": -1}, "˩": {"hitone": -1}, "ᴱ": {"cg": 1}, "\u0353": {"strid": 1}, "ᵐ": {"nas": 1}, "ᵑ": {"nas": 1},
    "ᶮ": {"nas": 1}, "ᶯ": {"nas": 1},
} | {
    mark: {"delrel": 1} for mark in "ᶠᵛᶲᵝᵡʶ"
} | {
    mark: {"delrel": 1, "strid": 1} for mark in "ᶴᶾᶳᶼᶝᶽ"
} | {
    mark: {} for mark in "ᵖᵇᵗᵈᵏᵍᶢʳʴ\u0347\u0349"  # releases without a feature; alveolar; weak
} | {
    mark: {} for mark in "ˑᵊ˧\u0302\u0304\u0306\u0308\u030b\u030c\u030f\u0318\u0319\u031a\u031c\u031d\u031e\u031f\u0320"
    "\u032a\u0334\u0339\u033a\u033b\u033c\u033d\u0348\u1dc4\u1dc5\u1dc6\u1dc7\u1dc8"
}  # fmt: skip

# Order of a confusion matrix: consonants by place from the lips inwards and by manner within, then vowels by height
# from high to low and from front to back within.
CONSONANT_ORDER: tuple[str, ...] = _names(
    "p b ɓ p͡f b͡v m ʙ ɸ β f v ⱱ ɱ ʋ w ʍ ɥ k͡p ɡ͡b ŋ͡m "
    "t͡θ d͡ð θ ð t d ɗ t͡s d͡z t͡ɬ d͡ɮ n s z ɬ ɮ r ɾ ɹ l ɺ ɫ "
    "t͡ʃ d͡ʒ t͡ɕ d͡ʑ ʃ ʒ ɕ ʑ ɧ ʈ ɖ ᶑ t͡ʂ d͡ʐ ʈ͡ʂ ɖ͡ʐ ɳ ʂ ʐ ꞎ ɽ ɻ ɭ "
    "c ɟ ʄ c͡ç ɟ͡ʝ ɲ ç ʝ j ʎ k ɡ ɠ k͡x ŋ x ɣ ɰ ʟ q ɢ ʛ q͡χ ɴ χ ʁ ʀ ħ ʜ ʕ ʡ ʢ ʔ h ɦ ʘ ǀ ǃ ‼ ǂ ǁ"
)
VOWEL_ORDER: tuple[str, ...] = _names("i y ɪ ʏ ɨ ʉ ɯ u ʊ e ø ɘ ɵ ɤ o ə ɚ ɛ œ ɜ ɝ ɞ ʌ ɔ æ ɐ a ɶ ɑ ɒ")

# Where each place of articulation begins in CONSONANT_ORDER, and each height in VOWEL_ORDER.
PLACES: dict[str, str] = {
    "p": "labial", "t͡θ": "dental/alveolar", "t͡ʃ": "postalveolar", "ʈ": "retroflex", "c": "palatal", "k": "velar",
    "q": "uvular", "ħ": "pharyngeal", "ʔ": "glottal", "ʘ": "click",
}  # fmt: skip
HEIGHTS: dict[str, str] = {"i": "close", "e": "mid", "æ": "open"}
# The manner of consonants whose features in panphon do not tell it.
LETTER_MANNERS: dict[str, str] = {
    **dict.fromkeys("ɓɗʄɠʛᶑ", "implosive"), **dict.fromkeys("ʙrʀɾɽɺⱱ", "trill or tap"), **dict.fromkeys("ʘǀǃ‼ǂǁ", "click"),
    **dict.fromkeys("ʔʡ", "plosive"), **dict.fromkeys("hɦʜʢʕʍ", "fricative"),
}  # fmt: skip


def fold_48(label: str) -> str | None:
    """One of the 48 labels for one of TIMIT's 61, in any case; None for a glottal stop. Another label stays as it is."""
    return _TO_48.get(label.lower(), label.lower())
