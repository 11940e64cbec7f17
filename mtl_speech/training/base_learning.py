"""Base learning of an inventory: θ′ from all examples of a language, its steps, rate and prior cross-validated on them.

Phonemes without an example (zero-shot) get rows of the head guessed from articulation, and the bias at which they compete.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.core.terminal import progress
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import class_averages, discriminant
from mtl_speech.model.language_pack import Neighbours
from mtl_speech.model.learner import Head, MetaLearner, balanced_weights, prototypes, row_of
from mtl_speech.model.strategy import BaseModel
from mtl_speech.phonology.articulation import articulatory_regression
from mtl_speech.scoring.metrics import episode_macro_f1

STEP_CHOICES = (0, 5, 20, 50, 150)  # of a θ whose rows are no means
RATE_CHOICES = (1.0, 3.0, 10.0)  # multiples of the set inner rates, for the same
PRIOR_CHOICES = (0.5, 1.0, 2.0)  # multiples of the weight that the θ of the strategy has where its rows are means
STRATEGY_EXAMPLES = 200.0  # that the strategy's covariance within classes counts for beside that of the examples
N_FOLDS = 3
ENOUGH = 2_000  # examples from which on one fold of them chooses as well as all
AT_ONCE = 8_192  # examples whose logits by all heads are held at a time
LAYER_EXAMPLES = 600  # by which the layer of an encoder is chosen
TEMPERATURE_PRIOR = 0.5
BIASES = np.arange(-8, 17) / 4  # logits added to the rows of phonemes never heard
DEFAULT_BIAS = 0.75  # where there is nothing to choose by; about what is chosen on most languages
N_SHOWN = 3  # neighbours that are told of a phoneme
Weigh = Callable[[Sequence[str], Sequence[float], Sequence[str]], np.ndarray]  # as `articulatory_regression`


@dataclass(frozen=True)
class Examples:
    """Embedded examples of one inventory, for θ′ to be learned from.

    learner: whose θ it starts from; z: (n, dim) standardised embeddings; labels: (n,) classes in 0..n_classes-1; recordings: (n,)
    number of the recording of each; rows: (n_classes,) rows of θ; seed: of the folds, and of a θ that starts at random.
    """

    learner: MetaLearner
    z: Tensor
    labels: Tensor
    recordings: Tensor
    rows: Tensor
    seed: int = 0

    @property
    def phonemes(self) -> tuple[str, ...]:
        """The phonemes of the classes."""
        return tuple(self.learner.phonemes[int(row)] for row in self.rows)

    def select(self, index: Tensor) -> Examples:
        """Some of the examples, by number (n,) or mask; the classes stay, also those that lose all of theirs."""
        return replace(self, z=self.z[index], labels=self.labels[index], recordings=self.recordings[index])

    def folds(self) -> Tensor | None:
        """The fold, 0 to N_FOLDS - 1, of each example, those of one recording together: (n,). None for fewer recordings."""
        return folds_of(self.recordings, self.seed)


def folds_of(recordings: Tensor, seed: int) -> Tensor | None:
    """A fold, 0 to N_FOLDS - 1, for each example of `recordings` (n,), as `Examples.folds` says."""
    names, recording = recordings.unique(return_inverse=True)
    if len(names) < N_FOLDS:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(names)))
    return (torch.empty_like(order).scatter_(0, order, torch.arange(len(names))) % N_FOLDS)[recording]


def examples_of(learner: MetaLearner, store: SegmentStore, embeddings: Tensor, seed: int = 0) -> Examples:
    """The segments of `store` as examples of the phonemes that occur in it; embeddings: (n, dim) as `embed_segments` gives them."""
    present, labels = store.label.unique(return_inverse=True)
    z = learner.standardise(embeddings).detach()
    return Examples(learner, z, labels, store.utterance, row_of(learner, store)[present], seed)


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
        steps = f"{self.steps} steps, {self.rate:g} x the learned rates" if self.steps else "in closed form"
        return f"{steps}, {self.prior:g} x the weight of the prior ({how})"


def extended_rates(rates: Tensor, steps: int, multiple: float = 1.0) -> Tensor:
    """The first `steps` inner rates; beyond those learned the last one goes on."""
    last = rates[-1:] if len(rates) else rates.new_ones(1)
    return torch.cat((rates, last.expand(max(0, steps - len(rates)))))[:steps] * multiple


def learn_head(examples: Examples, choice: StepChoice) -> Head:
    """θ′ of the inventory of the examples, a batch of one task."""
    return next(iter(_trajectories(examples, (choice,), (choice.steps,))))


def own_metric(examples: Examples) -> Tensor:
    """The metric in which the nearest class mean is sought, (dim, dim): the inverse covariance within the classes of the language.

    It is mixed with that of the strategy, in whose embeddings it is the identity, and which counts for STRATEGY_EXAMPLES examples:
    c² ((n₀ c² I + S) / (n₀ + n - n_classes))⁻¹, S being the scatter within classes and c² the strategy's variance within classes.
    """
    z = examples.z
    means, counts = class_means(examples)
    free = float((counts - 1.0).clamp_min(0.0).sum())
    deviations = (z - means[examples.labels]).double()
    unit = (2.0 * examples.learner.log_scale.detach().double()).exp()
    mixed = torch.eye(z.shape[1], dtype=torch.float64) * STRATEGY_EXAMPLES
    mixed.addmm_(deviations.T, deviations / unit).div_(STRATEGY_EXAMPLES + free)
    return torch.cholesky_inverse(torch.linalg.cholesky(mixed)).to(z)


def nearest_mean(means: Tensor, metric: Tensor) -> Head:
    """The head of the nearest of `means` (n_tasks, n_way, dim) in a metric (dim, dim): w = A μ, b = -μᵀ A μ / 2."""
    weight = means @ metric
    return Head(weight, -0.5 * (weight * means).sum(2))


def _closed_form(examples: Examples, choices: Sequence[StepChoice]) -> Head:
    """The head of the nearest class mean, with the strategy's rows as the prior: a batch with a task for each choice."""
    with torch.no_grad():
        means, counts = class_means(examples)
        task = means.unsqueeze(0), counts.unsqueeze(0), examples.rows.unsqueeze(0)
        found = [examples.learner.posterior(*task, choice.prior)[0] for choice in choices]
        return nearest_mean(torch.cat(found), own_metric(examples))


def _trajectories(examples: Examples, choices: Sequence[StepChoice], stops: Sequence[int]) -> Iterator[Head]:
    """θ′ after each of the numbers of steps `stops`, which rise: a batch with a task for the rate and prior of each choice.

    Where rows of θ are means, θ′ is found in closed form, whatever the steps.
    """
    if examples.learner.rows_are_means:
        yield from itertools.repeat(_closed_form(examples, choices), len(stops))
        return
    learner, z, labels = examples.learner, examples.z, examples.labels
    with torch.no_grad():
        task = z.unsqueeze(0), labels.unsqueeze(0), examples.rows.unsqueeze(0)
        starts = [learner.initial_head(*task, torch.Generator().manual_seed(examples.seed), c.prior) for c in choices]
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


def choose_steps(examples: Examples) -> StepChoice:
    """Choose steps, rate and prior by cross-validated macro-F1 over recordings, from the training examples alone.

    Of equal choices the first wins: few steps, low rates. From ENOUGH examples on, one fold tells enough. With fewer than N_FOLDS
    recordings, or one example a phoneme, of which none is learned when it is held out, there is nothing to choose by: the learned
    schedule as it is.
    """
    means = examples.learner.rows_are_means
    as_learned = StepChoice(0 if means else len(examples.learner.rates))
    fold, labels, n_classes = examples.folds(), examples.labels, len(examples.rows)
    if fold is None:
        return as_learned
    stops, rates, priors = ((0,), (1.0,), PRIOR_CHOICES) if means else (STEP_CHOICES, RATE_CHOICES, (1.0,))
    starts = [StepChoice(0, rate, prior, 0.0) for rate, prior in itertools.product(rates, priors)]
    held_out = range(N_FOLDS if len(labels) < ENOUGH else 1)
    predicted = labels.new_zeros(len(stops), len(starts), len(labels))
    for k in progress(held_out, "base learning"):
        held = fold == k
        absent = _absent(examples.select(~held))
        heads = _trajectories(examples.select(~held), starts, stops)
        for found, head in zip(predicted, heads, strict=True):
            for some in held.nonzero().squeeze(1).split(AT_ONCE):
                logits = head.logits(examples.z[some].expand(len(starts), -1, -1)).masked_fill(absent, -torch.inf)
                found[:, some] = logits.argmax(2)
    seen = fold < len(held_out)
    choices = [replace(start, steps=steps) for steps in stops for start in starts]
    true = labels[seen].expand(len(choices), -1)
    macro_f1 = episode_macro_f1(true, predicted.flatten(0, 1)[:, seen], n_classes).tolist()
    scores = dict(zip(choices, macro_f1, strict=True))
    if max(scores.values()) == 0.0:
        return as_learned
    best = max(sorted(scores, key=lambda c: (c.steps, c.rate, -c.prior)), key=lambda c: scores[c])
    temperature = fit_temperature(held_out_logits(examples, fold, best, held_out), labels)
    return replace(best, macro_f1=scores[best], temperature=temperature)


def _absent(examples: Examples) -> Tensor:
    """Which classes have no example, (n_classes,)."""
    return torch.bincount(examples.labels, minlength=len(examples.rows)) == 0


def held_out_logits(
    examples: Examples, fold: Tensor, choice: StepChoice, held_out: Iterable[int] = range(N_FOLDS)
) -> Tensor:
    """The logits (n, n_classes) of each example, from a head learned without its fold (n,); -inf for classes not learned there, and
    for examples of other folds than `held_out`."""
    logits = examples.z.new_full((len(examples.z), len(examples.rows)), -torch.inf)
    for k in held_out:
        held, rest = fold == k, examples.select(fold != k)
        found = learn_head(rest, choice).logits(examples.z[held].unsqueeze(0))[0]
        logits[held] = found.masked_fill(_absent(rest), -torch.inf)
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


def choose_layer(base: BaseModel, train: SegmentStore, config: MetaTrainConfig, seed: int = 0) -> int:
    """The layer of Θ with the best macro-F1 in closed form, cross-validated over the recordings of training examples.

    train: holds the embeddings of all layers (`BaseModel.hear`); LAYER_EXAMPLES of them tell enough. Of equal layers the lowest
    wins; with fewer than N_FOLDS recordings it is the one in the middle.
    """
    heard = train.heard
    if heard is None or heard.encoder != base.encoder.fingerprint:
        raise ValueError("the examples hold no embeddings of this encoder")
    some = train.select(torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(train))[:LAYER_EXAMPLES])))
    fold, labels = folds_of(some.utterance, seed), some.label.unique(return_inverse=True)[1]
    layers = sorted(heard.embeddings)
    if fold is None:
        return layers[len(layers) // 2]
    scores = {k: _closed_form_f1(heard.embeddings[k][some.number], labels, fold, config) for k in layers}
    return max(layers, key=lambda k: scores[k])


def _closed_form_f1(embeddings: Tensor, labels: Tensor, fold: Tensor, config: MetaTrainConfig) -> float:
    """Macro-F1 of the nearest class mean, whitened and cut, of examples (n, size) of classes (n,) whose fold (n,) is held out."""
    n_classes = int(labels.max()) + 1
    predicted = torch.full_like(labels, -1)
    for k in range(N_FOLDS):
        held = fold == k
        present, classes = labels[~held].unique(return_inverse=True)
        projection = discriminant(embeddings[~held], classes, config.dimensions, config.shrinkage)
        means, _ = class_averages(projection.apply(embeddings[~held]), classes)
        z = projection.apply(embeddings[held]).double()
        predicted[held] = present[torch.cdist(z, means).argmin(1)]
    return float(episode_macro_f1(labels[None], predicted[None], n_classes)[0])


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
    added = matched(means, head, known.means[: len(examples.rows)], own_metric(examples))
    bias = choose_bias(examples, choice, weigh)
    whole = Head(torch.cat((head.weight, added.weight), 1), torch.cat((head.bias, added.bias + bias), 1))
    return whole, {p: _largest(known.phonemes, row) for p, row in zip(unheard, weights, strict=True)}


def matched(means: Tensor, head: Head, learned: Tensor, metric: Tensor) -> Head:
    """The rows of the nearest-mean head for `means` (n_new, dim), brought to the place and scale of the rows that were learned.

    learned: (n_classes, dim), class means of the rows of `head`; metric: as `own_metric` gave for it. A head is the same for all
    that it tells apart when one row is added to all of its rows, so both heads are compared with their mean row taken off.
    """
    own, new = (nearest_mean(each.unsqueeze(0), metric) for each in (learned, means))
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
        learned, metric = known_means(rest, means, counts, choice.prior).means[: len(heard)], own_metric(rest)
        for number, label in enumerate(heard.tolist()):
            only = torch.tensor([number])
            known = known_means(rest, means, counts.index_fill(0, only, 0.0), choice.prior)
            mean, _ = known.predict([rest.phonemes[number]], weigh)
            row = matched(mean, head, learned, metric).logits(tested)[0, :, 0]
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
