"""Folding TIMIT's labels, and the speakers of its standard splits."""

from __future__ import annotations

from pathlib import Path

from mtl_speech.corpora.label_lines import read_folded_phn
from mtl_speech.corpora.timit_folding import (
    CORE_TEST_SPEAKERS,
    DEV_SPEAKERS,
    IPA_48_TO_39,
    SILENCES_48,
    fold_39,
    fold_48,
)
from mtl_speech.phonology.phonemes import to_ipa
from tests.phonology.test_phonemes import TIMIT_61

# Lee and Hon (1989), table 3: the groups within which confusions are not counted.
GROUPS_39 = [
    "sil cl vcl epi h# pau pcl tcl kcl bcl dcl gcl", "aa ao", "ah ax ax-h", "er axr", "hh hv", "ih ix", "l el", "m em",
    "n en nx", "ng eng", "sh zh", "uw ux",
]  # fmt: skip


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


def test_the_speakers_of_the_standard_splits() -> None:
    assert (len(CORE_TEST_SPEAKERS), len(DEV_SPEAKERS)) == (24, 50)
    assert sum(speaker.startswith("f") for speaker in CORE_TEST_SPEAKERS) == 8
    assert not CORE_TEST_SPEAKERS & DEV_SPEAKERS


def test_a_label_file_is_read_folded(tmp_path: Path) -> None:
    path = tmp_path / "a.PHN"
    path.write_text("0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 4800 Q\n4800 5600 IX\n5600 8000 what\n")
    labels = [(phone.label, phone.number) for phone in read_folded_phn(path).phones]
    assert labels == [("sil", 1), ("sil", 2), ("jh", 3), ("ix", 5), ("what", 6)]
