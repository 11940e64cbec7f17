"""The benches: they run, their oracle agrees with the package, and their targets are worked out as they say."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mtl_speech.core.options import EncoderConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.scale_shift import scale_shift_layers
from tests.command_line import labelled_folder
from tests.helpers import double_precision
from tests.recipes.running import ROOT, loaded, write_base

BENCHMARKS = ROOT / "benchmarks"
TINY = EncoderConfig(channels=8, blocks=1, embedding_size=12)


@pytest.fixture(scope="module")
def meta_step() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with loaded(BENCHMARKS / "meta_step.py") as module:
        yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bench(meta_step: ModuleType) -> Any:
    return meta_step.Bench(TINY)


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_the_step_has_the_gradients_of_a_loop_over_tasks(
    meta_step: ModuleType, bench: Any, granularity: str, first_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = bench.trainer(meta_step.Case(4, 3, 2, 3), 6, granularity, first_order)
    assert meta_step.difference(trainer) < 1e-5  # as the bench reports it, in float32
    trainer.config = replace(trainer.config, guess_share=0.5)
    trainer.learner.guess = torch.eye(meta_step.N_PHONEMES).roll(1, 0)
    with torch.no_grad():  # away from the identity
        for layer in scale_shift_layers(trainer.learner.encoder).values():
            layer.shift.add_(0.1)
            layer.scale.mul_(1.2)
    trainer.learner = copy.deepcopy(trainer.learner).double()  # the encoder is shared
    plain = SegmentStore.windows
    monkeypatch.setattr(SegmentStore, "windows", lambda store, i: tuple(part.double() for part in plain(store, i)))
    with double_precision():
        assert meta_step.difference(trainer) < 1e-9


def test_the_oracle_sees_a_wrong_gradient(meta_step: ModuleType, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = bench.trainer(meta_step.Case(4, 3, 2, 3), 6, "channel", False)
    right = meta_step.meta_forward

    def wrong(learner: Any, store: Any, batch: Any, how: Any, *others: Any) -> Any:
        return right(learner, store, batch, replace(how, first_order=True), *others)

    monkeypatch.setattr(meta_step, "meta_forward", wrong)
    assert meta_step.difference(trainer) > 1e-3


def test_a_tiny_run_measures_all_rows(meta_step: ModuleType, tmp_path: Path) -> None:
    data = meta_step.run([meta_step.Case(3, 2, 1, 2)], [1, 2], 1, 1, TINY)
    (case,) = data["cases"]
    names = [row["row"] for row in case["rows"] if row["inner_steps"] in (None, 2)]
    expected = [meta_step.FLOOR, meta_step.FLOOR_OTHER]
    for order in meta_step.ORDERS:
        expected += [meta_step.ours(order, "channel"), meta_step.ours(order, "kernel"), meta_step.loop_name(order)]
    assert [name for name in names if name not in (meta_step.ANIL, meta_step.MAML)] == expected
    assert all(row["ms"] > 0 and row["n"] == 1 for row in case["rows"])
    assert min(row["to_floor"] for row in case["rows"] if row["row"].startswith("(a)")) == 1
    meta_step.write_results(tmp_path, "meta_step", data, meta_step.markdown(data))
    assert json.loads((tmp_path / "meta_step.json").read_text("utf-8"))["cases"][0]["n_segments"] == 18
    text = (tmp_path / "meta_step.md").read_text("utf-8")
    assert all(f"| {name}" in text for name in expected) and "Machine: processor" in text


def test_targets_take_the_worst_case(meta_step: ModuleType) -> None:
    def case(first: float, many: float, memory: float, anil: float) -> dict[str, Any]:
        channel = meta_step.ours("second order", "channel")
        rows = [(channel, 20, first, memory, 1.0), (channel, 100, many, memory, 1.0), (meta_step.ANIL, 20, 1, 1, anil)]
        keys = ("row", "inner_steps", "to_floor", "memory_to_floor", "to_second_order")
        return {"rows": [dict(zip(keys, row, strict=True)) for row in rows]}

    name = meta_step.ours("second order", "channel")
    cases = [case(0.5, 0.58, 1.2, 3.0), case(0.7, 0.71, 1.4, 2.5)]
    found = {row["what"]: (row["worst"], row["met"]) for row in meta_step.targets(cases)}
    assert found[f"{name}, × (a)"] == (0.7, True)
    worst, met = found[f"{name}, 100 inner steps add"]
    assert math.isclose(worst, 0.08, abs_tol=1e-9) and not met
    assert found[f"{name}, memory × (a)"] == (1.4, False)
    assert found[f"{meta_step.ANIL}, × (c) channel Φ"] == (2.5, True)
    assert found[f"{meta_step.MAML}, × (c) channel Φ"] == (None, False)


def test_both_layouts_of_the_floor_are_the_same_encoder(meta_step: ModuleType, bench: Any) -> None:
    with double_precision():
        encoder = bench.trainable_encoder().double()
        windows, spans = (part.double() for part in bench.store.windows(torch.arange(5)))
        torch.testing.assert_close(
            meta_step.channels_first(encoder, windows, spans), encoder(windows, spans), rtol=1e-9, atol=1e-9
        )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_what_a_step_takes_at_most() -> None:
    with loaded(BENCHMARKS / "measuring.py") as measuring:
        measuring.peak_memory(lambda: torch.ones(10))
        found = measuring.peak_memory(lambda: torch.ones(10_000_000))
        again = measuring.peak_memory(lambda: torch.ones(10))
    assert 39e6 < found < 60e6 and again < 10e6


@pytest.mark.parametrize(
    ("name", "rows"),
    [("startup", ["mtl-speech --help", "mtl-speech adapt --help"])],
)
def test_the_benches_run_as_scripts(name: str, rows: list[str], tmp_path: Path) -> None:
    line = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--repeats", "1", "--output", str(tmp_path)]
    subprocess.run(line, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = {row["row"] for row in json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["rows"]}
    assert found >= set(rows)
    assert all(f"| {row} |" in (tmp_path / f"{name}.md").read_text("utf-8") for row in found)


@pytest.fixture(scope="module")
def encoders() -> Iterator[ModuleType]:
    with loaded(BENCHMARKS / "encoders.py") as module:
        yield module


def test_segmenter_and_report_take_what_they_call_and_saving_does_not(encoders: ModuleType) -> None:
    watch = encoders.Stages()
    stages: list[str] = []

    def note() -> None:
        stages.append(watch.running[-1])

    head, saving = watch.timed(note, "head"), watch.timed(note, "saving")
    watch.timed(lambda: (head(), saving()), "report")()
    head()
    assert stages == ["report", "saving", "head"] and watch.running == ["other"]


def test_the_sentences_are_the_first_by_name_and_a_third_of_a_language_is_held_out(
    encoders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "N_SENTENCES", 4)
    labelled_folder(tmp_path / "corpus" / "test", 8, 2)
    given = argparse.Namespace(voxangeles=None, speechocean=tmp_path / "corpus")
    ((title, case),) = encoders.cases_of(given, tmp_path / "drawn").items()
    drawn = [path.relative_to(tmp_path / "drawn").as_posix() for path in encoders.recordings_in(case["data"])]
    assert title == "4 sentences of speechocean762" and drawn == [f"s0/u0{n}.wav" for n in (0, 2, 4, 6)]
    encoders.divide(case["data"], tmp_path / "train", tmp_path / "held")
    assert [path.name for path in encoders.recordings_in(tmp_path / "held")] == ["u04.wav"]
    assert [path.name for path in encoders.recordings_in(tmp_path / "train")] == ["u00.wav", "u02.wav", "u06.wav"]


def test_the_speed_of_the_small_encoder_is_what_others_are_measured_by(
    encoders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "SPEED_REPEATS", 1)
    found = encoders.speed(argparse.Namespace(base=write_base(tmp_path / "small")))
    for kind, seconds in found["seconds"].items():
        assert found["ratios"][kind] == seconds["built-in"] / seconds["small"] > 1
    assert encoders.speeds(found).count("\n") == 1 + len(found["ratios"])
