"""How fast the encoder that ships is, and how well it names the phones of unseen speakers.

python benchmarks/encoder.py --data_folder DIR/speechocean762 --output results/benchmarks

Reads the test speakers of recipes/speechocean762. Without --data_folder only the speed is measured, on noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import machine, number, table, write_results
from sklearn.metrics import f1_score

from mtl_speech.corpora.audio import FRAMES_PER_SECOND, SAMPLE_RATE, log_mel
from mtl_speech.features.store import build_store, normalise
from mtl_speech.model.strategy import BaseModel, load_base

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "speechocean762"
TARGET = 500.0  # × real time
FEATURES, FRAMES, BOTH = "log-mel, normalised", "frames of the encoder", "both"


def median_seconds(step: Callable[[], object], repeats: int) -> float:
    """Processor seconds of a step, the median after one that is not counted."""
    times = []
    for _ in range(1 + repeats):
        before = time.process_time()
        step()
        times.append(time.process_time() - before)
    return statistics.median(times[1:])


def speed(base: BaseModel, repeats: int, length: float) -> list[dict[str, Any]]:
    """Seconds of audio per second, of a recording of `length` seconds of noise: what it holds does not change what it costs."""
    audio = torch.randn(round(length * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    features = normalise(log_mel(audio)).unsqueeze(0)
    steps = {
        FEATURES: lambda: normalise(log_mel(audio)),
        FRAMES: lambda: base.encoder.frames(features),
        BOTH: lambda: base.encoder.frames(normalise(log_mel(audio)).unsqueeze(0)),
    }
    with torch.inference_mode():
        found = {name: median_seconds(step, repeats) for name, step in steps.items()}
    return [
        {"row": n, "ms": 1e3 * s, "real_time": length / s, "frames": length * FRAMES_PER_SECOND / s}
        for n, s in found.items()
    ]


def scores(base: BaseModel, data_folder: Path) -> dict[str, Any]:
    """Accuracy and macro-F1 of the test speakers' segments, as the recipe computes them."""
    sys.path.insert(0, str(RECIPE))
    from prepare import prepare

    store = build_store([prepare(data_folder)["test"]], base.phonemes)
    predicted = base.predict(store)
    macro_f1 = f1_score(store.label, predicted, labels=store.label.unique(), average="macro", zero_division=0)
    accuracy = float((predicted == store.label).float().mean())
    return {"n_segments": len(store), "accuracy": accuracy, "macro_f1": float(macro_f1)}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder to write to")
    parser.add_argument("--repeats", type=int, default=15, help="runs that are timed")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the recording")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--data_folder", type=Path, help="folder of speechocean762, for the scores")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    base = load_base()
    rows = speed(base, given.repeats, given.seconds)
    data: dict[str, Any] = {"machine": machine(given.threads), "seconds": given.seconds, "rows": rows, "target": TARGET}
    cells = [[r["row"], number(r["ms"], 1), number(r["real_time"], 0), number(r["frames"], 0)] for r in rows]
    text = table([f"{given.seconds:g} s of audio", "CPU ms", "× real time", "frames per second"], cells)
    text += f"\n\nTarget: ≥ {TARGET:g} × real time."
    if given.data_folder is not None:
        data["scores"] = found = scores(base, given.data_folder)
        text += f" Test speakers: accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f}"
        text += f" ({found['n_segments']:,} segments)."
    write_results(given.output, "encoder", data, text)


if __name__ == "__main__":
    main(sys.argv[1:])
