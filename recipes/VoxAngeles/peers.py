"""The methods that a user would otherwise pick, on the same frozen encoder and the same tasks as meta-transfer.

Each is fitted on the languages of `train`, has its settings chosen on the tasks of `valid` from its grid in GRIDS, and is then scored.
The packages that have these methods do not serve here: peft's adapters expect (batch, channels, frames), learn2learn has no wheel for
current Pythons. So they stand here, small:

- centroid: the mean log-mel spectrum of a segment, and the nearest class mean.
- prototype: the same on the embeddings of Θ (Snell et al. 2017, without training).
- finetune: a head is learned on frozen embeddings first, then the encoder and the head together (Kumar et al. 2022, LP-FT).
- lora: the same, but only a low-rank update of each weight moves (Hu et al. 2022).
- ia3: the same, but only a scale of each layer's output channels moves (Liu et al. 2022).
- protonet, anil, maml: all weights of the encoder meta-trained (Snell et al. 2017; Raghu et al. 2020; Finn et al. 2017, second order).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mtl_speech.base import BaseModel
from mtl_speech.config import MetaTrainConfig
from mtl_speech.corpora import Progress
from mtl_speech.episodes import Episode, EpisodeSampler, stack
from mtl_speech.evaluate import Tasks, summary
from mtl_speech.features import SegmentStore
from mtl_speech.learner import Head, MetaLearner, adapt_head, centroid_head, prototypes
from mtl_speech.meta_train import embed_segments, meta_forward, standardise_embeddings
from mtl_speech.metrics import episode_macro_f1
from mtl_speech.scale_shift import ScaleShift, apply_layer, attach

logger = logging.getLogger("mtl_speech.recipes")

LORA_RANK = 4
HEAD_RATE, HEAD_STEPS = (
    10.0,
    50,
)  # of the head that fine-tuning starts from: the baseline's settings on validation languages
MAML_STEPS = 5
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "centroid": {},
    "prototype": {},
    "finetune": {"lr": (1e-4, 3e-4, 1e-3), "steps": (5, 20)},
    "lora": {"lr": (1e-3, 3e-3, 1e-2), "steps": (5, 20)},
    "ia3": {"lr": (3e-3, 1e-2, 3e-2), "steps": (5, 20)},
    "protonet": {"lr": (5e-5, 2e-4)},
    "anil": {"lr": (5e-5, 2e-4)},
    "maml": {"lr": (2e-4,), "inner_lr": (1e-2,)},
}


@dataclass(frozen=True)
class Peer:
    """A method with its settings chosen. `predict` gives the query classes (n_query,) of one task of a store."""

    name: str
    predict: Callable[[SegmentStore, Episode], Tensor]
    trainable_parameters: int
    seconds: float
    valid: dict[str, float]
    settings: dict[str, float]

    def score(self, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
        """Macro-F1 of each task, by kind."""
        return score_each(self.predict, store, tasks)


def score_each(
    predict: Callable[[SegmentStore, Episode], Tensor], store: SegmentStore, tasks: Tasks
) -> dict[str, np.ndarray]:
    """Macro-F1 of each task, by kind: (n_tasks,)."""
    return {
        kind: np.concatenate(
            [episode_macro_f1(e.query_labels[None], predict(store, e)[None], len(e.classes)) for e in episodes]
        )
        for kind, episodes in tasks.items()
    }


def fit_peer(
    name: str,
    base: BaseModel,
    train: SegmentStore,
    valid: SegmentStore,
    tasks: Tasks,
    config: MetaTrainConfig,
    progress: Progress | None = None,
) -> Peer:
    """Fit `name` with each setting of its grid and keep the one that is best on the validation tasks."""
    started = time.perf_counter()
    best: Peer | None = None
    grid = GRIDS[name]
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        predict, n_parameters = _MAKERS[name](base, train, config, settings, progress)
        valid_scores = summary(score_each(predict, valid, tasks))
        logger.info("%s %s: validation %.4f", name, settings, valid_scores["mean"])
        if best is None or valid_scores["mean"] > best.valid["mean"]:
            best = Peer(name, predict, n_parameters, time.perf_counter() - started, valid_scores, settings)
    assert best is not None
    return Peer(name, best.predict, best.trainable_parameters, time.perf_counter() - started, best.valid, best.settings)


Made = tuple[Callable[[SegmentStore, Episode], Tensor], int]


def _nearest_mean(embed: Callable[[SegmentStore, Tensor], Tensor]) -> Callable[[SegmentStore, Episode], Tensor]:
    """Nearest class mean of what `embed` gives the segments of a store: (n, dim)."""

    def predict(store: SegmentStore, episode: Episode) -> Tensor:
        with torch.inference_mode():
            support, query = embed(store, episode.support), embed(store, episode.query)
            means, _ = prototypes(support[None], episode.support_labels[None], len(episode.classes))
            return centroid_head(means).logits(query[None])[0].argmax(1)

    return predict


def _centroid(
    base: BaseModel, train: SegmentStore, config: MetaTrainConfig, settings: Mapping[str, float], _: Any
) -> Made:
    def embed(store: SegmentStore, index: Tensor) -> Tensor:
        windows, spans = store.windows(index)
        frame = torch.arange(windows.shape[1])
        inside = ((frame + 0.5 > spans[:, :1]) & (frame - 0.5 < spans[:, 1:])).float()
        return torch.bmm((inside / inside.sum(1, keepdim=True).clamp_min(1.0)).unsqueeze(1), windows).squeeze(1)

    return _nearest_mean(embed), 0


def _embedder(encoder: nn.Module) -> Callable[[SegmentStore, Tensor], Tensor]:
    """The embeddings of segments, those of a whole store computed once."""
    known: dict[int, tuple[SegmentStore, Tensor]] = {}

    def embed(store: SegmentStore, index: Tensor) -> Tensor:
        if id(store) not in known:
            parts = torch.arange(len(store)).split(256)
            known[id(store)] = (store, torch.cat([encoder(*store.windows(part)) for part in parts]))
        return known[id(store)][1][index]

    return embed


def _prototype(
    base: BaseModel, train: SegmentStore, config: MetaTrainConfig, settings: Mapping[str, float], _: Any
) -> Made:
    return _nearest_mean(_embedder(base.encoder)), 0


# Fine-tuning: the whole encoder, or a part that is added to it


class LowRankUpdate(nn.Module):
    """A Conv or Linear layer whose frozen weight (out, in, …) gets B A added, of rank `rank`; zero at the start."""

    def __init__(self, layer: nn.Module, rank: int = LORA_RANK) -> None:
        super().__init__()
        weight = cast(Tensor, layer.weight)
        self.layer = layer
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()) * weight[0].numel() ** -0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        weight = cast(Tensor, self.layer.weight)
        return apply_layer(self.layer, x, weight + (self.up @ self.down).view_as(weight), cast(Tensor, self.layer.bias))


def tunable(base: BaseModel, how: str) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy of the encoder, and those of its parameters that fine-tuning moves."""
    if how == "finetune":
        whole = copy.deepcopy(base.encoder).requires_grad_(True)
        return whole, list(whole.parameters())
    adapted = attach(base.encoder, "channel")
    layers = [(name, m) for name, m in adapted.named_modules() if isinstance(m, ScaleShift)]
    if how == "ia3":
        return adapted, [layer.scale for _, layer in layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, layer in layers:
            parent, _, child = name.rpartition(".")
            setattr(adapted.get_submodule(parent), child, LowRankUpdate(layer.layer))
    return adapted, [p for m in adapted.modules() if isinstance(m, LowRankUpdate) for p in (m.down, m.up)]


def _fine_tuned(how: str) -> Callable[..., Made]:
    def make(
        base: BaseModel, train: SegmentStore, config: MetaTrainConfig, settings: Mapping[str, float], _: Any
    ) -> Made:
        learner = _standardised(base.encoder, train, config)
        encoder, moved = tunable(base, how)
        start = [p.detach().clone() for p in moved]

        def predict(store: SegmentStore, episode: Episode) -> Tensor:
            with torch.no_grad():
                for parameter, value in zip(moved, start, strict=True):
                    parameter.copy_(value)
            support, query = store.windows(episode.support), store.windows(episode.query)
            with torch.no_grad():
                z = learner.standardise(encoder(*support))
                zero = Head(z.new_zeros(1, len(episode.classes), z.shape[1]), z.new_zeros(1, len(episode.classes)))
                head = adapt_head(z[None], episode.support_labels[None], zero, torch.full((HEAD_STEPS,), HEAD_RATE))
            weight, bias = (nn.Parameter(t[0].clone()) for t in (head.weight, head.bias))
            optimizer = torch.optim.Adam([*moved, weight, bias], lr=settings["lr"])
            for _ in range(int(settings["steps"])):
                optimizer.zero_grad()
                logits = F.linear(learner.standardise(encoder(*support)), weight, bias)
                F.cross_entropy(logits, episode.support_labels).backward()
                optimizer.step()
            with torch.no_grad():
                parts = zip(query[0].split(256), query[1].split(256), strict=True)
                found = [F.linear(learner.standardise(encoder(*part)), weight, bias).argmax(1) for part in parts]
            return torch.cat(found)

        return predict, sum(p.numel() for p in moved)

    return make


def _standardised(
    encoder: nn.Module, train: SegmentStore, config: MetaTrainConfig, init: str = "random"
) -> MetaLearner:
    """A learner on `encoder` whose embeddings are centred and scaled, not whitened, by those of `train`."""
    size = base_size(encoder)
    learner = MetaLearner(encoder, size, train.phonemes, init, config.inner_steps, config.inner_lr)
    standardise_embeddings(learner, train, embed_segments(learner, train), None)
    with torch.no_grad():
        learner.log_scale.fill_(float(np.log(config.scale)))
    return learner


def base_size(encoder: nn.Module) -> int:
    """The dimensions of an encoder's embeddings."""
    return int(cast(Any, encoder).config.embedding_size)


# Meta-training of all weights


def _meta_trained(theta_init: str) -> Callable[..., Made]:
    """ProtoNet (theta_init "prototype", no inner step) and ANIL (a small random head, inner steps on it alone)."""

    def make(
        base: BaseModel,
        train: SegmentStore,
        config: MetaTrainConfig,
        settings: Mapping[str, float],
        progress: Progress | None,
    ) -> Made:
        encoder = copy.deepcopy(base.encoder).requires_grad_(True).eval()
        learner = _standardised(encoder, train, config, theta_init)
        if theta_init == "prototype":
            learner.log_rates = nn.Parameter(torch.zeros(0))
        scalars = [learner.log_scale, *([learner.log_rates] if theta_init != "prototype" else [])]
        groups = [{"params": list(encoder.parameters())}, {"params": scalars, "lr": 10 * config.outer_lr}]
        generator = torch.Generator().manual_seed(config.seed)

        def loss(episodes: list[Episode]) -> Tensor:
            return meta_forward(learner, train, stack(episodes), generator=generator)[0]

        _train(loss, groups, settings["lr"], train, config, progress)
        encoder.requires_grad_(False)
        embed = _embedder(encoder)

        def predict(store: SegmentStore, episode: Episode) -> Tensor:
            with torch.inference_mode():
                z = learner.standardise(embed(store, torch.cat((episode.support, episode.query))))[None]
                n = len(episode.support)
                draw = torch.Generator().manual_seed(config.seed)
                head = learner.adapt(z[:, :n], episode.support_labels[None], episode.classes[None], True, draw)
                return head.logits(z[:, n:])[0].argmax(1)

        return predict, sum(p.numel() for p in encoder.parameters()) + sum(p.numel() for p in scalars)

    return make


def _maml(
    base: BaseModel,
    train: SegmentStore,
    config: MetaTrainConfig,
    settings: Mapping[str, float],
    progress: Progress | None,
) -> Made:
    encoder = copy.deepcopy(base.encoder).requires_grad_(True).eval()
    learner = _standardised(encoder, train, config)
    start = dict(encoder.named_parameters())

    def adapted(store: SegmentStore, episode: Episode, create_graph: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        weights: dict[str, Tensor] = dict(start)
        weight = torch.zeros(len(episode.classes), base_size(encoder), requires_grad=True)
        bias = torch.zeros(len(episode.classes), requires_grad=True)
        inputs = store.windows(episode.support)
        for _ in range(MAML_STEPS):
            logits = F.linear(learner.standardise(functional_call(encoder, weights, inputs)), weight, bias)
            moved = [*weights.values(), weight, bias]
            gradients = torch.autograd.grad(
                F.cross_entropy(logits, episode.support_labels), moved, create_graph=create_graph
            )
            *new, weight, bias = (p - settings["inner_lr"] * g for p, g in zip(moved, gradients, strict=True))
            weights = dict(zip(weights, new, strict=True))
        return weights, weight, bias

    def logits_of(store: SegmentStore, episode: Episode, create_graph: bool) -> Tensor:
        weights, weight, bias = adapted(store, episode, create_graph)
        return F.linear(
            learner.standardise(functional_call(encoder, weights, store.windows(episode.query))), weight, bias
        )

    def loss(episodes: list[Episode]) -> Tensor:
        return torch.stack([F.cross_entropy(logits_of(train, e, True), e.query_labels) for e in episodes]).mean()

    _train(loss, [{"params": list(encoder.parameters())}], settings["lr"], train, config, progress)

    def predict(store: SegmentStore, episode: Episode) -> Tensor:
        return logits_of(store, episode, False).detach().argmax(1)

    return predict, sum(p.numel() for p in encoder.parameters())


def _train(
    loss: Callable[[list[Episode]], Tensor],
    groups: list[dict[str, Any]],
    rate: float,
    train: SegmentStore,
    config: MetaTrainConfig,
    progress: Progress | None,
) -> None:
    """Adam with a cosine schedule on the loss of random meta-batches, as many as meta-transfer takes."""
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.meta_steps))
    sampler, rng = EpisodeSampler(train), np.random.default_rng(config.seed)
    shapes: Sequence[tuple[int, int]] = [(w, k) for w in config.n_way for k in config.n_shot if sampler.feasible(w, k)]
    rounds: Iterable[int] = range(config.meta_steps)
    for _ in progress(rounds, "meta-training") if progress else rounds:
        n_way, n_shot = shapes[int(rng.integers(len(shapes)))]
        episodes = [sampler.random(rng, n_way, n_shot, config.n_query) for _ in range(config.meta_batch)]
        optimizer.zero_grad()
        loss(episodes).backward()
        nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 10.0)
        optimizer.step()
        schedule.step()


_MAKERS: dict[str, Callable[..., Made]] = {
    "centroid": _centroid,
    "prototype": _prototype,
    "finetune": _fine_tuned("finetune"),
    "lora": _fine_tuned("lora"),
    "ia3": _fine_tuned("ia3"),
    "protonet": _meta_trained("prototype"),
    "anil": _meta_trained("random"),
    "maml": _maml,
}
