"""The bench of all methods, made small: languages of buzzes, every method trained, chosen, kept and scored on the same tasks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from mtl_speech.model.strategy import load_base
from mtl_speech.phonology.languages import canonical
from mtl_speech.training import meta_test
from tests.helpers import PHONEMES, seeded
from tests.recipes.running import RECIPES, loaded, markdown_tables, read_json, recording, write_base

RECIPE = RECIPES / "VoxAngeles"
META, TEST = ["aka", "bem", "bfd"], ["ace", "ces"]
KINDS = ["5w1s", "5w5s", "full_k1", "full_k5"]
N_TASKS, N_SEEDS = 4, 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Languages of six phonemes, eight words each, and recordings in the base's own language."""
    folder = tmp_path_factory.mktemp("bench")
    for number, language in enumerate([*META, *TEST]):
        inventory = [PHONEMES[(2 * number + i) % len(PHONEMES)] for i in range(6)]
        for word in range(8):
            labels = [inventory[i] for i in np.random.default_rng((number, word)).permutation(6)]
            side = folder / ("meta" if language in META else "test") / language
            recording(side / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    for word in range(2):
        recording(folder / "own" / f"{word}.wav", PHONEMES[:8], PHONEMES[:8], 900 + word)
    write_base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The script, with fewer trials, for the sake of time."""
    with loaded(RECIPE / "benchmark.py") as module, pytest.MonkeyPatch.context() as patch:
        for name, value in {"N_VALID_TASKS": 4, "N_VALID_DRAWS": 1, "N_COST_TASKS": 1}.items():
            patch.setattr(module, name, value)
        for name, grid in module.GRIDS.items():
            patch.setitem(module.GRIDS, name, {key: values[:1] for key, values in grid.items()})
        patch.setattr(meta_test, "BASELINE_RATES", (1.0, 10.0))
        patch.setattr(meta_test, "BASELINE_STEPS", (20, 100))
        yield module


def arguments(place: Path, output: Path, *more: str) -> list[str]:
    given = ["--meta-dir", str(place / "meta"), "--test-dir", str(place / "test"), "--output-dir", str(output)]
    small = ["--tasks", str(N_TASKS), "--seeds", str(N_SEEDS), "--meta-steps", "2", "--views", "2"]
    return [*given, *small, "--valid-languages", "bem", "--base", str(place / "base"), *more]


@pytest.fixture(scope="module")
def output(bench: ModuleType, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of all methods left. The recordings to test on are silent until the last of them has been trained."""
    pytest.importorskip("peft")
    folder, trained = tmp_path_factory.mktemp("out"), []
    fit = bench.fit
    sounds = {path: path.read_bytes() for path in (place / "test").rglob("*.wav")}

    def watched(name: str, given: Any) -> Any:
        assert {utterance.split("/")[0] for utterance in given.train.utterance_ids} == {"aka", "bfd"}
        found = fit(name, given)
        trained.append(name)
        if len(trained) == len(bench.METHODS):
            for path, sound in sounds.items():
                path.write_bytes(sound)
        return found

    for path, sound in sounds.items():
        path.write_bytes(sound[:44] + bytes(len(sound) - 44))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "fit", watched)
        assert bench.main(arguments(place, folder, "--base-dir", str(place / "own"))) == 0
    assert trained == list(bench.METHODS)
    return folder


def test_every_method_has_a_row_on_the_same_tasks(bench: ModuleType, output: Path) -> None:
    table = read_json(output / "table.json")
    assert tuple(table["methods"]) == bench.METHODS
    assert (table["train"], table["valid"]) == (["aka", "bfd"], ["bem"])
    for name, entry in table["methods"].items():
        for kind in KINDS:
            n_tasks = N_TASKS if kind in KINDS[:2] else N_SEEDS * len(TEST)
            assert entry[kind]["n_tasks"] == n_tasks and 0 <= entry[kind]["macro_f1"] <= 1
        assert sorted(entry["per_language"]) == [canonical(language) for language in TEST]
        assert entry["seconds"] >= 0 and entry["adaptation_seconds"] > 0 and entry["parameters_per_example"] > 0, name
        if bench.GRIDS.get(name):
            assert entry["settings"]["lr"] in bench.GRIDS[name]["lr"]
    heads = markdown_tables((output / "table.md").read_text(encoding="utf-8"))
    assert tuple(heads[0])[1:] == tuple(heads[-1])[1:] == bench.METHODS


def test_what_can_be_taken_out_leaves_the_base_as_it_was(bench: ModuleType, output: Path) -> None:
    methods = read_json(output / "table.json")["methods"]
    for name in ("baseline", "lora", "ia3", "meta-transfer", "meta-transfer, kernel", "meta-transfer, Φ tuned"):
        found = methods[name]["own_language"]
        assert found["off"] == pytest.approx(found["before"], abs=1e-6), name
    for name in ("finetune", "maml", "protonet", "anil"):
        assert methods[name]["own_language"]["off"] is None, f"{name} has moved the encoder: nothing to take out"
    assert methods["centroid"]["own_language"] is None


def test_tuning_to_a_task_moves_the_encoder_and_brings_it_back(bench: ModuleType, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options = bench.parse(arguments(place, tmp_path))
    base = bench.load_base(options.base)
    train, held = bench.divided(options.meta_dir, options.valid_languages, 0)
    given = bench.stores(options, base, train, held)
    for name in ("finetune", "lora", "ia3", "meta-transfer, Φ tuned"):
        system = bench.fit(name, given)
        before = {key: value.clone() for key, value in system.learner.state_dict().items()}
        encoder, _ = system.adapt(given.valid, given.tasks["5w5s"][0])
        after = system.learner.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before), name
        moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[f"encoder.{k}"])}
        assert moved, name
        parts = ("",) if name == "finetune" else ("lora_", "ia3_", "scale", "shift")
        assert all(any(part in key for part in parts) for key in moved), f"{name} moves Θ: {moved}"
    encoder, _ = system.adapt(given.valid, given.tasks["5w1s"][0])
    after = encoder.state_dict()
    assert all(torch.equal(before[f"encoder.{key}"], after[key]) for key in after), "Φ was tuned to one example"


def test_what_was_scored_is_taken_from_there_and_other_settings_are_not(
    bench: ModuleType, place: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(output / "table.json")
    asked: list[str] = []
    monkeypatch.setattr(bench, "fit", lambda name, given: asked.append(name) or pytest.fail("trained again"))
    assert bench.main(arguments(place, output, "--methods", "centroid")) == 0
    assert {**read_json(output / "table.json"), "command": ""} == {**before, "command": ""} and not asked
    with pytest.raises(pytest.fail.Exception):
        bench.main(arguments(place, output, "--methods", "centroid", "--seed", "1"))
    assert asked == ["centroid"]


@pytest.mark.parametrize("name", ["finetune", "protonet", "lora"])
def test_a_method_that_moves_the_encoder_that_ships_leaves_it_as_it_is(bench: ModuleType, name: str) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    base = load_base()
    before = {key: value.clone() for key, value in base.encoder.state_dict().items()}
    moved = sys.modules["peers"].encoder_of(name, base)
    windows = torch.randn(2, 40, base.front_end.width, generator=seeded(0))
    moved(windows, torch.tensor([[10.0, 20.0], [15.0, 22.0]])).square().sum().backward()
    parameters = [p for p in moved.parameters() if p.grad is not None]
    assert parameters
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    assert all(torch.equal(before[key], value) for key, value in base.encoder.state_dict().items())
    assert not any(p.requires_grad for p in base.encoder.parameters())


def test_the_cost_for_a_language_of_its_own_needs_a_base_with_a_head(
    bench: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(place, tmp_path, "--base-dir", str(place / "own"))
    at = given.index("--base")
    assert bench.main([*given[:at], *given[at + 2 :]]) == 2
    assert "--base-dir: the encoder 'whisper" in capsys.readouterr().err


def test_test_languages_without_tasks_are_told_before_anything_is_trained(
    bench: ModuleType, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their phonemes have examples enough, but in one recording beside a single one of each."""
    monkeypatch.setattr(bench, "fit", lambda *_: pytest.fail("trained"))
    recording(tmp_path / "test" / "kea" / "a.wav", PHONEMES[:5] * 2, PHONEMES[:5] * 2, 1)
    assert bench.main([*arguments(place, tmp_path / "out"), "--test-dir", str(tmp_path / "test")]) == 1
    said = capsys.readouterr().err
    assert "kea: left out of 5-way 1-shot tasks" in said and "kea: left out of 5-way 5-shot tasks" in said
    assert "no language has enough labelled phonemes for a 5-way task" in said


def test_a_language_to_choose_on_that_is_not_there_is_named(
    bench: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main([*arguments(place, tmp_path), "--valid-languages", "xho"]) == 2
    assert "--valid-languages xho" in capsys.readouterr().err
    assert bench.main([*arguments(place, tmp_path), "--valid-languages", *META]) == 1
    assert "too few" in capsys.readouterr().err
