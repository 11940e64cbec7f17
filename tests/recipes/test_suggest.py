"""Labels revealed as they are asked for, made small: from recordings of buzzes to the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mtl_speech.core.files import plain
from mtl_speech.model import segmenter as segmenters
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.pack import load_pack, save_pack
from mtl_speech.model.segmenter import new_segmenter
from mtl_speech.model.strategy import base_pack, load_base, load_learner, new_learner, strategy_pack
from mtl_speech.training.base_learning import StepChoice
from mtl_speech.training.suggest import Weights
from tests.helpers import PHONEMES, meta_config, tiny_base, toy_store
from tests.recipes.running import RECIPES, loaded, markdown_tables, numbers, read_json, recording, run

RECIPE = RECIPES / "VoxAngeles"
HPARAMS = RECIPE / "hparams" / "suggest.yaml"
LANGUAGES = {"report": ["lad"], "choose": ["bem"]}
N_SEEDS, N_WORDS = 2, 12
PLAN = {"start": 3, "batch": 2, "n_batches": 1, "test_share": 0.33}
STEPS = {"steps": 2, "rate": 1.0, "prior": 1.0}


@dataclass
class Place:
    """What a run needs, and what it left."""

    data: Path
    base: Path
    strategy: Path
    output: Path
    module: ModuleType


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two languages of eight phonemes, four of them in each word, and a strategy that met six."""
    folder = tmp_path_factory.mktemp("suggest")
    for number, language in enumerate(name for part in LANGUAGES.values() for name in part):
        for word in range(N_WORDS):
            drawn = np.random.default_rng((number, word)).choice(8, 4, replace=False)
            labels = [PHONEMES[3 * number + i] for i in drawn]
            recording(folder / "data" / language / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    base = tiny_base()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segmenter = new_segmenter(base.encoder)
    save_pack(base_pack(base.encoder, base.head, base.phonemes, {"name": "tiny"}, segmenter), folder / "base")
    base, config = load_base(folder / "base"), meta_config(theta_init="posterior")
    learner = new_learner(base, PHONEMES, config)
    prepare_learner(learner, toy_store(1), config)
    save_pack(strategy_pack(learner, base, config, {"name": "toy"}), folder / "strategy")
    settings = {
        "data_folder": folder / "data",
        "base": folder / "base",
        "strategy": folder / "strategy",
        "output_folder": folder / "out",
        "n_seeds": N_SEEDS,
        "report_on": LANGUAGES["report"],
        "choose_on": LANGUAGES["choose"],
        "plan": PLAN,
        "base_learning": STEPS,
    }
    with pytest.MonkeyPatch.context() as patch, loaded(RECIPE / "suggest.py") as module:
        patch.setattr(segmenters, "TUNE_STEPS", 2)
        output, _ = run(HPARAMS, settings)
        yield Place(folder / "data", folder / "base", folder / "strategy", output, module)


@pytest.fixture(scope="module")
def language(place: Place) -> Any:
    base = load_base(place.base)
    strategy, _ = load_learner(load_pack(place.strategy, "strategy"), base)
    (corpus,) = place.module.prepare(place.data, ["lad"], "valid")
    return place.module.load(corpus, base, strategy)


def test_no_way_to_choose_looks_at_labels_of_the_pool(place: Place, language: Any) -> None:
    """Other labels in the pool change nothing but what true pronunciations choose."""
    given = (place.module.Plan(**PLAN), StepChoice(**STEPS), 0, True)
    start = place.module.begin(language, *given)
    in_pool = torch.isin(language.store.utterance, torch.tensor(start.pool))
    wrong = torch.where(in_pool, language.store.label.flip(0), language.store.label)
    other = replace(language, store=replace(language.store, label=wrong))
    again = place.module.begin(other, *given)
    assert not bool((wrong == language.store.label)[in_pool].all())
    for name, method in place.module.methods().items():
        chosen = [method(each, s.known, s.heard, s.pool, 3, 0) for each, s in ((language, start), (other, again))]
        assert set(chosen[0]) < set(start.pool) and len(chosen[0]) == 3
        assert chosen[0] == chosen[1] or name.startswith(place.module.WORDS)


def test_test_recordings_are_never_labelled(place: Place, language: Any) -> None:
    plan, choice = place.module.Plan(**{**PLAN, "n_batches": 4}), StepChoice(**STEPS)
    start = place.module.begin(language, plan, choice, 0, False)
    assert not {*start.labelled, *start.pool} & set(start.test) and len(start.test) == round(0.33 * N_WORDS)
    asked: list[int] = []

    def watched(language: Any, known: Any, heard: Any, pool: list[int], n: int, seed: int) -> list[int]:
        assert not {*asked, *start.test, *start.labelled} & set(pool)
        asked.extend(pool[:n])
        return pool[:n]

    curve = place.module.simulate(language, start, watched, plan, choice, 0)
    assert sorted(asked) == sorted(start.pool)  # the pool ends before the budget
    assert curve.phones.tolist() == [4 * n for n in (3, 5, 7, 8, 8)]


def test_macro_f1_counts_phonemes_that_nobody_has_labelled(place: Place, language: Any) -> None:
    known = place.module.learn(language, [0, 1, 2], StepChoice(**STEPS))
    found = place.module.macro_f1(language, known, [3, 4, 5])
    index = language.of([3, 4, 5])
    true = {language.store.phonemes[int(i)] for i in language.labels[index]}
    assert found <= len(true & set(known.inventory.phonemes)) / len(true) < 1


def test_areas_are_means_over_the_budget(place: Place) -> None:
    curve = place.module.Curve(np.array([0.0, 0.4, 0.4]), np.array([10.0, 20.0, 40.0]))
    assert place.module.area(curve, "recordings", (0, 0)) == pytest.approx(0.3)
    assert place.module.area(curve, "phones", (10.0, 20.0)) == pytest.approx(0.2)
    assert place.module.area(curve, "phones", (20.0, 40.0)) == pytest.approx(0.4)


def test_figures_are_those_of_the_curves_and_tables_have_them(place: Place) -> None:
    data, curves = (read_json(place.output / name) for name in ("suggest.json", "curves.json"))
    assert data["languages"] == LANGUAGES and list(data["spans"]) == list(curves)
    text = (place.output / "suggest.md").read_text(encoding="utf-8")
    for (spans, parts), table in zip(data["spans"].items(), markdown_tables(text), strict=True):
        for place_of, (part, entries) in enumerate(parts.items()):
            for name, entry in entries.items():
                rows = [r for r in curves[spans] if r["method"] == name and r["language"] in LANGUAGES[part]]
                assert entry["n"] == len(rows) == N_SEEDS
                drawn = [r for r in curves[spans] if r["method"] == "random" and r["language"] in LANGUAGES[part]]
                gain = np.mean(
                    [row["recordings"] - other["recordings"] for row, other in zip(rows, drawn, strict=True)]
                )
                assert entry["recordings"]["gain"] == pytest.approx(gain)
                cells = table[name][4 * place_of : 4 * place_of + 2]
                assert numbers(cells[0]) == pytest.approx([entry["recordings"]["area"]], abs=5.1e-4)
                if name != "random":
                    assert numbers(cells[1])[0] == pytest.approx(gain, abs=5.1e-4)


@pytest.mark.parametrize(("log", "start"), [("suggest.json", 3), ("suggest_from_8.json", 8)])
def test_readme_has_the_tables_of_the_logs(place: Place, log: str, start: int) -> None:
    """And the logs were made with the weights that the command has."""
    data = read_json(RECIPE / "logs" / log)
    text = (RECIPE / "README.md").read_text(encoding="utf-8")
    for block in place.module.markdown(data).strip().split("\n\n"):
        assert block in text, f"the README has other figures than logs/{log}"
    assert data["weights"] == plain(Weights())
    settings = yaml.safe_load(HPARAMS.read_text(encoding="utf-8").replace("!PLACEHOLDER", ""))
    assert data["languages"] == {"report": settings["report_on"], "choose": settings["choose_on"]}
    assert data["plan"] == {**settings["plan"], "start": start}
    assert [data[key] for key in ("base_learning", "n_seeds")] == [settings["base_learning"], settings["n_seeds"]]
