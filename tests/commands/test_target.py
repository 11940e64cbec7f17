"""Where adaptation starts from: the strategy that fits, else an untrained one that sees a fold's training examples alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtl_speech.commands import target
from mtl_speech.core.errors import PackError
from mtl_speech.core.options import AdaptOptions, MetaTrainConfig
from mtl_speech.core.run import Run
from mtl_speech.model.learner import embed_segments
from mtl_speech.model.pack import save_pack
from mtl_speech.model.strategy import new_learner, strategy_pack
from mtl_speech.training.folds import Fold
from tests.command_line import labelled_folder, save_base
from tests.helpers import make_store, meta_config, tiny_base


def save_strategy(folder: Path) -> Path:
    """A strategy on `tiny_base()`, of 4 rounds."""
    base, config = tiny_base(), meta_config(meta_steps=4, outer_lr=0.5)
    return save_pack(strategy_pack(new_learner(base, "abd", config), base, config, {"name": "toy"}), folder)


def test_the_strategy_that_ships_serves_its_own_base_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = save_base(tmp_path / "own"), save_base(tmp_path / "other", seed=1)
    monkeypatch.setattr(target, "shipped", lambda name: tmp_path / name)
    assert "no meta-trained strategy" in target.load_start(own, None).how
    folder = save_strategy(tmp_path / target.SHIPPED_STRATEGY)
    found = target.load_start(own, None)
    assert "starts from the strategy 'toy' on the base 'tiny-0'" in found.how
    assert "no meta-trained strategy" in target.load_start(other, None).how
    with pytest.raises(PackError, match="it builds on 'tiny-0'"):
        target.load_start(other, folder)


def test_a_strategy_keeps_what_its_weights_need_and_rounds_on_the_target_are_the_default(tmp_path: Path) -> None:
    found = target.load_start(save_base(tmp_path / "base"), save_strategy(tmp_path / "strategy"))
    own, default = meta_config(), MetaTrainConfig()
    assert own.inner_steps != default.inner_steps
    assert (found.meta.inner_steps, found.meta.theta_init) == (own.inner_steps, own.theta_init)
    assert (found.meta.outer_lr, found.meta.meta_steps) == (default.outer_lr, default.meta_steps)


def test_without_a_strategy_nothing_but_the_training_examples_is_seen(tmp_path: Path) -> None:
    train, test = make_store([[0, 1, 2], [2, 1, 0]]), make_store([[5, 6, 7]], seed=1)
    found = target.load_start(save_base(tmp_path / "base"), None)
    learner = found.learner(Fold(train, test, "by hand"))
    assert torch.allclose(learner.centre, embed_segments(learner, train).mean(0), atol=1e-6)
    assert learner.met.nonzero().squeeze(1).tolist() == [0, 1, 2]


def test_few_shots_bind_whatever_learns(tmp_path: Path) -> None:
    folder = labelled_folder(tmp_path / "toy", 6, 2)
    options = AdaptOptions(lang="sw", data=folder, shots=2)
    learned = target.load_target(options, tmp_path / "out", Run(quiet=True), tiny_base())
    assert len(learned.folds) == 5
    for fold in (*learned.folds, learned.everything):
        assert fold.train.label.bincount().tolist() == [2] * 6
    assert sum(len(fold.test) for fold in learned.folds) == 36  # each recording is tested on once, in full


def test_labels_of_another_folder_are_learned_from(tmp_path: Path) -> None:
    folder = labelled_folder(tmp_path / "toy", 6, 2)
    (tmp_path / "labels").mkdir()
    for path in sorted(folder.rglob("*.TextGrid")):
        path.rename(tmp_path / "labels" / path.name)
    options = AdaptOptions(lang="sw", data=folder, shots=2, labels=tmp_path / "labels")
    learned = target.load_target(options, tmp_path / "out", Run(quiet=True), tiny_base())
    assert sum(len(fold.test) for fold in learned.folds) == 36
