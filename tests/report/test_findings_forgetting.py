"""Θ without Φ is the base: shown where it is so, and told where it is not."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import Pack, pack_hash
from mtl_speech.model.scale_shift import scale_shift_layers
from mtl_speech.model.strategy import BaseModel, load_base, new_learner
from mtl_speech.report import findings
from mtl_speech.report.findings import compare_base, without_phi
from tests.helpers import PHONEMES, meta_config, shake, tiny_base


@pytest.fixture
def adapted() -> tuple[BaseModel, MetaLearner]:
    """A base, and a learner on it whose Φ has moved."""
    base = tiny_base()
    learner = copy.deepcopy(new_learner(base, PHONEMES, meta_config()))
    shake(learner, size=2.0)
    return base, learner


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_is_forgotten(adapted: tuple[BaseModel, MetaLearner], trained: bool) -> None:
    base, learner = adapted
    found = compare_base(base, learner, trained)
    assert found.sha256_before == found.sha256_after == pack_hash(base.pack)
    assert found.largest_difference == 0.0
    assert found.name == "tiny-0" and not found.phi_at_identity
    untouched = compare_base(base, new_learner(base, PHONEMES, meta_config()), trained)
    assert untouched == replace(found, phi_at_identity=True)


def test_a_hash_after_training_is_of_the_weights_that_are_there(
    adapted: tuple[BaseModel, MetaLearner], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, learner = adapted
    hashed: list[Pack] = []
    monkeypatch.setattr(findings, "pack_hash", lambda pack: (hashed.append(pack), pack_hash(pack))[1])
    compare_base(base, learner, trained=False)
    assert [pack is base.pack for pack in hashed] == [True]
    compare_base(base, learner, trained=True)
    assert [pack is base.pack for pack in hashed] == [True, True, False]


def test_the_encoder_that_ships_is_the_base_that_its_pack_holds() -> None:
    base = load_base()  # half precision in the pack, single precision in use
    found = compare_base(base, new_learner(base, PHONEMES, meta_config()), trained=True)
    assert found.sha256_before == found.sha256_after and found.largest_difference == 0.0


@pytest.mark.parametrize("trained", [False, True])
def test_a_changed_weight_is_seen(adapted: tuple[BaseModel, MetaLearner], trained: bool) -> None:
    base, learner = adapted
    layer = next(iter(scale_shift_layers(learner.encoder).values())).layer
    with torch.no_grad():
        next(layer.parameters()).view(-1)[0] += 0.1
    found = compare_base(base, learner, trained)
    assert found.sha256_before == pack_hash(base.pack) != found.sha256_after
    assert found.largest_difference == pytest.approx(0.1, abs=1e-6)


def test_the_adapted_encoder_keeps_its_phi(adapted: tuple[BaseModel, MetaLearner]) -> None:
    base, learner = adapted
    layers = set(scale_shift_layers(learner.encoder))
    plain = without_phi(learner.encoder)
    assert layers == set(scale_shift_layers(learner.encoder)) and not scale_shift_layers(plain)
    assert set(plain.state_dict()) == set(base.encoder.state_dict())
