"""Phonemes held back, made small: from recordings of buzzes to the tables, which are those of the README at full size."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.pack import save_pack
from mtl_speech.model.strategy import load_base, new_learner, strategy_pack
from mtl_speech.scoring.bootstrap import paired_difference
from mtl_speech.training import base_learning
from tests.helpers import PHONEMES, meta_config, toy_store
from tests.recipes.running import RECIPES, loaded, markdown_tables, numbers, read_json, recording, run, write_base

RECIPE = RECIPES / "VoxAngeles"
HPARAMS = RECIPE / "hparams" / "zero_shot.yaml"
LANGUAGES = ["bem", "lad"]
INVENTORY, N_WORDS = 5, 5


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left: two languages of five phonemes, each in every word, and a strategy that met some of them."""
    folder = tmp_path_factory.mktemp("held-back")
    for number, language in enumerate(LANGUAGES):
        inventory = [PHONEMES[(3 * number + i) % len(PHONEMES)] for i in range(INVENTORY)]
        for word in range(N_WORDS):
            labels = [inventory[i] for i in np.random.default_rng((number, word)).permutation(INVENTORY)]
            recording(folder / "data" / language / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    languages = folder / "languages.yaml"
    languages.write_text(yaml.safe_dump({"train": ["aka"], "valid": LANGUAGES, "test": ["ace"]}), encoding="utf-8")
    base = load_base(write_base(folder / "base"))
    config = meta_config(theta_init="posterior")
    learner = new_learner(base, PHONEMES, config)
    prepare_learner(learner, toy_store(1), config)
    strategy = save_pack(strategy_pack(learner, base, config, {"name": "toy"}), folder / "strategy")
    settings = {
        "data_folder": folder / "data",
        "languages_file": languages,
        "base": folder / "base",
        "strategy": strategy,
        "output_folder": folder / "out",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_learning, "PRIOR_CHOICES", (1.0,))  # for speed
        return run(HPARAMS, settings, {"paired_difference": partial(paired_difference, n_bootstrap=50)})[0]


@pytest.fixture(scope="module")
def found(output: Path) -> dict[str, Any]:
    return read_json(output / "zero_shot.json")


def test_every_phoneme_with_enough_examples_is_held_back_once_each_time(found: dict[str, Any]) -> None:
    assert list(found["phonemes"]) == ["1", "3"] and found["languages"] == LANGUAGES and found["strategy"] == "toy"
    for rows in found["phonemes"].values():
        names = [(row["language"], row["phoneme"]) for row in rows]
        assert len(set(names)) == len(names) == len(LANGUAGES) * INVENTORY
        for row in rows:
            assert row["n"] == N_WORDS and row["f1"]["guess by frequency"] == pytest.approx(1 / INVENTORY)
            assert row["f1"]["no row"] == 0.0
            assert row["in_strategy"] == (row["phoneme"] in PHONEMES[:6])
    for row in found["phonemes"]["1"]:
        for name, value in row["all"].items():
            parts = row["f1"][name] + (INVENTORY - 1) * row["others"][name]
            assert value == pytest.approx(parts / INVENTORY)


def test_tables_have_the_means_of_the_phonemes(output: Path, found: dict[str, Any]) -> None:
    text = (output / "zero_shot.md").read_text(encoding="utf-8")
    for size, table in zip(found["phonemes"], markdown_tables(text), strict=True):
        rows = found["phonemes"][size]
        assert table[""][0] == f"held back: {size} at a time" and f"(n = {len(rows)})" in table[""][1]
        for name, cells in list(table.items())[1:]:
            assert numbers(cells[0])[0] == pytest.approx(np.mean([row["f1"][name] for row in rows]), abs=5.1e-4)
            if cells[3]:
                gain = np.mean([row["others"][name] - row["others"]["no row"] for row in rows])
                assert numbers(cells[3])[0] == pytest.approx(gain, abs=5.1e-4)
        assert {"regression on articulation", "learned from its examples", "guess by frequency"} <= set(table)


def test_nothing_is_learned_from_what_is_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other labels of the phoneme held back, and other sounds, leave every prediction of its row as it is."""
    store = toy_store(1, noise=1.0)
    with loaded(RECIPE / "zero_shot.py") as module:
        base = load_base(write_base(tmp_path / "base"))
        config = meta_config(theta_init="posterior")
        learner = new_learner(base, store.phonemes, config)
        z = torch.randn(len(store), 12, generator=torch.Generator().manual_seed(0))
        fold = store.utterance % 3
        given = (store.label, store.utterance, fold, torch.arange(len(store.phonemes)), store.phonemes)
        moved = z.clone()
        moved[store.label == 2] += 5.0
        predicted = [
            module.recognise(module.Language("x", learner, each, *given), [2], module.ways(0), 0) for each in (z, moved)
        ]
        others = store.label != 2
        for name in predicted[0]:
            assert torch.equal(predicted[0][name][others], predicted[1][name][others]), name
        assert bool((predicted[0][module.WITHOUT] != 2).all())
