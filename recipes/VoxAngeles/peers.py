"""The methods that a user would otherwise pick, on the same encoder Θ and the same tasks as meta-transfer.

- centroid: the mean log-mel spectrum of a segment, and the nearest class mean.
- prototype: the same on the embeddings of Θ (Snell et al. 2017, without training).
- protonet, anil: all weights of the encoder meta-trained, through the nearest mean (Snell et al. 2017) or through steps on a head
  that starts from small random rows (Raghu et al. 2020).
- finetune: a head is learned on frozen embeddings first, then the encoder and the head together (Kumar et al. 2022, LP-FT).
- lora, ia3: the same, but only a low-rank update of each weight moves (Hu et al. 2022), or a scale of each layer's output channels
  (Liu et al. 2022); both from the package peft.
- maml: all weights meta-trained for steps on all of them (Finn et al. 2017, second order).

learn2learn, which has the last, cannot be built for current versions of Python.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mtl_speech.audio import MEL_BANDS
from mtl_speech.base import BaseModel
from mtl_speech.config import MetaTrainConfig
from mtl_speech.corpora import Progress
from mtl_speech.encoder import FrameConv, as_image
from mtl_speech.episodes import Episode, EpisodeSampler, stack
from mtl_speech.evaluate import N_WAY, Tasks, score_tasks, summary
from mtl_speech.features import SegmentStore
from mtl_speech.forgetting import without_phi
from mtl_speech.learner import Head, MetaLearner, adapt_head
from mtl_speech.meta_train import embed_segments, meta_forward, standardise_embeddings
from mtl_speech.metrics import episode_macro_f1
from mtl_speech.scale_shift import attach
from mtl_speech.strategy import extend, row_of

logger = logging.getLogger("mtl_speech.recipes")

LORA_RANK = 4
TUNE_STEPS, MAML_STEPS = 10, 5
HEAD_RATE, HEAD_STEPS = 10.0, 50  # of the head that fine-tuning starts from: what the baseline takes
# The settings that each is tried with; the best on the validation tasks is kept.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "centroid": {},
    "prototype": {},
    "protonet": {"lr": (5e-5, 2e-4)},
    "anil": {"lr": (5e-5, 2e-4)},
    "finetune": {"lr": (1e-4, 3e-4, 1e-3)},
    "lora": {"lr": (1e-3, 3e-3, 1e-2)},
    "ia3": {"lr": (3e-3, 1e-2, 3e-2)},
    "maml": {"lr": (5e-5, 2e-4)},
}
TUNED = ("finetune", "lora", "ia3", "maml")  # these move the encoder itself in every task
MAML_INNER_RATE = 1e-2


@dataclass(frozen=True)
class Fitted:
    """A method after training, its settings chosen; adaptation to a task moves its head alone."""

    name: str
    learner: MetaLearner
    trainable_parameters: int
    seconds: float
    valid: dict[str, float]
    settings: dict[str, float]

    def score(self, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
        """Macro-F1 of each task, by kind."""
        return score_tasks(self.learner, store, tasks)

    def adapted(self, store: SegmentStore, episode: Episode) -> nn.Module:
        """Adapt to one task from its windows on; returns the encoder that the adapted model has."""
        current = copy.deepcopy(self.learner)
        extend(current, store.phonemes)
        classes = row_of(current, store)[episode.classes]
        with torch.inference_mode():
            support = current.embed(*store.windows(episode.support))
            current.adapt(support[None], episode.support_labels[None], classes[None], True, torch.Generator())
        return self.learner.encoder

    @property
    def parameters_per_example(self) -> float:
        """Numbers that adaptation to a 5-way 5-shot task sets, for each of its examples."""
        return self._n_adapted() / (N_WAY * 5)

    def _n_adapted(self) -> int:
        return N_WAY * (self.learner.centre.numel() + 1)

    @contextmanager
    def phi_off(self, encoder: nn.Module) -> Iterator[nn.Module | None]:
        """Inside, an adapted encoder without its Φ or adapters; None where there is nothing that could be taken out of it."""
        yield without_phi(encoder) if self.name not in ("protonet", "anil") else None


@dataclass(frozen=True)
class Tuned(Fitted):
    """A method that moves weights of the encoder in every task: those that require a gradient."""

    def score(self, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
        """Macro-F1 of each task, by kind."""
        return {kind: np.array([self._score(store, episode) for episode in tasks[kind]]) for kind in tasks}

    def _score(self, store: SegmentStore, episode: Episode) -> float:
        with self._tuned(store, episode) as head, torch.inference_mode():
            parts = [self.learner.embed(*store.windows(part)) for part in episode.query.split(256)]
            found = head.logits(torch.cat(parts)[None])[0].argmax(1)
        return float(episode_macro_f1(episode.query_labels[None], found[None], len(episode.classes))[0])

    def adapted(self, store: SegmentStore, episode: Episode) -> nn.Module:
        """As of the class above; the encoder is a copy."""
        with self._tuned(store, episode):
            return copy.deepcopy(self.learner.encoder)

    @contextmanager
    def _tuned(self, store: SegmentStore, episode: Episode) -> Iterator[Head]:
        """Inside, the encoder is tuned to the support set of a task, with the head given; afterwards it is as it was."""
        moved = [p for p in self.learner.encoder.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in moved]
        inputs, labels = store.windows(episode.support), episode.support_labels
        weight, bias = (nn.Parameter(t[0]) for t in self._first_head(inputs, episode))
        kind = torch.optim.SGD if self.name == "maml" else torch.optim.Adam
        rate = MAML_INNER_RATE if self.name == "maml" else self.settings["lr"]
        optimizer = kind([*moved, weight, bias], lr=rate)
        try:
            for _ in range(MAML_STEPS if self.name == "maml" else TUNE_STEPS):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(self.learner.embed(*inputs), weight, bias), labels).backward()
                optimizer.step()
            yield Head(weight.detach()[None], bias.detach()[None])
        finally:
            with torch.no_grad():
                for parameter, value in zip(moved, before, strict=True):
                    parameter.copy_(value)
                    parameter.grad = None

    def _first_head(self, inputs: tuple[Tensor, Tensor], episode: Episode) -> tuple[Tensor, Tensor]:
        n_way, dim = len(episode.classes), self.learner.centre.numel()
        head = Head(torch.zeros(1, n_way, dim), torch.zeros(1, n_way))
        if self.name != "maml":
            with torch.no_grad():
                z = self.learner.embed(*inputs)[None]
                head = adapt_head(z, episode.support_labels[None], head, torch.full((HEAD_STEPS,), HEAD_RATE))
        return head.weight, head.bias

    def _n_adapted(self) -> int:
        return super()._n_adapted() + sum(p.numel() for p in self.learner.encoder.parameters() if p.requires_grad)

    @contextmanager
    def phi_off(self, encoder: nn.Module) -> Iterator[nn.Module | None]:
        """As of the class above."""
        if self.name not in ("lora", "ia3"):
            yield None
            return
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in encoder.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        yield encoder
        for layer in layers:
            layer.enable_adapters(True)


class LogMelMean(nn.Module):
    """The mean log-mel frame of a segment, in place of an encoder."""

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """(n_segments, n_frames, MEL_BANDS) and (n_segments, 2) -> (n_segments, MEL_BANDS)."""
        frame = torch.arange(windows.shape[1])
        inside = ((frame + 0.5 > spans[:, :1]) & (frame - 0.5 < spans[:, 1:])).float()
        return torch.bmm((inside / inside.sum(1, keepdim=True).clamp_min(1.0)).unsqueeze(1), windows).squeeze(1)


class ImageConv(nn.Module):
    """A `FrameConv` as the Conv2d that it runs as, which peft knows."""

    def __init__(self, layer: FrameConv) -> None:
        super().__init__()
        (size,), (stride,), padding = layer.kernel_size, layer.stride, cast(int, layer.padding[0])
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, (1, size), (1, stride), (0, padding))
        self.conv.load_state_dict({"weight": layer.weight.unsqueeze(2), "bias": cast(Tensor, layer.bias)})

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, in_channels) -> (batch, frames', out_channels)."""
        return cast(Tensor, self.conv(as_image(x))).permute(0, 2, 3, 1).squeeze(1)


def encoder_of(name: str, base: BaseModel, granularity: str = "channel") -> nn.Module:
    """The encoder of a method before any training; what it may move requires a gradient."""
    if name == "centroid":
        return LogMelMean()
    if name in ("lora", "ia3"):
        return _with_adapters(base.encoder, name)
    if name in ("protonet", "anil", "finetune", "maml"):
        return copy.deepcopy(base.encoder).requires_grad_(True).eval()
    return base.encoder if name == "prototype" else attach(base.encoder, granularity).eval()


def _with_adapters(encoder: nn.Module, name: str) -> nn.Module:
    """A copy of `encoder` with adapters of peft on all of its layers."""
    from peft import IA3Config, LoraConfig, inject_adapter_in_model

    adapted = copy.deepcopy(encoder)
    for path, layer in list(adapted.named_modules()):
        if isinstance(layer, FrameConv):
            parent, _, child = path.rpartition(".")
            setattr(adapted.get_submodule(parent), child, ImageConv(layer))
    layers = [path for path, layer in adapted.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = lora if name == "lora" else IA3Config(target_modules=layers, feedforward_modules=[])
        return cast(nn.Module, inject_adapter_in_model(config, adapted)).eval()


def learner_of(
    name: str, encoder: nn.Module, base: BaseModel, phonemes: Sequence[str], config: MetaTrainConfig
) -> MetaLearner:
    """A learner on `encoder` for a peer: its head is the nearest mean, or learned from small random rows."""
    means = name in ("centroid", "prototype", "protonet")
    size = MEL_BANDS if name == "centroid" else base.encoder.config.embedding_size
    init, steps = ("prototype", 0) if means else ("random", config.inner_steps)
    return MetaLearner(encoder, size, phonemes, init, steps, config.inner_lr)


def fit_peer(
    name: str,
    base: BaseModel,
    train: SegmentStore,
    valid: SegmentStore,
    tasks: Tasks,
    config: MetaTrainConfig,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a method of GRIDS with each of its settings and keep the one that is best on the validation tasks."""
    started = time.perf_counter()
    best: Fitted | None = None
    for values in product(*GRIDS[name].values()):
        found = _fit(name, dict(zip(GRIDS[name], values, strict=True)), base, train, valid, tasks, config, progress)
        logger.info("%s %s: validation %.4f", name, found.settings, found.valid["mean"])
        if best is None or found.valid["mean"] > best.valid["mean"]:
            best = found
    assert best is not None
    return replace(best, seconds=time.perf_counter() - started)


def _fit(
    name: str,
    settings: dict[str, float],
    base: BaseModel,
    train: SegmentStore,
    valid: SegmentStore,
    tasks: Tasks,
    config: MetaTrainConfig,
    progress: Progress | None,
) -> Fitted:
    learner = learner_of(name, encoder_of(name, base), base, train.phonemes, config)
    standardise_embeddings(learner, train, embed_segments(learner, train), None)
    if name in ("protonet", "anil"):
        with torch.no_grad():
            learner.log_scale.fill_(float(np.log(config.scale)))
    trainable = [p for p in learner.encoder.parameters() if p.requires_grad]
    n_head = N_WAY * (learner.centre.numel() + 1) if name in TUNED else 0
    scalars = [learner.log_scale, learner.log_rates] if name in ("protonet", "anil") else []
    n_parameters = sum(p.numel() for p in [*trainable, *scalars]) + n_head
    fitted = (Tuned if name in TUNED else Fitted)(name, learner, n_parameters, 0.0, {}, settings)

    def validate() -> dict[str, float]:
        return summary(fitted.score(valid, tasks))

    if name not in ("protonet", "anil", "maml"):
        return replace(fitted, valid=validate())
    groups = [{"params": trainable, "lr": settings["lr"]}, {"params": scalars, "lr": 10 * config.outer_lr}]
    loss = _maml_loss(learner, train) if name == "maml" else _forward_loss(learner, train, config)
    return replace(fitted, valid=meta_train_all(learner, loss, groups, train, config, validate, progress))


Loss = Callable[[list[Episode]], Tensor]


def _forward_loss(learner: MetaLearner, train: SegmentStore, config: MetaTrainConfig) -> Loss:
    generator = torch.Generator().manual_seed(config.seed)
    return lambda episodes: meta_forward(learner, train, stack(episodes), generator=generator)[0]


def _maml_loss(learner: MetaLearner, train: SegmentStore) -> Loss:
    """The loss of the queries after the steps of `Tuned`, with gradients through these."""
    encoder, dim = learner.encoder, learner.centre.numel()

    def logits(weights: Mapping[str, Tensor], index: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(learner.standardise(functional_call(encoder, weights, train.windows(index))), weight, bias)

    def one(episode: Episode) -> Tensor:
        weights: dict[str, Tensor] = dict(encoder.named_parameters())
        weight = torch.zeros(len(episode.classes), dim, requires_grad=True)
        bias = torch.zeros(len(episode.classes), requires_grad=True)
        for _ in range(MAML_STEPS):
            loss = F.cross_entropy(logits(weights, episode.support, weight, bias), episode.support_labels)
            moved = [*weights.values(), weight, bias]
            gradients = torch.autograd.grad(loss, moved, create_graph=True)
            *new, weight, bias = (p - MAML_INNER_RATE * g for p, g in zip(moved, gradients, strict=True))
            weights = dict(zip(weights, new, strict=True))
        return F.cross_entropy(logits(weights, episode.query, weight, bias), episode.query_labels)

    return lambda episodes: torch.stack([one(episode) for episode in episodes]).mean()


def meta_train_all(
    learner: MetaLearner,
    loss: Loss,
    groups: Sequence[Mapping[str, object]],
    train: SegmentStore,
    config: MetaTrainConfig,
    validate: Callable[[], dict[str, float]],
    progress: Progress | None,
) -> dict[str, float]:
    """Adam with a cosine schedule on random meta-batches of the shapes of meta-transfer; the best round seen is kept.

    Returns the validation scores of that round.
    """
    optimizer = torch.optim.Adam([dict(group) for group in groups])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.meta_steps))
    sampler, rng = EpisodeSampler(train), np.random.default_rng(config.seed)
    shapes = [(w, k) for w in config.n_way for k in config.n_shot if sampler.feasible(w, k)]
    best: tuple[dict[str, float], dict[str, Tensor]] | None = None
    rounds = range(config.meta_steps + 1)
    for number in progress(rounds, "meta-training") if progress else rounds:
        if number == config.meta_steps or number % config.validate_every == 0:
            scores = validate()
            if best is None or scores["mean"] > best[0]["mean"]:
                best = scores, copy.deepcopy(learner.state_dict())
        if number < config.meta_steps:
            n_way, n_shot = shapes[int(rng.integers(len(shapes)))]
            episodes = [sampler.random(rng, n_way, n_shot, config.n_query) for _ in range(config.meta_batch)]
            optimizer.zero_grad()
            loss(episodes).backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 10.0)
            optimizer.step()
            schedule.step()
    assert best is not None
    learner.load_state_dict(best[1])
    return best[0]
