"""What training on many processes needs: work and messages of a step, the reader beside it, checkpoints, memory of the corpus.

python benchmarks/scale.py --output results/benchmarks

Needs no corpus: the recordings are noise bursts. docs/scale.md works from these figures.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import machine, number, table, write_results
from noise_corpus import make_noise_corpus, phoneme_names
from torch.utils.flop_counter import FlopCounterMode

from mtl_speech.core.cache import FOLDER
from mtl_speech.core.distributed import is_main, processes, total
from mtl_speech.core.options import EncoderConfig, MetaTrainConfig, PretrainConfig
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.augment import make_views
from mtl_speech.features.crops import CropBatches
from mtl_speech.features.store import PER_SEGMENT, build_store
from mtl_speech.model.encoder import FrameBatchNorm
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.scale_shift import attach
from mtl_speech.training.checkpoint import Checkpoints
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.training.pretrain import PretrainBrain, PretrainModel

N_PHONEMES, PER_RECORDING, N_RECORDINGS = 39, 50, 100  # a recording lasts 4.7 s
PHONES_AN_HOUR = 36_000  # of read English, ten a second
RECORDINGS_AN_HOUR = 293  # of LibriSpeech: 281,241 in 960 hours
N_STEPS = 9


def median_ms(step: Callable[[int], object], n: int = N_STEPS) -> float:
    """Milliseconds that a step takes, the median of n after one more."""
    step(0)
    taken = []
    for number_ in range(1, n + 1):
        started = time.perf_counter()
        step(number_)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def pretraining(folder: Path, channels: int) -> dict[str, Any]:
    """A step of pretraining, in float32 and bf16, and what it reads, sends and saves."""
    names = sorted(phoneme_names(N_PHONEMES))
    corpus = read_corpus(folder, "und", "ipa")
    views = make_views(corpus, names, 2, 1, 0)
    config, encoder = PretrainConfig(workers=0), EncoderConfig(channels=channels)
    batches = CropBatches(views, config.crop_lengths, config.batch_frames, 0)
    batches.set_epoch(1)
    for number_ in range(len(batches)):
        batches[number_]  # every entry of the cache is made, and checked
    full = sorted(range(len(batches)), key=lambda i: -batches[i].frame_labels.numel())[: N_STEPS + 1]
    read = median_ms(lambda i: batches[full[i % len(full)]])
    crops = [batches[i] for i in full]
    frames = statistics.mean(each.frame_labels.numel() for each in crops)
    found: dict[str, Any] = {"batch_frames": frames, "read_ms": read}
    for precision in ("fp32", "bf16"):
        brain = PretrainBrain(replace(config, precision=precision), PretrainModel(encoder, names), batches, views[0])
        brain.on_fit_start()
        brain.modules.train()
        found[f"step_ms_{precision}"] = median_ms(lambda i, brain=brain: brain.fit_batch(crops[i % len(crops)]))
    with FlopCounterMode(display=False) as counter:
        brain.fit_batch(crops[0])
    seconds = crops[0].frame_labels.numel() / 100
    found["gflop_per_second_of_audio"] = counter.get_total_flops() / 1e9 / seconds
    found["parameters"] = sum(p.numel() for p in brain.model.parameters())
    norms = [m for m in brain.model.modules() if isinstance(m, FrameBatchNorm)]
    found["norms"], found["norm_bytes"] = len(norms), sum(4 * 4 * m.num_features for m in norms)
    with tempfile.TemporaryDirectory() as place:
        checkpoints = Checkpoints(Path(place), {})
        started = time.perf_counter()
        path = checkpoints.save(brain.state())
        found |= {"checkpoint_ms": 1000 * (time.perf_counter() - started), "checkpoint_bytes": path.stat().st_size}
    return found


def meta_training(folder: Path, channels: int) -> dict[str, Any]:
    """A round of meta-training at its defaults, and what it sends."""
    store = build_store([read_corpus(folder, "und", "ipa")], sorted(phoneme_names(N_PHONEMES)))
    config = MetaTrainConfig(n_way=(20,), n_shot=(5,), hard_ratio=0.0)
    encoder = PretrainModel(EncoderConfig(channels=channels), store.phonemes).encoder.fold_batch_norm()
    learner = MetaLearner(attach(encoder, "channel").eval(), encoder.config.embedding_size, store.phonemes, "posterior")
    trainer = MetaTrainer(learner, store, config)
    moved = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    return {"tasks": config.meta_batch, "round_ms": median_ms(lambda _: trainer.step()), "parameters": moved}


def corpus_memory(folders: Sequence[Path]) -> dict[str, float]:
    """Bytes of memory that one more recording takes in the corpus and four views, by a small and a larger corpus, and bytes of the
    disk that a phone takes in their tables."""
    names, found = sorted(phoneme_names(N_PHONEMES)), []
    for folder in (folders[0], *folders):  # the first time to load what is needed
        gc.collect()
        tracemalloc.start()
        corpus = read_corpus(folder, "und", "ipa")
        views = make_views(corpus, names, 4, 1, 0)
        gc.collect()
        objects = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        tensors = sum(each.element_size() * len(each) for view in views for each in (view.first, view.length))
        columns = {each.data_ptr(): each.nbytes for view in views for each in (getattr(view, k) for k in PER_SEGMENT)}
        found.append((objects + tensors, len(corpus.utterances), sum(columns.values()) / len(views[0])))
        del corpus, views
    (small, n_small, _), (large, n_large, on_disk) = found[1:]
    return {"bytes_per_recording": (large - small) / (n_large - n_small), "disk_bytes_per_phone": on_disk}


def all_reduce(sizes: Sequence[int]) -> list[float]:
    """Milliseconds that a sum over two processes of this machine takes, for tensors of so many bytes. Run by torchrun."""
    tensors = [torch.zeros(size // 4) for size in sizes]
    return [median_ms(lambda _, t=tensor: total(t), 50) for tensor in tensors]


def measured_by_two(sizes: Sequence[int]) -> list[float]:
    """`all_reduce` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    done = subprocess.run(
        [*command, "--sizes", *map(str, sizes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return [float(value) for value in done.stdout.split()]


def rows_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The table: what, and how much."""
    pre, meta, memory = found["pretraining"], found["meta_training"], found["memory"]
    seconds = pre["batch_frames"] / 100
    return [
        (f"pretraining, a step of {pre['batch_frames']:,.0f} frames, ms", number(pre["step_ms_fp32"], 0)),
        ("hours of audio an hour", number(1000 * seconds / pre["step_ms_fp32"], 0)),
        ("the same in bf16, × float32", number(pre["step_ms_fp32"] / pre["step_ms_bf16"])),
        ("GFLOP a second of audio, forward and backward", number(pre["gflop_per_second_of_audio"])),
        ("reading a batch from the cache, ms", number(pre["read_ms"], 1)),
        ("parameters", f"{pre['parameters']:,}"),
        ("gradients, bytes a step", f"{4 * pre['parameters']:,}"),
        ("their sum over two processes here, ms", number(found["sum_ms"][0], 1)),
        ("statistics of batch-norm, messages a step", str(4 * pre["norms"] + pre["norms"])),
        ("and bytes", f"{pre['norm_bytes']:,}"),
        ("a sum of 1 kB over two processes here, ms", number(found["sum_ms"][1], 2)),
        ("checkpoint, bytes", f"{pre['checkpoint_bytes']:,}"),
        ("and ms", number(pre["checkpoint_ms"], 0)),
        (f"meta-training, a round of {meta['tasks']} 20-way 5-shot tasks, ms", number(meta["round_ms"], 0)),
        ("gradients, bytes a round", f"{4 * meta['parameters']:,}"),
        ("their sum over two processes here, ms", number(found["sum_ms"][2], 2)),
        ("memory of one more recording, with four views, bytes", number(memory["bytes_per_recording"], 0)),
        ("memory an hour of LibriSpeech, MB", number(memory["bytes_per_recording"] * RECORDINGS_AN_HOUR / 1e6, 2)),
        ("tables on the disk a phone, bytes", number(memory["disk_bytes_per_phone"], 0)),
        ("tables on the disk an hour, MB", number(memory["disk_bytes_per_phone"] * PHONES_AN_HOUR / 1e6, 1)),
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder to write to")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--channels", type=int, default=EncoderConfig().channels, help="channels of the encoder")
    parser.add_argument("--recordings", type=int, default=N_RECORDINGS, help="recordings of the corpus")
    parser.add_argument("--sizes", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.sizes:
        with processes():
            taken = all_reduce(options.sizes)
            if is_main():
                print(*taken)
        return
    with tempfile.TemporaryDirectory() as place:
        os.environ[FOLDER] = str(Path(place) / "cache")
        folder = Path(place) / "corpus"
        make_noise_corpus(folder, options.recordings * PER_RECORDING, N_PHONEMES, PER_RECORDING)
        larger = Path(place) / "larger"
        make_noise_corpus(larger, 5 * options.recordings * PER_RECORDING, N_PHONEMES, PER_RECORDING)
        found: dict[str, Any] = {
            "machine": machine(options.threads),
            "pretraining": pretraining(folder, options.channels),
            "meta_training": meta_training(folder, options.channels),
            "memory": corpus_memory((folder, larger)),
        }
    sizes = (4 * found["pretraining"]["parameters"], 1024, 4 * found["meta_training"]["parameters"])
    found["sum_ms"] = measured_by_two(sizes)
    options.output.mkdir(parents=True, exist_ok=True)
    write_results(options.output, "scale", found, table(("what", "measured"), rows_of(found)))


if __name__ == "__main__":
    main(sys.argv[1:])
