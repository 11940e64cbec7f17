"""A recogniser of one language's phonemes: a learner, the head it learned, and the inventory; saved as a language pack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mtl_speech.core.errors import PackError
from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.corpora.audio import FRAMES_PER_SECOND
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.learner import Head, MetaLearner
from mtl_speech.model.pack import Pack
from mtl_speech.model.segmenter import Timing, heard_by, learn_timing
from mtl_speech.model.strategy import BaseModel, load_learner, load_segmenter, segmenter_tensors, strategy_pack


@dataclass(frozen=True)
class LanguageModel:
    """Θ + Φ + θ′ of one language. `head` is a batch of one task; `classes` are its phonemes.

    `temperature` divides the logits, so that their softmax is calibrated. `zero_shot` are those of the classes that it never heard
    an example of, each with the phonemes that its row was made of and their weights. `timing` is what only transcription needs.
    """

    learner: MetaLearner
    head: Head
    classes: tuple[str, ...]
    temperature: float = 1.0
    zero_shot: Neighbours = field(default_factory=dict)
    timing: Timing | None = None

    def logits(self, embeddings: Tensor) -> Tensor:
        """Encoder embeddings (n, dim) as `embed_segments` gives them -> (n, n_classes)."""
        with torch.inference_mode():
            return self.head.logits(self.learner.standardise(embeddings).unsqueeze(0))[0]

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """Calibrated probabilities of the classes, from embeddings (n, dim) as for `logits`: (n, n_classes)."""
        return torch.softmax(self.logits(embeddings) / self.temperature, dim=1)


def with_timing(
    model: LanguageModel, base: BaseModel, train: SegmentStore, gaps_known: bool = True, seed: int = 0
) -> LanguageModel:
    """The model with its timing, learned from the examples `train`; as it is, where the base has no segmenter.

    `gaps_known`: every phone of the recordings is among the examples, so that what lies between them is silence.
    """
    if base.segmenter is None:
        return model
    hears = base.boundary_encoder.front_end
    heard = train if base.front_end == hears else heard_by(hears, train)
    timing = learn_timing(base.segmenter, base.boundary_encoder, heard, model.classes, gaps_known, seed)
    return replace(model, timing=timing)


def language_pack(
    model: LanguageModel, base: BaseModel, config: MetaTrainConfig, language: str, card: Mapping[str, object]
) -> Pack:
    """The pack of a recogniser: a strategy and the head. It holds no audio, no file name and no name of a speaker."""
    entries = {"language": language, "inventory": list(model.classes), "temperature": model.temperature}
    zero_shot = {phoneme: dict(of) for phoneme, of in model.zero_shot.items()}
    start = strategy_pack(model.learner, base, config, {**card, **entries, "zero_shot": zero_shot})
    head = {"head.weight": model.head.weight[0].detach(), "head.bias": model.head.bias[0].detach()}
    timing: dict[str, Tensor] = {}
    if model.timing is not None:
        spread = torch.tensor([model.timing.spread])
        timing = {"duration.mean": model.timing.log_duration, "duration.spread": spread}
        timing |= segmenter_tensors(model.timing.segmenter)
    return Pack("language", {**start.tensors, **head, **timing}, start.card)


def load_language(pack: Pack, base: BaseModel) -> LanguageModel:
    """The recogniser of a language pack on its base. Raises PackError when it does not fit."""
    learner, _ = load_learner(pack, base)
    classes = pack.phonemes("inventory")
    weight = pack.tensor("head.weight", (len(classes), learner.theta.shape[1]))
    head = Head(weight.unsqueeze(0), pack.tensor("head.bias", (len(classes),)).unsqueeze(0))
    temperature = pack.value("temperature", float)
    if not 0.0 < temperature < math.inf:
        raise PackError(f"card.json of '{pack.name}': 'temperature' must be above 0; make the pack anew")
    return LanguageModel(
        learner, head, classes, temperature, zero_shot_of(pack), _load_timing(pack, base, len(classes))
    )


def _load_timing(pack: Pack, base: BaseModel, n_classes: int) -> Timing | None:
    """The timing in a language pack; None where it has none, or is on another segmenter. Raises PackError where it does not fit."""
    if base.segmenter is None or pack.value("base", dict).get("hub", {}).get("segmenter") != _segmenter_of(base):
        return None
    segmenter = load_segmenter(base.boundary_encoder, pack)
    if segmenter is None:
        return None
    mean, spread = pack.tensor("duration.mean", (n_classes,)), pack.tensor("duration.spread", (1,))
    if not (bool(torch.isfinite(mean).all()) and 0.0 < float(spread) < math.inf):
        pack.misfit("'duration' is not finite")
    return Timing(segmenter, mean, float(spread))


def _segmenter_of(base: BaseModel) -> object:
    """The hash of the model that an encoder of another maker has its segmenter from; None for the built-in one."""
    how = base.pack.card.get("hub")
    return how["segmenter"] if isinstance(how, dict) else None


def zero_shot_of(pack: Pack) -> Neighbours:
    """The phonemes that a language pack never heard, as its card tells (an older card tells nothing). Raises PackError."""
    found = pack.value("zero_shot", dict) if "zero_shot" in pack.card else {}
    classes = pack.phonemes("inventory")
    for phoneme, neighbours in found.items():
        if phoneme not in classes or not isinstance(neighbours, dict) or not all(map(_is_number, neighbours.values())):
            raise PackError(f"card.json of '{pack.name}': 'zero_shot' is not right for '{phoneme}'; make the pack anew")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def true_labels(store: SegmentStore) -> list[str]:
    """The phoneme of each segment, as labelled."""
    return [store.phonemes[int(i)] for i in store.label]


def utterances(store: SegmentStore) -> list[str]:
    """The recording of each segment: what a bootstrap draws."""
    return [store.utterance_ids[int(i)] for i in store.utterance]


def times(store: SegmentStore) -> list[tuple[float, float]]:
    """Start and end of each segment in its recording, in seconds."""
    first = store.first[store.utterance]
    start, end = ((rows - first) / FRAMES_PER_SECOND for rows in (store.start, store.end))
    return list(zip(start.tolist(), end.tolist(), strict=True))


Neighbours = Mapping[str, Mapping[str, float]]
