"""The closed-form start of a learner: how embeddings are standardised, and the class means θ, from labelled segments alone.

Embeddings are centred and whitened by their covariance within classes, a class being a phoneme of a language, and turned so that
the directions in which the class means differ most come first (linear discriminant analysis, Fisher 1936, with shrinkage). Nothing
is computed in more dimensions than there are segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.learner import MetaLearner, embed_segments, guess_weights

TINY = 1e-8  # of the largest variance: what is smaller counts as so much
DISCRIMINANT = 96  # directions that tell classes apart, at most
HOLD_BACK = 10.0  # the variance of all others is divided by it
AT_ONCE = 8_192  # segments whose deviations are held in double precision


@dataclass(frozen=True)
class Projection:
    """z = (x − centre) whitener. centre: (size,); whitener: (size, dim)."""

    centre: Tensor
    whitener: Tensor

    def apply(self, embeddings: Tensor) -> Tensor:
        """(..., size) -> (..., dim)."""
        return (embeddings - self.centre) @ self.whitener


def prepare_learner(learner: MetaLearner, store: SegmentStore, config: MetaTrainConfig) -> None:
    """Closed-form start from the segments of `store`: centre, whitener and scale of the embeddings, and θ."""
    embeddings = embed_segments(learner, store)
    standardise_embeddings(learner, store, embeddings, config.shrinkage if config.whiten else None)
    with torch.no_grad():
        learner.log_scale.add_(float(np.log(config.scale)))
        learner.log_prior.copy_(torch.tensor([config.prior, config.prior_unmet]).log())
    start_theta(learner, store, embeddings)
    learner.guess = guess_weights(learner, learner.phonemes)


def standardise_embeddings(
    learner: MetaLearner, store: SegmentStore, embeddings: Tensor, shrinkage: float | None
) -> None:
    """Set `centre`, `whitener` and `log_scale` from the embeddings (n_segments, size) of segments; as `discriminant`, None only
    centres.

    Either way the mean squared norm becomes 1. The scale is then the deviation within classes, where there is no shrinkage.
    """
    if shrinkage is None:
        found = Projection(embeddings.mean(0), torch.eye(*learner.whitener.shape))
    else:
        found = discriminant(embeddings, class_numbers(store), learner.whitener.shape[1], shrinkage)
    learner.centre.copy_(found.centre)
    rounded = found.whitener.half().to(found.whitener)  # as which a pack holds it
    learner.whitener.copy_(rounded if bool(rounded.isfinite().all()) else found.whitener)
    squares = torch.stack([found.apply(part).square().sum() for part in embeddings.split(AT_ONCE)])
    with torch.no_grad():
        learner.log_scale.copy_(-0.5 * (squares.sum() / len(embeddings)).log())


def class_numbers(store: SegmentStore) -> Tensor:
    """The class of each segment, a phoneme of a language: (n_segments,), from 0."""
    return (store.language * len(store.phonemes) + store.label).unique(return_inverse=True)[1]


def discriminant(embeddings: Tensor, classes: Tensor, dim: int, shrinkage: float) -> Projection:
    """Whitening within classes, cut to `dim` directions.

    First come at most DISCRIMINANT of those in which the class means differ most. n classes differ in n - 1; then come those of the
    largest variance in all, held back by HOLD_BACK: at full weight they do harm, and yet what many examples teach lies in them too
    (docs/decisions.md). Where there are fewer, columns are zero.

    embeddings: (n, size); classes: (n,) from 0. `shrinkage` in [0, 1] mixes the covariance within classes with a multiple of the
    identity. Classes count by their segments.
    """
    means, counts = class_averages(embeddings, classes)
    centre = (counts / len(embeddings)) @ means
    deviations = _Deviations(embeddings, classes, means)
    whiten = _Whitening(*deviations.spectrum(), shrinkage)
    between = whiten.apply(means - centre) * counts.sqrt().unsqueeze(1)
    first = _principal(between, min(dim, DISCRIMINANT))
    rest = _principal(deviations.outside(first, between, whiten), dim - first.shape[1])
    projected = whiten.apply(torch.cat((first, rest / HOLD_BACK**0.5), dim=1).T).T
    projected = torch.nn.functional.pad(projected, (0, dim - projected.shape[1]))
    return Projection(centre.to(embeddings), projected.to(embeddings))


class _Deviations:
    """How segments differ from the mean of their class: one by one where they are few, else as a scatter matrix (size, size)."""

    def __init__(self, embeddings: Tensor, classes: Tensor, means: Tensor) -> None:
        self.n, size = embeddings.shape
        parts = zip(embeddings.split(AT_ONCE), classes.split(AT_ONCE), strict=True)
        blocks = (part.double() - means[own] for part, own in parts)
        self.rows, self.scatter = None, torch.zeros(0, 0, dtype=torch.float64)
        if self.n <= size:
            self.rows = torch.cat(list(blocks))
        else:
            self.scatter = torch.zeros(size, size, dtype=torch.float64)
            for block in blocks:
                self.scatter.addmm_(block.T, block)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues (rank,) of the covariance, rising, and its vectors (size, rank)."""
        if self.rows is None:
            values, basis = torch.linalg.eigh(self.scatter / self.n)
            return values, basis
        values, vectors = torch.linalg.eigh(self.rows @ self.rows.T / self.n)
        kept = values > TINY * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
        values, vectors = values[kept], vectors[:, kept]
        return values, self.rows.T @ (vectors / (self.n * values).sqrt())

    def outside(self, first: Tensor, between: Tensor, whiten: _Whitening) -> Tensor:
        """Rows whose sums of squares are those of all whitened segments outside of the directions `first` (size, k)."""
        if self.rows is not None:
            return _without(torch.cat((whiten.apply(self.rows), between)), first)
        values, vectors = torch.linalg.eigh(whiten.apply(whiten.apply(self.scatter).T) + between.T @ between)
        return _without(values.clamp_min(0).sqrt().unsqueeze(1) * vectors.T, first)


def class_averages(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The means (n_classes, size) and counts (n_classes,), in double precision, of classes (n,) of values (n, size)."""
    counts = torch.bincount(classes).double()
    sums = torch.zeros(len(counts), values.shape[1], dtype=torch.float64)
    for part, own in zip(values.split(AT_ONCE), classes.split(AT_ONCE), strict=True):
        sums.index_add_(0, own, part.double())
    return sums / counts.unsqueeze(1).clamp_min(1), counts


class _Whitening:
    """The inverse square root of a shrunk covariance, in the space that its vectors span and outside of it.

    values: (rank,) eigenvalues, rising; basis: (size, rank) vectors.
    """

    def __init__(self, values: Tensor, basis: Tensor, shrinkage: float) -> None:
        self.basis = basis
        mean = values.clamp_min(0).sum() / len(basis)
        least = TINY * values.max() if len(values) and float(values.max()) > 0 else torch.ones((), dtype=values.dtype)
        self.outside = torch.maximum(shrinkage * mean, least).rsqrt()
        self.inside = torch.maximum((1 - shrinkage) * values + shrinkage * mean, least).rsqrt() - self.outside

    def apply(self, rows: Tensor) -> Tensor:
        """(m, size) -> the same shape."""
        return rows * self.outside + (rows @ self.basis * self.inside) @ self.basis.T


def _without(rows: Tensor, first: Tensor) -> Tensor:
    """Rows (m, size) without what lies in the directions `first` (size, k). What rounding leaves there is zero."""
    left = rows - (rows @ first) @ first.T
    return left.masked_fill(left.abs() < TINY * rows.abs().max(), 0.0)


def _principal(rows: Tensor, n: int) -> Tensor:
    """The n directions of the largest sums of squares of rows (m, size), fewer where they span fewer: (size, n), orthonormal."""
    gram_first = len(rows) <= rows.shape[1]
    values, vectors = torch.linalg.eigh(rows @ rows.T if gram_first else rows.T @ rows)
    kept = values > TINY * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    values, vectors = values[kept].flip(0)[:n], vectors[:, kept].flip(1)[:, :n]
    return rows.T @ (vectors / values.sqrt()) if gram_first else vectors


def start_theta(learner: MetaLearner, store: SegmentStore, embeddings: Tensor) -> None:
    """Set θ to the nearest-mean head of the phonemes of `store`: each language with the phoneme counts the same.

    Phonemes of the table without a segment get the mean of all rows and do not count as met.
    """
    with torch.no_grad():
        z = learner.standardise(embeddings)
        classes = class_numbers(store)
        weight = 1.0 / torch.bincount(classes)[classes].to(z)
        sums = torch.zeros_like(learner.theta).index_add_(0, store.label, z * weight.unsqueeze(1))
        totals = torch.zeros(len(learner.phonemes)).index_add_(0, store.label, weight)
        learner.met.copy_(totals > 0)
        learner.theta.copy_(
            torch.where(learner.met.unsqueeze(1), sums / totals.clamp_min(1e-9).unsqueeze(1), z.mean(0))
        )
        learner.theta_bias.copy_(-0.5 * learner.theta.square().sum(1))
