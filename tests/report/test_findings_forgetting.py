"""Θ without Φ is the base: shown where it is so, and told where it is not."""

from __future__ import annotations

import copy

import pytest
import torch

from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import pack_hash
from mtl_speech.model.scale_shift import scale_shift_layers
from mtl_speech.model.strategy import BaseModel, new_learner
from mtl_speech.report.findings import compare_base, without_phi
from tests.helpers import PHONEMES, make_store, meta_config, shake, tiny_base


@pytest.fixture
def adapted() -> tuple[BaseModel, MetaLearner]:
    """A base, and a learner on a copy of it whose Φ has moved."""
    base = tiny_base()
    with torch.no_grad():
        base.head.weight.mul_(50.0)  # so that the best phoneme hangs on the embedding
    learner = copy.deepcopy(new_learner(base, PHONEMES, meta_config()))
    shake(learner, size=2.0)
    return base, learner


def test_nothing_is_forgotten(adapted: tuple[BaseModel, MetaLearner]) -> None:
    base, learner = adapted
    store = make_store([[0, 1, 2, 3, 4, 5]] * 8)
    found = compare_base(base, learner, store)
    assert found.sha256_before == found.sha256_after == pack_hash(base.pack)
    assert found.largest_difference == 0.0
    assert (found.name, found.n_segments) == ("tiny-0", len(store))
    assert 0.0 < found.changed_by_phi <= 1.0  # so Φ did something


def test_a_changed_weight_is_seen(adapted: tuple[BaseModel, MetaLearner]) -> None:
    base, learner = adapted
    layer = next(iter(scale_shift_layers(learner.encoder).values())).layer
    with torch.no_grad():
        next(layer.parameters()).view(-1)[0] += 0.1
    found = compare_base(base, learner, make_store([[0, 1, 2, 3, 4, 5]] * 8))
    assert found.sha256_before == pack_hash(base.pack) != found.sha256_after
    assert found.largest_difference > 0.0


def test_the_adapted_encoder_keeps_its_phi(adapted: tuple[BaseModel, MetaLearner]) -> None:
    base, learner = adapted
    layers = set(scale_shift_layers(learner.encoder))
    plain = without_phi(learner.encoder)
    assert layers == set(scale_shift_layers(learner.encoder)) and not scale_shift_layers(plain)
    assert set(plain.state_dict()) == set(base.encoder.state_dict())
