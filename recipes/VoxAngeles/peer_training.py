"""Training and choice of the methods of `peers`, and those that are meta-trained with all weights of the encoder free to move.

- protonet: through the nearest class mean (Snell et al. 2017).
- anil: through steps on a head that starts from small random rows (Raghu et al. 2020).
- maml: through steps on all weights (Finn et al. 2017), with their second derivatives. learn2learn, which has it, cannot be built
  for current versions of Python. Its rounds are of the smallest tasks (5-way 1-shot), for the sake of time.
- meta-transfer, Θ not frozen: the inner loop, θ and whitening of meta-transfer, but in place of Φ all weights of the encoder.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from peers import ENCODER_MOVES, MAML_INNER_RATE, MAML_STEPS, Fitted, Tuned, encoder_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.core.terminal import progress
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner, standardise_embeddings
from mtl_speech.model.learner import MetaLearner, embed_segments
from mtl_speech.model.strategy import new_learner
from mtl_speech.training.episodes import Episode, EpisodeSampler, stack
from mtl_speech.training.meta_test import N_WAY, Setup, summary
from mtl_speech.training.meta_train import Forward, meta_forward

logger = logging.getLogger("mtl_speech.recipes")

# The settings that each is tried with; the best on the validation tasks is kept.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "centroid": {},
    "prototype": {},
    "finetune": {"lr": (1e-4, 3e-4, 1e-3)},
    "lora": {"lr": (1e-3, 3e-3, 1e-2)},
    "ia3": {"lr": (3e-3, 1e-2, 3e-2)},
    "protonet": {"lr": (5e-5, 2e-4)},
    "anil": {"lr": (5e-5, 2e-4)},
    "meta-transfer, Θ not frozen": {"lr": (5e-5, 2e-4)},
    "maml": {"lr": (5e-5, 2e-4)},
}
TUNED = ("finetune", "lora", "ia3", "maml")  # these move the encoder itself in every task
VALIDATE_TUNED_EVERY = 100  # rounds: their validation takes a minute


def fit_peer(name: str, given: Setup) -> Fitted:
    """Fit a method of GRIDS with each of its settings and keep the one that is best on the validation tasks."""
    started = time.perf_counter()
    best: Fitted | None = None
    for values in product(*GRIDS[name].values()):
        found = _fit(name, dict(zip(GRIDS[name], values, strict=True)), given)
        logger.info("%s %s: validation %.4f", name, found.settings, found.valid["mean"])
        if best is None or found.valid["mean"] > best.valid["mean"]:
            best = found
    assert best is not None
    return replace(best, seconds=time.perf_counter() - started)


def learner_of(name: str, given: Setup) -> MetaLearner:
    """The learner of a method before any training. Its head is the nearest mean, or starts from small random rows or from θ."""
    base, config, phonemes = given.base, given.config, given.train.phonemes
    encoder = encoder_of(name, base)
    if name == "meta-transfer, Θ not frozen":
        learner = new_learner(base, phonemes, config)
        learner.encoder = encoder
        prepare_learner(learner, given.train, config)
        return learner
    means = name in ("centroid", "prototype", "protonet")
    init, steps = ("prototype", 0) if means else ("random", config.inner_steps)
    learner = MetaLearner(encoder, encoder.embedding_size, phonemes, init, steps, config.inner_lr)
    standardise_embeddings(learner, given.train, embed_segments(learner, given.train), None)
    if name in ENCODER_MOVES:
        with torch.no_grad():
            learner.log_scale.add_(float(np.log(config.scale)))
    return learner


def _fit(name: str, settings: dict[str, float], given: Setup) -> Fitted:
    learner = learner_of(name, given)
    encoder = [p for p in learner.encoder.parameters() if p.requires_grad]
    scalars = [learner.log_scale, learner.log_rates, learner.log_prior] if name in ENCODER_MOVES else []
    theta = [learner.theta, learner.theta_bias] if learner.theta_init == "posterior" else []
    n_head = 0 if name in ENCODER_MOVES or not encoder else N_WAY * (learner.theta.shape[1] + 1)
    n_parameters = sum(p.numel() for p in [*encoder, *scalars, *theta]) + n_head
    kind = Tuned if name in TUNED else Fitted
    fitted = kind(name, learner, n_parameters, 0.0, {}, settings=settings)
    if name not in (*ENCODER_MOVES, "maml"):
        return replace(fitted, valid=summary(fitted.score(given.valid, given.tasks)))
    rate = given.config.outer_lr
    groups: list[Group] = [
        {"params": encoder, "lr": settings["lr"]},
        {"params": theta, "lr": rate * given.config.theta_rate},
        {"params": scalars, "lr": rate * given.config.scalar_rate},
    ]
    return replace(fitted, valid=meta_train_all(fitted, groups, given))


Group = dict[str, object]
Loss = Callable[[list[Episode], SegmentStore], Tensor]


def meta_train_all(fitted: Fitted, groups: Sequence[Group], given: Setup) -> dict[str, float]:
    """Adam with a cosine schedule on random meta-batches of the shapes of meta-transfer; the best round seen is kept.

    Returns the validation scores of that round.
    """
    learner, config = fitted.learner, given.config
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    sampler, rng = EpisodeSampler(given.train), np.random.default_rng(config.seed)
    shapes = [(w, k) for w in config.n_way for k in config.n_shot if sampler.feasible(w, k)]
    maml = fitted.name == "maml"
    shapes, every = (shapes[:1], VALIDATE_TUNED_EVERY) if maml else (shapes, config.validate_every)
    n_rounds = config.meta_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, n_rounds))
    loss = _maml_loss(learner) if maml else _loss(learner, config, rng)
    stores = (given.train, *given.views)
    best: tuple[dict[str, float], dict[str, Tensor]] | None = None
    rounds = range(n_rounds + 1)
    for number in progress(rounds, f"{fitted.name}: meta-training"):
        if number == n_rounds or number % every == 0:
            scores = summary(fitted.score(given.valid, given.tasks))
            logger.info("%s %s: round %d: validation %.4f", fitted.name, fitted.settings, number, scores["mean"])
            if best is None or scores["mean"] > best[0]["mean"]:
                best = scores, copy.deepcopy(learner.state_dict())
        if number < n_rounds:
            n_way, n_shot = shapes[int(rng.integers(len(shapes)))]
            episodes = [sampler.random(rng, n_way, n_shot, config.n_query) for _ in range(config.meta_batch)]
            optimizer.zero_grad()
            loss(episodes, stores[int(rng.integers(len(stores)))])
            nn.utils.clip_grad_norm_(moved, 10.0)
            optimizer.step()
            schedule.step()
    assert best is not None
    learner.load_state_dict(best[1])
    return best[0]


def _loss(learner: MetaLearner, config: MetaTrainConfig, rng: np.random.Generator) -> Loss:
    """The loss of meta-transfer and its gradients."""
    generator = torch.Generator().manual_seed(config.seed)

    def backward(episodes: list[Episode], store: SegmentStore) -> Tensor:
        batch = stack(episodes)
        guessed = torch.from_numpy(rng.random(batch.classes.shape) < config.guess_share)
        guessed = guessed if learner.theta_init == "posterior" else None
        loss = meta_forward(learner, store, batch, Forward(generator=generator), guessed)[0]
        loss.backward()
        return loss.detach()

    return backward


def _maml_loss(learner: MetaLearner) -> Loss:
    """The loss of the queries after the steps of `Tuned`, and its gradients through these, task by task."""
    encoder, dim = learner.encoder, learner.theta.shape[1]

    def logits(weights: Mapping[str, Tensor], part: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(learner.standardise(functional_call(encoder, dict(weights), part)), weight, bias)

    def one(episode: Episode, store: SegmentStore) -> Tensor:
        weights: dict[str, Tensor] = dict(encoder.named_parameters())
        weight = torch.zeros(len(episode.classes), dim, requires_grad=True)
        bias = torch.zeros(len(episode.classes), requires_grad=True)
        for _ in range(MAML_STEPS):
            loss = F.cross_entropy(
                logits(weights, store.windows(episode.support), weight, bias), episode.support_labels
            )
            moved = [*weights.values(), weight, bias]
            gradients = torch.autograd.grad(loss, moved, create_graph=True)
            *new, weight, bias = (p - MAML_INNER_RATE * g for p, g in zip(moved, gradients, strict=True))
            weights = dict(zip(weights, new, strict=True))
        return F.cross_entropy(logits(weights, store.windows(episode.query), weight, bias), episode.query_labels)

    def backward(episodes: list[Episode], store: SegmentStore) -> Tensor:
        losses = []
        for episode in episodes:
            loss = one(episode, store) / len(episodes)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return backward
