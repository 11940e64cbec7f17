"""The methods that a user would otherwise pick, on the same encoder Θ and the same tasks as meta-transfer.

- centroid: the mean log-mel spectrum of a segment, and the nearest class mean.
- prototype: the same on the embeddings of Θ (Snell et al. 2017, without training).
- finetune: a head is learned on frozen embeddings first, then the encoder and the head together (Kumar et al. 2022, LP-FT).
- lora, ia3: the same, but only a low-rank update of each weight moves (Hu et al. 2022), or a scale of each layer's output channels
  (Liu et al. 2022); both from the package peft.

Those that are meta-trained are in `peer_training`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.features.front_end import FrontEnd
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import FrameConv, FrameEncoder, as_image
from mtl_speech.model.learner import Head, adapt_head, extend, row_of
from mtl_speech.model.strategy import BaseModel
from mtl_speech.report.findings import without_phi
from mtl_speech.scoring.metrics import episode_macro_f1
from mtl_speech.training.episodes import Episode
from mtl_speech.training.meta_test import N_WAY, Tasks, Trained

LORA_RANK = 4
TUNE_STEPS, MAML_STEPS = 10, 5
HEAD_RATE, HEAD_STEPS = 10.0, 50  # of the head that fine-tuning starts from: what the baseline takes
MAML_INNER_RATE = 1e-2
ENCODER_MOVES = ("protonet", "anil", "meta-transfer, Θ not frozen")  # meta-training moves all weights of these


@dataclass(frozen=True)
class Fitted(Trained):
    """A method after training, with the settings that were chosen; adaptation to a task moves its head alone."""

    settings: dict[str, float] = field(default_factory=dict)

    def adapt(self, store: SegmentStore, episode: Episode) -> tuple[nn.Module, float]:
        """Adapt to one task from its windows on. Returns the encoder of the adapted model, and the seconds."""
        current = copy.deepcopy(self.learner)
        extend(current, store.phonemes)
        classes = row_of(current, store)[episode.classes]
        started = time.perf_counter()
        with torch.inference_mode():
            support = current.embed(*store.windows(episode.support))
            current.adapt(support[None], episode.support_labels[None], classes[None], True, torch.Generator())
        return self.learner.encoder, time.perf_counter() - started

    @property
    def parameters_per_example(self) -> float:
        """Numbers that adaptation to a 5-way 5-shot task sets, for each of its examples."""
        return self._n_adapted() / (N_WAY * 5)

    def _n_adapted(self) -> int:
        return N_WAY * (self.learner.theta.shape[1] + 1)

    def plain(self, encoder: nn.Module) -> nn.Module | None:
        """An adapted encoder without its Φ or adapters; None where there is nothing that could be taken out of it."""
        return None if self.name in ENCODER_MOVES else without_phi(encoder)


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

    def adapt(self, store: SegmentStore, episode: Episode) -> tuple[nn.Module, float]:
        """As of the class above; the encoder is a copy."""
        started = time.perf_counter()
        with self._tuned(store, episode):
            seconds = time.perf_counter() - started
            return copy.deepcopy(self.learner.encoder), seconds

    @contextmanager
    def _tuned(self, store: SegmentStore, episode: Episode) -> Iterator[Head]:
        """Inside, the encoder is tuned to the support set of a task, with the head given; afterwards it is as it was."""
        moved = [p for p in self.learner.encoder.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in moved]
        inputs, labels = store.windows(episode.support), episode.support_labels
        first = self._first_head(store, episode)
        weight, bias = nn.Parameter(first.weight[0]), nn.Parameter(first.bias[0])
        optimizer = self._optimizer(moved, [weight, bias])
        try:
            for _ in range(self._n_steps(episode)):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(self.learner.embed(*inputs), weight, bias), labels).backward()
                optimizer.step()
            yield Head(weight.detach()[None], bias.detach()[None])
        finally:
            with torch.no_grad():
                for parameter, value in zip(moved, before, strict=True):
                    parameter.copy_(value)
                    parameter.grad = None

    def _first_head(self, store: SegmentStore, episode: Episode) -> Head:
        n_way, dim = len(episode.classes), self.learner.theta.shape[1]
        head = Head(torch.zeros(1, n_way, dim), torch.zeros(1, n_way))
        if self.name == "maml":
            return head
        with torch.no_grad():
            z = self.learner.embed(*store.windows(episode.support))[None]
            return adapt_head(z, episode.support_labels[None], head, torch.full((HEAD_STEPS,), HEAD_RATE))

    def _optimizer(self, moved: Sequence[Tensor], head: Sequence[Tensor]) -> torch.optim.Optimizer:
        if self.name == "maml":
            return torch.optim.SGD([*moved, *head], lr=MAML_INNER_RATE)
        return torch.optim.Adam([*moved, *head], lr=self.settings["lr"])

    def _n_steps(self, episode: Episode) -> int:
        return MAML_STEPS if self.name == "maml" else TUNE_STEPS

    def _n_adapted(self) -> int:
        return super()._n_adapted() + sum(p.numel() for p in self.learner.encoder.parameters() if p.requires_grad)

    def plain(self, encoder: nn.Module) -> nn.Module | None:
        """As of the class above."""
        if self.name not in ("lora", "ia3"):
            return None
        from peft.tuners.tuners_utils import BaseTunerLayer

        found = copy.deepcopy(encoder)
        for module in found.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(False)
        return found


class LogMelMean(FrameEncoder):
    """The mean row of a segment, of what the base hears, in place of an encoder."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end, self.channels = front_end, front_end.width

    @property
    def embedding_size(self) -> int:
        """As `FrameEncoder` says."""
        return self.channels

    def frames(self, rows: Tensor) -> Tensor:
        """The rows themselves."""
        return rows

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """(n_segments, n_rows, width) and (n_segments, 2) -> (n_segments, width)."""
        return torch.bmm(_inside(spans, windows.shape[1]).unsqueeze(1), windows).squeeze(1)

    def pool(self, frames: Tensor, spans: Tensor) -> Tensor:
        """(n_rows, width) and (n_segments, 2) -> (n_segments, width)."""
        return _inside(spans, len(frames)) @ frames


def _inside(spans: Tensor, n_rows: int) -> Tensor:
    """How much each row counts in the mean of each span (n_segments, 2): (n_segments, n_rows)."""
    row = torch.arange(n_rows)
    inside = ((row + 0.5 > spans[:, :1]) & (row - 0.5 < spans[:, 1:])).float()
    return inside / inside.sum(1, keepdim=True).clamp_min(1.0)


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


def encoder_of(name: str, base: BaseModel) -> FrameEncoder:
    """The encoder of a method before any training; what it may move requires a gradient."""
    if name == "centroid":
        return LogMelMean(base.front_end)
    if name == "prototype":
        return base.encoder
    if name in ("lora", "ia3"):
        return _with_adapters(base.encoder, name)
    found = copy.deepcopy(base.encoder)
    for module in found.modules():  # a copy of an encoder shares what is frozen
        for key, value in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(value.detach().clone()))
    return found.eval()


def _with_adapters(encoder: FrameEncoder, name: str) -> FrameEncoder:
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
        return cast(FrameEncoder, inject_adapter_in_model(config, adapted)).eval()
