"""The closed-form start of a strategy: embeddings whitened within phonemes, θ at the class means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_speech.model import passes
from mtl_speech.model.closed_form import standardise_embeddings, start_theta
from mtl_speech.model.learner import embed_segments
from tests.helpers import (
    make_store,
    seeded,
    shake,
    tiny_learner,
    toy_store,
)


def test_embed_segments_gives_what_the_encoder_gives_in_any_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store()
    learner = tiny_learner(store)
    shake(learner)
    expected = learner.encoder(*store.windows(torch.arange(len(store)))).detach()
    for size in (1, 500, 3_000):
        learner.train()  # dropout must not show
        monkeypatch.setattr(passes, "ROWS_AT_ONCE", size)
        torch.testing.assert_close(embed_segments(learner, store), expected, rtol=1e-4, atol=1e-5)


def test_whitening_makes_the_spread_within_phonemes_round_and_the_norm_one() -> None:
    store = toy_store(n_languages=3, n_utterances=20)  # 18 classes, which differ in all 12 directions
    learner = tiny_learner(store)
    mixing = torch.randn(12, 12, generator=seeded(5))
    embeddings = 3 + torch.randn(len(store), 12, generator=seeded(6)) @ mixing + store.label.unsqueeze(1)
    key = store.language * 100 + store.label

    def within(z: Tensor) -> Tensor:
        deviations = torch.cat([z[key == k] - z[key == k].mean(0) for k in key.unique()])
        return deviations.T @ deviations / len(z)

    def standardised(shrinkage: float | None) -> Tensor:
        standardise_embeddings(learner, store, embeddings, shrinkage)
        return learner.standardise(embeddings).detach()

    for shrinkage in (0.0, 0.3, 1.0, None):
        z = standardised(shrinkage)
        torch.testing.assert_close(z.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
        assert float(z.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-3)
    round_ = within(standardised(0.0))
    torch.testing.assert_close(round_, round_[0, 0] * torch.eye(12), rtol=0, atol=3e-3 * float(round_[0, 0]))
    for shrinkage in (1.0, None):  # no direction is preferred: a number times a rotation
        standardise_embeddings(learner, store, embeddings, shrinkage)
        square = learner.whitener.T @ learner.whitener
        torch.testing.assert_close(square, square[0, 0] * torch.eye(12), rtol=0, atol=3e-3 * float(square[0, 0]))
    covariance = within(embeddings)
    mixed = 0.7 * covariance + 0.3 * covariance.trace() / 12 * torch.eye(12)
    standardise_embeddings(learner, store, embeddings, 0.3)
    product = learner.whitener.T @ mixed @ learner.whitener
    torch.testing.assert_close(product, product[0, 0] * torch.eye(12), rtol=0, atol=3e-3 * float(product[0, 0]))


def test_theta_starts_at_class_means_where_every_language_counts_the_same() -> None:
    store = make_store([[0, 0, 0, 1], [0, 2]], languages=[0, 1])
    learner = tiny_learner(toy_store())
    embeddings = torch.randn(6, 12, generator=seeded(7))
    start_theta(learner, store, embeddings)
    z = learner.standardise(embeddings).detach()
    expected = torch.zeros(12, 12) + z.mean(0)
    expected[0] = (z[:3].mean(0) + z[4]) / 2
    expected[1], expected[2] = z[3], z[5]
    torch.testing.assert_close(learner.theta.detach(), expected)
    torch.testing.assert_close(learner.theta_bias.detach(), -0.5 * expected.square().sum(1))
    assert learner.met.tolist() == [True] * 3 + [False] * 9
