"""TODO"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.terminal import progress
from mtl_speech.model.learner import Head, MetaLearner, balanced_weights
from mtl_speech.scoring.metrics import episode_macro_f1

STEP_CHOICES = (0, 5, 20, 50, 150)


RATE_CHOICES = (1.0, 3.0, 10.0)  # multiples of the learned (or set) inner rates


PRIOR_CHOICES = (0.1, 0.3, 1.0)  # multiples of the weight that the θ of the strategy has where its rows are means


N_FOLDS = 3


ENOUGH = 2_000  # examples from which on one fold of them chooses as well as all


AT_ONCE = 8_192  # examples whose logits by all heads are held at a time


TEMPERATURE_PRIOR = 0.5


@dataclass(frozen=True)
class StepChoice:
    """How base learning runs: steps, multiples of the inner rates and of the prior; and the macro-F1 that chose them, or nan.

    `temperature` divides the logits of the head that is learned so, that its probabilities are calibrated.
    """

    steps: int
    rate: float = 1.0
    prior: float = 1.0
    macro_f1: float = float("nan")
    temperature: float = 1.0

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
    return next(iter(_trajectories(learner, z, labels, rows, (choice,), (choice.steps,), seed)))


def _trajectories(
    learner: MetaLearner,
    z: Tensor,
    labels: Tensor,
    rows: Tensor,
    choices: Sequence[StepChoice],
    stops: Sequence[int],
    seed: int,
) -> Iterator[Head]:
    """θ′ after each of the numbers of steps `stops`, which rise: a batch with a task for the rate and prior of each choice."""
    with torch.no_grad():
        task = z.unsqueeze(0), labels.unsqueeze(0), rows.unsqueeze(0)
        starts = [learner.initial_head(*task, torch.Generator().manual_seed(seed), choice.prior) for choice in choices]
        head = Head(torch.cat([start.weight for start in starts]), torch.cat([start.bias for start in starts]))
        rates = torch.stack([extended_rates(learner.rates, stops[-1], choice.rate) for choice in choices], dim=1)
        for begin, end in zip((0, *stops[:-1]), stops, strict=True):
            head = _descend(z, labels, head, rates[begin:end])
            yield head


def _descend(z: Tensor, labels: Tensor, head: Head, rates: Tensor) -> Head:
    """Steps of `adapt_head` for several heads (n_heads, n_classes, ...) that learn from the same examples, with rates
    (n_steps, n_heads): the heads are one matrix, so that a step is two products with the examples, AT_ONCE of them at a time."""
    n_heads, n_classes = head.bias.shape
    targets = F.one_hot(labels, n_classes).to(z).unsqueeze(1)
    share = balanced_weights(labels.unsqueeze(0), n_classes).to(z).view(-1, 1, 1)
    parts = list(zip(*(x.split(AT_ONCE) for x in (z, targets, share)), strict=True))
    weight, bias = head.weight.flatten(0, 1), head.bias.flatten()
    for rate in rates:
        new_weight, new_bias = weight, bias
        for some, target, counts in parts:
            logits = torch.addmm(bias, some, weight.T).view(-1, n_heads, n_classes)
            residuals = torch.softmax(logits, dim=2).sub_(target).mul_(counts * rate.unsqueeze(1)).flatten(1)
            new_weight, new_bias = torch.addmm(new_weight, residuals.T, some, alpha=-1.0), new_bias - residuals.sum(0)
        weight, bias = new_weight, new_bias
    return Head(weight.view_as(head.weight), bias.view_as(head.bias))


def choose_steps(
    learner: MetaLearner,
    z: Tensor,
    labels: Tensor,
    groups: Tensor,
    rows: Tensor,
    seed: int = 0,
) -> StepChoice:
    """Choose steps, rate and prior by cross-validated macro-F1 over recordings, from the training examples alone.

    groups: (n,) recording of each example; other shapes as in `learn_head`. Of equal choices the first wins: few steps, low
    rates. From ENOUGH examples on, one fold tells enough. With fewer than N_FOLDS recordings, or one example a phoneme, of which
    none is learned when it is held out, there is nothing to choose by: the learned schedule as it is.
    """
    fold = folds_of(groups, seed)
    if fold is None:
        return StepChoice(len(learner.rates))
    priors = PRIOR_CHOICES if learner.rows_are_means else (1.0,)
    starts = [StepChoice(0, rate, prior, 0.0) for rate, prior in itertools.product(RATE_CHOICES, priors)]
    held_out = range(N_FOLDS if len(z) < ENOUGH else 1)
    predicted = labels.new_zeros(len(STEP_CHOICES), len(starts), len(labels))
    for k in progress(held_out, "base learning"):
        held = fold == k
        absent = torch.bincount(labels[~held], minlength=len(rows)) == 0
        heads = _trajectories(learner, z[~held], labels[~held], rows, starts, STEP_CHOICES, seed)
        for found, head in zip(predicted, heads, strict=True):
            for some in held.nonzero().squeeze(1).split(AT_ONCE):
                logits = head.logits(z[some].expand(len(starts), -1, -1)).masked_fill(absent, -torch.inf)
                found[:, some] = logits.argmax(2)
    seen = fold < len(held_out)
    true, choices = labels[seen], [replace(start, steps=steps) for steps in STEP_CHOICES for start in starts]
    macro_f1 = episode_macro_f1(true.expand(len(choices), -1), predicted.flatten(0, 1)[:, seen], len(rows)).tolist()
    scores = dict(zip(choices, macro_f1, strict=True))
    if max(scores.values()) == 0.0:
        return StepChoice(len(learner.rates))
    best = max(sorted(scores, key=lambda c: (c.steps, c.rate, -c.prior)), key=lambda c: scores[c])
    logits = held_out_logits(learner, z, labels, fold, rows, best, seed, held_out)
    return replace(best, macro_f1=scores[best], temperature=fit_temperature(logits, labels))


def folds_of(groups: Tensor, seed: int) -> Tensor | None:
    """The fold, 0 to N_FOLDS - 1, of each example, those of one group together: (n,). None for fewer groups than folds."""
    names, group = groups.unique(return_inverse=True)
    if len(names) < N_FOLDS:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(names)))
    return (torch.empty_like(order).scatter_(0, order, torch.arange(len(names))) % N_FOLDS)[group]


def held_out_logits(
    learner: MetaLearner,
    z: Tensor,
    labels: Tensor,
    fold: Tensor,
    rows: Tensor,
    choice: StepChoice,
    seed: int = 0,
    held_out: Iterable[int] = range(N_FOLDS),
) -> Tensor:
    """The logits (n, n_classes) of each example, from a head learned without its fold; -inf for classes not learned there, and
    for examples of other folds than `held_out`."""
    logits = z.new_full((len(z), len(rows)), -torch.inf)
    for k in held_out:
        held = fold == k
        absent = torch.bincount(labels[~held], minlength=len(rows)) == 0
        head = learn_head(learner, z[~held], labels[~held], rows, choice, seed)
        logits[held] = head.logits(z[held].unsqueeze(0))[0].masked_fill(absent, -torch.inf)
    return logits


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that makes softmax(logits / T) most likely (Guo et al. 2017, section 4.2), given that log T is near 0.

    The prior of log T is normal with the standard deviation TEMPERATURE_PRIOR, lest a handful of examples should say much.
    logits: (n, n_classes), of examples that their head did not learn from; labels: (n,). Examples whose class has the logit -inf
    do not count; without any other example T is 1.
    """
    from scipy.optimize import minimize_scalar

    known = torch.isfinite(logits.gather(1, labels.unsqueeze(1)).squeeze(1))
    if not bool(known.any()):
        return 1.0
    logits, labels = logits[known].double(), labels[known]

    def loss(log_temperature: float) -> float:
        prior = 0.5 * (log_temperature / TEMPERATURE_PRIOR) ** 2
        return prior + float(F.cross_entropy(logits / math.exp(log_temperature), labels, reduction="sum"))

    return math.exp(float(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def few_shot_index(labels: Tensor, n_shot: int | None, seed: int) -> Tensor:
    """Indices of at most n_shot random examples of each class (all for None), sorted: (n,)."""
    if n_shot is None:
        return torch.arange(len(labels))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    chosen: Sequence[np.ndarray] = [shuffled[labels.numpy()[shuffled] == c][:n_shot] for c in np.unique(labels.numpy())]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
