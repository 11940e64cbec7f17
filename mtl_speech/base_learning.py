"""Base learning of the full inventory: θ′ from all given examples, with the number of steps chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl_speech.learner import Head, MetaLearner, adapt_head
from mtl_speech.metrics import episode_macro_f1

STEP_CHOICES = (0, 5, 20, 50, 150, 500)
RATE_CHOICES = (0.3, 1.0, 3.0)  # multiples of the learned (or set) inner rates
N_FOLDS = 3


@dataclass(frozen=True)
class StepChoice:
    """How base learning runs: number of steps, multiple of the inner rates, and the macro-F1 that chose them."""

    steps: int
    rate: float
    macro_f1: float


def extended_rates(rates: Tensor, steps: int, multiple: float = 1.0) -> Tensor:
    """The first `steps` inner rates; beyond those learned the last one goes on."""
    last = rates[-1:] if len(rates) else rates.new_ones(1)
    return torch.cat((rates, last.expand(max(0, steps - len(rates)))))[:steps] * multiple


def learn_head(
    learner: MetaLearner, z: Tensor, labels: Tensor, rows: Tensor, choice: StepChoice, seed: int = 0
) -> Head:
    """θ′ of one inventory, a batch of one task.

    z: (n, dim) standardised embeddings; labels: (n,) classes in 0..n_classes-1; rows: (n_classes,) rows of θ.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        support, targets = z.unsqueeze(0), labels.unsqueeze(0)
        start = learner.initial_head(support, targets, rows.unsqueeze(0), generator)
        return adapt_head(support, targets, start, extended_rates(learner.rates, choice.steps, choice.rate))


def choose_steps(
    learner: MetaLearner, z: Tensor, labels: Tensor, groups: Tensor, rows: Tensor, seed: int = 0
) -> StepChoice:
    """Choose steps and rate by cross-validated macro-F1 over recordings, from the training examples alone.

    groups: (n,) recording of each example; other shapes as in `learn_head`. Of equal choices the one of fewest steps wins. With
    fewer than N_FOLDS recordings there is nothing to choose by: the learned schedule as it is.
    """
    names = groups.unique()
    if len(names) < N_FOLDS:
        return StepChoice(len(learner.rates), 1.0, float("nan"))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = torch.empty(len(names), dtype=torch.long)
    fold_of[torch.from_numpy(order)] = torch.arange(len(names)) % N_FOLDS
    fold = fold_of[torch.searchsorted(names, groups)]
    choices = [StepChoice(steps, rate, 0.0) for steps in STEP_CHOICES for rate in (RATE_CHOICES if steps else (1.0,))]
    scores = []
    for choice in choices:
        predicted = torch.empty_like(labels)
        for k in range(N_FOLDS):
            held = fold == k
            head = learn_head(learner, z[~held], labels[~held], rows, choice, seed)
            absent = torch.bincount(labels[~held], minlength=len(rows)) == 0
            logits = head.logits(z[held].unsqueeze(0))[0].masked_fill(absent, -torch.inf)
            predicted[held] = logits.argmax(1)
        scores.append(float(episode_macro_f1(labels[None], predicted[None], len(rows))[0]))
    best = int(np.argmax(scores))
    return StepChoice(choices[best].steps, choices[best].rate, scores[best])


def few_shot_index(labels: Tensor, n_shot: int | None, seed: int) -> Tensor:
    """Indices of at most n_shot random examples of each class (all for None), sorted: (n,)."""
    if n_shot is None:
        return torch.arange(len(labels))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    chosen: Sequence[np.ndarray] = [shuffled[labels.numpy()[shuffled] == c][:n_shot] for c in np.unique(labels.numpy())]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
