"""The closed form by turns, made small: languages of buzzes, two bases on the same tasks, and the tables of the README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.model.pack import save_pack
from tests.helpers import PHONEMES, tiny_base, toy_store
from tests.recipes.running import RECIPES, loaded, markdown_tables, numbers, read_json, recording, write_base

RECIPE = RECIPES / "VoxAngeles"
LANGUAGES = {"train": ["aka", "bfd", "bin"], "valid": ["bem", "lad"], "test": ["ace"]}
KINDS = ["5w1s", "5w5s", "full_k1", "full_k5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five languages of six phonemes, eight words each, their division, and two bases; the test language is not there."""
    folder = tmp_path_factory.mktemp("closed-form")
    for number, language in enumerate(LANGUAGES["train"] + LANGUAGES["valid"]):
        inventory = [PHONEMES[(2 * number + i) % len(PHONEMES)] for i in range(6)]
        for word in range(8):
            labels = [inventory[i] for i in np.random.default_rng((number, word)).permutation(6)]
            recording(folder / "data" / language / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    (folder / "languages.yaml").write_text(yaml.safe_dump(LANGUAGES), encoding="utf-8")
    write_base(folder / "base")
    save_pack(tiny_base(1).pack, folder / "other")
    return folder


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with loaded(RECIPE / "closed_form.py") as module, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "N_BOOTSTRAP", 50)
        yield module


def arguments(place: Path, output: Path, *more: str) -> list[str]:
    given = ["--data_folder", place / "data", "--languages_file", place / "languages.yaml", "--output", output]
    bases = [f"--base=one={place / 'base'}", f"--base=again={place / 'base'}", f"--base=other={place / 'other'}"]
    return [*map(str, given), *bases, "--tasks=4", "--draws=2", *more]


@pytest.fixture(scope="module")
def output(place: Path, script: ModuleType) -> Path:
    assert script.main(arguments(place, place / "out", "--settings=other=shrinkage:0.3,dimensions:4")) == 0
    return place / "out"


@pytest.fixture(scope="module")
def found(output: Path) -> dict[str, Any]:
    return read_json(output / "closed_form.json")


def test_every_language_of_training_and_validation_has_one_turn(found: dict[str, Any]) -> None:
    turns = [language for group in found["groups"] for language in group]
    assert sorted(turns) == sorted(LANGUAGES["train"] + LANGUAGES["valid"])
    assert all(sorted(scores) == sorted(turns) for scores in found["scores"].values())


def test_means_are_over_languages_and_then_over_kinds(found: dict[str, Any]) -> None:
    for name, system in found["systems"].items():
        of_languages = found["scores"][name].values()
        for kind in KINDS:
            assert system["kinds"][kind] == pytest.approx(np.mean([scores[kind] for scores in of_languages]))
        assert system["mean"] == pytest.approx(np.mean([system["kinds"][kind] for kind in KINDS]))
    assert 0.2 < found["systems"]["one"]["mean"] <= 1.0


def test_bases_are_scored_on_the_same_tasks(found: dict[str, Any]) -> None:
    assert all(each == {"mean": 0.0, "ci95": [0.0, 0.0]} for each in found["differences"]["again"].values())
    systems = found["systems"]
    gain = found["differences"]["other"]["mean"]
    assert gain["mean"] == pytest.approx(systems["other"]["mean"] - systems["one"]["mean"])
    assert gain["ci95"][0] <= gain["mean"] <= gain["ci95"][1] and gain["ci95"][0] < gain["ci95"][1]


def test_the_tables_have_the_figures_and_the_settings(output: Path, found: dict[str, Any]) -> None:
    means, gains = markdown_tables((output / "closed_form.md").read_text(encoding="utf-8"))
    for name, system in found["systems"].items():
        assert numbers(means[name][-1])[0] == pytest.approx(system["mean"], abs=5.1e-4)
    assert means["one"][:3] == ["0.7", str(MetaTrainConfig().dimensions), "2 / 0.6"] and means["other"][:3] == [
        "0.3",
        "4",
        "2 / 0.6",
    ]
    low, high = found["differences"]["other"]["mean"]["ci95"]
    assert numbers(gains["other − one"][-1])[1:] == pytest.approx([low, high], abs=5.1e-4)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--settings=third=prior:1", "no --base has this name"),
        ("--settings=one=priors:1", "is not a setting"),
        ("--base=third", "must be NAME="),
    ],
)
def test_what_cannot_be_meant_is_told(
    option: str, told: str, place: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments(place, tmp_path, option)) == 2
    assert told in capsys.readouterr().err


def test_a_kind_without_tasks_and_a_language_without_a_kind_do_not_count(script: ModuleType) -> None:
    scores = np.full((2, 3, 4), np.nan)
    scores[:, :, 0], scores[:, 1, 1] = [[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]], 1.0
    assert script.summary(scores) == {"kinds": {"5w1s": pytest.approx(0.5), "5w5s": 1.0}, "mean": pytest.approx(0.75)}
    assert set(script.difference(scores, scores, 0)) == {"5w1s", "5w5s", "mean"}


def test_phonemes_that_no_other_language_has_are_not_in_the_table(script: ModuleType) -> None:
    store = toy_store(1)
    some = script.only_met(store.select(store.label != 1))
    assert some.phonemes == tuple(p for i, p in enumerate(store.phonemes) if i in set(store.label.tolist()) - {1})
    assert [some.phonemes[i] for i in some.label] == [store.phonemes[i] for i in store.label[store.label != 1]]
    assert torch.equal(some.number, torch.nonzero(store.label != 1).squeeze(1))
