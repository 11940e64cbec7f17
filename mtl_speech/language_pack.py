"""A recogniser of one language's phonemes: a learner, the head it learned, and the inventory; saved as a language pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_speech.base import BaseModel
from mtl_speech.config import MetaTrainConfig
from mtl_speech.corpora import Progress
from mtl_speech.errors import PackError
from mtl_speech.features import SegmentStore
from mtl_speech.learner import Head, MetaLearner
from mtl_speech.meta_train import embed_segments
from mtl_speech.pack import Pack
from mtl_speech.strategy import load_learner, strategy_pack


@dataclass(frozen=True)
class LanguageModel:
    """Θ + Φ + θ′ of one language. `head` is a batch of one task; `classes` are its phonemes."""

    learner: MetaLearner
    head: Head
    classes: tuple[str, ...]

    def logits(self, embeddings: Tensor) -> Tensor:
        """Encoder embeddings (n, dim) as `embed_segments` gives them -> (n, n_classes)."""
        with torch.inference_mode():
            return self.head.logits(self.learner.standardise(embeddings).unsqueeze(0))[0]

    def predict(self, store: SegmentStore, progress: Progress | None = None) -> list[str]:
        """The phoneme of each segment of `store`."""
        best = self.logits(embed_segments(self.learner, store, progress=progress)).argmax(1)
        return [self.classes[int(i)] for i in best]


def language_pack(
    model: LanguageModel, base: BaseModel, config: MetaTrainConfig, language: str, card: Mapping[str, object]
) -> Pack:
    """The pack of a recogniser: a strategy and the head. It holds no audio, no file name and no name of a speaker."""
    start = strategy_pack(model.learner, base, config, {**card, "language": language, "inventory": list(model.classes)})
    head = {"head.weight": model.head.weight[0].detach(), "head.bias": model.head.bias[0].detach()}
    return Pack("language", {**start.tensors, **head}, start.card)


def load_language(pack: Pack, base: BaseModel) -> LanguageModel:
    """The recogniser of a language pack on its base. Raises PackError when it does not fit."""
    learner, _ = load_learner(pack, base)
    classes = pack.strings("inventory")
    shapes = {"head.weight": (len(classes), learner.theta.shape[1]), "head.bias": (len(classes),)}
    for name, shape in shapes.items():
        if name not in pack.tensors or tuple(pack.tensors[name].shape) != shape:
            raise PackError(
                f"weights.safetensors of '{pack.name}': '{name}' must have the shape {shape}; make the pack anew"
            )
    head = Head(pack.tensors["head.weight"].unsqueeze(0), pack.tensors["head.bias"].unsqueeze(0))
    return LanguageModel(learner, head, classes)


def true_labels(store: SegmentStore, index: Sequence[int] | Tensor | None = None) -> list[str]:
    """The phoneme of each segment, as labelled."""
    labels = store.label if index is None else store.label[torch.as_tensor(index)]
    return [store.phonemes[int(i)] for i in labels]


def utterances(store: SegmentStore) -> list[str]:
    """The recording of each segment: what a bootstrap draws."""
    return [store.utterance_ids[int(i)] for i in store.utterance]
