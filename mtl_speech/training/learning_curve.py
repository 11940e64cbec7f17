"""The learning curve: macro-F1 on the test tokens of an experiment, learned from K examples of each phoneme.

Φ is that of the strategy at the start, which has seen none of the examples, and stays as it is; θ alone is learned from the K
examples. So every segment is embedded once, and the curve tells what more examples bring.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.options import AdaptConfig
from mtl_speech.core.terminal import progress
from mtl_speech.model.language_pack import true_labels, utterances
from mtl_speech.model.learner import MetaLearner, embed_segments, extend
from mtl_speech.scoring.bootstrap import (
    encode,
    f1_of_counts,
    group_index,
    pair,
    percentile,
    resampled_counts,
    unit_counts,
)
from mtl_speech.training.adapt import Adaptation
from mtl_speech.training.base_learning import Examples, StepChoice, choose_steps, examples_of, learn_head
from mtl_speech.training.folds import Fold, few_shot_index, few_shots, too_few

SHOTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
N_DRAWS = 5  # of the K examples of each phoneme
# Examples in all. Beyond, steps, rate and prior stay those of the last K, for choosing is the cost; and one draw is like another.
CHOOSE_UP_TO, DRAW_UP_TO = 3_000, 10_000


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
        found += [examples.phonemes[int(i)] for i in best]
    return found


def mean_macro_f1(
    true: Sequence[str], predicted: Sequence[Sequence[str]], groups: Sequence[str], n_bootstrap: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """The mean macro-F1 of several predictions of the same tokens, and its interval.

    The bootstrap draws groups with replacement, the same for all predictions, and predictions with replacement.
    """
    labels = tuple(sorted({*true, *(label for each in predicted for label in each)}))
    rows, columns = encode(true, labels), [encode(each, labels) for each in predicted]
    rng = np.random.default_rng(seed)
    everything = unit_counts(np.zeros_like(rows), rows, columns, 1, len(labels))[0]
    mean = float(f1_of_counts(everything)[1].mean())
    counts = resampled_counts(rows, columns, group_index(groups)[0], len(labels), n_bootstrap, rng)
    macro = f1_of_counts(counts)[1]
    drawn = rng.integers(len(predicted), size=macro.shape)
    return mean, pair(percentile(np.take_along_axis(macro, drawn, axis=1).mean(1)))
