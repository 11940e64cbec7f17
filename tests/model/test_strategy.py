"""Bases and strategies: what is saved is what was learned, on exactly the base it was learned on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_speech.core.errors import PackError
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import (
    N_NEIGHBOURS,
    embed_segments,
    extend,
    guess_weights,
    nearest,
    row_of,
)
from mtl_speech.model.pack import save_pack
from mtl_speech.model.scale_shift import distance_from_identity, scale_shift_layers
from mtl_speech.model.strategy import BaseModel, load_base, load_learner, new_learner, strategy_pack, strategy_tensors
from mtl_speech.phonology.articulation import articulatory_features
from mtl_speech.training.meta_train import MetaTrainer
from tests.helpers import PHONEMES, frozen_bytes, make_store, meta_config, phi_names, tiny_base, toy_store
from tests.pack_files import prepared, saved


@pytest.fixture
def base() -> BaseModel:
    return tiny_base()


# The base


def test_a_base_comes_back_from_the_disk_with_the_same_predictions(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = toy_store()
    loaded = load_base(save_pack(base.pack, tmp_path / "base"))
    assert frozen_bytes(loaded.encoder) == frozen_bytes(base.encoder)
    whole = base.predict(store)
    monkeypatch.setattr("mtl_speech.model.passes.ROWS_AT_ONCE", 50)
    assert torch.equal(loaded.predict(store), whole)
    expected = base.head(base.encoder(*store.windows(torch.arange(len(store))))).argmax(1)
    assert torch.equal(base.predict(store), expected)
    assert loaded.phonemes == PHONEMES and not loaded.encoder.training
    assert not any(p.requires_grad for m in (loaded.encoder, loaded.head) for p in m.parameters())


def test_a_base_whose_card_and_weights_disagree_is_refused(base: BaseModel, tmp_path: Path) -> None:
    encoder = dict(base.pack.card["encoder"], channels=9)  # type: ignore[call-overload]
    with pytest.raises(PackError, match="does not fit the settings"):
        load_base(save_pack(replace(base.pack, card={**base.pack.card, "encoder": encoder}), tmp_path / "a"))
    fewer = {k: v for k, v in base.pack.tensors.items() if k != "head.bias"}
    with pytest.raises(PackError, match=r"'bias' is missing"):
        load_base(save_pack(replace(base.pack, tensors=fewer), tmp_path / "b"))
    with pytest.raises(PackError, match="settings cannot be used"):
        card = {**base.pack.card, "encoder": {"channels": -1}}
        load_base(save_pack(replace(base.pack, card=card), tmp_path / "c"))


# The start of a strategy


def test_a_new_learner_is_the_base_with_phi_at_the_identity(base: BaseModel) -> None:
    learner = new_learner(base, ("a", "b"), meta_config(granularity="kernel", inner_steps=4, inner_lr=0.3))
    windows = toy_store().windows(torch.arange(5))
    assert torch.equal(learner.encoder(*windows), base.encoder(*windows))
    assert distance_from_identity(scale_shift_layers(learner.encoder).values()).item() == 0
    assert not bool(learner.theta.any()) and learner.phonemes == ("a", "b")
    torch.testing.assert_close(learner.rates, torch.full((4,), 0.3))


def test_preparing_sets_what_the_settings_say(base: BaseModel) -> None:
    store = toy_store()
    config = meta_config(scale=3.0, prior=2.0, prior_unmet=0.25)
    learner = new_learner(base, store.phonemes, config)
    prepare_learner(learner, store, config)
    assert learner.log_prior.tolist() == pytest.approx([math.log(2.0), math.log(0.25)])
    z = learner.standardise(embed_segments(learner, store)).detach()
    assert float(z.square().sum(1).mean()) == pytest.approx(9.0, rel=1e-3)
    assert learner.met.tolist() == [p < 8 for p in range(12)]  # two languages of six phonemes, two apart
    torch.testing.assert_close(learner.theta[0].detach(), z[store.label == 0].mean(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(learner.guess, guess_weights(learner, learner.phonemes))
    plain = new_learner(base, store.phonemes, config)
    prepare_learner(plain, store, replace(config, whiten=False))
    diagonal = plain.whitener.diagonal()
    assert torch.equal(plain.whitener, diagonal[0] * torch.eye(12)) and not torch.equal(
        learner.whitener, learner.whitener.diagonal().diag()
    )


# Phonemes that the strategy never met


def test_neighbours_are_the_nearest_met_phonemes_and_never_a_phoneme_itself(base: BaseModel) -> None:
    store = toy_store()
    learner = new_learner(base, store.phonemes, meta_config())
    prepare_learner(learner, store, meta_config())
    met = [p for p, known in zip(PHONEMES, learner.met.tolist(), strict=True) if known]
    for phoneme, row in zip(("a", "t", "p", "z"), nearest(learner, ("a", "t", "p", "z")), strict=True):
        others = [p for p in met if p != phoneme]
        distance = np.abs(articulatory_features(others) - articulatory_features([phoneme])).sum(1)
        found = [PHONEMES[int(i)] for i in row]
        assert len(found) == N_NEIGHBOURS and phoneme not in found and set(found) <= set(met)
        reached = sorted(distance[others.index(p)] for p in found)
        assert reached == sorted(distance)[:N_NEIGHBOURS]
    assert PHONEMES[int(nearest(learner, ["p"])[0, 0])] in ("b", "k", "d")


def test_extending_adds_rows_of_the_mean_of_the_neighbours_and_keeps_the_others(base: BaseModel) -> None:
    store = toy_store()
    learner = new_learner(base, store.phonemes, meta_config())
    prepare_learner(learner, store, meta_config())
    theta, bias = learner.theta.detach().clone(), learner.theta_bias.detach().clone()
    found = nearest(learner, ("z", "p"))
    extend(learner, ("z", "a", "p", "z"))
    assert learner.phonemes == (*PHONEMES, "z", "p")
    assert torch.equal(learner.theta[:12], theta) and torch.equal(learner.theta_bias[:12], bias)
    for row, rows in zip((12, 13), found, strict=True):
        torch.testing.assert_close(learner.theta[row], theta[rows].mean(0))
        torch.testing.assert_close(learner.theta_bias[row], bias[rows].mean(0))
    assert learner.met.tolist() == [p < 8 for p in range(14)]
    assert learner.theta.requires_grad and learner.theta_bias.requires_grad
    assert learner.guess.shape == (14, 14) and not bool(learner.guess[:, ~learner.met].any())
    assert ((learner.guess > 0).sum(1) == N_NEIGHBOURS).all() and torch.allclose(learner.guess.sum(1), torch.ones(14))
    extend(learner, ("z", "a"))
    assert len(learner.phonemes) == 14


def test_row_of_finds_phonemes_by_name(base: BaseModel) -> None:
    learner = new_learner(base, ("s", "a", "m"), meta_config())
    store = make_store([[0, 1]], phonemes=("m", "s"))
    assert row_of(learner, store).tolist() == [2, 0]


# Packs


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_a_strategy_pack_holds_all_but_theta_capital_and_comes_back_to_the_bit(
    base: BaseModel, tmp_path: Path, granularity: str
) -> None:
    learner, config = prepared(base, granularity=granularity, theta_init="posterior")
    tensors = strategy_tensors(learner)
    names = {"theta", "theta_bias", "log_rates", "log_scale", "log_prior", "centre", "whitener", "met"}
    assert set(tensors) == names | phi_names(learner)
    pack = saved(strategy_pack(learner, base, config, {"name": "s"}), tmp_path)
    loaded, settings = load_learner(pack, base)
    assert settings == config and loaded.phonemes == learner.phonemes
    assert frozen_bytes(loaded) == frozen_bytes(learner)
    assert torch.equal(loaded.guess, learner.guess)
    assert loaded.theta_init == "posterior" and not loaded.training
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in learner.named_parameters() if p.requires_grad
    }
    addresses = {p.data_ptr() for p in base.encoder.parameters()}
    assert addresses <= {p.data_ptr() for p in loaded.parameters()}, "Θ is the base's own"


def test_a_loaded_strategy_goes_on_meta_training(base: BaseModel, tmp_path: Path) -> None:
    """With phonemes treated as never met, which need the guess of every row."""
    learner, config = prepared(base, theta_init="posterior", guess_share=1.0)
    loaded, _ = load_learner(saved(strategy_pack(learner, base, config, {"name": "s"}), tmp_path), base)
    store = replace(toy_store(), phonemes=loaded.phonemes)
    ours, theirs = (MetaTrainer(each, store, config).train().rounds for each in (loaded, learner))
    assert ours == theirs and all(math.isfinite(row["loss"]) for row in ours)


def test_a_strategy_on_another_base_or_with_weights_of_the_base_is_refused(base: BaseModel, tmp_path: Path) -> None:
    learner, config = prepared(base)
    pack = strategy_pack(learner, base, config, {"name": "s"})
    with pytest.raises(PackError, match="builds on 'tiny-0'"):
        load_learner(pack, tiny_base(1))
    stranger = {**pack.tensors, "encoder.stem.conv.layer.weight": torch.zeros(8, 80, 5)}
    with pytest.raises(PackError, match=r"'encoder.stem.conv.layer.weight' belongs to the base"):
        load_learner(replace(pack, tensors=stranger), base)
    with pytest.raises(PackError, match="'theta' is missing"):
        load_learner(replace(pack, tensors={k: v for k, v in pack.tensors.items() if k != "theta"}), base)
    other = {**pack.card, "meta_train": {**pack.card["meta_train"], "granularity": "kernel"}}  # type: ignore[dict-item]
    with pytest.raises(PackError, match="does not fit the settings"):
        load_learner(replace(pack, card=other), base)
    with pytest.raises(PackError, match="settings cannot be used"):
        load_learner(replace(pack, card={**pack.card, "meta_train": {"meta_batch": 0}}), base)
    for key, value in (("granularity", "lowrank"), ("theta_init", "articulatory")):  # of an earlier version
        older = {**pack.card, "meta_train": {**pack.card["meta_train"], key: value}}  # type: ignore[dict-item]
        with pytest.raises(PackError, match=f"must be one of .*, not '{value}'.*make the pack anew"):
            load_learner(replace(pack, card=older), base)
