"""The notation of a corpus, guessed from all its labels together, and what is said where it does not fit or looks like another."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from mtl_speech.phonology.notation import notation_of, y_share
from mtl_speech.phonology.phone_sets import TABLES
from mtl_speech.phonology.phonemes import UnmappableLabel, guess_phone_set, is_silence, to_ipa

GERMAN = "a a: 6 @ E I O U Y S N C R Q 2: 9 OY aI aU p t k b d g m n l f v z s"
DISC = "p b t d k g N m n l r f v T D s z S Z j h w J _ i # $ u 3 1 2 4 5 6 7 8 9 I E { V Q U @"


@pytest.mark.parametrize(
    ("labels", "phone_set"),
    [
        ("AH0 T K IY1 S sil AE2 HH", "arpabet"), ("AH_B SIL_S T_I K_E IY_S N_B", "arpabet"), ("AA1 T K oops", "arpabet"),
        ("ah0_I t_B k_E iy1_S n_B", "arpabet"), ("ah_B t_I k_E iy_S n_B hh_B dh_B eh_I", "timit"),
        (GERMAN, "xsampa"), ("{ 2 y a e i o u p t k d s h l r m n j v N", "xsampa"), ("t_hS S a A s\\ r\\ n`", "xsampa"),
        ("p t k r. ts. a i u s m n", "espeak"), (DISC, "disc"), ("k { t _ V m p 2 s 1 n @ l I d", "disc"),
        ("p t k a e i o u ɛ s m", "ipa"), ("ɑ_B t_E ə_S n_I s_B", "ipa"), ("A p t k B a e i o u s m ɛ ɔ ŋ", "ipa"),
        ("k' p' t' ? a i u e s m n l", "ipa"), ("' a e i o u k l m n p h w", "ipa"), ("b d s t k m", "ipa"), ("", "ipa"),
        ("a e i o u p t k s m n 1 2 3 4 5 %2", "ipa"),
        ("a i u e o k s t n h m y r w g z d b p N Q sh ch ts f", "ipa"),  # Japanese in Latin letters: N and Q are no X-SAMPA
        ("A B CH D E F G I K L M N O P R S T U V Z", "ipa"), ("A E I O U P T K S M N L R", "ipa"),  # capitals of other notations
    ],
)  # fmt: skip
def test_the_phone_set_is_guessed_from_all_labels(labels: str, phone_set: str) -> None:
    assert guess_phone_set(labels.split()) == phone_set
    notation = notation_of(Counter(labels.split()))
    assert notation.phone_set == phone_set and str(notation) == f"{phone_set} (guessed from all labels together)"
    assert str(notation_of(Counter(labels.split()), "ipa")) == "ipa (as given)"


@pytest.mark.parametrize(
    ("labels", "given", "best"),
    [
        (GERMAN, "arpabet", "xsampa"), ("AA1 K T AH0 IY2 HH", "ipa", "arpabet"), ("ɑ ɛ ʃ p t", "arpabet", "ipa"),
        ("h# sh iy dcl jh axr kcl k", "ipa", "timit"), (DISC, "ipa", "disc"),
    ],
)  # fmt: skip
def test_one_sentence_names_the_phone_set_that_would_fit(labels: str, given: str, best: str) -> None:
    said = notation_of(Counter(dict.fromkeys(labels.split(), 3)), given).unfit
    assert f"--phone-set {best} reads" in said and f"of the phone set {given} (" in said and said.count("'") == 6


def test_where_none_fits_it_says_so_and_names_none() -> None:
    counts = Counter("A E I O U P T K S M N L R".split())
    assert notation_of(counts).unfit == ""  # each of so few is told by itself
    said = notation_of(Counter(dict.fromkeys(counts, 2))).unfit
    assert (
        "26 of 26 labels" in said and "no other phone set reads more than 16 of" in said and "--phone-set" not in said
    )
    assert notation_of(Counter("p t k a %".split())).unfit == ""  # one of five is told by itself


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("b d j x q zh ch sh a ang eng i u ian l m n", "look like Pinyin.*b, d, j, q, x are other sounds"),
        ("b d j x q a1 ang2 sh eng4 i3 l m", "look like Pinyin"),
        ("p t k ʃ ŋ ə iy er ih a s", "'er', 'iy' .2 labels. are read as diphthongs of IPA, but look like ARPAbet"),
        ("a e i o p t k s y m n l", "'y' .1 labels. is read as the vowel y.*write j"),
    ],
)
def test_look_alikes_are_told(labels: str, said: str) -> None:
    (doubt,) = notation_of(Counter(labels.split()), "auto", 1.0).doubts
    assert re.search(said, doubt)


@pytest.mark.parametrize("labels", ["p t k a e ow ay s m n", "y j a t k s", "q x j a i u t k s", "t͡ʃ a ɛ y j ʒ"])
def test_ipa_raises_no_doubt(labels: str) -> None:
    assert notation_of(Counter(labels.split()), "auto", 1.0).doubts == ()
    assert notation_of(Counter("a e i o p t k s y m n l".split()), "auto", 0.3).doubts == ()


def test_silence_of_x_sampa_that_may_be_an_affricate_is_told() -> None:
    (doubt,) = notation_of(Counter("a E O S N p t k _".split()), "xsampa").doubts
    assert doubt.startswith("'_' (1 labels) is read as silence") and "--phone-set disc" in doubt


def test_share_of_y_beside_vowels() -> None:
    assert y_share([["y", "a"], ["t", "y"], ["o", "y", "t"], ["p"]]) == pytest.approx(2 / 3)
    assert y_share([["a"]]) == 0


def test_disc_loses_no_affricate() -> None:
    assert [to_ipa(label, "disc") for label in "_#J$"] == ["d͡ʒ", "ɑː", "t͡ʃ", "ɔː"]
    assert is_silence("_") and to_ipa("sil", "disc") is None
    with pytest.raises(UnmappableLabel, match="not in the DISC phone set"):
        to_ipa("tS", "disc")


def test_positions_in_the_word_are_dropped_but_no_tie_of_x_sampa() -> None:
    assert [to_ipa(label, "arpabet") for label in ("AH0_B", "ah_I", "HH_S")] == ["ʌ", "ʌ", "h"]
    assert to_ipa("t̪_E", "ipa") == "t̪" and to_ipa("SIL_S", "ipa") is None and to_ipa("spn_B", "timit") is None
    assert to_ipa("t_S", "xsampa") == "t͡ʃ"
    with pytest.raises(UnmappableLabel):
        to_ipa("t_S", "ipa")


def digest(pairs: dict[str, str | None]) -> str:
    """A short hash of labels and what they are read as."""
    text = "\n".join(f"{label}\t{ipa}" for label, ipa in sorted(pairs.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mapping(labels: list[str], phone_set: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for label in labels:
        try:
            found[label] = to_ipa(label, phone_set)
        except UnmappableLabel:
            found[label] = "refused"
    return found


# Figures depend on these: hashes of what every label was read as before there was a grammar.
BEFORE = {
    "cmu": "b52b791aee71d9ba",
    "arpabet": "632a56133549387b",
    "timit": "7207c010e9a97a79",
    "mfa": "9ac67331a440c2ba",
    "voxcommunis": "ddc3c32704d8c01b",
    "xsampa": "760f896aebe82165",
    "espeak": "afecf068a37d45e1",
}


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_labels_of_the_tables_are_read_as_ever(name: str) -> None:
    option = "arpabet" if name == "cmu" else name
    labels = [
        label for label in TABLES[name] if (name, label) != ("xsampa", "_n")
    ]  # a mark alone, a phoneme by mistake
    assert digest(mapping(labels, option)) == BEFORE[name]


def test_labels_of_the_punjabi_dictionary_are_read_as_ever(corpora: Path) -> None:
    path = corpora.parent / "lexicons" / "punjabi_cv.dict"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    labels = {label for line in path.read_text("utf-8").splitlines() for label in line.partition("\t")[2].split()}
    assert digest(mapping(sorted(labels), "voxcommunis")) == "897e8bfb4036ab29"
