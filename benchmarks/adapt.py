"""What `mtl-speech adapt` costs from audio files to a saved pack, by number of examples and classes.

python benchmarks/adapt.py --output results/benchmarks

Needs no corpus: the recordings are noise bursts. Each run is the command itself in a process of its own, its functions timed from
outside. What the columns are: README.md beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import machine, number, table, write_results
from noise_corpus import make_noise_corpus

from mtl_speech.core.cache import FOLDER

PER_RECORDING = {50: 5}  # phones of a recording; elsewhere 10
STAGES = {  # what is timed: module, function, stage
    ("commands.target", "load_start"): "start-up",
    ("commands.target", "read_corpus"): "reading and features",
    ("model.strategy", "build_store"): "reading and features",
    ("model.strategy", "with_heard"): "encoder",
    ("training.adapt", "continue_meta_training"): "meta-training",
    ("training.adapt", "learn_inventory"): "head",
    ("report.results", "save_pack"): "saving",
    ("commands.workflows", "with_timing"): "segmenter",
    ("commands.workflows", "learning_curve"): "learning curve",
    ("commands.workflows", "write_results"): "report",
}
CORE = ("reading and features", "encoder", "head", "saving", "other")


class Stopwatch:
    """CPU and clock seconds by stage; what one stage calls of another counts for that other alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.running = ["other"]
        self.since = time.process_time(), time.perf_counter()

    def switch(self) -> None:
        """Book the time until now on the stage that runs."""
        now = time.process_time(), time.perf_counter()
        booked = self.seconds.setdefault(self.running[-1], [0.0, 0.0])
        self.seconds[self.running[-1]] = [b + n - s for b, n, s in zip(booked, now, self.since, strict=True)]
        self.since = now

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function, its time booked on a stage."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.running.pop()

        return wrapped


def replace(function: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Put `other` in the place of a function in all modules of the package that know it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mtl_speech"):
            for key in [key for key, value in vars(module).items() if value is function]:
                setattr(module, key, other)


def child(data: Path, output: Path, meta_steps: int | None, started: float) -> dict[str, Any]:
    """Run the command and then one forward pass over its examples. Runs in a process of its own, begun at `started`."""
    import importlib

    from mtl_speech.commands import workflows
    from mtl_speech.core.options import AdaptOptions
    from mtl_speech.core.run import Run
    from mtl_speech.model.passes import embeddings_of
    from mtl_speech.training import adapt as adapting

    before = time.process_time(), time.time() - started
    watch = Stopwatch()
    folds: list[Any] = []
    make_folds = adapting.make_folds
    replace(make_folds, lambda *args: folds.extend(make_folds(*args)) or folds)
    for (module, name), stage in STAGES.items():
        function = getattr(importlib.import_module(f"mtl_speech.{module}"), name)
        replace(function, watch.timed(function, stage))
    options = AdaptOptions(lang="pa", data=data, meta_steps=meta_steps, threads=1, output_dir=output)
    workflows.adapt(options, Run(quiet=True))
    watch.switch()
    seconds = watch.seconds
    seconds["start-up"] = [s + b for s, b in zip(seconds["start-up"], before, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    from mtl_speech.commands.target import load_start

    learner = load_start(None, None).learner(folds[0])
    clock = time.process_time()
    stores = [dataclasses.replace(store, heard=None) for store in (folds[0].train, folds[0].test)]
    n = sum(len(embeddings_of(learner.encoder, store)) for store in stores)
    return {"examples": n, "seconds": seconds, "pass": time.process_time() - clock, "peak_mib": peak}


def run_child(data: Path, output: Path, cache: Path, meta_steps: int | None) -> dict[str, Any]:
    """The figures of a new process."""
    steps = [] if meta_steps is None else [f"--meta-steps={meta_steps}"]
    command = [sys.executable, __file__, "--data", str(data), "--pack", str(output), f"--started={time.time()}", *steps]
    environment = {**os.environ, FOLDER: str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The tables: CPU seconds by stage."""
    stages = ["start-up", *CORE, "meta-training", "segmenter", "learning curve", "report"]
    header = ["examples, classes", "cache", *stages, "one pass", "core / pass", "clock, all", "peak [MiB]"]
    lines = [
        [
            f"{row['examples']:,}, {row['classes']}{row['note']}",
            row["cache"],
            *(number(row["seconds"].get(stage, [0.0])[0]) for stage in stages),
            number(row["pass"]),
            number(row["core"] / row["pass"]),
            number(sum(clock for _, clock in row["seconds"].values()), 1),
            number(row["peak_mib"], 0),
        ]
        for row in rows
    ]
    return table(header, lines)


def main(arguments: Sequence[str]) -> None:
    """Make the recordings, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--examples", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 40, 120])
    parser.add_argument("--default-path", type=int, nargs=2, default=[500, 40], metavar=("EXAMPLES", "CLASSES"))
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--meta-steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.data is not None:
        print(json.dumps(child(options.data, options.pack, options.meta_steps, options.started)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in options.examples:
            for n_classes in (c for c in options.classes if c * 1.25 <= n):
                data = folder / f"{n}-{n_classes}"
                make_noise_corpus(data, n, n_classes, PER_RECORDING.get(n, 10))
                ways: list[tuple[str, int | None]] = [("", 0), ("", 0)]
                ways += [(" (default path)", None)] * ([n, n_classes] == options.default_path)
                for number_of_run, (note, steps) in enumerate(ways):
                    found = run_child(data, folder / f"out{len(rows)}", folder / f"cache-{data.name}", steps)
                    cache = "empty" if number_of_run == 0 else "full"
                    core = sum(found["seconds"].get(stage, [0.0])[0] for stage in CORE)
                    rows.append({"classes": n_classes, "note": note, "cache": cache, "core": core, **found})
                    print(f"{n} examples, {n_classes} classes, {cache}{note}: done", file=sys.stderr)
    write_results(options.output, "adapt", {"machine": machine(1), "rows": rows}, markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
