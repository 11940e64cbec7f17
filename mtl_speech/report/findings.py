"""What a report says beside the F1 scores, as plain values: confusions, calibration, learning curve, curriculum, sizes.

And that nothing is forgotten: Θ taken out of an adapted model is the pretrained model, bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import over_windows
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import pack_hash
from mtl_speech.model.scale_shift import scale_shift_layers
from mtl_speech.model.strategy import BaseModel, base_pack, hub_pack
from mtl_speech.phonology.articulation import articulation_class, articulation_order
from mtl_speech.report.page import Clips, worst_confusions
from mtl_speech.scoring.metrics import Scores, Token
from mtl_speech.scoring.sequences import expected_calibration_error, reliability
from mtl_speech.training.learning_curve import LearningCurve

N_CONFUSIONS = 12  # rows of the table of the worst confusions
MAX_PERIODS = 8  # columns of the table of what was hard when
MAX_HARD = 15  # its rows
MAX_SEGMENTS = 2_000  # that the outputs are compared on


@dataclass(frozen=True)
class Size:
    """How many weights an experiment trained, and from how many examples; `frozen`: weights of Θ, which stay as they are."""

    trainable: int
    frozen: int
    examples: int


@dataclass(frozen=True)
class Details:
    """What a report shows beside the scores; None or empty: not measured in this experiment.

    `about` tells what was done in a few words by heading. `history` is that of meta-training on the target, one list of hard
    classes a round for each fold, and `curriculum` tells whether they were drawn from. `clips` is None where none were asked for.
    """

    about: Mapping[str, str] = field(default_factory=dict)
    tokens: Sequence[Token] = ()
    temperature: float | None = None
    curve: LearningCurve | None = None
    history: Sequence[Sequence[Sequence[tuple[str, str]]]] | None = None
    curriculum: bool = False
    size: Size | None = None
    base: Forgetting | None = None
    clips: Clips | None = None


def findings(scores: Scores, details: Details) -> dict[str, Any]:
    """The parts of report.json beside the scores."""
    names = articulation_order({*scores.labels, *(item.phoneme for item in scores.not_scored)})
    return {
        "about": details.about,
        "articulation": {name: articulation_class(name) for name in names},
        "confusions": worst_confusions(scores, N_CONFUSIONS),
        "calibration": calibration(details.tokens, details.temperature),
        "learning_curve": details.curve,
        "curriculum": None if details.history is None else hard_when(details.history, details.curriculum),
        "size": None if details.size is None else sizes(details.size),
        "base_model": details.base,
        "clips": None if details.clips is None else details.clips.facts(),
    }


def calibration(tokens: Sequence[Token], temperature: float | None) -> dict[str, Any] | None:
    """How often predictions of each confidence are right, and the expected calibration error; None without confidences."""
    if not tokens or any(math.isnan(token.confidence) for token in tokens):
        return None
    confidence = [token.confidence for token in tokens]
    correct = [token.true == token.predicted for token in tokens]
    return {
        "ece": expected_calibration_error(confidence, correct),
        "temperature": temperature,
        "n": len(tokens),
        "bins": [each for each in reliability(confidence, correct) if each.n],
    }


def hard_when(history: Sequence[Sequence[Sequence[tuple[str, str]]]], curriculum: bool) -> dict[str, Any]:
    """How often each phoneme was the hardest of its task, in each period of meta-training, over all folds.

    history: for each fold, for each round, the (language, phoneme) pairs that were hardest.
    """
    n_rounds = max((len(fold) for fold in history), default=0)
    n_periods = min(MAX_PERIODS, n_rounds)
    edges = [round(i * n_rounds / n_periods) for i in range(n_periods + 1)] if n_periods else [0]
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for fold in history:
        for number, entered in enumerate(fold):
            period = next(i for i in range(n_periods) if number < edges[i + 1])
            for _, phoneme in entered:
                counts[phoneme][period] += 1
    worst = sorted(counts, key=lambda phoneme: (-counts[phoneme].total(), phoneme))
    return {
        "on": curriculum,
        "rounds": n_rounds,
        "folds": len(history),
        "periods": [[edges[i] + 1, edges[i + 1]] for i in range(n_periods)],
        "phonemes": [
            {"phoneme": p, "n": counts[p].total(), "by_period": [counts[p][i] for i in range(n_periods)]}
            for p in worst[:MAX_HARD]
        ],
        "not_shown": len(worst[MAX_HARD:]),
    }


def sizes(size: Size) -> dict[str, Any]:
    """Trainable parameters against examples, and against Θ."""
    per_example, share = size.trainable / max(1, size.examples), size.trainable / max(1, size.frozen)
    return {**asdict(size), "per_example": per_example, "share_of_frozen": share}


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
