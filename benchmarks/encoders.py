"""What encoders cost and what they bring: the one that ships, a small convolutional one, and others through --encoder.

python benchmarks/encoders.py --voxangeles DIR --speechocean DIR --small PACK --encoder NAME=FOLDER --output results/benchmarks

Each figure is of a process of its own with an empty feature cache. What the columns are: README.md beside this file.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapt import Stopwatch
from adapt import replace as put_in_place
from measuring import machine, number, table, write_results

from mtl_speech.core.cache import FOLDER

LANGUAGES = Path(__file__).resolve().parent.parent / "recipes" / "VoxAngeles" / "languages.yaml"
LADINO = "lad"
N_SENTENCES = 200  # of speechocean762
AUDIO = (".flac", ".opus", ".wav")
REPEATS = 3  # of the bare pass
STRETCH_SECONDS, N_STRETCHES, SPEED_REPEATS = 3, 10, 15
TARGETS = {"float32": 6.0, "bfloat16": 3.5}  # what ships against the small one, at most
SMALL, BUILT_IN = "small", "built-in"
STAGES = {  # what is timed: module, function, stage
    ("commands.target", "read_corpus"): "reading",
    ("features.store", "build_store"): "reading",
    ("model.passes", "with_heard"): "encoder",
    ("training.base_learning", "choose_layer"): "head",
    ("model.closed_form", "prepare_learner"): "head",
    ("training.adapt", "adapt_fold"): "head",
    ("training.adapt", "learn"): "head",
    ("model.language_pack", "with_timing"): "segmenter",
    ("report.findings", "learning_curve"): "report",
    ("report.findings", "compare_base"): "report",
    ("report.page", "cut_clips"): "report",
    ("report.results", "write_results"): "report",
    ("model.pack", "save_pack"): "saving",
    ("commands.target", "load_chosen_base"): "start-up",
    ("commands.target", "load_start"): "start-up",
}
CORE, AFTER = ("reading", "encoder", "head", "saving"), ("segmenter", "report")


class Stages(Stopwatch):
    """Segmenter and report take all that they call, such as passes of their own and a head a point of the curve, but saving."""

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """As of the class above."""
        counted = super().timed(function, stage)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            is_within = stage != "saving" and any(outer in AFTER for outer in self.running)
            return (function if is_within else counted)(*args, **kwargs)

        return wrapped


@dataclass(frozen=True)
class Choice:
    """An encoder by its name: an encoder pack, another maker's, or neither for the one that ships."""

    name: str
    base: Path | None = None
    encoder: str | None = None


def count_seconds() -> Counter[str]:
    """Seconds of audio that enter each encoder from now on, by the hash of its weights."""
    from mtl_speech.corpora.audio import FRAMES_PER_SECOND
    from mtl_speech.model.encoder import ConvEncoder
    from mtl_speech.model.hub import HubEncoder
    from mtl_speech.model.whisper import WhisperEncoder

    seconds: Counter[str] = Counter()

    def counted(way: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, rows: Any) -> Any:
            seconds[self.fingerprint] += rows.shape[0] * rows.shape[1] / FRAMES_PER_SECOND
            return way(self, rows)

        return call

    ConvEncoder.frames = counted(ConvEncoder.frames)  # type: ignore[method-assign]  # its all_layers calls it
    for kind in (WhisperEncoder, HubEncoder):
        for name in ("frames", "all_layers"):
            setattr(kind, name, counted(getattr(kind, name)))
    return seconds


def adapted(given: argparse.Namespace) -> dict[str, Any]:
    """Run `adapt` on a folder and then bare passes over its recordings."""
    from mtl_speech.commands import workflows
    from mtl_speech.commands.target import load_chosen_base
    from mtl_speech.core.options import AdaptOptions
    from mtl_speech.core.run import Run
    from mtl_speech.corpora.reading import read_corpus
    from mtl_speech.model.pack import load_pack

    options = AdaptOptions(
        lang=given.lang,
        data=given.data,
        phone_set=given.phone_set,
        base=given.base,
        encoder=given.hub,
        threads=1,
        output_dir=given.work / "adapt",
    )
    seconds, watch = count_seconds(), Stages()
    for (module, name), stage in STAGES.items():
        function = getattr(importlib.import_module(f"mtl_speech.{module}"), name)
        put_in_place(function, watch.timed(function, stage))
    scores = workflows.adapt(options, Run(quiet=True))
    watch.switch()
    peak, entered = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, dict(seconds)
    base = load_chosen_base(options, load_pack(given.work / "adapt" / "pack", "language"))
    corpus = read_corpus(given.data, given.lang, given.phone_set)
    return {
        "recordings": len(corpus.utterances),
        "length": corpus.seconds,
        "layer": base.encoder.layer,
        "bare": bare_pass(base, corpus),
        "seconds": {stage: processor for stage, (processor, _) in watch.seconds.items()},
        "passes": {
            "itself" if key == base.encoder.fingerprint else "of the segmenter": each / corpus.seconds
            for key, each in entered.items()
        },
        "peak_mib": peak,
        "macro_f1": scores.macro_f1,
    }


def bare_pass(base: Any, corpus: Any) -> float:
    """Processor seconds of one pass of all recordings through the encoder, nothing pooled; their features are made before."""
    import torch

    from mtl_speech.features.front_end import MARGIN
    from mtl_speech.features.store import build_store
    from mtl_speech.model.passes import Stretch, frames_of, stretches_of

    store = build_store([corpus], front_end=base.front_end)
    planned = [s for u, n in enumerate(store.length.tolist()) for s in stretches_of(u, n, base.encoder)]

    def read(stretch: Stretch) -> torch.Tensor:
        first, n_rows = int(store.first[stretch.recording]), int(store.length[stretch.recording])
        return store.take(first + torch.arange(stretch.begin, stretch.end).clamp(-MARGIN, n_rows + MARGIN - 1))

    times = []
    for _ in range(REPEATS):
        before = time.process_time()
        for _ in frames_of(base.encoder, planned, read):
            pass
        times.append(time.process_time() - before)
    return statistics.median(times)


def by_language(given: argparse.Namespace) -> dict[str, Any]:
    """Macro-F1 and phone error rate of a third of the recordings of each validation language, learned from the others.

    There is no phone error rate for a base without a segmenter, which cannot transcribe.
    """
    from mtl_speech.commands import workflows
    from mtl_speech.commands.target import load_chosen_base
    from mtl_speech.commands.transcribe import transcribe
    from mtl_speech.core.options import AdaptOptions, TranscribeOptions
    from mtl_speech.core.run import Run

    found: dict[str, dict[str, float | None]] = {}
    for lang in given.names:
        work = given.work / lang
        shared: dict[str, Any] = {"phone_set": "ipa", "base": given.base, "encoder": given.hub, "threads": 1}
        divide(given.data / lang, work / "train", work / "test")
        options = AdaptOptions(lang=lang, data=work / "train", test=work / "test", output_dir=work / "adapt", **shared)
        with Run(quiet=True) as run:
            scores = workflows.adapt(options, run)
        found[lang] = {"macro_f1": scores.macro_f1, "phone_error_rate": None}
        if load_chosen_base(options).segmenter is not None:
            how = TranscribeOptions(score=True, output_dir=work / "transcribe", **shared)
            with Run(quiet=True) as run:
                heard = transcribe(work / "adapt" / "pack", [work / "test"], how, run)
            assert heard is not None
            found[lang]["phone_error_rate"] = heard.phone_error_rate.value
    return {"languages": found}


def divide(folder: Path, train: Path, test: Path) -> None:
    """Copy every third recording of a folder, by name, with its labels to `test`, the others to `train`."""
    for number_of_file, audio in enumerate(recordings_in(folder)):
        copy_recording(audio, test if number_of_file % 3 == 2 else train)


def recordings_in(folder: Path) -> list[Path]:
    """The audio files below a folder that have a TextGrid, by name."""
    found = [path for path in folder.rglob("*") if path.suffix in AUDIO and path.with_suffix(".TextGrid").is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def copy_recording(audio: Path, folder: Path) -> None:
    """Copy an audio file and its TextGrid."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (audio, audio.with_suffix(".TextGrid")):
        shutil.copyfile(path, folder / path.name)


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of a 3-second stretch through features and encoder, N_STRETCHES at once, which take turns."""
    import numpy as np
    import torch

    from mtl_speech.corpora.audio import SAMPLE_RATE
    from mtl_speech.model.strategy import load_base

    torch.set_num_threads(1)
    bases = {BUILT_IN: load_base(), **({SMALL: load_base(given.base)} if given.base else {})}
    noise = np.random.default_rng(0).normal(0, 0.1, (N_STRETCHES, STRETCH_SECONDS * SAMPLE_RATE)).astype(np.float32)
    kinds = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
    times: dict[tuple[str, str], list[float]] = {(kind, name): [] for kind in kinds for name in bases}
    with torch.inference_mode():
        for _ in range(1 + SPEED_REPEATS):
            for (kind, name), each in times.items():
                end, before = bases[name].front_end, time.process_time()
                rows = torch.stack([end.make(wave).float() for wave in noise])
                with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
                    bases[name].encoder.frames(rows)
                each.append(time.process_time() - before)
    found: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
    for (kind, name), each in times.items():
        found[kind][name] = statistics.median(each[1:]) / N_STRETCHES
    return {"seconds": found, "ratios": {k: each[BUILT_IN] / each[SMALL] for k, each in found.items() if SMALL in each}}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


JOBS = {"adapt": adapted, "languages": by_language, "speed": speed}


def run_child(job: str, choice: Choice, **options: object) -> dict[str, Any]:
    """The figures of a new process, with a folder of its own to work in, an empty cache and one thread."""
    given = {"base": choice.base, "hub": choice.encoder, **options}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"--job={job}", f"--work={folder}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
        environment = {**os.environ, FOLDER: str(Path(folder) / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(f"{choice.name}, {job} {options.get('lang', '')}: done", file=sys.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def markdown(data: dict[str, Any]) -> str:
    """The tables."""
    parts = [costs(data["adapt"]), accuracy(data["languages"]), speeds(data["speed"])]
    return "\n\n".join(part for part in parts if part)


def costs(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of `adapt` by stage, against one bare pass; passes, memory and macro-F1."""
    stages = ("start-up", *CORE, *AFTER, "other")
    header = ["recordings, encoder", "layer", "one pass [s]", *(f"{stage} [s]" for stage in stages), "all [s]"]
    header += ["reading, encoder, head and saving × one pass", "segmenter and report × one pass"]
    header += ["passes, itself", "passes, that of the segmenter", "peak [MiB]", "macro-F1"]
    lines = []
    for row in rows:
        cells: list[object] = [f"{row['data']}, {row['encoder']}", row["layer"], number(row["bare"])]
        cells += [number(row["seconds"].get(stage, 0.0)) for stage in stages]
        cells += [number(sum(row["seconds"].values())), number(row["core"]), number(row["after"])]
        cells += [number(row["passes"].get(of)) for of in ("itself", "of the segmenter")]
        lines.append([*cells, number(row["peak_mib"], 0), number(row["macro_f1"], 3)])
    return table(header, lines) if lines else ""


def accuracy(rows: Sequence[dict[str, Any]]) -> str:
    """Macro-F1 and phone error rate, means over the validation languages and each of them."""
    if not rows:
        return ""
    names = list(rows[0]["languages"])
    lines = []
    for row in rows:
        each = [row["languages"][name] for name in names]
        means = [mean_of([scores[key] for scores in each]) for key in ("macro_f1", "phone_error_rate")]
        cells = [f"{number(scores['macro_f1'], 3)}, {number(scores['phone_error_rate'], 3)}" for scores in each]
        lines.append([row["encoder"], *(number(mean, 3) for mean in means), *cells])
    return table(["encoder", "macro-F1", "phone error rate", *names], lines)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def speeds(found: dict[str, Any]) -> str:
    """Milliseconds of a stretch, and the ratio that has a target."""
    lines = []
    for kind, seconds in found["seconds"].items():
        times = [number(1e3 * seconds[name], 1) if name in seconds else "" for name in (SMALL, BUILT_IN)]
        lines.append([kind, *times, number(found["ratios"].get(kind)), number(TARGETS[kind], 1)])
    title = f"features and encoder, {STRETCH_SECONDS} s of audio"
    return table([title, f"{SMALL} [ms]", f"{BUILT_IN} [ms]", "ratio", "target, at most"], lines)


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All figures so far, each from a process of its own, again after each."""
    import yaml

    choices = [Choice(SMALL, base=given.small)] if given.small else []
    choices += [Choice(BUILT_IN)]
    choices += [Choice(name, encoder=folder) for name, _, folder in (each.partition("=") for each in given.encoder)]
    names = given.languages or yaml.safe_load(LANGUAGES.read_text(encoding="utf-8"))["valid"]
    data: dict[str, Any] = {"machine": machine(1), "targets": TARGETS, "adapt": [], "languages": []}
    data["speed"] = run_child("speed", replace(choices[0], name="speed"))
    with tempfile.TemporaryDirectory() as folder:
        for title, options in cases_of(given, Path(folder)).items():
            for choice in choices:
                row = run_child("adapt", choice, **options)
                for key, stages in (("core", CORE), ("after", AFTER)):
                    row[key] = sum(row["seconds"].get(stage, 0.0) for stage in stages) / row["bare"]
                data["adapt"].append({"data": title, "encoder": choice.name, **row})
                yield data
    for choice in choices if given.voxangeles else []:
        row = run_child("languages", choice, data=given.voxangeles, names=",".join(names))
        data["languages"].append({"encoder": choice.name, **row})
        yield data
    yield data


def cases_of(given: argparse.Namespace, folder: Path) -> dict[str, dict[str, object]]:
    """The recordings to adapt to, by a title; those of speechocean762 are copied to `folder`."""
    cases: dict[str, dict[str, object]] = {}
    if given.voxangeles:
        n = len(recordings_in(given.voxangeles / LADINO))
        cases[f"{n} words of Ladino"] = {"data": given.voxangeles / LADINO, "lang": LADINO, "phone_set": "ipa"}
    if given.speechocean:
        top = given.speechocean / "test"
        for audio in recordings_in(top)[:N_SENTENCES]:
            copy_recording(audio, folder / audio.parent.relative_to(top))
        n = len(recordings_in(folder))
        cases[f"{n} sentences of speechocean762"] = {"data": folder, "lang": "en", "phone_set": "arpabet"}
    return cases


def main(arguments: Sequence[str]) -> None:
    """Measure, or be the process that measures one thing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--voxangeles", type=Path, help="VoxAngeles, a folder a language")
    add("--speechocean", type=Path, help="speechocean762, with its folder test")
    add("--small", type=Path, metavar="PACK", help="pack of a small convolutional encoder")
    add("--encoder", action="append", default=[], metavar="NAME=FOLDER", help="an encoder of another maker")
    add("--languages", nargs="+", help="folders of VoxAngeles to score on; by default those of validation")
    add("--output", type=Path, default=Path("results/benchmarks"), help="folder to write to")
    for name in ("--job", "--hub", "--lang", "--phone-set"):
        add(name, help=argparse.SUPPRESS)
    for name in ("--work", "--base", "--data"):
        add(name, type=Path, help=argparse.SUPPRESS)
    add("--names", type=lambda text: text.split(","), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.job:
        print("\n" + json.dumps(JOBS[given.job](given)))
        return
    for data in measured(given):  # what is measured is kept where a long run is stopped
        write_results(given.output, "encoders", data, markdown(data))


if __name__ == "__main__":
    main(sys.argv[1:])
