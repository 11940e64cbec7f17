"""Several processes train what one process trains: torchrun with two of them, over gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mtl_speech.core.options import EncoderConfig, PretrainConfig
from mtl_speech.model.encoder import FrameBatchNorm
from mtl_speech.training.meta_train import MetaTrainer, trainable_state
from mtl_speech.training.pretrain import pretrain
from tests import shared_training
from tests.helpers import make_store, meta_config, tiny_learner, toy_store

ROOT = Path(__file__).parents[2]
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
    left = (tmp_path / "two" / "threads.txt").read_text(encoding="utf-8")
    assert "gloo" not in left, f"these threads could abort a training that is done:\n{left}"


@pytest.mark.parametrize("what", ["meta", "pretraining"])
def test_a_process_that_is_killed_costs_nothing(tmp_path: Path, what: str) -> None:
    """Killed without a word in the middle: torchrun ends the other, and the same command goes on to the same bits."""
    together(what, tmp_path / "whole")
    folder = tmp_path / "killed"
    process = start(what, folder)
    until = time.monotonic() + 120
    while newest(folder) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    (child,) = [pid for pid in children(process.pid) if environment_of(pid).get("RANK") == "1"]
    os.kill(child, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and not (folder / "state.safetensors").exists()
    assert "SIGKILL" in said
    reached = newest(folder)
    assert "goes on from checkpoint" in together(what, folder) and reached >= 4
    (tensors, history), (whole, whole_history) = outcome(folder), outcome(tmp_path / "whole")
    assert all(torch.equal(tensors[name], whole[name]) for name in whole) and history == whole_history


def test_the_process_that_is_left_says_what_to_do(tmp_path: Path) -> None:
    """Two processes that nobody watches: torchrun may end the one that is left before it has said anything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.shared_training", "meta", str(tmp_path)]
    left, killed = (
        subprocess.Popen(
            command, cwd=ROOT, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    )
    while newest(tmp_path) < 2 and left.poll() is None:
        time.sleep(0.01)
    killed.kill()
    _, said = left.communicate(timeout=120)
    killed.communicate()
    assert left.returncode != 0
    assert "another process of this training has ended" in said and "goes on from the last checkpoint" in said


def test_one_process_goes_on_with_what_two_began(tmp_path: Path) -> None:
    alone("meta", tmp_path / "one")
    folder = tmp_path / "both"
    process = start("meta", folder)
    while newest(folder) < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert newest(folder) >= 4 and not (folder / "state.safetensors").exists()
    shared_training.main("meta", folder)
    check_equal(tmp_path / "one", folder, 1e-7)


@pytest.mark.parametrize("what", ["meta", "pretraining"])
def test_a_batch_in_parts_gives_the_same_step(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the statistics of batch-norm, which are of each part: they are held still here."""
    monkeypatch.setattr(FrameBatchNorm, "forward", lambda self, x: x * self.weight + self.bias)
    alone(what, tmp_path / "whole")
    alone(what, tmp_path / "parts", "accumulate=3")
    check_equal(tmp_path / "whole", tmp_path / "parts", 1e-7)


def newest(folder: Path) -> int:
    """The number of the last checkpoint."""
    return max((int(path.name[:8]) for path in (folder / "checkpoints").glob("0*.safetensors")), default=0)


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in found]


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_bf16_computes_convolutions_in_bfloat16_and_keeps_weights_in_float32(granularity: str) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        store = toy_store()
        learner = tiny_learner(store, theta_init="posterior", granularity=granularity)
        seen: list[torch.dtype] = []
        learner.encoder.stem.register_forward_hook(lambda module, given, output, seen=seen: seen.append(output.dtype))
        trainer = MetaTrainer(learner, store, meta_config(meta_steps=5, precision=precision))
        found[precision] = [trainer.step()["loss"] for _ in range(5)]
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert all(tensor.dtype == torch.float32 for tensor in trainable_state(learner).values())
    assert found["bf16"] != found["fp32"] and found["bf16"] == pytest.approx(found["fp32"], rel=0.03)


def test_pretraining_in_bf16_learns_as_in_float32() -> None:
    store = make_store([[0, 1, 0, 1, 1, 0]] * 6, phonemes=("a", "s"), noise=2.0)
    losses = {}
    for precision in ("fp32", "bf16"):
        config = PretrainConfig(epochs=2, batch_frames=200, crop_lengths=(48, 96), workers=0, precision=precision)
        encoder = EncoderConfig(channels=8, blocks=1, embedding_size=12, dropout=0.0)
        model, history = pretrain([store], store, encoder, config)
        losses[precision] = [row["train_loss"] for row in history]
        assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in model.state_dict().values())
    assert losses["bf16"] != losses["fp32"] and losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
