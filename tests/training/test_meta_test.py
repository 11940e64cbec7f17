"""Meta-test: episodes are scored in their order, each as alone."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_speech.model.learner import embed_segments
from mtl_speech.scoring.metrics import episode_macro_f1
from mtl_speech.training.episodes import EpisodeSampler, full_inventory, stack
from mtl_speech.training.meta_test import predict_episodes, score_episodes
from mtl_speech.training.meta_train import (
    meta_forward,
)
from tests.helpers import (
    episodes_of,
    tiny_learner,
    toy_store,
)


def test_episodes_of_mixed_shapes_are_scored_in_their_order() -> None:
    store = toy_store(noise=2.0)
    learner = tiny_learner(store, theta_init="posterior")
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    inventory = full_inventory(rng, sampler, 0, 2)
    assert inventory is not None
    episodes = [*episodes_of(store, 3), inventory, *episodes_of(store, 2, seed=1, n_way=2, n_shot=1), inventory]
    embeddings = embed_segments(learner, store)
    together = score_episodes(learner, embeddings, episodes)
    alone = [float(score_episodes(learner, embeddings, [episode])[0]) for episode in episodes]
    assert together.tolist() == pytest.approx(alone) and len(set(alone)) > 2
    batch, predicted = next(iter(predict_episodes(learner, embeddings, episodes)))
    assert len(batch.classes) == 3 and predicted.shape == batch.query.shape
    _, logits = meta_forward(learner, store, stack(episodes[:3]))
    expected = episode_macro_f1(batch.query_labels, logits.argmax(2), 3, batch.mask)
    assert together[:3].tolist() == pytest.approx(expected.tolist()), "meta-test learns as meta-training does"
