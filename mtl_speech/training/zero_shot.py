"""Phonemes without an example (zero-shot): rows of the head guessed from articulation, and the bias at which they compete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.model.language_pack import Neighbours
from mtl_speech.model.learner import Head, centroid_head, prototypes
from mtl_speech.phonology.articulation import articulatory_regression
from mtl_speech.training.base_learning import N_FOLDS, Examples, StepChoice, learn_head

BIASES = np.arange(-8, 17) / 4  # logits added to the rows of phonemes never heard
DEFAULT_BIAS = 0.75  # where there is nothing to choose by; about what is chosen on most languages
N_SHOWN = 3  # neighbours that are told of a phoneme
Weigh = Callable[[Sequence[str], Sequence[float], Sequence[str]], np.ndarray]  # as `articulatory_regression`


@dataclass(frozen=True)
class KnownMeans:
    """What is known of the class means of phonemes. means: (n, dim), standardised; counts: (n,) examples that each counts for."""

    phonemes: tuple[str, ...]
    means: Tensor
    counts: Tensor

    def predict(self, new: Sequence[str], weigh: Weigh) -> tuple[Tensor, np.ndarray]:
        """Class means of the phonemes `new`, (n_new, dim), and the weights of the known ones in them, (n_new, n)."""
        weights = weigh(self.phonemes, self.counts.tolist(), new)
        return torch.from_numpy(weights).to(self.means) @ self.means, weights


def class_means(examples: Examples) -> tuple[Tensor, Tensor]:
    """Means (n_classes, dim) and counts (n_classes,) of the examples of each class."""
    means, counts = prototypes(examples.z.unsqueeze(0), examples.labels.unsqueeze(0), len(examples.rows))
    return means[0], counts[0]


def known_means(examples: Examples, means: Tensor, counts: Tensor, prior: float = 1.0) -> KnownMeans:
    """The class means of the target's phonemes, with the strategy's θ as the prior, and its rows of phonemes without an example.

    means and counts: as `class_means` gives them of `examples`. Classes that count no example are left out. A strategy whose rows
    are no means adds nothing.
    """
    learner, rows, heard = examples.learner, examples.rows, counts > 0
    names = tuple(phoneme for phoneme, some in zip(examples.phonemes, heard.tolist(), strict=True) if some)
    if not learner.rows_are_means:
        return KnownMeans(names, means[heard], counts[heard])
    with torch.no_grad():
        found, totals = learner.posterior(means[None], counts[None], rows[None], prior)
        others = learner.met.clone()
        others[rows[heard]] = False
        tau = prior * learner.log_prior[0].exp().expand(int(others.sum()))
        names += tuple(p for p, other in zip(learner.phonemes, others.tolist(), strict=True) if other)
        both = torch.cat((found[0][heard], learner.theta[others])), torch.cat((totals[0][heard], tau))
    return KnownMeans(names, *both)


def add_unheard(
    examples: Examples, head: Head, choice: StepChoice, unheard: Sequence[str], weigh: Weigh = articulatory_regression
) -> tuple[Head, Neighbours]:
    """The head with rows for the phonemes `unheard` after its own, and the known phonemes that count most in each.

    `head` is what base learning found from `examples`, `choice` how.
    """
    known = known_means(examples, *class_means(examples), choice.prior)
    means, weights = known.predict(unheard, weigh)
    added = matched(means, head, known.means[: len(examples.rows)])
    bias = choose_bias(examples, choice, weigh)
    whole = Head(torch.cat((head.weight, added.weight), 1), torch.cat((head.bias, added.bias + bias), 1))
    return whole, {p: _largest(known.phonemes, row) for p, row in zip(unheard, weights, strict=True)}


def matched(means: Tensor, head: Head, learned: Tensor) -> Head:
    """The rows of the nearest-mean head for `means` (n_new, dim), brought to the place and scale of the rows that were learned.

    learned: (n_classes, dim), class means of the rows of `head`. A head is the same for all that it tells apart when one row is
    added to all of its rows, so both heads are compared with their mean row taken off.
    """
    own, new = (centroid_head(each.unsqueeze(0)) for each in (learned, means))
    centre, own_centre = (each.weight.mean(1, keepdim=True) for each in (head, own))
    spread, own_spread = (float((e.weight - c).norm()) for e, c in ((head, centre), (own, own_centre)))
    scale = spread / own_spread if own_spread > 0 else 1.0
    bias = head.bias.mean() + scale * (new.bias - own.bias.mean())
    return Head(centre + scale * (new.weight - own_centre), bias)


def _largest(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    order = np.argsort(-weights, kind="stable")[:N_SHOWN]
    return {names[int(i)]: round(float(weights[i]), 2) for i in order}


def choose_bias(examples: Examples, choice: StepChoice, weigh: Weigh = articulatory_regression) -> float:
    """The bias of rows never heard at which the phonemes that have examples, each treated so in turn, have the best mean F1.

    Cross-validated over recordings, from the training examples alone.
    """
    fold = examples.folds()
    if fold is None:
        return DEFAULT_BIAS
    margins = torch.full((len(examples.z), len(examples.rows)), -torch.inf)
    for k in range(N_FOLDS):
        held = fold == k
        heard, classes = examples.labels[~held].unique(return_inverse=True)
        rest = replace(examples.select(~held), labels=classes, rows=examples.rows[heard])
        tested = examples.z[held].unsqueeze(0)
        head = learn_head(rest, choice)
        logits = head.logits(tested)[0]
        means, counts = class_means(rest)
        learned = known_means(rest, means, counts, choice.prior).means[: len(heard)]
        for number, label in enumerate(heard.tolist()):
            only = torch.tensor([number])
            known = known_means(rest, means, counts.index_fill(0, only, 0.0), choice.prior)
            mean, _ = known.predict([rest.phonemes[number]], weigh)
            row = matched(mean, head, learned).logits(tested)[0, :, 0]
            margins[held, label] = row - logits.index_fill(1, only, -torch.inf).amax(1)
    return best_bias(margins, examples.labels)


def best_bias(margins: Tensor, labels: Tensor) -> float:
    """The bias with the best mean F1 over classes.

    margins: (n, n_classes), how far the row of a class, were it never heard, is above all other rows; labels: (n,).
    """
    true = torch.nn.functional.one_hot(labels, margins.shape[1]).bool()
    scores = []
    for bias in BIASES:
        taken = margins + float(bias) > 0
        right, n_taken = (taken & true).sum(0), taken.sum(0)
        scores.append(float((2 * right / (n_taken + true.sum(0)).clamp_min(1)).mean()))
    return float(BIASES[int(np.argmax(scores))]) if max(scores) > 0 else DEFAULT_BIAS


def mapping_lines(neighbours: Neighbours) -> list[str]:
    """A line for each phoneme never heard: `ɖ ← d (0.8), ʈ (0.2)`; its own row can be among those of the strategy."""
    lines = []
    for phoneme, weights in neighbours.items():
        named = [(f"{name} of the strategy" if name == phoneme else name, weight) for name, weight in weights.items()]
        lines.append(f"{phoneme} ← " + ", ".join(f"{name} ({weight:.2g})" for name, weight in named))
    return lines
