"""What a meta-training step costs, against the encoder passes that it is made of and against other ways to take it.

python benchmarks/meta_step.py --output results/benchmarks

Needs no corpus: the segments are made up, the encoder has the shipped one's size. What the rows are: README.md beside this file.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import machine, number, peak_memory, table, write_results
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.options import EncoderConfig, MetaTrainConfig
from mtl_speech.core.terminal import progress, show_bars
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.front_end import WINDOW_FRAMES
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import standardise_embeddings, start_theta
from mtl_speech.model.encoder import ConvEncoder, FrameConv, part_weights
from mtl_speech.model.learner import MetaLearner, balanced_weights
from mtl_speech.model.scale_shift import attach
from mtl_speech.training import meta_train
from mtl_speech.training.episodes import Episode, EpisodeBatch, EpisodeSampler, stack
from mtl_speech.training.meta_train import Forward, MetaTrainer, meta_forward, query_loss

Step = Callable[[], object]

N_LANGUAGES, N_RECORDINGS, N_PHONEMES = 32, 120, 24  # of the made-up store; a recording holds each phoneme once
N_ROWS = 40_000  # frames of the made-up store, from which its segments are cut at random places
SEEN = 2_000  # segments of it that the closed-form start is computed from
FLOOR, FLOOR_OTHER = "(a) supervised step", "(a) supervised step, conv1d layout"
ANIL, MAML = "(e) ANIL, learn2learn", "(f) MAML, learn2learn, second order"
ORDERS = {"first order": True, "second order": False}
GRANULARITIES = ("channel", "kernel")
MAX_MAML_STEPS = 20  # the graph of 100 steps through the encoder needs tens of gigabytes
SLOW = 5  # rows other than the floor and ours are measured in every fifth round
NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Case:
    """A kind of task, and how many of them are in a meta-batch."""

    n_way: int
    n_shot: int
    n_query: int  # a class
    meta_batch: int

    @property
    def n_segments(self) -> int:
        """Segments of a meta-batch, support and query."""
        return self.meta_batch * self.n_way * (self.n_shot + self.n_query)

    def __str__(self) -> str:
        return f"{self.n_way}-way {self.n_shot}-shot {self.n_query}-query, meta-batch {self.meta_batch}"


@dataclass
class Row:
    """One way to take a step. Its time counts `times` times: MAML takes one task, for it takes them one by one anyway."""

    name: str
    inner_steps: int | None
    step: Step
    every: int = 1  # measured in every n-th round
    times: int = 1
    wall: list[float] = field(default_factory=list)  # seconds
    cpu: list[float] = field(default_factory=list)  # seconds, of all threads
    peak: int | None = None  # bytes

    def measure(self) -> None:
        """Take the step once and remember how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.step()
        self.cpu.append(self.times * (time.process_time() - cpu))
        self.wall.append(self.times * (time.perf_counter() - wall))


# What the steps are taken on


def made_up_store(seed: int = 0) -> SegmentStore:
    """Segments of made-up languages, cut at random places from noise: what they hold does not change what a step costs."""
    draw = torch.Generator().manual_seed(seed)
    n_recordings = N_LANGUAGES * N_RECORDINGS
    recording = torch.arange(n_recordings).repeat_interleave(N_PHONEMES)
    start = torch.rand(len(recording), dtype=torch.float64, generator=draw) * (N_ROWS - 4 * WINDOW_FRAMES)
    start += 2 * WINDOW_FRAMES
    return SegmentStore(
        frames=torch.randn(N_ROWS, MEL_BANDS, generator=draw).half(),
        first=torch.zeros(n_recordings, dtype=torch.long),
        length=torch.full((n_recordings,), N_ROWS),
        start=start,
        end=start + 4 + 12 * torch.rand(len(start), dtype=torch.float64, generator=draw),
        label=torch.arange(N_PHONEMES).repeat(n_recordings),
        utterance=recording,
        language=recording // N_RECORDINGS,
        speaker=recording,
        phonemes=tuple(f"p{number:02}" for number in range(N_PHONEMES)),
        languages=tuple(f"l{number:02}" for number in range(N_LANGUAGES)),
        speakers=tuple(f"s{number}" for number in range(n_recordings)),
        utterance_ids=tuple(f"u{number}" for number in range(n_recordings)),
    )


class Bench:
    """The encoder and the store that all rows share."""

    def __init__(self, config: EncoderConfig, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.store = made_up_store(seed)
        self.encoder = ConvEncoder(config).fold_batch_norm().requires_grad_(False)
        some = torch.randperm(len(self.store))[:SEEN]
        self.seen = self.store.select(some)
        with torch.no_grad():
            self.embeddings = torch.cat([self.encoder(*self.store.windows(part)) for part in some.split(256)])

    def trainer(self, case: Case, inner_steps: int, granularity: str, first_order: bool) -> MetaTrainer:
        """Meta-training as `mtl-speech meta-train` runs it, on tasks of one kind."""
        config = MetaTrainConfig(
            n_way=(case.n_way,),
            n_shot=(case.n_shot,),
            n_query=case.n_query,
            meta_batch=case.meta_batch,
            inner_steps=inner_steps,
            granularity=granularity,
            first_order=first_order,
            hard_ratio=0.0,
            seed=self.seed,
        )
        adapted, size = attach(self.encoder, granularity).eval(), self.encoder.config.embedding_size
        learner = MetaLearner(adapted, size, self.store.phonemes, config.theta_init, inner_steps, config.inner_lr)
        standardise_embeddings(learner, self.seen, self.embeddings, config.shrinkage)
        with torch.no_grad():
            learner.log_scale.add_(math.log(config.scale))
        start_theta(learner, self.seen, self.embeddings)
        return MetaTrainer(learner, self.store, config)

    def trainable_encoder(self) -> ConvEncoder:
        """A copy of the encoder that learns all of its weights."""
        return copy.deepcopy(self.encoder).requires_grad_(True)

    def episodes(self, case: Case) -> Callable[[], list[Episode]]:
        """What samples meta-batches for the rows that are not ours."""
        sampler, rng = EpisodeSampler(self.store), np.random.default_rng(self.seed)
        shape = (case.n_way, case.n_shot, case.n_query)
        return lambda: [sampler.random(rng, *shape) for _ in range(case.meta_batch)]


# (a) the floor


def supervised_step(bench: Bench, case: Case, forward: Callable[[ConvEncoder, Tensor, Tensor], Tensor]) -> Step:
    """Forward and backward of the encoder and a linear head, all weights learning, on tensors that are there already."""
    encoder = bench.trainable_encoder()
    head = nn.Linear(encoder.config.embedding_size, N_PHONEMES)
    index = torch.randperm(len(bench.store))[: case.n_segments]
    windows, spans = bench.store.windows(index)
    labels = bench.store.label[index]

    def step() -> None:
        encoder.zero_grad()
        head.zero_grad()
        F.cross_entropy(head(forward(encoder, windows, spans)), labels).backward()

    return step


def channels_last(encoder: ConvEncoder, windows: Tensor, spans: Tensor) -> Tensor:
    """The encoder as it is."""
    return encoder(windows, spans)


def channels_first(encoder: ConvEncoder, windows: Tensor, spans: Tensor) -> Tensor:
    """The same encoder by `conv1d` over (batch, channels, frames)."""

    def convolve(layer: FrameConv, x: Tensor) -> Tensor:
        return F.conv1d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    x = F.gelu(convolve(encoder.stem.conv, windows.transpose(1, 2).contiguous()))
    x = F.gelu(convolve(encoder.down.conv, x))
    for block in encoder.blocks:
        x = F.gelu(x + convolve(block.second.conv, F.gelu(convolve(block.first.conv, x))))
    x = x.transpose(1, 2)
    return encoder.embed(torch.bmm(part_weights(encoder.places(spans), x.shape[1]), x), spans)


# (d) the loop over tasks


def loop_forward(
    learner: MetaLearner,
    store: SegmentStore,
    batch: EpisodeBatch,
    how: Forward,
    guessed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `meta_forward` computes, one task after another and one inner step after another, each by autograd."""
    assert how.augment is None and not how.bf16, "the loop does neither"
    losses, logits, first_order = [], [], how.first_order
    for task in range(len(batch.classes)):
        one = EpisodeBatch(*(getattr(batch, f.name)[task : task + 1] for f in fields(batch)))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
            support = learner.embed(*store.windows(one.support[0]))
        query = learner.embed(*store.windows(one.query[0]))
        this = None if guessed is None else guessed[task : task + 1]
        head = learner.initial_head(support[None], one.support_labels, one.classes, how.generator, guessed=this)
        weight, bias, labels = head.weight[0], head.bias[0], one.support_labels[0]
        balance = balanced_weights(one.support_labels, len(bias))[0]
        for rate in learner.rates:
            w, b = (weight.detach().requires_grad_(), bias.detach().requires_grad_()) if first_order else (weight, bias)
            loss = (balance * F.cross_entropy(F.linear(support, w, b), labels, reduction="none")).sum()
            step = torch.autograd.grad(loss, (w, b), create_graph=not first_order)
            weight, bias = weight - rate * step[0], bias - rate * step[1]
        logits.append(F.linear(query, weight, bias)[None])
        losses.append(query_loss(logits[-1], one))
    return torch.stack(losses).mean(), torch.cat(logits)


def loop_step(trainer: MetaTrainer) -> Step:
    """A round of meta-training in which the loop stands in for `meta_forward`."""

    def step() -> None:
        with mock.patch.object(meta_train, "meta_forward", loop_forward):
            trainer.step()

    return step


def difference(trainer: MetaTrainer) -> float:
    """How far the gradients of `meta_forward` are from those of the loop, on one meta-batch.

    The largest over the trainable tensors of max |ours − loop| / max |loop|. The loop counts as 1 where it gives no gradient.
    """
    learner, config = trainer.learner, trainer.config
    batch = stack(trainer.sample_round()[0])
    guessed = torch.from_numpy(np.random.default_rng(config.seed).random(batch.classes.shape) < config.guess_share)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    ours, loop = (
        torch.autograd.grad(
            forward(learner, trainer.store, batch, trainer.how, guessed)[0],
            parameters,
            allow_unused=True,
        )
        for forward in (meta_forward, loop_forward)
    )
    worst = 0.0
    for found, expected in zip(ours, loop, strict=True):
        if found is not None and expected is not None:
            worst = max(worst, float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)))
        elif (found is None) != (expected is None):
            worst = max(worst, 1.0)
    return worst


# (e) and (f): learn2learn


def learn2learn_maml() -> Any:
    """learn2learn's MAML wrapper, or None where it cannot be imported."""
    try:
        from learn2learn.algorithms import MAML as Wrapper
    except ImportError:
        return None
    return Wrapper


class Classifier(nn.Module):
    """The encoder with a linear head: what MAML adapts."""

    def __init__(self, encoder: ConvEncoder, n_way: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.embedding_size, n_way)

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """(n, n_frames, MEL_BANDS) and (n, 2) -> (n, n_way)."""
        return self.head(self.encoder(windows, spans))


def anil_step(bench: Bench, case: Case, inner_steps: int, wrapper: Any) -> Step:
    """ANIL as in learn2learn's examples: a task is embedded at once, then its head is adapted."""
    encoder = bench.trainable_encoder()
    head = wrapper(nn.Linear(encoder.config.embedding_size, case.n_way), lr=0.05)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-4)
    sample = bench.episodes(case)

    def step() -> None:
        optimizer.zero_grad()
        for episode in sample():
            adapted = head.clone()
            both = encoder(*bench.store.windows(torch.cat((episode.support, episode.query))))
            support, query = both.split((len(episode.support), len(episode.query)))
            for _ in range(inner_steps):
                adapted.adapt(F.cross_entropy(adapted(support), episode.support_labels))
            (F.cross_entropy(adapted(query), episode.query_labels) / case.meta_batch).backward()
        optimizer.step()

    return step


def maml_step(bench: Bench, case: Case, inner_steps: int, wrapper: Any) -> Step:
    """Second-order MAML as in learn2learn's examples: the whole network is adapted."""
    model = wrapper(Classifier(bench.trainable_encoder(), case.n_way), lr=1e-3, first_order=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    sample = bench.episodes(case)

    def step() -> None:
        optimizer.zero_grad()
        for episode in sample():
            adapted = model.clone()
            support, query = bench.store.windows(episode.support), bench.store.windows(episode.query)
            for _ in range(inner_steps):
                adapted.adapt(F.cross_entropy(adapted(*support), episode.support_labels))
            (F.cross_entropy(adapted(*query), episode.query_labels) / case.meta_batch).backward()
        optimizer.step()

    return step


# Measuring


def ours(order: str, granularity: str) -> str:
    """The name of a row of ours."""
    return f"({'b' if ORDERS[order] else 'c'}) ours, {order}, {granularity} Φ"


def loop_name(order: str) -> str:
    """The name of a row of the loop."""
    return f"(d) loop over tasks, {order}, channel Φ"


def rows_of(bench: Bench, case: Case, inner_steps: Sequence[int], wrapper: Any) -> list[Row]:
    """All rows of one case."""
    rows = [
        Row(FLOOR, None, supervised_step(bench, case, channels_last)),
        Row(FLOOR_OTHER, None, supervised_step(bench, case, channels_first), SLOW),
    ]
    for n in inner_steps:
        for order, first in ORDERS.items():
            trainers = {granularity: bench.trainer(case, n, granularity, first) for granularity in GRANULARITIES}
            rows += [Row(ours(order, granularity), n, trainer.step) for granularity, trainer in trainers.items()]
            rows.append(Row(loop_name(order), n, loop_step(bench.trainer(case, n, "channel", first)), SLOW))
        if wrapper is not None:
            rows.append(Row(ANIL, n, anil_step(bench, case, n, wrapper), SLOW))
        if wrapper is not None and n <= MAX_MAML_STEPS:
            one = replace(case, meta_batch=1)
            rows.append(Row(MAML, n, maml_step(bench, one, n, wrapper), 3 * SLOW, case.meta_batch))
    return rows


def measure(bench: Bench, case: Case, inner_steps: Sequence[int], repeats: int) -> dict[str, Any]:
    """The figures of one case. Rows take turns, so that a machine that slows down slows all of them."""
    wrapper = learn2learn_maml()
    rows = rows_of(bench, case, inner_steps, wrapper)
    for row in rows:
        row.peak = peak_memory(row.step)  # the warm-up too
    for turn in progress(range(repeats), str(case)):
        for row in rows:
            if turn % row.every == 0:
                row.measure()
    found = [
        {
            "row": row.name,
            "inner_steps": row.inner_steps,
            "n": len(row.cpu),
            "ms": 1e3 * statistics.median(row.wall),
            "cpu_ms": 1e3 * statistics.median(row.cpu),
            "peak_mb": None if row.peak is None else row.peak / 2**20,
            "one_task_times": row.times,
        }
        for row in rows
    ]
    add_ratios(found)
    steps = max(inner_steps)
    return {
        "case": str(case),
        "n_segments": case.n_segments,
        "meta_batch": case.meta_batch,
        "rows": found,
        "learn2learn": NOT_INSTALLED if wrapper is None else "installed",
        "difference_to_loop": {
            f"{order}, {granularity} Φ, {steps} inner steps": difference(bench.trainer(case, steps, granularity, first))
            for order, first in ORDERS.items()
            for granularity in GRANULARITIES
        },
    }


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """To each row: its CPU time and memory over those of the faster (a), and over (c) with channel Φ at the same inner steps."""
    floor = min((row for row in rows if row["row"] in (FLOOR, FLOOR_OTHER)), key=lambda row: row["cpu_ms"])
    second = {row["inner_steps"]: row for row in rows if row["row"] == ours("second order", "channel")}
    for row in rows:
        row["to_floor"] = row["cpu_ms"] / floor["cpu_ms"]
        row["memory_to_floor"] = row["peak_mb"] / floor["peak_mb"] if row["peak_mb"] and floor["peak_mb"] else None
        own = second.get(row["inner_steps"])
        row["to_second_order"] = row["cpu_ms"] / own["cpu_ms"] if own else None


# The report


def targets(cases: Sequence[dict[str, Any]], at: int = 20, many: int = 100) -> list[dict[str, Any]]:
    """What was aimed at, and the worst of all cases: at `at` inner steps, and what `many` add to it."""
    of = [{(row["row"], row["inner_steps"]): row for row in case["rows"]} for case in cases]
    limits = {("first order", "channel"): 0.60, ("second order", "channel"): 0.75}
    limits |= {("first order", "kernel"): 0.90, ("second order", "kernel"): 1.05}
    found: list[tuple[str, list[float], float, bool]] = []
    for kind, limit in limits.items():
        name = ours(*kind)
        pairs = [(rows.get((name, at)), rows.get((name, many))) for rows in of]
        found.append((f"{name}, × (a)", [a["to_floor"] for a, _ in pairs if a], limit, True))
        found.append(
            (
                f"{name}, {many} inner steps add",
                [b["to_floor"] - a["to_floor"] for a, b in pairs if a and b],
                0.05,
                True,
            )
        )
        if kind[0] == "second order":
            found.append((f"{name}, memory × (a)", [a["memory_to_floor"] for a, _ in pairs if a], 1.3, True))
    for name, limit in ((ANIL, 2.0), (MAML, 10.0)):
        found.append(
            (f"{name}, × (c) channel Φ", [r[name, at]["to_second_order"] for r in of if (name, at) in r], limit, False)
        )
    rows = []
    for what, values, limit, at_most in found:
        known = [value for value in values if value is not None]
        worst = (max if at_most else min)(known) if known else None
        met = worst is not None and (worst <= limit if at_most else worst >= limit)
        rows.append({"what": what, "worst": worst, "limit": limit, "at_most": at_most, "met": met})
    return rows


def markdown(data: dict[str, Any]) -> str:
    """The tables of a run."""
    header = ["row", "inner steps", "n", "ms", "CPU ms", "× (a)", "× (c) channel", "peak MB", "× (a)"]
    parts = []
    for case in data["cases"]:
        rows: list[list[object]] = []
        for row in case["rows"]:
            name = row["row"] + (f" (one task, × {row['one_task_times']})" if row["one_task_times"] > 1 else "")
            rows.append([name, row["inner_steps"] or "", row["n"], number(row["ms"], 0), number(row["cpu_ms"], 0)])
            rows[-1] += [number(row["to_floor"]), number(row["to_second_order"])]
            rows[-1] += [number(row["peak_mb"], 0), number(row["memory_to_floor"])]
        if case["learn2learn"] == NOT_INSTALLED:
            rows += [[name, "", "", NOT_INSTALLED, "", "", "", "", ""] for name in (ANIL, MAML)]
        parts.append(f"**{case['case']}** ({case['n_segments']:,} segments)")
        parts.append(table(header, rows))
        found = "; ".join(f"{kind} {value:.0e}" for kind, value in case["difference_to_loop"].items())
        parts.append(f"Gradients of ours against (d), largest relative difference: {found}.")
    rows = []
    for row in data["targets"]:
        state = "not measured" if row["worst"] is None else "met" if row["met"] else "missed"
        limit = f"{'≤' if row['at_most'] else '≥'} {row['limit']:g}"
        rows.append([row["what"], number(row["worst"]), limit, state])
    parts.append(table(["worst of the cases at 20 inner steps", "measured", "target", ""], rows))
    return "\n\n".join(parts)


def run(
    cases: Sequence[Case], inner_steps: Sequence[int], repeats: int, threads: int, config: EncoderConfig, seed: int = 0
) -> dict[str, Any]:
    """All figures, as plain values for JSON."""
    torch.set_num_threads(threads)
    bench = Bench(config, seed)
    found = [measure(bench, case, inner_steps, repeats) for case in cases]
    return {"machine": machine(threads), "repeats": repeats, "seed": seed, "cases": found, "targets": targets(found)}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder to write to")
    parser.add_argument("--repeats", type=int, default=30, help="steps of each row of (a), (b) and (c)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--meta-batch", type=int, nargs="+", default=[4, 16], help="tasks in a meta-batch")
    parser.add_argument("--inner-steps", type=int, nargs="+", default=[5, 20, 100], help="base-learning steps")
    shapes = ["5,5,15", "20,5,5"]
    parser.add_argument("--shape", nargs="+", default=shapes, help="n_way,n_shot,n_query of the tasks")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    given = parser.parse_args(arguments)
    cases = [Case(*map(int, shape.split(",")), size) for shape in given.shape for size in given.meta_batch]
    with show_bars():
        data = run(cases, given.inner_steps, given.repeats, given.threads, EncoderConfig(), given.seed)
    write_results(given.output, "meta_step", data, markdown(data))


if __name__ == "__main__":
    main(sys.argv[1:])
