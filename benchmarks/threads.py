"""How far the numbers of one thread and of two lie apart, and whether the same seed and threads give the same bits.

    python benchmarks/threads.py --output threads.json

Four jobs, each on made-up segments: embeddings of the English encoder that ships; pretraining of a small encoder; rounds of
meta-training of the English strategy; and its adaptation to made-up phonemes. They run in processes of their own, twice with one
thread and twice with two, each with another seed of Python's hashes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtl_speech.commands.target import load_start
from mtl_speech.core.files import atomic_write, json_text
from mtl_speech.core.options import AdaptConfig, EncoderConfig, MetaTrainConfig, PretrainConfig
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.learner import embed_segments, extend
from mtl_speech.training.adapt import adapt_fold
from mtl_speech.training.folds import Fold
from mtl_speech.training.meta_train import MetaTrainer, trainable_state

PHONEMES = ("a", "b", "d", "e", "i", "k", "m", "n", "o", "s", "t", "u")
N_FRAMES, GAP = 8, 6  # of a segment, and before the first and after the last of a recording


def made_up(n_recordings: int, seed: int) -> SegmentStore:
    """Recordings that hold each phoneme once in random order: a spectrum a phoneme, and noise."""
    spectra = 0.5 * torch.randn(len(PHONEMES), MEL_BANDS, generator=torch.Generator().manual_seed(9))
    draw = torch.Generator().manual_seed(seed)
    length = 2 * GAP + N_FRAMES * len(PHONEMES)
    row = length + 2 * MARGIN
    frames = torch.randn(n_recordings, row, MEL_BANDS, generator=draw) - 1.0
    order = torch.stack([torch.randperm(len(PHONEMES), generator=draw) for _ in range(n_recordings)])
    first = MARGIN + GAP
    frames[:, first : first + N_FRAMES * len(PHONEMES)] += 1.0 + spectra[order].repeat_interleave(N_FRAMES, dim=1)
    recording = torch.arange(n_recordings).repeat_interleave(len(PHONEMES))
    start = recording * row + first + N_FRAMES * torch.arange(len(PHONEMES)).repeat(n_recordings)
    nothing = torch.zeros_like(recording)
    return SegmentStore(
        frames=frames.flatten(0, 1).half(),
        first=torch.arange(n_recordings) * row + MARGIN,
        length=torch.full((n_recordings,), length),
        start=start.double(),
        end=(start + N_FRAMES).double(),
        label=order.flatten(),
        utterance=recording,
        language=nothing,
        speaker=nothing,
        phonemes=PHONEMES,
        languages=("und",),
        speakers=("s",),
        utterance_ids=tuple(f"made-up/{i}" for i in range(n_recordings)),
    )


def jobs() -> dict[str, Tensor]:
    """What each job ends with: (n,) values; the predictions of the adapted model apart."""
    from mtl_speech.training.pretrain import predict_segments, pretrain

    start = load_start(None, None)
    train, test = made_up(24, 1), made_up(12, 2)
    meta = replace(MetaTrainConfig(), meta_steps=4, n_way=(5, 10), n_shot=(1, 3), validate_every=2)
    fold = Fold(train, test, "made up")
    learner = start.learner(fold)
    extend(learner, PHONEMES)
    found = {"encoder, 288 segments": embed_segments(learner, train).flatten()}
    config = PretrainConfig(epochs=2, batch_frames=1_000, crop_lengths=(48, 96))
    size = EncoderConfig(channels=64, blocks=2, embedding_size=64)
    model, _ = pretrain([train], test, size, config)
    found["pretraining, 2 epochs"] = flat(model.state_dict().values())
    found["pretraining, predictions"] = predict_segments(model, test)
    adaptation = adapt_fold(learner, fold, AdaptConfig(meta_steps=0), meta)
    found["adaptation"] = torch.tensor([token.confidence for token in adaptation.tokens])
    found["adaptation, predictions"] = torch.tensor([PHONEMES.index(token.predicted) for token in adaptation.tokens])
    renamed = replace(train, label=torch.tensor([learner.phonemes.index(p) for p in PHONEMES])[train.label])
    trainer = MetaTrainer(learner, replace(renamed, phonemes=learner.phonemes), meta)
    trainer.step()
    found["meta-training, 1 round"] = flat(trainable_state(learner).values())
    for _ in range(3):
        trainer.step()
    found["meta-training, 4 rounds"] = flat(trainable_state(learner).values())
    return found


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All values of some tensors, (n,), in float64."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def in_process(threads: int, hash_seed: int, file: Path) -> dict[str, np.ndarray]:
    """What the jobs end with in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, __file__, "--threads", str(threads), "--save", str(file)]
    subprocess.run(command, env=environment, check=True)
    with np.load(file) as saved:
        return {name: saved[name] for name in saved}


def compare(folder: Path) -> dict[str, dict[str, object]]:
    """Of each job: whether two processes give the same bits, and the largest difference between one and two threads."""
    runs = {(n, k): in_process(n, k, folder / f"{n}-{k}.npz") for n in (1, 2) for k in (1, 2)}
    found: dict[str, dict[str, object]] = {}
    for name, one in runs[1, 1].items():
        two = runs[2, 1][name]
        found[name] = {
            "values": len(one),
            "same_bits_1": bool(np.array_equal(one, runs[1, 2][name])),
            "same_bits_2": bool(np.array_equal(two, runs[2, 2][name])),
            "largest_difference": float(np.abs(one.astype(float) - two).max()),
            "largest_value": float(np.abs(one).max()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("threads.json"))
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.save:
        torch.set_num_threads(options.threads)
        np.savez(options.save, **{name: value.numpy() for name, value in jobs().items()})
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder))
    atomic_write(options.output, json_text(found))
    print("| job | values | same bits, 1 thread | same bits, 2 threads | largest difference, 1 to 2 | largest value |")
    print("|---|---:|---|---|---:|---:|")
    for name, row in found.items():
        cells = f"{row['values']:,} | {row['same_bits_1']} | {row['same_bits_2']}"
        print(f"| {name} | {cells} | {row['largest_difference']:.1e} | {row['largest_value']:.3g} |")


if __name__ == "__main__":
    main()
