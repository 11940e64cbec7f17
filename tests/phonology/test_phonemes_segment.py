"""IPA written together: cut into the phonemes of an inventory, and what fits none told with its place and name."""

from __future__ import annotations

import unicodedata
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.phonology.phonemes import letters_of, normalise_ipa, segment

INVENTORY = tuple(normalise_ipa(phoneme) for phoneme in "t ʃ tʃ a aː k kʰ kʰː ɑ̃ g ts aɪ".split())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tʃaː", "t͡ʃ aː"), ("t͡ʃa", "t͡ʃ a"), ("t͜sa", "t͡s a"), ("ʦa", "t͡s a"), ("ʧaɪ", "t͡ʃ aɪ"), ("ka:", "k aː"), ("kːʰa", "kʰː a"),
        ("ɑ̃ta", "ɑ̃ t a"), (unicodedata.normalize("NFC", "ɑ̃t"), "ɑ̃ t"), ("ˈga.ta", "ɡ a t a"), ("k a\u200b tʃ", "k a t͡ʃ"), ("", ""),
    ],
)  # fmt: skip
def test_the_longest_phonemes_are_found_in_any_spelling(text: str, wanted: str) -> None:
    assert segment(text, INVENTORY) == (tuple(unicodedata.normalize("NFD", wanted).split()), ())


def test_a_long_phoneme_is_not_taken_where_the_rest_then_fits_nothing() -> None:
    assert segment("abc", ["a", "ab", "bc"]) == (("a", "bc"), ())


def test_a_tie_that_is_written_is_never_cut() -> None:
    assert segment("tʃ", ["t", "ʃ"])[0] == ("t", "ʃ")
    found, unmatched = segment("at͡ʃ", ["a", "t", "ʃ"])
    assert found == ("a",) and [each.place for each in unmatched] == [2, 4]


def test_each_character_that_fits_nothing_is_told_with_place_code_point_and_name() -> None:
    found, unmatched = segment("kʰaQt̪", INVENTORY)
    assert found == ("kʰ", "a", "t")
    assert [str(each) for each in unmatched] == [
        "character 4: Q (U+0051 LATIN CAPITAL LETTER Q)",
        "character 6: \u032a (U+032A COMBINING BRIDGE BELOW)",
    ]


PHONEMES = st.sampled_from(["t", "ʃ", "t͡ʃ", "a", "aː", "k", "kʰ", "n̩", "i"])


@given(st.lists(PHONEMES, max_size=12))
def test_phonemes_written_with_blanks_ties_or_dots_come_back(phonemes: list[str]) -> None:
    inventory = ["t", "ʃ", "t͡ʃ", "a", "aː", "k", "kʰ", "n̩", "i"]
    assert segment(" ".join(phonemes), inventory) == (tuple(phonemes), ())
    assert segment(".".join(phonemes), inventory) == (tuple(phonemes), ())


@given(st.text(max_size=20))
def test_nothing_is_lost(text: str) -> None:
    """Each character that no phoneme has is told, at its place in the text."""
    found, unmatched = segment(text, INVENTORY)
    assert all(phoneme in INVENTORY for phoneme in found)
    for each in unmatched:
        written = unicodedata.normalize("NFD", text[each.place - 1])
        assert each.character in normalise_ipa(written) or each.character in written
    if text.isalpha() and text.isascii() and text.isupper():
        assert len(unmatched) == len(text)


def cost(text: str, inventory: tuple[str, ...]) -> tuple[int, int]:
    """(unmatched, phonemes) of the best way to cut a text, by trying all."""
    best = (len(text), 0)
    for cuts in product((False, True), repeat=max(len(text) - 1, 0)):
        bounds = [0, *(place for place, cut in enumerate(cuts, 1) if cut), len(text)]
        parts = [text[start:end] for start, end in pairwise(bounds)]
        hits = [part for part in parts if part in inventory]
        best = min(best, (len(text) - sum(map(len, hits)), len(hits)))
    return best


@given(
    st.text(alphabet="abn", min_size=1, max_size=7),
    st.sets(st.sampled_from(["a", "ab", "ba", "bn", "nab", "bb"]), min_size=1),
)
def test_the_cut_is_the_best_of_all(text: str, inventory: set[str]) -> None:
    found, unmatched = segment(text, inventory)
    assert (len(unmatched), len(found)) == cost(text, tuple(inventory))


def test_letters_keep_their_marks_and_ties() -> None:
    assert letters_of("kʰat͡ʃʰn̩ts") == ["kʰ", "a", "t͡ʃʰ", "n̩", "t͡s"]
    assert letters_of("kaɪ", ["aɪ"]) == ["k", "aɪ"]
