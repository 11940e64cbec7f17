"""A small training that one process does, or several that torchrun starts.

python -m tests.shared_training WHAT FOLDER [NAME=VALUE ...]

The main process writes to FOLDER: `state.safetensors` with all weights, `history.json`, and `threads.txt` with the names of the
threads that are left afterwards, where the system tells them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mtl_speech.core.distributed import is_main, processes
from mtl_speech.core.options import EncoderConfig, PretrainConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.training.checkpoint import Checkpoints
from mtl_speech.training.meta_test import benchmark_tasks, score_tasks, summary
from mtl_speech.training.meta_train import MetaTrainer, trainable_state
from mtl_speech.training.pretrain import pretrain
from tests.helpers import DoubleStore, double_precision, make_store, meta_config, tiny_learner, toy_store

N_ROUNDS, N_EPOCHS = 10, 3


def doubled(store: SegmentStore) -> DoubleStore:
    """The same segments, whose windows are float64: rounding then counts for nothing.

    In float32 the bias before a batch-norm, whose gradient is zero but for rounding, is moved by that rounding.
    """
    return DoubleStore(**{field.name: getattr(store, field.name) for field in fields(store)})


def meta(folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Rounds of meta-training with a curriculum, each with a checkpoint."""
    store, valid = doubled(toy_store(seed=1)), doubled(toy_store(seed=2))
    config = meta_config(meta_steps=N_ROUNDS, hard_ratio=0.5, validate_every=5, meta_batch=3, **settings)
    learner = tiny_learner(store, theta_init="posterior")
    tasks = benchmark_tasks(valid, 10, 2, 0)
    trainer = MetaTrainer(learner, store, config)
    history = trainer.train(
        lambda current: summary(score_tasks(current, valid, tasks))["mean"],
        checkpoints=Checkpoints(folder / "checkpoints", {}, steps=1),
    )
    rows = {"rounds": history.rounds, "validations": history.validations, "hard_classes": history.hard_classes}
    return trainable_state(learner), rows


def pretraining(folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Epochs of pretraining, with a checkpoint at every step. Some batches have one crop: less than there are processes."""
    labels = [[0, 1, 0, 1, 1, 0], [1, 0], [0, 1, 1, 0, 0, 1, 0, 1, 0]] * 3
    store = doubled(make_store(labels, phonemes=("a", "s"), noise=2.0))
    config = PretrainConfig(
        epochs=N_EPOCHS, batch_frames=200, crop_lengths=(48, 96), pretrain_lr=0.01, workers=0, **settings
    )
    encoder = EncoderConfig(channels=8, blocks=1, embedding_size=12, dropout=0.0)
    checkpoints = Checkpoints(folder / "checkpoints", {}, steps=1)
    model, history = pretrain([store], store, encoder, config, checkpoints=checkpoints)
    return model.state_dict(), {"epochs": [{k: v for k, v in row.items() if k != "seconds"} for row in history]}


def main(what: str, folder: Path, *given: str) -> None:
    """Train and write."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {}
    for name, value in (pair.split("=") for pair in given):
        settings[name] = int(value) if value.isdigit() else value
    with processes(), double_precision():
        tensors, history = {"meta": meta, "pretraining": pretraining}[what](folder, **settings)
        if is_main():
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors")
            (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    if is_main():
        names = [path.read_text(encoding="utf-8") for path in Path("/proc/self/task").glob("*/comm")]
        (folder / "threads.txt").write_text("".join(names), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
