"""Several processes train what one process trains: torchrun with two of them, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import shared_training

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def start(what: str, folder: Path, *settings: str) -> subprocess.Popen[str]:
    """Two processes that share a training of `shared_training`."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "tests.shared_training", what, str(folder), *settings]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def together(what: str, folder: Path, *settings: str) -> str:
    process = start(what, folder, *settings)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def alone(what: str, folder: Path, *settings: str) -> None:
    folder.mkdir()
    shared_training.main(what, folder, *settings)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    history: dict[str, Any] = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    return load_file(folder / "state.safetensors"), history


def numbers(history: Any) -> list[Any]:
    """All values of a history, in order."""
    if isinstance(history, dict):
        return [value for key in sorted(history) for value in numbers(history[key])]
    return [value for each in history for value in numbers(each)] if isinstance(history, list) else [history]


def check_equal(one: Path, other: Path, tolerance: float) -> None:
    """The same weights, losses, scores and hard classes, to float tolerance."""
    (tensors, history), (those, their_history) = outcome(one), outcome(other)
    assert tensors.keys() == those.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(
            tensor, those[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    a, b = numbers(history), numbers(their_history)
    assert [v for v in a if isinstance(v, str)] == [v for v in b if isinstance(v, str)]
    assert [v for v in a if not isinstance(v, str)] == pytest.approx([v for v in b if not isinstance(v, str)], abs=1e-7)


@pytest.mark.parametrize("what", ["meta", "pretraining"])
def test_two_processes_end_with_the_weights_of_one(tmp_path: Path, what: str) -> None:
    alone(what, tmp_path / "one")
    together(what, tmp_path / "two")
    check_equal(tmp_path / "one", tmp_path / "two", 1e-7)
