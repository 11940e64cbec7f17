"""Θ + Φ + θ: the meta-learner, and the inner loop that learns a head from a support set.

The inner loop is gradient descent on the softmax cross-entropy of a linear head over pooled embeddings (base learning, Sun et
al. 2019, eq. 3). It runs in the dual: examples are fewer than dimensions, so the steps are taken on the logits of the support
set through its Gram matrix, for all tasks of a batch at once,

    Z_k = Z_0 − K A_k,   A_{k+1} = A_k + β_k M (softmax(Z_k) − Y),   K = X Xᵀ + 1,

and the adapted head is θ′ = θ − A_Kᵀ [X 1]. The reverse pass is written by hand and exact, so second order costs little more
than first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.errors import UsageError
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.passes import embeddings_of
from mtl_speech.phonology.articulation import articulatory_features

THETA_INITS = ("previous", "random", "prototype", "posterior")


@dataclass(frozen=True)
class Head:
    """Linear heads of a batch of tasks. weight: (n_tasks, n_way, dim); bias: (n_tasks, n_way)."""

    weight: Tensor
    bias: Tensor

    def logits(self, embeddings: Tensor) -> Tensor:
        """(n_tasks, n, dim) -> (n_tasks, n, n_way)."""
        return torch.baddbmm(self.bias.unsqueeze(1), embeddings, self.weight.transpose(1, 2))


class _DualDescent(torch.autograd.Function):
    """A_K as a function of the Gram matrix, the first logits and the step sizes, with an exact reverse pass.

    With `first_order`, only the direct dependence on the step sizes is differentiated (the inner gradients count as constants).
    """

    @staticmethod
    def forward(  # autograd wants its tensors one by one
        ctx: Any, gram: Tensor, logits: Tensor, targets: Tensor, weights: Tensor, rates: Tensor, first_order: bool
    ) -> Tensor:
        weights = weights.unsqueeze(2)
        alphas = torch.zeros_like(logits)
        trace = [alphas]
        softmaxes = []
        for rate in rates:
            softmax = torch.softmax(torch.baddbmm(logits, gram, alphas, alpha=-1.0), dim=2)
            alphas = alphas + rate * weights * (softmax - targets)
            softmaxes.append(softmax)
            trace.append(alphas)
        ctx.first_order = first_order
        ctx.save_for_backward(gram, targets, weights, rates, torch.stack(softmaxes), torch.stack(trace[:-1]))
        return alphas

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        gram, targets, weights, rates, softmaxes, trace = ctx.saved_tensors
        grad_rates = torch.zeros_like(rates)
        if ctx.first_order:
            residuals = weights * (softmaxes - targets)
            return None, None, None, None, (grad * residuals).sum((1, 2, 3)), None
        grad_logits = []
        for k in range(len(rates) - 1, -1, -1):
            softmax = softmaxes[k]
            weighted = weights * grad
            grad_rates[k] = (weighted * (softmax - targets)).sum()
            into = rates[k] * weighted
            into = softmax * (into - (into * softmax).sum(2, keepdim=True))
            grad_logits.append(into)
            grad = torch.baddbmm(grad, gram.transpose(1, 2), into, alpha=-1.0)
        grad_logits.reverse()
        left, right = torch.cat(grad_logits, dim=2), torch.cat(tuple(trace), dim=2)
        grad_gram = -torch.bmm(left, right.transpose(1, 2))
        return grad_gram, torch.stack(grad_logits).sum(0), None, None, grad_rates, None


def balanced_weights(labels: Tensor, n_way: int) -> Tensor:
    """Example weights (n_tasks, n_support) that sum to 1 a task and give every class present the same share."""
    counts = F.one_hot(labels, n_way).sum(1)  # (n_tasks, n_way)
    share = 1.0 / (counts > 0).sum(1, keepdim=True)
    return share / counts.gather(1, labels)


def adapt_head(support: Tensor, labels: Tensor, head: Head, rates: Tensor, first_order: bool = False) -> Head:
    """Base learning of all tasks at once: θ′ from θ by len(rates) steps of full-batch gradient descent.

    support: (n_tasks, n_support, dim); labels: (n_tasks, n_support) in 0..n_way-1; rates: (n_steps,) step sizes β_k.
    The loss of a task is the class-balanced mean cross-entropy of its support set. Gradients reach `support`, `head` and
    `rates`; with `first_order` those through the inner gradients are dropped (and none reaches `support`).
    """
    if len(rates) == 0:
        return head
    n_way = head.bias.shape[1]
    if first_order:
        support = support.detach()
    if support.shape[1] > support.shape[2] and not torch.is_grad_enabled():
        return _primal_descent(support, labels, head, rates)
    start = head.logits(support)
    gram = torch.bmm(support, support.transpose(1, 2)) + 1.0
    targets = F.one_hot(labels, n_way).to(support.dtype)
    weights = balanced_weights(labels, n_way).to(support.dtype)
    alphas: Tensor = _DualDescent.apply(gram, start, targets, weights, rates, first_order)
    return Head(head.weight - torch.bmm(alphas.transpose(1, 2), support), head.bias - alphas.sum(1))


def _primal_descent(support: Tensor, labels: Tensor, head: Head, rates: Tensor) -> Head:
    """The same steps taken on the weights themselves: cheaper once examples outnumber dimensions."""
    targets = F.one_hot(labels, head.bias.shape[1]).to(support.dtype)
    weights = balanced_weights(labels, head.bias.shape[1]).to(support.dtype).unsqueeze(2)
    for rate in rates:
        residuals = rate * weights * (torch.softmax(head.logits(support), dim=2) - targets)
        head = Head(head.weight - torch.bmm(residuals.transpose(1, 2), support), head.bias - residuals.sum(1))
    return head


def prototypes(support: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Class means (n_tasks, n_way, dim) and counts (n_tasks, n_way) of the support sets."""
    onehot = F.one_hot(labels, n_way).to(support.dtype)
    counts = onehot.sum(1)
    means = torch.bmm(onehot.transpose(1, 2), support) / counts.clamp_min(1.0).unsqueeze(2)
    return means, counts


def centroid_head(means: Tensor) -> Head:
    """The linear head that picks the nearest of `means` (n_tasks, n_way, dim): w = μ, b = −‖μ‖² / 2.

    Snell, Swersky, Zemel (2017), Prototypical Networks, eq. 8; as the start of an inner loop: Triantafillou et al. (2020).
    """
    return Head(means, -0.5 * means.square().sum(2))


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, whose gradient several threads sum in the same order every time (that of indexing they do not)."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


class MetaLearner(nn.Module):
    """Θ with Φ, the closed-form normalisation of its embeddings, and θ: everything that a strategy holds.

    Trainable: Φ (in `encoder`), `theta` and `theta_bias` (a row a phoneme), `log_rates` (inner step sizes β_k), `log_scale` (of
    the embeddings, which is the temperature of the softmax) and `log_prior` (how many examples a row of θ counts for where
    `theta_init` is "posterior": [0] for phonemes met in meta-training, [1] for rows guessed from articulation).
    Buffers `centre` (size,) and `whitener` (size, dim) standardise embeddings: z = scale · (x − centre) whitener. What the encoder
    gives has `size` numbers, what heads take has `dim`.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        dim: int,
        phonemes: Sequence[str],
        theta_init: str = "previous",
        inner_steps: int = 20,
        inner_lr: float = 1.0,
    ) -> None:
        super().__init__()
        if theta_init not in THETA_INITS:
            raise UsageError(f"theta_init '{theta_init}' is unknown; choose one of {', '.join(THETA_INITS)}")
        self.encoder = encoder
        self.phonemes = tuple(phonemes)
        self.theta_init = theta_init
        self.theta = nn.Parameter(torch.zeros(len(phonemes), dim))
        self.theta_bias = nn.Parameter(torch.zeros(len(phonemes)))
        self.log_rates = nn.Parameter(torch.full((inner_steps,), inner_lr).log())
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.log_prior = nn.Parameter(torch.zeros(2))
        self.centre: Tensor = nn.Buffer(torch.zeros(encoder.embedding_size))
        self.whitener: Tensor = nn.Buffer(torch.eye(encoder.embedding_size, dim))
        self.met: Tensor = nn.Buffer(torch.zeros(len(phonemes), dtype=torch.bool))
        self.guess = torch.zeros(len(phonemes), len(phonemes))  # the row guessed for each is guess @ θ

    @property
    def rows_are_means(self) -> bool:
        """Whether a row of θ stands for the mean of its phoneme's embeddings."""
        return self.theta_init == "posterior"

    @property
    def rates(self) -> Tensor:
        """Inner step sizes β_k: (n_steps,)."""
        return self.log_rates.exp()

    def standardise(self, embeddings: Tensor) -> Tensor:
        """Embeddings of the encoder (..., size) -> standardised embeddings (..., dim)."""
        return (embeddings - self.centre) @ self.whitener * self.log_scale.exp()

    def embed(self, windows: Tensor, spans: Tensor) -> Tensor:
        """Windows (n, n_rows, width) of the front end and spans (n, 2) -> standardised embeddings (n, dim)."""
        return self.standardise(self.encoder(windows, spans))

    def initial_head(
        self,
        support: Tensor,
        labels: Tensor,
        classes: Tensor,
        generator: torch.Generator | None = None,
        prior: float = 1.0,
        guessed: Tensor | None = None,
    ) -> Head:
        """θ of each task before base learning.

        support: (n_tasks, n_support, dim); labels: (n_tasks, n_support); classes: (n_tasks, n_way), rows of θ.
        "previous": the phonemes' own rows, as earlier tasks and meta-updates left them. "random": small random rows.
        "prototype": the head of the nearest class mean. "posterior": the same for the means of `posterior`.
        """
        n_way = classes.shape[1]
        if self.theta_init == "previous":
            return Head(_rows(self.theta, classes), _rows(self.theta_bias, classes))
        if self.theta_init == "random":
            shape = (*classes.shape, support.shape[2])
            weight = torch.randn(shape, generator=generator).to(support) * 0.01
            return Head(weight, support.new_zeros(classes.shape))
        means, counts = prototypes(support, labels, n_way)
        if self.rows_are_means:
            means, _ = self.posterior(means, counts, classes, prior, guessed)
        return centroid_head(means)

    def posterior(
        self, means: Tensor, counts: Tensor, classes: Tensor, prior: float = 1.0, guessed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class means with θ as prior knowledge, (τ θ + n x̄) / (τ + n), and how many examples they count for, τ + n.

        means: (n_tasks, n_way, dim) and counts: (n_tasks, n_way) of the support sets. A row of θ counts as τ examples of its
        phoneme beside the n of the support set; `prior` multiplies τ. Where `guessed` (n_tasks, n_way) is true, a phoneme is
        treated as one never met: its row is guessed from those of others.
        """
        rows, met = _rows(self.theta, classes), self.met[classes]
        if guessed is not None:
            rows = torch.where(guessed.unsqueeze(2), _rows(self.guess.to(self.theta) @ self.theta, classes), rows)
            met = met & ~guessed
        tau = prior * torch.where(met, self.log_prior[0], self.log_prior[1]).exp()
        total = (tau + counts).clamp_min(1e-6)
        return (tau.unsqueeze(2) * rows + counts.unsqueeze(2) * means) / total.unsqueeze(2), total

    def adapt(
        self,
        support: Tensor,
        labels: Tensor,
        classes: Tensor,
        first_order: bool = False,
        generator: torch.Generator | None = None,
        guessed: Tensor | None = None,
    ) -> Head:
        """θ′ of each task (arguments as in `initial_head`)."""
        head = self.initial_head(support, labels, classes, generator, guessed=guessed)
        return adapt_head(support, labels, head, self.rates, first_order)


def embed_segments(learner: MetaLearner, store: SegmentStore) -> Tensor:
    """The encoder's embeddings of all segments of `store`, not standardised, without gradient: (n_segments, size).

    What the store holds already is not computed again.
    """
    return embeddings_of(learner.eval().encoder, store)


N_NEIGHBOURS = 3  # rows of θ that a phoneme never met borrows from


def guess_weights(learner: MetaLearner, phonemes: Sequence[str]) -> Tensor:
    """How the rows of θ of `phonemes` are guessed: as the mean of those of their articulatory neighbours (`nearest`).

    Returns the weights of the rows of θ: (n, n_phonemes).
    """
    rows = nearest(learner, phonemes)
    return torch.zeros(len(phonemes), len(learner.phonemes)).scatter_(1, rows, 1.0 / rows.shape[1])


def nearest(learner: MetaLearner, phonemes: Sequence[str]) -> Tensor:
    """The articulatory neighbours of `phonemes` among those that `learner` has met, a phoneme itself left out.

    Returns rows of θ, nearest first: (n, N_NEIGHBOURS), fewer where it has met fewer.
    """
    known = torch.arange(len(learner.phonemes))
    known = known[learner.met] if bool(learner.met.any()) else known
    names = [learner.phonemes[i] for i in known.tolist()]
    distance = np.abs(articulatory_features(list(phonemes))[:, None] - articulatory_features(names)[None]).sum(2)
    distance[np.asarray(phonemes)[:, None] == np.asarray(names)[None]] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :N_NEIGHBOURS]
    return known[torch.from_numpy(order)]


def extend(learner: MetaLearner, phonemes: Sequence[str]) -> None:
    """Give `learner` rows of θ for further phonemes, guessed from those it has met (`guess_weights`).

    Phonemes that are there already stay as they are.
    """
    new = [p for p in dict.fromkeys(phonemes) if p not in learner.phonemes]
    if not new:
        return
    guess = guess_weights(learner, new)
    with torch.no_grad():
        theta = torch.cat((learner.theta, guess @ learner.theta))
        bias = torch.cat((learner.theta_bias, guess @ learner.theta_bias))
    learner.theta, learner.theta_bias = torch.nn.Parameter(theta), torch.nn.Parameter(bias)
    learner.met = torch.cat((learner.met, torch.zeros(len(new), dtype=torch.bool)))
    learner.phonemes = (*learner.phonemes, *new)
    learner.guess = guess_weights(learner, learner.phonemes)


def row_of(learner: MetaLearner, store: SegmentStore) -> Tensor:
    """The row of θ of each phoneme of a store's table: (n_phonemes,)."""
    place = {p: i for i, p in enumerate(learner.phonemes)}
    return torch.tensor([place[p] for p in store.phonemes])
