"""The table of phone sets: each set whole, each label one phoneme of IPA, and every phoneme known to panphon."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core.options import PHONE_SETS, AdaptOptions
from mtl_speech.core.settings import settings
from mtl_speech.phonology.articulation import articulatory_features
from mtl_speech.phonology.phone_sets import (
    IPA_48_TO_39,
    LOOK_ALIKES,
    SILENCES_48,
    TABLES,
    TIMIT_48_TO_39,
    TIMIT_CLOSURES,
    fold_48,
)
from mtl_speech.phonology.phonemes import UnmappableLabel, guess_phone_set, is_modifier, normalise_ipa, to_ipa
from tests.phonology.test_phonemes import TIMIT_61

# As published: 39 phones of cmudict, 61 of TIMIT's phoncode.doc, 91 in the card of english_mfa v3.1.0; of the 69 in that of
# punjabi_cv v2.0.0 one is a mark alone, "ʰ", which readers join to the phone before it.
SIZES = {"cmu": 39, "timit": 61, "mfa": 91, "voxcommunis": 68}
WHOLE = ("cmu", "arpabet", "timit", "mfa", "voxcommunis", "espeak")  # sets whose labels are phonemes
NAMES = {"cmu": "arpabet"}  # of a table: the option that reads it
X_SAMPA_MARKS = {label for label, ipa in TABLES["xsampa"].items() if is_modifier(ipa) or ipa in "ˈˌ"}


def read(name: str, label: str) -> str | None:
    return to_ipa(label, NAMES.get(name, name))


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_each_set_is_whole(name: str, size: int) -> None:
    assert len(TABLES[name]) == size


@pytest.mark.parametrize("name", WHOLE)
def test_each_label_is_one_phoneme_with_articulatory_features(name: str) -> None:
    for label, ipa in TABLES[name].items():
        found = read(name, label)
        assert found == (normalise_ipa(ipa) or None)
        if found is not None:
            assert to_ipa(found, "ipa") == found
            assert articulatory_features([found]).any()


@pytest.mark.parametrize("name", ["cmu", "mfa", "voxcommunis"])
def test_no_two_labels_of_a_set_are_one_phoneme(name: str) -> None:
    phonemes = [read(name, label) for label in TABLES[name]]
    assert len(set(phonemes)) == len(phonemes)


def test_arpabet_of_the_aligner_is_that_of_cmu_with_stress() -> None:
    assert [to_ipa(f"{vowel}{stress}", "arpabet") for vowel in ("AA", "ER") for stress in "012"] == ["ɑ"] * 3 + [
        "ɝ"
    ] * 3


def test_glides_in_diphthongs_of_mfa_are_vowels_as_in_the_other_sets() -> None:
    pairs = {"aj": "AY", "aw": "AW", "ej": "EY", "ow": "OW", "ɔj": "OY", "tʃ": "CH", "dʒ": "JH"}
    for mfa, cmu in pairs.items():
        assert to_ipa(mfa, "mfa") == to_ipa(cmu, "arpabet")


@pytest.mark.parametrize("name", ["mfa", "voxcommunis", "espeak"])
def test_sets_of_ipa_read_other_ipa_too_and_refuse_the_rest(name: str) -> None:
    assert to_ipa("ɬ", name) == "ɬ"
    assert to_ipa("spn", name) is None
    with pytest.raises(UnmappableLabel, match=r"not IPA here: Q \(U\+0051 LATIN CAPITAL LETTER Q\)"):
        to_ipa("Q", name)


@pytest.mark.parametrize(
    ("label", "ipa"),
    [
        ("t_hS", None), ("t_S", "t͡ʃ"), ("tS", "t͡ʃ"), ("d`_h", "ɖʰ"), ("J\\", "ɟ"), ("J\\_<", "ʄ"), ("3`", "ɝ"), ("a~", "ã"),
        ("n_d", "n̪"), ("aI", "aɪ"), ("i:", "iː"), ("|\\|\\", "ǁ"), ("|\\", "ǀ"), ('"a', "a"), ("l=", "l̩"),
        ("O_x", "ɔ̽"), ("k_w_>", "kʷʼ"),
    ],
)  # fmt: skip
def test_x_sampa_is_read_symbol_by_symbol_the_longest_first(label: str, ipa: str | None) -> None:
    if ipa is None:
        with pytest.raises(UnmappableLabel, match="more than one phoneme"):
            to_ipa(label, "xsampa")
    else:
        assert to_ipa(label, "xsampa") == unicodedata.normalize("NFD", ipa)


def test_each_x_sampa_symbol_is_a_phoneme_or_a_mark_on_one() -> None:
    letters = TABLES["xsampa"].keys() - X_SAMPA_MARKS
    assert len(letters) > 100
    for label in letters:
        found = to_ipa(label, "xsampa")
        assert found == normalise_ipa(TABLES["xsampa"][label]) and articulatory_features([str(found)]).any()
    for mark in X_SAMPA_MARKS - {'"', "%", "_"}:
        on = "a" if mark not in ("_h", "_l", "_n", "_}", "_>") else "t"
        found = str(to_ipa(f"{on}{mark}", "xsampa"))
        assert len(found) == (1 if mark == "`" and on == "ə" else 2)


def test_what_is_no_x_sampa_is_named() -> None:
    with pytest.raises(UnmappableLabel, match=r"not X-SAMPA: ʃ \(U\+0283 LATIN SMALL LETTER ESH\)"):
        to_ipa("tʃ", "xsampa")


@given(st.text(max_size=12), st.sampled_from(PHONE_SETS))
def test_any_label_of_any_set_is_a_phoneme_silence_or_refused(label: str, phone_set: str) -> None:
    try:
        found = to_ipa(label, phone_set)
    except UnmappableLabel:
        return
    if found is not None:
        assert to_ipa(found, "ipa") == found


MARKED = st.sampled_from([ipa for name in ("mfa", "voxcommunis") for ipa in TABLES[name].values()])
BACK = {plain: like for like, plain in LOOK_ALIKES.items() if len(plain) == 1}


@given(MARKED, st.booleans(), st.booleans())
def test_look_alikes_composed_letters_and_missing_ties_change_nothing(ipa: str, composed: bool, tied: bool) -> None:
    spelled = "".join(BACK.get(character, character) for character in unicodedata.normalize("NFD", ipa))
    spelled = spelled if tied else spelled.replace("\u0361", "")
    spelled = unicodedata.normalize("NFC", spelled) if composed else spelled
    assert to_ipa(spelled, "ipa") == to_ipa(ipa, "ipa")


def test_options_name_the_same_sets() -> None:
    (choices,) = [each.choices for each in settings(AdaptOptions) if each.name == "phone_set"]
    assert tuple(choices) == PHONE_SETS


# Lee and Hon (1989), table 3: the groups within which confusions are not counted.
GROUPS_39 = [
    "sil cl vcl epi h# pau pcl tcl kcl bcl dcl gcl", "aa ao", "ah ax ax-h", "er axr", "hh hv", "ih ix", "l el", "m em",
    "n en nx", "ng eng", "sh zh", "uw ux",
]  # fmt: skip


def fold_39(label: str) -> str | None:
    """One of the 39 labels for one of the 61."""
    found = fold_48(label)
    return found if found is None else TIMIT_48_TO_39.get(found, found)


def test_61_labels_fold_to_48_and_39() -> None:
    assert len({fold_48(label) for label in TIMIT_61} - {None}) == 48
    assert len({fold_39(label) for label in TIMIT_61} - {None}) == 39
    assert [label for label in TIMIT_61 if fold_39(label) is None] == ["q"]


def test_the_groups_of_the_39_are_those_of_the_paper() -> None:
    together: dict[str | None, set[str]] = {}
    for label in TIMIT_61:
        together.setdefault(fold_39(label), set()).add(label)
    groups = {frozenset(group) for name, group in together.items() if name is not None and len(group) > 1}
    assert groups == {frozenset(group.split()) & set(TIMIT_61) for group in GROUPS_39}
    assert all(fold_39(str(fold_48(label))) == fold_39(label) for label in TIMIT_61 if label != "q")
    assert fold_39("AX-H") == "ah" and fold_48("AX-H") == "ax"


def test_folding_in_ipa_is_that_of_the_labels() -> None:
    """Whatever label of the 61: its IPA by way of the 48, folded to the 39, is the IPA of its label of the 39."""
    phones = [label for label in TIMIT_61 if fold_48(label) not in {None, *SILENCES_48}]
    for label in phones:
        by_48, by_39 = (to_ipa(str(fold(label)), "timit") for fold in (fold_48, fold_39))
        assert IPA_48_TO_39.get(str(by_48), by_48) == by_39
    assert len({to_ipa(str(fold_39(label)), "timit") for label in phones}) == 38


def test_timit_is_folded_within_its_61_labels() -> None:
    labels = set(TABLES["timit"])
    assert {fold_48(label) for label in labels} - {None, "sil", "cl", "vcl"} <= labels
    assert len({fold_48(label) for label in labels} - {None}) == 48
    assert len({fold_39(label) for label in labels} - {None}) == 39
    for closure, stops in TIMIT_CLOSURES.items():
        assert TABLES["timit"][closure] == TABLES["timit"][stops[0]]


def test_the_aligner_s_ipa_is_guessed_as_ipa() -> None:
    assert guess_phone_set(TABLES["mfa"]) == "ipa" and guess_phone_set(TABLES["voxcommunis"]) == "ipa"
