"""Meta-test: strategies scored on few-shot tasks and full inventories of languages, each system on the same tasks.

Kinds of tasks: "5w1s" and "5w5s", 5-way episodes whose support and query share no recording; "full_k1" and "full_k5", every phoneme
of a language with at least K + 2 tokens at once, K of each as support and the remainder as queries (these may share a recording).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import MetaLearner, embed_segments, extend, row_of
from mtl_speech.model.strategy import BaseModel, new_learner
from mtl_speech.scoring.metrics import episode_macro_f1
from mtl_speech.training.checkpoint import Checkpoints
from mtl_speech.training.episodes import Episode, EpisodeBatch, EpisodeSampler, full_inventory, stack
from mtl_speech.training.meta_train import MetaHistory, MetaTrainer

logger = logging.getLogger(__name__)
Tasks = Mapping[str, Sequence[Episode]]

N_WAY, N_QUERY, SHOTS = 5, 15, (1, 5)
TITLES = {
    "5w1s": "5-way 1-shot",
    "5w5s": "5-way 5-shot",
    "full_k1": "full inventory, K = 1",
    "full_k5": "full inventory, K = 5",
}  # of the kinds of tasks, in tables
BASELINE_RATES, BASELINE_STEPS = (1.0, 3.0, 10.0, 30.0), (20, 50, 100, 200)


@dataclass(frozen=True)
class Setup:
    """What a system is trained with: a base, segments of languages to learn from, tasks of others to choose by, and settings.

    `views` are the segments of `train` in augmented recordings.
    """

    base: BaseModel
    train: SegmentStore
    valid: SegmentStore
    tasks: Tasks
    config: MetaTrainConfig
    views: Sequence[SegmentStore] = ()


@dataclass(frozen=True)
class Trained:
    """One system, ready for meta-test: its learner, what it took to train, and its score on the validation tasks."""

    name: str
    learner: MetaLearner
    trainable_parameters: int
    seconds: float
    valid: dict[str, float]
    history: MetaHistory | None = None

    def score(self, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
        """Macro-F1 of each task, by kind."""
        return score_tasks(self.learner, store, tasks)


def benchmark_tasks(
    store: SegmentStore, n_tasks: int, n_seeds: int, seed: int, by: str = "utterance"
) -> dict[str, list[Episode]]:
    """The tasks of a set of languages. Episodes go round the languages that have enough tokens; full inventories take
    `n_seeds` draws of the support set a language. `by` as in `EpisodeSampler`. The same arguments give the same tasks."""
    sampler = EpisodeSampler(store, by)
    tasks: dict[str, list[Episode]] = {}
    for shot in SHOTS:
        rng = np.random.default_rng((seed, shot))
        feasible = sampler.feasible(N_WAY, shot)
        rounds = [feasible[i % len(feasible)] for i in range(n_tasks)] if feasible else []
        episodes = [sampler.random(rng, N_WAY, shot, N_QUERY, language) for language in rounds]
        tasks[f"{N_WAY}w{shot}s"] = sorted(episodes, key=lambda e: e.language)
    for shot in SHOTS:
        rng = np.random.default_rng((seed, shot, 1))
        drawn = [full_inventory(rng, sampler, language, shot) for language in sampler.languages for _ in range(n_seeds)]
        tasks[f"full_k{shot}"] = [episode for episode in drawn if episode is not None]
    return {kind: episodes for kind, episodes in tasks.items() if episodes}


def score_tasks(learner: MetaLearner, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
    """Macro-F1 of each task, by kind. Phonemes that the learner has not met get rows of θ from articulatory neighbours."""
    current = copy.deepcopy(learner)
    extend(current, store.phonemes)
    rows = row_of(current, store)
    embeddings = embed_segments(current, store)
    found = {}
    for kind, episodes in tasks.items():
        mapped = [replace(e, classes=rows[e.classes]) for e in episodes]
        found[kind] = score_episodes(current, embeddings, mapped)
    return found


def score_episodes(learner: MetaLearner, embeddings: Tensor, episodes: Sequence[Episode]) -> np.ndarray:
    """Macro-F1 of each episode, (n_episodes,). `embeddings` as `embed_segments` gives them."""
    predicted = predict_episodes(learner, embeddings, episodes)
    return np.concatenate([episode_macro_f1(b.query_labels, p, b.classes.shape[1], b.mask) for b, p in predicted])


def predict_episodes(
    learner: MetaLearner, embeddings: Tensor, episodes: Sequence[Episode], batch_size: int = 50
) -> Iterator[tuple[EpisodeBatch, Tensor]]:
    """Batches of the episodes, in order, with the predicted query classes (n_tasks, n_query)."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        z = learner.standardise(embeddings)
        for _, alike in groupby(episodes, key=lambda e: (e.classes.shape, e.support.shape)):
            run = list(alike)
            for start in range(0, len(run), batch_size):
                batch = stack(run[start : start + batch_size])
                head = learner.adapt(z[batch.support], batch.support_labels, batch.classes, True, generator)
                yield batch, head.logits(z[batch.query]).argmax(2)


def summary(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each kind, and the mean of these as "mean"."""
    means = {kind: float(values.mean()) for kind, values in scores.items()}
    return {**means, "mean": float(np.mean(list(means.values())))}


def train_baseline(name: str, setup: Setup, whiten: bool) -> Trained:
    """Frozen Θ, θ from scratch; with `whiten` on whitened embeddings. Rate and steps are chosen on the validation tasks."""
    started = time.perf_counter()
    config = replace(setup.config, theta_init="random", whiten=whiten, scale=1.0, inner_steps=1, granularity="channel")
    start = new_learner(setup.base, setup.train.phonemes, config)
    prepare_learner(start, setup.train, config)
    best: tuple[MetaLearner, dict[str, float]] | None = None
    for rate, steps in product(BASELINE_RATES, BASELINE_STEPS):
        learner = copy.deepcopy(start)
        learner.log_rates = torch.nn.Parameter(torch.full((steps,), rate).log())
        result = summary(score_tasks(learner, setup.valid, setup.tasks))
        if best is None or result["mean"] > best[1]["mean"]:
            best = learner, result
            logger.info("%s: rate %g, %d steps: validation %.4f", name, rate, steps, result["mean"])
    assert best is not None
    n_parameters = N_WAY * (best[0].theta.shape[1] + 1)
    return Trained(name, best[0], n_parameters, time.perf_counter() - started, best[1])


def train_meta_transfer(name: str, setup: Setup, checkpoints: Checkpoints | None = None) -> Trained:
    """Meta-train on the languages of `train` and `views` of its segments; the round that is best on the validation tasks is kept.

    With `checkpoints` a run that was stopped goes on.
    """
    started = time.perf_counter()
    learner = new_learner(setup.base, setup.train.phonemes, setup.config)
    prepare_learner(learner, setup.train, setup.config)

    def validation(current: MetaLearner) -> dict[str, float]:
        return summary(score_tasks(current, setup.valid, setup.tasks))

    trainer = MetaTrainer(learner, setup.train, setup.config, views=setup.views)
    history = trainer.train(lambda current: validation(current)["mean"], checkpoints)
    n_parameters = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    return Trained(name, learner, n_parameters, time.perf_counter() - started, validation(learner), history)
