"""Labels of several conventions become one IPA spelling; what is no phoneme is told, not guessed."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core.errors import UsageError, printable
from mtl_speech.phonology.phone_sets import (
    ARPABET_TO_IPA,
    CMU_TO_IPA,
    DIACRITIC_FEATURES,
    LOOK_ALIKES,
    SILENCE_LABELS,
    TIMIT_TO_IPA,
)
from mtl_speech.phonology.phonemes import UnmappableLabel, guess_phone_set, is_modifier, normalise_ipa, to_ipa

# The 61 labels of the TIMIT documentation, phoncode.doc.
PHONCODE = """
b d g p t k dx q  jh ch  s sh z zh f th v dh  m n ng em en eng nx  l r w y hh hv el
iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h  bcl dcl gcl pcl tcl kcl  pau epi h#
"""
TIMIT_61 = PHONCODE.split()


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (["tʃ", "t͡ʃ", "t͜ʃ", "ʧ", " tʃ "], "t͡ʃ"),
        (["ts", "ʦ"], "t͡s"),
        (["kp", "k͡p"], "k͡p"),
        (["ɡb", "gb"], "ɡ͡b"),
        (["cç", unicodedata.normalize("NFC", "c͡ç")], unicodedata.normalize("NFD", "c͡ç")),
        (["t̪s̪", "t͡s̪".replace("t", "t̪")], "t̪͡s̪"),
        (["g", "ɡ"], "ɡ"),
        (["a:", "aː", "'aː".replace("'", "ˈ")], "aː"),
        (["k'", "k’", "kʼ"], "kʼ"),
        (["k'ʷ", "kʷʼ"], "kʷʼ"),
        (["kː ʰ", "kʰː", "kːʰ"], "kʰː"),
        (["ã", "a\u0303", "\u00e3"], "a\u0303"),
        (["aː\u0303", "ãː"], "a\u0303ː"),
        (["a\u0303\u0330", "a\u0330\u0303"], "a\u0330\u0303"),
        (["aɪ", "a͡ɪ"], "aɪ"),
        (["ə˞", "ɚ"], "ɚ"),
        (["n\u0331", "n\u0320"], "n\u0320"),
        (["ŋ\u030a", "ŋ\u0325"], "ŋ\u0325"),
    ],
)
def test_one_sound_has_one_spelling(spellings: list[str], expected: str) -> None:
    assert {normalise_ipa(spelling) for spelling in spellings} == {expected}


@pytest.mark.parametrize(("one", "other"), [("t", "t̪"), ("t͡ʃ", "ʃ"), ("a", "aː"), ("p", "pʰ"), ("ɪ", "i"), ("r", "ɾ")])
def test_different_sounds_stay_apart(one: str, other: str) -> None:
    assert normalise_ipa(one) != normalise_ipa(other)


ALPHABET = "".join({*"tdkpbszʃʒaeiouɪənŋɡ g:'ⁿ\u0361\u035c", *DIACRITIC_FEATURES, *LOOK_ALIKES})


@given(st.text(alphabet=ALPHABET, max_size=8))
def test_normalising_twice_changes_nothing(label: str) -> None:
    once = normalise_ipa(label)
    assert normalise_ipa(once) == once
    assert unicodedata.normalize("NFD", once) == once


@given(st.text(max_size=12))
def test_any_text_is_a_phoneme_or_silence_or_named_as_neither(label: str) -> None:
    try:
        found = to_ipa(label)
    except UnmappableLabel as error:
        assert printable(label) in str(error)
    else:
        assert found is None or len(found) > 0


@pytest.mark.parametrize(
    "label", ["", " ", "sil", "SIL", "sp", "spn", "pau", "h#", "epi", "<sil>", "<eps>", "noise", "<p:>"]
)
@pytest.mark.parametrize("phone_set", ["auto", "ipa", "arpabet", "timit"])
def test_silence_is_none(label: str, phone_set: str) -> None:
    assert to_ipa(label, phone_set) is None


def test_no_silence_label_is_a_phoneme_of_any_table() -> None:
    assert not SILENCE_LABELS & {label.lower() for label in ARPABET_TO_IPA}
    assert not SILENCE_LABELS & set(TIMIT_TO_IPA)


def test_arpabet() -> None:
    assert len(CMU_TO_IPA) == 39
    assert len(set(CMU_TO_IPA.values())) == 39
    for label, ipa in ARPABET_TO_IPA.items():
        assert to_ipa(label, "arpabet") == to_ipa(label.lower(), "arpabet") == to_ipa(ipa, "ipa") == normalise_ipa(ipa)
    assert to_ipa("AH0", "arpabet") == to_ipa("AH1", "arpabet") == to_ipa("AH", "arpabet") == "ʌ"
    assert to_ipa("CH", "arpabet") == "t͡ʃ"
    assert to_ipa("AA1_B", "arpabet") == "ɑ"
    for label in ("XX", "AH9", "AHH", "t͡ʃ", "A"):
        with pytest.raises(UnmappableLabel, match=label):
            to_ipa(label, "arpabet")


def test_timit_has_its_61_labels() -> None:
    assert len(TIMIT_61) == 61
    mapped = {label: to_ipa(label, "timit") for label in TIMIT_61}
    assert {label for label, ipa in mapped.items() if ipa is None} == {"h#", "pau", "epi"}
    assert set(TIMIT_TO_IPA) == {label for label, ipa in mapped.items() if ipa is not None}
    assert (mapped["ax-h"], mapped["dx"], mapped["jh"], mapped["tcl"], mapped["eng"]) == ("ə̥", "ɾ", "d͡ʒ", "t", "ŋ̩")
    assert all(to_ipa(ipa, "ipa") == normalise_ipa(ipa) for ipa in TIMIT_TO_IPA.values())


def test_phone_set_is_guessed_from_all_labels() -> None:
    assert guess_phone_set([*CMU_TO_IPA, "", "sil"]) == "arpabet"
    assert guess_phone_set(["AA1", "T", "K", "oops"]) == "arpabet"
    assert guess_phone_set(TIMIT_61) == "timit"
    assert guess_phone_set([label.upper() for label in TIMIT_61]) in ("arpabet", "timit")
    assert guess_phone_set(["b", "d", "s", "t͡ʃ", "ə", "aɪ"]) == "ipa"
    assert guess_phone_set(["b", "d", "s", "t", "k", "m"]) == "ipa"
    assert guess_phone_set(["sil", ""]) == "ipa"


def test_unknown_phone_set() -> None:
    with pytest.raises(UsageError, match=r"sampa.*arpabet"):
        to_ipa("a", "sampa")


@pytest.mark.parametrize("label", ["AA", "3", "a3", "?", "ʰ", "˥", "͡", "[a]", "日"])
def test_unknown_characters_are_named(label: str) -> None:
    with pytest.raises(UnmappableLabel, match="not IPA"):
        to_ipa(label, "ipa")


@pytest.mark.parametrize("label", ["hello", "the", "ta", "tt", "pst", "tʰʃ", "aeio", "spl"])
def test_more_than_one_phoneme_is_refused(label: str) -> None:
    with pytest.raises(UnmappableLabel, match="more than one"):
        to_ipa(label, "ipa")


@pytest.mark.parametrize(
    "label", ["aɪ", "aʊ̯", "aɪɚ", "ɑːɹ", "əl", "wa", "mb", "ᵐb", "nt͡ʃ", "n̩", "a˥", "á", "ǃ", "ɧ", "bʱ", "t̚"]
)
def test_composites_that_are_one_phoneme(label: str) -> None:
    assert to_ipa(label, "ipa") == normalise_ipa(label)


def test_modifiers() -> None:
    assert is_modifier("ʰ")
    assert is_modifier("ː")
    assert is_modifier("'")
    assert not is_modifier("kʰ")
    assert not is_modifier("")


def test_every_label_of_voxangeles_is_mapped(corpora: Path) -> None:
    folder = corpora / "voxangeles"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    merged = defaultdict(set)
    for path in folder.rglob("*.TextGrid"):
        phones = path.read_text("utf-8").partition('name = "phones"')[2]
        for label in re.findall(r'text = "(.*)"', phones):
            ipa = to_ipa(label, "ipa")  # raises if it cannot be mapped
            if ipa is not None:
                merged[ipa].add(label)
    assert len(merged) > 200
    # Two spellings meet in one phoneme only where they mean the same.
    doubles = {ipa: labels for ipa, labels in merged.items() if len(labels) > 1}
    assert doubles.pop("ɡ") == {"g", "ɡ"}
    assert all({label.replace("'", "ʼ") for label in labels} <= {ipa, "kʼʷ", "qʼʷ"} for ipa, labels in doubles.items())


def test_every_label_of_the_punjabi_lexicon_is_mapped(corpora: Path) -> None:
    path = corpora.parent / "lexicons" / "punjabi_cv.dict"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    labels = {label for line in path.read_text("utf-8").splitlines() for label in line.partition("\t")[2].split()}
    phonemes = {to_ipa(label, "ipa") for label in labels if not is_modifier(label)} - {None}
    assert {"t̪ʰ", "ɖ", "ɽ", "ɑ\u0303"} <= phonemes
    assert len(phonemes) > 60


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys; import mtl_speech.phonology.phonemes, mtl_speech.phonology.languages\n"
        "import mtl_speech.corpora.corpus, mtl_speech.corpora.audio\n"
        "heavy = {'torch', 'panphon', 'pandas', 'langcodes', 'numpy', 'scipy', 'librosa'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
