"""The grammar of IPA segments: what is one, in which spelling, why others are none, and that each has articulatory features."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.phonology.articulation import articulation_class, articulatory_features
from mtl_speech.phonology.ipa_grammar import joined, parse
from mtl_speech.phonology.phone_sets import DIACRITIC_FEATURES
from mtl_speech.phonology.phonemes import UnmappableLabel, change_of, modifier_of, normalise_ipa, to_ipa

# Segments by kind, as linguists write them, in the spelling that comes out.
SEGMENTS = {
    "preaspirated": "ʰp ʰt ʰk ʰtʲ ʰt͡ʃ ʰm ʰn ʰl ʰj ʰw ʱɾ ʱl ʱm",
    "preglottalised": "ˀb ˀd ˀj ˀw ˀm ˀn ˀl",
    "prestopped": "ᵇm ᵈn ᵈl ᵗn ᵖm ᵏŋ ᵍŋ ᵈɳ ᵗɬ",
    "prenasalised": "ᵐb ⁿd ᶮɟ ᶯɖ ᵑɡ ᵐp ⁿt ⁿt͡s ⁿd͡ʒ ᵑɡʷ mb nd nt͡ʃ ŋɡ ŋkʷ mbʷ ɲɟ nd͡r nt͡r",
    "clicks": "ʘ ǀ ǃ ǂ ǁ ‼ ǃʰ ǀʷ k͡ǃ k͡ǀʰ k͡ǁʼ k͡ǀʼ ɡ͡ǃ ɡ͡ʘ ɡ͡ǂʱ ŋ͡ǃ ŋ̥͡ǀ ŋ̥͡ǂʰ ɢ͡ǀ q͡ǃ q͡ǂʼ k͡ǃ͡x k͡ǁ͡xʼ ɡ͡ǀ͡x ɡ͡ǃ͡k͡xʼ ŋɡ͡ǃ ɴɢ͡ǁ ŋ͡ǃˀ",
    "implosives": "ɓ ɗ ᶑ ʄ ɠ ʛ ɓ̥ ɗ̥ ɓʷ ɗʲ",
    "ejectives": "pʼ tʼ kʼ qʼ sʼ fʼ t͡sʼ t͡ʃʼ t͡ɬʼ kʷʼ t̪ʼ tʼː",
    "contours": "t͡r d͡r ʈ͡r ɖ͡ɽ t͡ɾ t͡l d͡l t͡n p͡m c͡ɕ ɟ͡ʑ t͡ʙ t͡s d͡z t͡ʃ ʈ͡ʂ p͡f k͡x t͡θ",
    "two places": "k͡p ɡ͡b ŋ͡m ɡ͡ɓ p͡t ŋ͡mk͡p",
    "rare letters": "ⱱ ꞎ ɧ ʜ ʢ ʡ ɺ ʍ ɥ ʟ ɶ ɞ",
    "marks": "tʰ dʱ d̤ b̰ tˤ lˠ kʷʰ tⁿ tˡ s͈ t͉ z̩ n̩ l̥ m̥ r̝ n̪ s̺ s̻ e̞ o̝ a̟ ã ã̰ a̤ a˞ ɨ̙ u̘ i͓ aᴱ iː iˑ ă mʼ lˀ",
    "diphthongs": "aɪ aʊ̯ eɪ ɔɪ iə aɪə uaɪ̯ waɪ ja aɪɚ ɑːɹ əl ãɪ̃ aːɪ",
}  # fmt: skip
EVERY = [segment for kind in SEGMENTS.values() for segment in kind.split()]


def test_the_list_has_every_kind() -> None:
    assert len(EVERY) == len(set(EVERY)) >= 150


@pytest.mark.parametrize("segment", EVERY)
def test_a_segment_is_one_phoneme_with_features(segment: str) -> None:
    expected = unicodedata.normalize("NFD", segment)
    assert to_ipa(segment, "ipa") == expected
    assert to_ipa(unicodedata.normalize("NFC", segment), "ipa") == expected
    features = articulatory_features([expected])
    assert features.any() and np.abs(features).max() <= 1
    assert articulation_class(expected) != ("other", "other")


@pytest.mark.parametrize("segment", EVERY)
def test_its_parts_are_those_that_are_written(segment: str) -> None:
    parsed = parse(normalise_ipa(segment))
    assert parsed.reason == "" and parsed.text == unicodedata.normalize("NFD", segment)
    assert parsed.bases == "".join(letter.base for letter in parsed.letters)
    assert parsed.is_ejective == ("ʼ" in segment)
    assert parsed.length == "".join(mark for mark in segment[-1:] if mark in "ːˑ")


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        ("kǃ k͡ǃ k͜ǃ ᵏǃ", "k͡ǃ"), ("ᶢǃ ɡǃ gǃ ɡ͡ǃ ᵍǃ", "ɡ͡ǃ"), ("ᵑǃ ŋǃ ŋ͡ǃ", "ŋ͡ǃ"), ("ᵑ̥ǀ ᵑ̊ǀ ŋ̊ǀ", "ŋ̥͡ǀ"), ("kǃx k͡ǃx", "k͡ǃ͡x"),
        ("tr t͡r", "t͡r"), ("ndr nd͡r", "nd͡r"), ("cɕ", "c͡ɕ"), ("dʒʰ d͡ʒʰ ʤʰ", "d͡ʒʰ"), ("ⁿdʒ ⁿʤ", "ⁿd͡ʒ"),
        ("kʼʷ kʷʼ k'ʷ", "kʷʼ"), ("tʰʷ tʷʰ", "tʷʰ"), ("aː̃ ãː", "ãː"), ("tɦ tʱ", "tʱ"), ("dzɦ", "d͡zʱ"),
        ("' ’ ′ ʼ ʻ ‘ ʾ ʔ", "ʔ"),
    ],
)  # fmt: skip
def test_one_segment_has_one_spelling(spellings: str, expected: str) -> None:
    assert {to_ipa(each, "ipa") for each in spellings.split()} == {unicodedata.normalize("NFD", expected)}


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("aʼ", "ejective mark ʼ on the vowel a.*ʔ"), ("ɔː'", "ejective mark ʼ on the vowel ɔ.*ʔ"), ("aɪ’", "vowel ɪ.*ʔ"),
        ("ʼm", "begins with an ejective mark: write ˀm"), ("ʰa", "ʰ before the vowel a"), ("ⁿa", "prenasal ⁿ before a"),
        ("ⁿm", "prenasal ⁿ before m"), ("ᵈa", "prestopped ᵈ before a"), ("ːa", "begins with ː, which stands after"),
        ("č", "č is t͡ʃ"), ("š", "š is ʃ"), ("ñ", "ñ is ɲ"), ("ř", "ř is"), ("s\u0301", "ś is"), ("d\u0301", "tone.*consonant d"),
        ("?", "not IPA here.*ʔ"), ("ʿ", "not IPA here.*ʕ"), ("*R", "not IPA here: \\*"), ("ʰ", "not IPA here: ʰ"),
        ("th", "more than one phoneme .t h.: write tʰ"), ("ps", "more than one phoneme .p s.*p͡s"), ("ta", "t a"),
        ("ih", "more than one phoneme .i h"), ("ʔa", "more than one phoneme .ʔ a"), ("tʰʃ", "more than one"), ("tt", "t t"),
        ("aeio", "a e i o.: give each an interval of its own$"), ("kǃt", "more than one"), ("st", "s t"),
    ],
)  # fmt: skip
def test_what_is_no_segment_is_told_why(label: str, why: str) -> None:
    with pytest.raises(UnmappableLabel, match=f"^label '.*' .*{why}"):
        to_ipa(label, "ipa")


@pytest.mark.parametrize(
    ("phoneme", "marks"),
    [
        ("k", "ʰ ʼ ʷ ː ʲ ˀ"),
        ("kː", "ʰ ʼ"),
        ("a", "ː ˀ ˞ \u0303 \u0301"),
        ("d", "ʱ ⁿ ˡ ʷ"),
        ("t͡s", "ʼ ʰ"),
        ("m", "ʰ ː \u0329"),
    ],
)
def test_a_mark_joins_what_can_take_it(phoneme: str, marks: str) -> None:
    assert all(joined(phoneme, mark) for mark in marks.split())


@pytest.mark.parametrize(
    ("phoneme", "marks"),
    [
        ("a", "ʼ ʰ ⁿ ʷ ˡ \u0329"),
        ("aː", "ʼ"),
        ("m", "ʼ ⁿ ˞"),
        ("d", "ʼ ˞ \u0301"),
        ("h", "ʼ"),
        ("ʔ", "ʼ"),
        ("kʼ", "ʼ"),
        ("z", "ʼ"),
    ],
)
def test_a_mark_does_not_join_what_cannot(phoneme: str, marks: str) -> None:
    assert not any(joined(phoneme, mark) for mark in marks.split())


def test_features_of_what_stands_before_a_letter_count() -> None:
    plain, aspirated, nasal, oral, prestopped = articulatory_features(["p", "ʰp", "n", "d", "ᵈn"])
    assert np.count_nonzero(plain != aspirated) == 1  # spread glottis
    np.testing.assert_allclose(prestopped, (nasal + oral) / 2)


def test_classes() -> None:
    assert articulation_class("k͡ǃ͡x") == articulation_class("ŋ͡ǀ") == ("click", "click")
    assert articulation_class("ʰp") == ("labial", "plosive") and articulation_class("ᵈn") == (
        "dental/alveolar",
        "nasal",
    )
    assert articulation_class("ᶑ") == ("retroflex", "implosive") and articulation_class("ⱱ") == (
        "labial",
        "trill or tap",
    )


@pytest.mark.parametrize(
    ("label", "phone_set", "marks"),
    [("ʰ", "ipa", "ʰ"), ("'", "ipa", "ʼ"), ("'", "xsampa", "ʲ"), ("_h", "xsampa", "ʰ"), ("_h", "ipa", ""), ("k", "ipa", ""),
     ("'", "arpabet", "")],
)  # fmt: skip
def test_a_mark_is_one_of_its_phone_set(label: str, phone_set: str, marks: str) -> None:
    assert modifier_of(label, phone_set) == marks


@pytest.mark.parametrize(
    ("label", "phone_set", "told"),
    [
        ("ʧ", "ipa", "label 'ʧ' is read as 't͡ʃ'"), ("a:", "ipa", "label 'a:' is read as 'aː'"),
        ("ˈa", "ipa", "label 'ˈa' is read as 'a'"),
        ("g", "ipa", "label 'g' is read as 'ɡ'"), ("tʃ", "mfa", ""), ("tʃ", "ipa", "label 'tʃ' is read as 't͡ʃ'"), ("a", "ipa", ""),
        ("ã", "ipa", ""), ("sil", "ipa", ""), ("Q", "ipa", ""), ("AA", "arpabet", ""),
        ("AA1", "arpabet", "stress digits of labels are dropped"),
        ("P_B", "arpabet", "positions in the word (_B, _I, _E, _S) of labels are dropped"), ("S", "xsampa", ""),
        ('"a', "xsampa", "label '\"a' is read as 'a'"),
        ("ɑ_E", "ipa", "positions in the word (_B, _I, _E, _S) of labels are dropped"),
    ],
)  # fmt: skip
def test_what_reading_changed_is_told(label: str, phone_set: str, told: str) -> None:
    assert change_of(label, phone_set) == told


@given(st.text(alphabet="".join({*"tdkpbszʃʒaeiouɪənŋɡhɦʔrlm ǃǀ'ⁿᵈ͡*", *DIACRITIC_FEATURES}), max_size=7))
def test_what_is_a_segment_stays_one(label: str) -> None:
    try:
        found = to_ipa(label, "ipa")
    except UnmappableLabel as error:
        assert str(error).startswith(f"label '{label}' ")
        return
    if found is not None:
        assert to_ipa(found, "ipa") == found == unicodedata.normalize("NFD", found)
        assert articulatory_features([found]).any()


@pytest.mark.slow
def test_at_most_a_twentieth_of_phoible_is_refused_and_each_with_a_reason() -> None:
    """PHOIBLE's table of segments and features (raw-data/FEATURES/phoible-segments-features.tsv of phoible/dev)."""
    path = os.environ.get("MTL_SPEECH_PHOIBLE")
    if not path:
        pytest.skip("MTL_SPEECH_PHOIBLE does not name PHOIBLE's table of segments")
    with Path(path).open(encoding="utf-8", newline="") as file:
        segments = {row["segment"] for row in csv.DictReader(file, delimiter="\t") if row["tone"] != "+"}
    assert len(segments) > 2000
    refused = {}
    for segment in segments:
        try:
            found = to_ipa(segment, "ipa")
        except UnmappableLabel as error:
            refused[segment] = str(error)
        else:
            if found is None:
                refused[segment] = f"label '{segment}' means a noise"
            else:
                assert articulatory_features([found]).any()
    assert {each for each, why in refused.items() if "noise" in why} <= {"ns", "br"}  # "noise" and "breath" of corpora
    assert len(refused) <= len(segments) / 20
    assert all(len(reason) > len(f"label '{segment}' ") for segment, reason in refused.items())
