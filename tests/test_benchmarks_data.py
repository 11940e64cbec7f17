"""The benches of data and adaptation run small, and their tables hold what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import labelled_folder
from tests.conftest import ROOT
from tests.hub_models import save_model
from tests.recipes.running import write_base

pytestmark = pytest.mark.slow  # each figure comes from a process of its own


def bench(name: str, output: Path, *options: object) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--output", output, *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert (output / f"{name}.md").read_text(encoding="utf-8").startswith("Machine: ")
    return dict(json.loads((output / f"{name}.json").read_text(encoding="utf-8")))


def test_pretrain_is_measured_against_the_bare_loop(tmp_path: Path) -> None:
    small = "--epochs=2 --channels=8 --recordings=6 --base=1".split()
    data = bench("pretrain", tmp_path, *small)
    bare, *ours = data["throughput"]
    assert bare["rate_of_bare"] == bare["cpu_rate_of_bare"] == 1.0 and len(ours) == 3
    assert all(row["rate_of_bare"] == row["rate"] / bare["rate"] > 0 for row in ours)
    assert ours[-1]["cpu_rate"] == ours[-1]["crop_seconds"] / ours[-1]["own"] and ours[-1]["workers"] > 0
    assert [m["segments"] for m in data["memory"]] == [50, 200, 800]


def test_adapt_is_measured_stage_by_stage(tmp_path: Path) -> None:
    data = bench("adapt", tmp_path, "--examples=50", "--classes=10", "--default-path", "0", "0")
    assert [(row["classes"], row["examples"], row["cache"]) for row in data["rows"]] == [
        (10, 50, "empty"),
        (10, 50, "full"),
    ]
    for row in data["rows"]:
        seconds = {stage: cpu for stage, (cpu, _) in row["seconds"].items()}
        named = ("reading and features", "encoder", "head", "saving", "other")
        assert row["core"] == sum(seconds[stage] for stage in named) > 0 and seconds["start-up"] > 0


def test_encoders_are_measured_each_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled_folder(tmp_path / "corpora" / "lad", 6, 1)
    hub = save_model("whisper", tmp_path / "whisper", monkeypatch)
    given = ["--voxangeles", tmp_path / "corpora", "--languages", "lad", "--small", write_base(tmp_path / "small")]
    data = bench("encoders", tmp_path / "out", *given, "--encoder", f"tiny={hub}")
    names = ["small", "built-in", "tiny"]
    assert [row["encoder"] for row in data["adapt"]] == [row["encoder"] for row in data["languages"]] == names
    for row in data["adapt"]:
        seconds = row["seconds"]
        assert row["core"] * row["bare"] == pytest.approx(
            sum(seconds[stage] for stage in ("reading", "encoder", "head", "saving"))
        )
        assert row["recordings"] == 6 and row["data"] == "6 words of Ladino" and 0 <= row["macro_f1"] <= 1
        assert row["passes"]["itself"] >= 0.98 and row["peak_mib"] > 100
    small, built_in, tiny = (row["passes"] for row in data["adapt"])
    assert set(small) == set(built_in) == {"itself"} and set(tiny) == {"itself", "of the segmenter"}
    rates = [row["languages"]["lad"]["phone_error_rate"] for row in data["languages"]]
    assert rates[0] is None and all(rate >= 0 for rate in rates[1:])  # the small one has no segmenter
    text = (tmp_path / "out" / "encoders.md").read_text(encoding="utf-8")
    assert all(f"| 6 words of Ladino, {name} |" in text and f"| {name} |" in text for name in names)


def test_scale_is_worked_out_from_what_was_measured(tmp_path: Path) -> None:
    data = bench("scale", tmp_path, "--channels=8", "--recordings=20")
    pretraining = data["pretraining"]
    assert pretraining["step_ms_fp32"] > 0 and pretraining["step_ms_bf16"] > 0 and pretraining["read_ms"] > 0
    assert pretraining["checkpoint_bytes"] > 4 * 4 * pretraining["parameters"]  # weights, their average, two moments
    assert len(data["sum_ms"]) == 3 and all(each > 0 for each in data["sum_ms"])
    assert 100 < data["bytes_per_segment"] < 1_000
    text = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert f"| gradients, bytes a step | {4 * pretraining['parameters']:,} |" in text
