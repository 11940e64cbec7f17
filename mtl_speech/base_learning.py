"""Base learning of the full inventory: θ′ from all given examples, with the number of steps chosen by cross-validation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.corpora import Progress
from mtl_speech.learner import Head, MetaLearner, adapt_head
from mtl_speech.metrics import episode_macro_f1

STEP_CHOICES = (0, 5, 20, 50, 150)
RATE_CHOICES = (1.0, 3.0, 10.0)  # multiples of the learned (or set) inner rates
PRIOR_CHOICES = (0.1, 0.3, 1.0)  # multiples of the weight that the strategy's θ has under theta_init "posterior"
N_FOLDS = 3


@dataclass(frozen=True)
class StepChoice:
    """How base learning runs: steps, multiples of the inner rates and of the prior; and the macro-F1 that chose them, or nan."""

    steps: int
    rate: float = 1.0
    prior: float = 1.0
    macro_f1: float = float("nan")

    def __str__(self) -> str:
        how = "nothing to choose by" if math.isnan(self.macro_f1) else "cross-validated on the training recordings"
        return (
            f"{self.steps} steps, {self.rate:g} x the learned rates, {self.prior:g} x the weight of the prior ({how})"
        )


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
    return next(iter(_trajectory(learner, z, labels, rows, choice, (choice.steps,), seed)))


def _trajectory(
    learner: MetaLearner, z: Tensor, labels: Tensor, rows: Tensor, choice: StepChoice, stops: Sequence[int], seed: int
) -> Iterator[Head]:
    """θ′ after each of the numbers of steps `stops`, which rise; rate and prior are those of `choice`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        support, targets = z.unsqueeze(0), labels.unsqueeze(0)
        head = learner.initial_head(support, targets, rows.unsqueeze(0), generator, choice.prior)
        rates = extended_rates(learner.rates, stops[-1], choice.rate)
        for begin, end in zip((0, *stops[:-1]), stops, strict=True):
            head = adapt_head(support, targets, head, rates[begin:end])
            yield head


def choose_steps(
    learner: MetaLearner,
    z: Tensor,
    labels: Tensor,
    groups: Tensor,
    rows: Tensor,
    seed: int = 0,
    progress: Progress | None = None,
) -> StepChoice:
    """Choose steps, rate and prior by cross-validated macro-F1 over recordings, from the training examples alone.

    groups: (n,) recording of each example; other shapes as in `learn_head`. Of equal choices the first wins: few steps, low
    rates. With fewer than N_FOLDS recordings, or one example a phoneme, of which none is learned when it is held out, there is
    nothing to choose by: the learned schedule as it is.
    """
    names, group = groups.unique(return_inverse=True)
    if len(names) < N_FOLDS:
        return StepChoice(len(learner.rates))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(names)))
    fold = (torch.empty_like(order).scatter_(0, order, torch.arange(len(names))) % N_FOLDS)[group]
    priors = PRIOR_CHOICES if learner.theta_init == "posterior" else (1.0,)
    predicted: dict[StepChoice, Tensor] = {}
    trials: Iterable[tuple[int, float, float]] = list(itertools.product(range(N_FOLDS), RATE_CHOICES, priors))
    for k, rate, prior in progress(trials, "base learning") if progress else trials:
        held = fold == k
        absent = torch.bincount(labels[~held], minlength=len(rows)) == 0
        choice = StepChoice(0, rate, prior, 0.0)
        heads = _trajectory(learner, z[~held], labels[~held], rows, choice, STEP_CHOICES, seed)
        for steps, head in zip(STEP_CHOICES, heads, strict=True):
            found = predicted.setdefault(replace(choice, steps=steps), torch.empty_like(labels))
            logits = head.logits(z[held].unsqueeze(0))[0].masked_fill(absent, -torch.inf)
            found[held] = logits.argmax(1)
    scores = {c: float(episode_macro_f1(labels[None], p[None], len(rows))[0]) for c, p in predicted.items()}
    if max(scores.values()) == 0.0:
        return StepChoice(len(learner.rates))
    best = max(sorted(scores, key=lambda c: (c.steps, c.rate, -c.prior)), key=lambda c: scores[c])
    return replace(best, macro_f1=scores[best])


def few_shot_index(labels: Tensor, n_shot: int | None, seed: int) -> Tensor:
    """Indices of at most n_shot random examples of each class (all for None), sorted: (n,)."""
    if n_shot is None:
        return torch.arange(len(labels))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    chosen: Sequence[np.ndarray] = [shuffled[labels.numpy()[shuffled] == c][:n_shot] for c in np.unique(labels.numpy())]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
