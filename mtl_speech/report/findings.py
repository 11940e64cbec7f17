"""What a report says beside the F1 scores, as plain values: confusions, calibration, learning curve, curriculum, sizes.

And that nothing is forgotten: Θ taken out of an adapted model is the pretrained model, bit for bit.

The learning curve is macro-F1 on the test tokens of an experiment, learned from K examples of each phoneme. Φ is that of the
strategy at the start, which has seen none of the examples, and stays as it is; θ alone is learned from the K examples. So every
segment is embedded once, and the curve tells what more examples bring.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtl_speech.core.options import AdaptConfig
from mtl_speech.core.terminal import progress
from mtl_speech.model.language_pack import true_labels, utterances
from mtl_speech.model.learner import MetaLearner, embed_segments, extend
from mtl_speech.model.pack import Pack, pack_hash
from mtl_speech.model.scale_shift import is_identity, scale_shift_layers
from mtl_speech.model.strategy import BaseModel
from mtl_speech.phonology.articulation import articulation_class, articulation_order
from mtl_speech.report.page import Clips, worst_confusions
from mtl_speech.scoring.bootstrap import macro_f1_samples, pair, percentile
from mtl_speech.scoring.metrics import Scores, Token
from mtl_speech.scoring.sequences import expected_calibration_error, reliability
from mtl_speech.training.adapt import Adaptation
from mtl_speech.training.base_learning import Examples, StepChoice, choose_steps, examples_of, learn_head
from mtl_speech.training.folds import Fold, few_shot_index, few_shots, too_few

N_CONFUSIONS = 12  # rows of the table of the worst confusions
MAX_PERIODS = 8  # columns of the table of what was hard when
MAX_HARD = 15  # its rows
SHOTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
N_DRAWS = 5  # of the K examples of each phoneme
# Examples in all. Beyond, steps, rate and prior stay those of the last K, for choosing is the cost; and one draw is like another.
CHOOSE_UP_TO, DRAW_UP_TO = 3_000, 10_000


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

    `largest_difference` is between its weights before and after. `phi_at_identity`: no Φ changes what Θ gives.
    """

    name: str
    sha256_before: str
    sha256_after: str
    largest_difference: float
    phi_at_identity: bool
    scores: dict[str, Any]


def compare_base(base: BaseModel, learner: MetaLearner, trained: bool) -> Forgetting:
    """Compare `base` with what is left of an adapted `learner` without Φ. `trained`: gradients went through its encoder since.

    Where none did, its weights are not hashed again: they are compared one by one.
    """
    before = base.pack.tensors
    left = {f"encoder.{name}": value for name, value in without_phi(learner.encoder).state_dict().items()}
    pairs = [(before[name].to(value), value) for name, value in left.items()]
    differences = [float((one - other).abs().max()) for one, other in pairs if one.numel()]
    after = Pack("encoder", {**before, **{name: value.to(before[name]) for name, value in left.items()}}, {})
    largest, sha256 = max(differences), pack_hash(base.pack)
    scores = base.pack.card.get("scores")
    return Forgetting(
        name=base.pack.name,
        sha256_before=sha256,
        sha256_after=pack_hash(after) if trained or largest > 0 else sha256,
        largest_difference=largest,
        phi_at_identity=is_identity(learner.encoder),
        scores=scores if isinstance(scores, dict) else {},
    )


def without_phi(encoder: nn.Module) -> nn.Module:
    """A plain copy of an encoder made by `attach`, without its Φ: the frozen weights as they are in it."""
    plain = copy.deepcopy(encoder)
    for name, module in scale_shift_layers(plain).items():
        plain.set_submodule(name, module.layer)
    return plain


@dataclass(frozen=True)
class CurvePoint:
    """Macro-F1 after learning from at most `shots` examples of each phoneme (None: from all), its mean over `n_draws` draws.

    `examples` is the mean number of examples in all. The interval is a bootstrap over test recordings and draws together.
    """

    shots: int | None
    examples: float
    macro_f1: float
    macro_f1_ci95: tuple[float, float]
    n_draws: int


@dataclass(frozen=True)
class LearningCurve:
    """The points, by rising number of examples. `n` test tokens; `most`: examples of the phoneme that has the most of them."""

    points: tuple[CurvePoint, ...]
    n: int
    most: int


@dataclass(frozen=True)
class _Part:
    """What one fold brings: its training examples, and of its scored test tokens z (n, dim), phonemes and recordings."""

    examples: Examples
    test: Tensor
    true: list[str]
    groups: list[str]
    choice: StepChoice | None  # for all training examples, where it is known


def learning_curve(
    strategy: Callable[[Fold], MetaLearner],
    folds: Sequence[Fold],
    config: AdaptConfig,
    n_bootstrap: int = 1000,
    adapted: Sequence[Adaptation] = (),
) -> LearningCurve | None:
    """The curve over K = 1, 2, 5 ... up to all training examples; None where no phoneme has more than one.

    The test tokens are those that the folds' scores count, without those of zero-shot phonemes. Steps, rate and prior are chosen
    for each K that makes up to CHOOSE_UP_TO examples, on the first draw, by cross-validation within the training examples drawn.
    What `adapted`, from the same strategy on the same folds, embedded and chose is not done again.
    """
    known: Sequence[Adaptation | None] = adapted or [None] * len(folds)
    prepared = [_prepare(strategy(fold), fold, config, run) for fold, run in zip(folds, known, strict=True)]
    parts = [part for part in prepared if part is not None]
    most = max((int(torch.bincount(part.examples.labels).max()) for part in parts), default=0)
    shots: list[int | None] = [k for k in SHOTS if k < most]
    if not shots:
        return None
    true = [label for part in parts for label in part.true]
    groups = [group for part in parts for group in part.groups]
    points: list[CurvePoint] = []
    choices: list[StepChoice] = []
    for k in progress([*shots, None], "learning curve"):
        first = _draw(parts, k, config.seed * 1000)
        n = sum(len(examples.labels) for examples in first) / len(parts)
        draws = range(1, N_DRAWS if k is not None and n <= DRAW_UP_TO else 1)
        if not choices or n <= CHOOSE_UP_TO:
            choices = [
                part.choice if k is None and part.choice is not None else choose_steps(examples)
                for part, examples in zip(parts, first, strict=True)
            ]
        drawn = [first, *(_draw(parts, k, config.seed * 1000 + draw) for draw in draws)]
        predicted = [_predict(parts, each, choices) for each in drawn]
        mean, ci95 = mean_macro_f1(true, predicted, groups, n_bootstrap, config.seed)
        points.append(CurvePoint(k, n, mean, ci95, len(drawn)))  # every draw has as many examples as the first
    return LearningCurve(tuple(points), len(true), most)


def _prepare(strategy: MetaLearner, fold: Fold, config: AdaptConfig, adapted: Adaptation | None) -> _Part | None:
    """What a fold brings; None where no test token is of a phoneme with an example."""
    few = few_shots(fold, config)
    silent = {item.phoneme for item in too_few(fold, Counter(true_labels(few.train)), config.shots)}
    test = fold.test_without(silent | set(fold.unheard))
    if len(test) == 0:
        return None
    learner = copy.deepcopy(strategy)
    extend(learner, few.train.phonemes)
    choice: StepChoice | None = None
    if (
        adapted is not None and not adapted.learned.history.rounds and not fold.unheard
    ):  # Φ and the test are the same there
        embedded, choice = (adapted.learned.embeddings, adapted.test_embeddings), adapted.learned.choice
    else:
        embedded = embed_segments(learner, few.train), embed_segments(learner, test)
    examples = examples_of(learner, few.train, embedded[0], config.seed)
    z = learner.standardise(embedded[1]).detach()
    return _Part(examples, z, true_labels(test), utterances(test), choice)


def _draw(parts: Sequence[_Part], k: int | None, seed: int) -> list[Examples]:
    """At most k training examples of each phoneme, of each fold."""
    return [part.examples.select(few_shot_index(part.examples.labels, k, seed)) for part in parts]


def _predict(parts: Sequence[_Part], drawn: Sequence[Examples], choices: Sequence[StepChoice]) -> list[str]:
    """The predictions of the test tokens of all folds, learned from the training examples `drawn` of each."""
    found: list[str] = []
    for part, examples, choice in zip(parts, drawn, choices, strict=True):
        best = learn_head(examples, choice).logits(part.test.unsqueeze(0))[0].argmax(1)
        names = examples.phonemes
        found += [names[i] for i in best.tolist()]
    return found


def mean_macro_f1(
    true: Sequence[str], predicted: Sequence[Sequence[str]], groups: Sequence[str], n_bootstrap: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """The mean macro-F1 of several predictions of the same tokens, and its interval.

    The bootstrap draws groups with replacement, the same for all predictions, and predictions with replacement.
    """
    rng = np.random.default_rng(seed)
    macro, samples = macro_f1_samples(true, predicted, groups, n_bootstrap, rng)
    drawn = rng.integers(len(predicted), size=samples.shape)
    return float(macro.mean()), pair(percentile(np.take_along_axis(samples, drawn, axis=1).mean(1)))
