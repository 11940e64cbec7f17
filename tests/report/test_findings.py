"""What a report says beside the scores: counted right, and None where it was not measured."""

from __future__ import annotations

import itertools

import pytest

from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.report.findings import Details, Size, calibration, findings, hard_when, sizes
from mtl_speech.scoring.metrics import Token, score
from mtl_speech.scoring.sequences import expected_calibration_error


def test_nothing_is_made_up_where_nothing_was_measured() -> None:
    found = findings(score(["p", "a"], ["p", "p"], n_bootstrap=5), Details())
    assert {key for key, value in found.items() if value is None} == {
        *("calibration", "learning_curve", "curriculum", "size", "base_model", "clips"),
    }
    assert found["articulation"] == {"p": ("labial", "plosive"), "a": ("open", "vowel")}


def test_calibration_counts_each_bin() -> None:
    sure = [0.95, 0.97, 0.31, 0.35]
    tokens = [Token("u", i, i + 1, "p", "p" if i != 1 else "b", c) for i, c in enumerate(sure)]
    found = calibration(tokens, 1.5)
    assert found is not None
    assert found["ece"] == pytest.approx(expected_calibration_error(sure, [True, False, True, True]))
    assert (found["n"], found["temperature"]) == (4, 1.5)
    assert sum(each.n for each in found["bins"]) == 4 and all(each.n for each in found["bins"])
    assert found["bins"][-1].accuracy == 0.5
    assert calibration([*tokens, Token("u", 9, 10, "p", "p")], 1.5) is None
    assert calibration([], None) is None


def test_what_was_hard_when_is_counted_by_period_over_all_folds() -> None:
    one = [[("pa", "p")]] * 10 + [[("pa", "t"), ("pa", "t")]] * 10
    other = [[("pa", "k")]] * 20
    found = hard_when([one, other], True)
    assert (found["on"], found["rounds"], found["folds"], found["not_shown"]) == (True, 20, 2, 0)
    assert found["periods"][0][0] == 1 and found["periods"][-1][1] == 20 and len(found["periods"]) == 8
    assert all(b[0] == a[1] + 1 for a, b in itertools.pairwise(found["periods"]))
    by_name = {row["phoneme"]: row for row in found["phonemes"]}
    assert list(by_name) == ["k", "t", "p"]
    assert (by_name["t"]["n"], by_name["k"]["n"], by_name["p"]["n"]) == (20, 20, 10)
    assert by_name["p"]["by_period"] == [2, 3, 3, 2, 0, 0, 0, 0]
    assert all(sum(row["by_period"]) == row["n"] for row in found["phonemes"])


def test_few_rounds_and_many_phonemes() -> None:
    found = hard_when([[[("pa", f"a{i}") for i in range(20)]] * 3], False)
    assert found["periods"] == [[1, 1], [2, 2], [3, 3]]
    assert (len(found["phonemes"]), found["not_shown"]) == (15, 5)
    assert hard_when([[]], False)["phonemes"] == [] == hard_when([], True)["phonemes"]


def test_sizes_are_set_against_examples_and_the_encoder() -> None:
    found = sizes(Size(500, 10_000, 200))
    assert (found["trainable"], found["frozen"], found["examples"]) == (500, 10_000, 200)
    assert (found["per_example"], found["share_of_frozen"]) == (2.5, 0.05)


def test_groups_of_articulation_stand_together() -> None:
    phonemes = "b tʼ ɡ p t̪ʰ h ᵐb d͡ʒ ɓ n̥ ɾ w ŋ ʔ a ĩ ɔ ǃ ɬ".split()
    found = findings(score(phonemes, phonemes, n_bootstrap=5), Details())["articulation"]
    assert list(found) == articulation_order(phonemes)
    places = [place for place, manner in found.values() if manner != "vowel"]
    assert places == sorted(places, key=places.index)
    assert [found[p] for p in ("tʼ", "ᵐb", "d͡ʒ", "ɓ", "n̥", "ɾ")] == [
        *(("dental/alveolar", "plosive"), ("labial", "plosive"), ("postalveolar", "affricate")),
        *(("labial", "implosive"), ("dental/alveolar", "nasal"), ("dental/alveolar", "trill or tap")),
    ]
    assert [found[p] for p in ("w", "ʔ", "h", "ǃ", "ɬ")] == [
        *(("labial", "approximant"), ("glottal", "plosive"), ("glottal", "fricative")),
        *(("click", "click"), ("dental/alveolar", "fricative")),
    ]
