"""What pretraining costs beside the encoder, and whether its memory grows with the corpus.

python benchmarks/pretrain.py --output results/benchmarks

Needs no corpus: the recordings are noise bursts. Every figure comes from a process of its own. What the rows are: README.md beside
this file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import machine, number, table, write_results
from noise_corpus import make_noise_corpus, phoneme_names

from mtl_speech.core.cache import FOLDER, LIMIT

N_PHONEMES, PER_RECORDING = 39, 50  # a recording lasts 4.7 s
SCALES = (1, 4, 16)
SEED = 0


def measure(function: Callable[[], object]) -> dict[str, float]:
    """Seconds that something takes: on the clock, of this process's CPU, and of the CPU of processes that it starts and ends."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock, own = time.perf_counter(), time.process_time()
    function()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    workers = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {"clock": time.perf_counter() - clock, "own": time.process_time() - own, "workers": workers}


def child(folder: Path, n_recordings: int, options: argparse.Namespace) -> dict[str, Any]:
    """Pretrain on the first `n_recordings` of a corpus; with --throughput also the bare loop. Runs in a process of its own."""
    import torch

    from mtl_speech.core.options import EncoderConfig, PretrainConfig
    from mtl_speech.corpora.reading import read_corpus
    from mtl_speech.features.augment import make_views
    from mtl_speech.features.crops import CropBatches
    from mtl_speech.features.store import build_store
    from mtl_speech.training.pretrain import pretrain

    torch.set_num_threads(options.threads)
    names = sorted(phoneme_names(N_PHONEMES))
    corpus = read_corpus(folder, "und", "ipa")
    kept = {u.id for u in sorted(corpus.utterances, key=lambda u: u.audio.name)[:n_recordings]}
    corpus = corpus.filter(lambda u: u.id in kept)
    valid = build_store([corpus.filter(lambda u: u.id == min(kept))], names)
    config = PretrainConfig(epochs=options.epochs, workers=options.workers, seed=SEED)
    encoder = EncoderConfig(channels=options.channels)
    views: list[Any] = []
    found: dict[str, Any] = {
        "recordings": n_recordings,
        "hours": corpus.seconds / 3600,
        "segments": sum(len(u.segments) for u in corpus.utterances),
        "plain features": measure(lambda: views.extend(make_views(corpus, names, 4, 1, SEED))),
    }
    batches = CropBatches(views, config.crop_lengths, config.batch_frames, SEED)
    seconds = 0.0  # of crops
    for epoch in range(1, config.epochs + 1):
        batches.set_epoch(epoch)
        seconds += sum(length * len(first) for _, length, first in batches.plan) / 100
    pretrain(
        [valid], valid, encoder, PretrainConfig(epochs=1, workers=0)
    )  # what the first step loads counts as start-up
    history: list[dict[str, float]] = []
    if options.throughput:
        found["bare"] = [bare_loop(batches, encoder, config, names)]
    found |= {
        "crop_seconds": seconds,
        "pretrain": measure(lambda: history.extend(pretrain(views, valid, encoder, config)[1])),
        "epochs": [row["seconds"] for row in history],
    }
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found["peak_mib"], found["worker_peak_mib"] = (peak / 1024 for peak in peaks)
    if options.throughput:
        found["bare"].append(bare_loop(batches, encoder, config, names))
    return found


def bare_loop(batches: Any, encoder: Any, config: Any, names: Sequence[str]) -> dict[str, float]:
    """One epoch of batches that are in memory: losses, gradients and AdamW alone. `crop_seconds` is the audio in them."""
    import torch

    from mtl_speech.features.crops import CropBatches
    from mtl_speech.training.pretrain import PretrainModel

    plain = CropBatches(
        batches.views[:1], batches.crop_lengths, batches.batch_frames, batches.seed
    )  # no augmented entry is made
    in_memory = [plain[number] for number in range(len(plain))]
    model = PretrainModel(encoder, names).train()
    optimiser = torch.optim.AdamW(model.parameters(), config.pretrain_lr, weight_decay=config.weight_decay)

    def run() -> None:
        for crops in in_memory:
            segment, frame, articulation = model(crops)
            loss = segment + config.frame_loss * frame + config.articulatory_loss * articulation
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return {"crop_seconds": sum(crops.frame_labels.numel() for crops in in_memory) / 100, **measure(run)}


def run_child(folder: Path, n_recordings: int, cache: Path, options: argparse.Namespace, *flags: str) -> dict[str, Any]:
    """The figures of a new process."""
    names = ("threads", "workers", "channels", "epochs")
    settings = [f"--{name}={getattr(options, name)}" for name in names]
    command = [sys.executable, __file__, "--folder", str(folder), "--recordings", str(n_recordings), *settings, *flags]
    environment = {**os.environ, FOLDER: str(cache), LIMIT: "100", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def throughput(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table: hours of audio an hour of each way, and of an hour of CPU of the training process, against the bare
    loop, which ran before and after."""
    n = len(found["epochs"])
    bare = {key: sum(run[key] for run in found["bare"]) for key in found["bare"][0]}
    audio = found["crop_seconds"]
    whole = {key: found["pretrain"][key] + found["plain features"][key] for key in found["pretrain"]}
    rows = [
        {"row": "bare loop, tensors in memory", "crop_seconds": bare["crop_seconds"], **bare},
        {"row": "first epoch, empty cache", "crop_seconds": audio / n, "clock": found["epochs"][0]},
        {"row": "median epoch", "crop_seconds": audio / n, "clock": statistics.median(found["epochs"])},
        {"row": f"all {n} epochs, from audio files on", "crop_seconds": audio, **whole},
    ]
    for row in rows:
        for key, name in (("clock", "rate"), ("own", "cpu_rate")):
            if key in row:
                row[name] = row["crop_seconds"] / row[key]
                row[f"{name}_of_bare"] = row[name] / rows[0][name]
    return rows


def markdown(data: dict[str, Any]) -> str:
    """The tables."""
    columns = {"rate": 0, "rate_of_bare": 2, "cpu_rate": 0, "cpu_rate_of_bare": 2, "clock": 1, "own": 1, "workers": 1}
    rows = [[r["row"], *(number(r.get(key), digits) for key, digits in columns.items())] for r in data["throughput"]]
    names = ["hours of audio an hour", "of the bare loop", "an hour of CPU, training", "of the bare loop"]
    header = ["", *names, "seconds", "CPU s, training", "CPU s, workers"]
    memory = [
        [
            f"{m['scale']} ×",
            number(m["hours"]),
            f"{m['segments']:,}",
            number(m["peak_mib"], 0),
            number(m["worker_peak_mib"], 0),
        ]
        for m in data["memory"]
    ]
    names = ["corpus", "hours", "segments", "peak, training [MiB]", "peak, largest worker [MiB]"]
    return table(header, rows) + "\n\n" + table(names, memory)


def main(arguments: Sequence[str]) -> None:
    """Make the recordings, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--channels", type=int, default=224)
    parser.add_argument("--recordings", type=int, default=200)
    parser.add_argument(
        "--base", type=int, default=100, help="recordings of the smallest corpus whose memory is measured"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--throughput", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder is not None:
        print(json.dumps(child(options.folder, options.recordings, options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        most = max(options.recordings, options.base * SCALES[-1])
        make_noise_corpus(folder / "corpus", most * PER_RECORDING, N_PHONEMES, PER_RECORDING)
        found = run_child(folder / "corpus", options.recordings, folder / "first", options, "--throughput")
        options.epochs = 1
        sizes = [(scale, options.base * scale) for scale in SCALES]
        memory = [{"scale": s, **run_child(folder / "corpus", n, folder / f"cache{s}", options)} for s, n in sizes]
    data = {"machine": machine(options.threads), "throughput": throughput(found), "memory": memory, "measured": found}
    write_results(options.output, "pretrain", data, markdown(data))


if __name__ == "__main__":
    main(sys.argv[1:])
