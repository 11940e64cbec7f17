"""That nothing is forgotten: Θ taken out of an adapted model is the pretrained model, bit for bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import over_windows
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import pack_hash
from mtl_speech.model.scale_shift import scale_shift_layers
from mtl_speech.model.strategy import BaseModel, base_pack, hub_pack

MAX_SEGMENTS = 2_000  # that the outputs are compared on


@dataclass(frozen=True)
class Forgetting:
    """The base before adaptation and after it, with Φ removed. `scores` are those that its card has.

    `largest_difference` is between the outputs of the base's head before and after, over `n_segments` segments of this
    experiment. `changed_by_phi` is the share of these whose best phoneme of the base is another one while Φ is on; None where the
    base has no head: its embeddings are compared then.
    """

    name: str
    sha256_before: str
    sha256_after: str
    largest_difference: float
    changed_by_phi: float | None
    n_segments: int
    scores: dict[str, Any]


def compare_base(base: BaseModel, learner: MetaLearner, store: SegmentStore) -> Forgetting:
    """Compare `base` with what is left of an adapted `learner` without Φ, on the first MAX_SEGMENTS segments of `store`."""
    plain = without_phi(learner.encoder)
    index = torch.arange(min(len(store), MAX_SEGMENTS))
    before, after, adapted = (
        _outputs(encoder, base.head, store, index) for encoder in (base.encoder, plain, learner.encoder)
    )
    if base.head is None:
        after_pack, changed = hub_pack(plain, base.pack.card), None
    else:
        after_pack = base_pack(plain, base.head, base.phonemes, base.pack.card, base.segmenter)  # type: ignore[arg-type]
        changed = float((before.argmax(1) != adapted.argmax(1)).float().mean())
    scores = base.pack.card.get("scores")
    return Forgetting(
        name=base.pack.name,
        sha256_before=pack_hash(base.pack),
        sha256_after=pack_hash(after_pack),
        largest_difference=float((before - after).abs().max()),
        changed_by_phi=changed,
        n_segments=len(index),
        scores=scores if isinstance(scores, dict) else {},
    )


def without_phi(encoder: nn.Module) -> nn.Module:
    """A plain copy of an encoder made by `attach`, without its Φ: the frozen weights as they are in it."""
    plain = copy.deepcopy(encoder)
    for name, module in scale_shift_layers(plain).items():
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, module.layer)
    return plain


def _outputs(encoder: nn.Module, head: nn.Linear | None, store: SegmentStore, index: Tensor) -> Tensor:
    """The outputs of the base's head for segments `index` (n,): (n, n_phonemes); without one the embeddings."""
    return over_windows(encoder if head is None else lambda *windows: head(encoder(*windows)), store, index)
