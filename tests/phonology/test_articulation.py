"""Articulatory features are those of panphon, and phonemes stand in the order of their places."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.phonology.articulation import articulation_order, articulatory_features
from mtl_speech.phonology.phone_sets import CMU_TO_IPA, TIMIT_TO_IPA


def test_features() -> None:
    features = articulatory_features(["p", "b", "aɪ", "a", "ɪ", "m", "t͡ʃ", "ɝ", "lʼ"])
    assert features.shape == (9, 24)
    assert features.dtype == np.float32
    assert np.abs(features).max() == 1
    p, b, diphthong, a, i = features[:5]
    assert np.count_nonzero(p != b) == 1  # voicing alone
    np.testing.assert_allclose(diphthong, (a + i) / 2)
    assert articulatory_features([]).shape == (0, 24)
    with pytest.raises(DataError, match="'AA'"):
        articulatory_features(["p", "AA"])


def test_features_are_those_of_panphon() -> None:
    panphon = pytest.importorskip("panphon")
    phonemes = ["p", "t̪ʰ", "d͡ʒ", "ã", "ɽ", "ʌ", "kʷʼ", "ɳː", "n̩"]
    table = panphon.FeatureTable()
    expected = np.array([table.word_array(table.names, phoneme)[0] for phoneme in phonemes])
    np.testing.assert_array_equal(articulatory_features(phonemes), expected)


def test_a_mark_without_a_row_of_its_own_still_counts() -> None:
    plain, glottalised = articulatory_features(["l", "lʼ"])
    assert np.count_nonzero(plain != glottalised) == 1


def test_order_is_by_place_then_vowels() -> None:
    shuffled = ["ɑ", "k", "i", "p", "ʌ", "h", "t͡ʃ", "t", "b", "s", "u", "pʰ", "n", "ŋ", "aɪ", "ʃ", "m"]
    expected = ["p", "pʰ", "b", "m", "t", "n", "s", "t͡ʃ", "ʃ", "k", "ŋ", "h", "i", "u", "ʌ", "aɪ", "ɑ"]
    assert articulation_order(shuffled) == expected
    assert articulation_order(reversed(shuffled)) == expected


def test_order_keeps_every_phoneme_of_the_tables() -> None:
    everything = {*CMU_TO_IPA.values(), *TIMIT_TO_IPA.values(), "☃"}
    assert sorted(articulation_order(everything)) == sorted(everything)
    assert articulation_order(everything)[-1] == "☃"
