"""Meta-transfer between languages, made small: languages of buzzes, from recordings to the ablation table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mtl_speech.core.errors import DataError
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base, load_learner
from mtl_speech.phonology.languages import canonical
from mtl_speech.training import meta_test
from mtl_speech.training.meta_test import Setup, Trained, train_baseline, train_meta_transfer
from tests.helpers import PHONEMES
from tests.recipes.running import (
    RECIPES,
    ROOT,
    loaded,
    log_lines,
    markdown_tables,
    numbers,
    place_of,
    read_json,
    recording,
    run,
)
from tests.recipes.running import write_base as write_tiny_base

RECIPE = RECIPES / "VoxAngeles"
HPARAMS = RECIPE / "hparams" / "train.yaml"
SPLIT = {"train": ["aka", "bfd"], "valid": ["bem"], "test": ["ace", "ces"]}
TESTED = [canonical(language) for language in SPLIT["test"]]  # the table names languages by their tags
SYSTEMS = ["baseline", "baseline, whitened", "+ meta-transfer", "+ curriculum"]
PAIRS = [(0, 1), (0, 2), (1, 2), (2, 3)]
KINDS = ["5w1s", "5w5s", "full_k1", "full_k5"]
N_TASKS, N_SEEDS = 10, 2
SMALL = {
    "n_threads": 1,
    "n_tasks": N_TASKS,
    "n_seeds": N_SEEDS,
    "n_views": 2,
    "meta_steps": 2,
    "meta": "{n_way: [4, 5], n_shot: [1, 2], n_query: 2, meta_batch: 2, validate_every: 1}",
}


@dataclass
class Place:
    """What a run needs."""

    data: Path
    hidden: Path  # where the test languages lie until training has ended
    languages: Path
    base: Path

    def settings(self, output: Path, **more: object) -> dict[str, object]:
        given = {"data_folder": self.data, "languages_file": self.languages, "base": self.base, "output_folder": output}
        return {**SMALL, **given, **more}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Five languages of six or seven phonemes, eight words each; every phoneme has a sound of its own in all languages."""
    folder = tmp_path_factory.mktemp("vox")
    for number, language in enumerate(name for part in SPLIT.values() for name in part):
        inventory = [PHONEMES[(2 * number + i) % len(PHONEMES)] for i in range(6 + number % 2)]
        for word in range(8):
            order = np.random.default_rng((number, word)).permutation(len(inventory))
            labels = [inventory[i] for i in order]
            recording(folder / "data" / language / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    languages = folder / "languages.yaml"
    languages.write_text(yaml.safe_dump(SPLIT), encoding="utf-8")
    return Place(folder / "data", folder / "hidden", languages, write_tiny_base(folder / "base"))


@dataclass
class Finished:
    """What a run left."""

    output: Path
    table: dict[str, Any]
    markdown: str
    learned_from: list[tuple[str, set[str], set[str]]]  # system, languages of its training, of its validation


def heard(store: SegmentStore) -> set[str]:
    """The folders that the recordings of a store came from."""
    return {name.split("/")[0] for name in store.utterance_ids}


def train(place: Place, output: Path, **more: object) -> Finished:
    """Run the recipe. The test languages lie elsewhere until the last of the four systems has been trained."""
    learned_from: list[tuple[str, set[str], set[str]]] = []

    def watched(function: Callable[..., Trained]) -> Callable[..., Trained]:
        def trained(name: str, setup: Setup, *args: Any, **kw: Any) -> Trained:
            found = function(name, setup, *args, **kw)
            learned_from.append((name, heard(setup.train), heard(setup.valid)))
            if len(learned_from) == len(SYSTEMS):
                bring_back()
            return found

        return trained

    def bring_back() -> None:
        for folder in list(place.hidden.iterdir()):
            folder.rename(place.data / folder.name)

    place.hidden.mkdir(exist_ok=True)
    for language in SPLIT["test"]:
        (place.data / language).rename(place.hidden / language)
    try:
        with pytest.MonkeyPatch.context() as patch:  # fewer trials for the baselines, for the sake of time
            patch.setattr(meta_test, "BASELINE_RATES", (1.0, 10.0))
            patch.setattr(meta_test, "BASELINE_STEPS", (20, 100))
            patches = {"train_baseline": watched(train_baseline), "train_meta_transfer": watched(train_meta_transfer)}
            run(HPARAMS, place.settings(output, **more), patches)
    finally:
        bring_back()
    table = read_json(output / "table.json")
    return Finished(output, table, (output / "table.md").read_text(encoding="utf-8"), learned_from)


@pytest.fixture(scope="module")
def finished(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return train(place, tmp_path_factory.mktemp("results"))


# The split


def test_split_of_the_recipe_gives_each_language_one_part() -> None:
    with loaded(RECIPE / "train.py") as module:
        split = module.read_languages(RECIPE / "languages.yaml")
    assert {part: len(names) for part, names in split.items()} == {"train": 20, "valid": 6, "test": 8}


def test_split_of_the_recipe_has_every_language_of_the_corpus(corpora: Path) -> None:
    folder = corpora / "voxangeles"
    if not folder.is_dir():
        pytest.skip(f"no voxangeles in {corpora}")
    split = yaml.safe_load((RECIPE / "languages.yaml").read_text(encoding="utf-8"))
    assert sorted(name for names in split.values() for name in names) == sorted(
        path.name for path in folder.iterdir() if path.is_dir()
    )


@pytest.mark.parametrize("split", [{**SPLIT, "test": ["ace", "bem"]}, {**SPLIT, "train": ["aka", "aka"]}])
def test_language_in_two_parts_is_refused_before_any_work(place: Place, tmp_path: Path, split: dict[str, Any]) -> None:
    languages = tmp_path / "languages.yaml"
    languages.write_text(yaml.safe_dump(split), encoding="utf-8")
    with pytest.raises(Exception, match="a language stands in two parts"):
        run(HPARAMS, place.settings(tmp_path / "out", languages_file=languages))
    assert log_lines(tmp_path / "out") == []


def test_language_without_a_folder_is_named(place: Place, tmp_path: Path) -> None:
    languages = tmp_path / "languages.yaml"
    languages.write_text(yaml.safe_dump({**SPLIT, "valid": ["bem", "xho"]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"no folder for xho \(languages.yaml names them under 'valid'\)"):
        run(HPARAMS, place.settings(tmp_path / "out", languages_file=languages))


# The run


def test_test_languages_are_read_after_training_by_the_scorer_alone(finished: Finished) -> None:
    """`train` above hides their folders until all systems are trained, so a run that reads them sooner fails."""
    learned = [(name, set(SPLIT["train"]), set(SPLIT["valid"])) for name in SYSTEMS]
    assert finished.learned_from == learned
    lines = log_lines(finished.output)
    starts = ["train: 2 languages", "valid: 1 languages", "training ended", "test: 2 languages", "done in"]
    places = [place_of(lines, start) for start in starts]
    assert places == sorted(places)
    assert not [line for line in lines[places[2] :] if "validation" in line]


def test_table_has_every_system_and_kind_of_task(finished: Finished) -> None:
    table = finished.table
    assert list(table["methods"]) == SYSTEMS
    assert (table["seed"], table["languages"], table["base"]) == (0, SPLIT, "tiny-0")
    assert table["command"].startswith("python recipes/VoxAngeles/train.py recipes/VoxAngeles/hparams/train.yaml ")
    for name, entry in table["methods"].items():
        for kind in KINDS:
            found = entry[kind]
            assert found["n_tasks"] == (N_TASKS if kind in KINDS[:2] else N_SEEDS * len(SPLIT["test"]))
            assert 0 <= found["macro_f1"] <= 1 and found["ci95"] >= 0
            assert sorted(entry["per_language"]) == TESTED
            means = [scores[kind] for scores in entry["per_language"].values()]
            assert found["macro_f1"] == pytest.approx(np.mean(means)), f"{name}: both languages have as many tasks"
        assert entry["validation"]["mean"] == pytest.approx(np.mean([entry["validation"][kind] for kind in KINDS]))
        assert entry["seconds"] >= 0 and entry["trainable_parameters"] > 0


def test_buzzes_that_differ_are_told_apart(finished: Finished) -> None:
    """Far above chance (.2 in five ways), the baseline too: it is trained, with a rate and steps that were chosen."""
    for name, entry in finished.table["methods"].items():
        assert entry["5w5s"]["macro_f1"] > 0.5, name


def test_differences_are_second_minus_first_on_the_same_tasks(finished: Finished) -> None:
    methods, differences = finished.table["methods"], finished.table["differences"]
    wanted = [(SYSTEMS[a], SYSTEMS[b], kind) for a, b in PAIRS for kind in KINDS]
    assert [(d["from"], d["to"], d["kind"]) for d in differences] == wanted
    for d in differences:
        gain = methods[d["to"]][d["kind"]]["macro_f1"] - methods[d["from"]][d["kind"]]["macro_f1"]
        assert d["macro_f1"] == pytest.approx(gain, abs=1e-9)
        assert d["ci95"][0] - 1e-9 <= d["macro_f1"] <= d["ci95"][1] + 1e-9


def test_markdown_has_the_figures_of_the_json(finished: Finished) -> None:
    methods, differences = finished.table["methods"], finished.table["differences"]
    systems, gains, *languages = markdown_tables(finished.markdown)
    assert list(systems)[1:] == SYSTEMS
    for name, cells in list(systems.items())[1:]:
        figures = [value for kind in KINDS for value in (methods[name][kind]["macro_f1"], methods[name][kind]["ci95"])]
        found = [value for cell in cells[:4] for value in numbers(cell)]
        assert found == pytest.approx(figures, abs=5.1e-4)
        assert numbers(cells[4]) == [methods[name]["trainable_parameters"]]
    assert list(gains)[1:] == [f"{SYSTEMS[b]} − {SYSTEMS[a]}" for a, b in PAIRS]
    figures = [value for d in differences for value in (d["macro_f1"], *d["ci95"])]
    found = [value for cells in list(gains.values())[1:] for cell in cells for value in numbers(cell)]
    assert found == pytest.approx(figures, abs=5.1e-4)
    for kind, title, table in zip(
        KINDS[2:], ("full inventory, K = 1", "full inventory, K = 5"), languages, strict=True
    ):
        assert table[""] == [title, *TESTED] and list(table)[1:] == SYSTEMS
        for name, cells in list(table.items())[1:]:
            figures = [methods[name]["per_language"][language][kind] for language in TESTED]
            assert [value for cell in cells for value in numbers(cell)] == pytest.approx(figures, abs=5.1e-4)


def test_strategy_is_saved_and_says_that_it_may_not_be_sold(place: Place, finished: Finished) -> None:
    pack = load_pack(finished.output / "strategy", "strategy")
    learner, config = load_learner(pack, load_base(place.base))
    assert set(learner.phonemes) <= set(PHONEMES) and config.meta_steps == 2
    assert "CC BY-NC 4.0" in str(pack.card["licence"])


def without_times(table: dict[str, Any]) -> dict[str, Any]:
    methods = {
        name: {key: value for key, value in entry.items() if key != "seconds"}
        for name, entry in table["methods"].items()
    }
    return {"methods": methods, "differences": table["differences"]}


def test_same_seed_gives_the_same_figures_and_another_seed_others(
    place: Place, finished: Finished, tmp_path: Path
) -> None:
    again, other = (train(place, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert without_times(again.table) == without_times(finished.table) != without_times(other.table)
    assert other.table["seed"] == 1


def test_script_runs_from_a_shell(place: Place, tmp_path: Path) -> None:
    """Python starts it and finds the modules beside it; a second language folder that is wrong ends it soon."""
    languages = tmp_path / "languages.yaml"
    languages.write_text(yaml.safe_dump({**SPLIT, "train": ["aka", "xho"]}), encoding="utf-8")
    settings = place.settings(tmp_path / "out", languages_file=languages)
    options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "recipes/VoxAngeles/train.py", "recipes/VoxAngeles/hparams/train.yaml", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "no folder for xho (languages.yaml names them under 'train')" in done.stderr
