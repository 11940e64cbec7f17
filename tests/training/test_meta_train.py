"""Meta-training: Θ untouched to the bit, the same numbers for the same seed, and it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_speech.core.errors import DataError
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.scale_shift import attach, distance_from_identity, scale_shift_layers
from mtl_speech.training.episodes import Episode, stack
from mtl_speech.training.meta_train import (
    MetaTrainer,
    is_hard_round,
    meta_forward,
    trainable_state,
)
from tests.helpers import (
    episodes_of,
    frozen_bytes,
    make_store,
    meta_config,
    phi_names,
    shake,
    tiny_encoder,
    tiny_learner,
    toy_store,
)

# The rounds


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
@pytest.mark.parametrize("folded", [True, False])
def test_theta_capital_is_the_same_to_the_bit_after_meta_training(granularity: str, folded: bool) -> None:
    encoder = tiny_encoder(folded=folded)
    store = toy_store()
    windows = store.windows(torch.arange(4))
    before, output = frozen_bytes(encoder), encoder(*windows)
    learner = tiny_learner(store, encoder, granularity)
    buffers = {k: v for k, v in frozen_bytes(learner).items() if k in ("centre", "whitener", "met")}
    start = {n: p.detach().clone() for n, p in learner.named_parameters() if p.requires_grad}
    learner.train()  # the trainer itself must see to it that nothing of Θ drifts
    MetaTrainer(learner, store, meta_config(outer_lr=0.01, hard_ratio=0.5)).train()
    assert frozen_bytes(encoder) == before
    assert torch.equal(encoder(*windows), output)
    inside = {n: v for n, v in frozen_bytes(learner).items() if ".layer." in n or ".norm." in n}
    assert sorted(inside.values()) == sorted(before.values())
    assert {k: v for k, v in frozen_bytes(learner).items() if k in buffers} == buffers
    moved = {n for n, p in learner.named_parameters() if n in start and not torch.equal(p, start[n])}
    assert moved == set(start) - {"log_prior"}, "everything trainable moves (the prior only under 'posterior')"


def test_the_optimiser_holds_exactly_what_is_trainable_with_the_rates_of_the_settings() -> None:
    learner = tiny_learner(toy_store())
    trainer = MetaTrainer(
        learner, toy_store(), meta_config(outer_lr=0.01, phi_rate=2.0, theta_rate=0.5, scalar_rate=7.0)
    )
    name_of = {id(p): n for n, p in learner.named_parameters()}
    groups = [({name_of[id(p)] for p in g["params"]}, g["lr"]) for g in trainer.optimizer.param_groups]
    assert groups == [
        (phi_names(learner), 0.02),
        ({"theta", "theta_bias"}, 0.005),
        ({"log_rates", "log_scale", "log_prior"}, 0.07),
    ]
    assert {n for names, _ in groups for n in names} == {n for n, p in learner.named_parameters() if p.requires_grad}
    trainer.train()
    assert [g["lr"] for g in trainer.optimizer.param_groups] < [lr for _, lr in groups], "the rate falls"


def run(seed: int, **settings: object) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    store = toy_store(noise=1.5)
    learner = tiny_learner(store, theta_init=str(settings.get("theta_init", "previous")))
    learner.guess = 0.5 * (torch.eye(12).roll(1, 1) + torch.eye(12).roll(-1, 1))
    trainer = MetaTrainer(learner, store, meta_config(seed=seed, meta_steps=4, **settings))
    return trainer.train().rounds, {n: t.clone() for n, t in trainable_state(learner).items()}


@pytest.mark.parametrize(
    ("theta_init", "augment"),
    [("previous", False), ("random", False), ("prototype", False), ("posterior", False), ("posterior", True)],
)
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(theta_init: str, augment: bool) -> None:
    state = torch.random.get_rng_state()
    rounds, trained = run(3, theta_init=theta_init, augment=augment)
    assert torch.equal(torch.random.get_rng_state(), state), "meta-training moves the global generator"
    torch.manual_seed(12345)  # what else was drawn before must not matter
    again, same = run(3, theta_init=theta_init, augment=augment)
    assert rounds == again and all(torch.equal(trained[n], same[n]) for n in trained)
    others, other = run(4, theta_init=theta_init, augment=augment)
    assert rounds != others and not all(torch.equal(trained[n], other[n]) for n in trained)
    torch.random.set_rng_state(state)


@pytest.mark.parametrize(
    "changed", [{"first_order": True}, {"guess_share": 1.0}, {"augment": True}, {"phi_decay": 1.0}, {"hard_ratio": 1.0}]
)
def test_the_settings_reach_the_rounds(changed: dict[str, object]) -> None:
    plain = {"theta_init": "posterior", "guess_share": 0.0, "n_way": (2,)}
    rounds, trained = run(3, **plain)
    others, other = run(3, **{**plain, **changed})
    assert rounds[-1] != others[-1] and not all(torch.equal(trained[n], other[n]) for n in trained)


def test_rounds_take_their_windows_from_the_views() -> None:
    """A view whose frames are NaN makes the loss of its rounds NaN; the tasks are those of a run without views."""
    store = toy_store()
    broken = replace(store, frames=torch.full_like(store.frames, torch.nan))
    trainer = MetaTrainer(tiny_learner(store), store, meta_config(outer_lr=1e-9, meta_steps=20), views=[store, broken])
    losses = []
    for _ in range(20):
        losses.append(trainer.step()["loss"])
        trainer.learner.load_state_dict(tiny_learner(store).state_dict())  # what NaN has spoiled
    assert 2 <= int(np.isnan(losses).sum()) <= 14, "one round in three, by chance"


def test_views_of_other_segments_are_refused() -> None:
    store = toy_store()
    other = replace(store, label=store.label.flip(0))
    with pytest.raises(ValueError, match="other segments"):
        MetaTrainer(tiny_learner(store), store, meta_config(), views=[other])


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_training_lowers_the_loss_on_tasks_of_a_language_it_never_saw(first_order: bool) -> None:
    store = toy_store(n_languages=3, n_utterances=10, noise=2.5)
    train = store.select(torch.nonzero(store.language < 2).squeeze(1))
    unseen = store.select(torch.nonzero(store.language == 2).squeeze(1))
    batch = stack(episodes_of(unseen, 40, n_shot=1))
    learner = tiny_learner(train, theta_init="prototype")
    settings = meta_config(meta_steps=60, meta_batch=4, outer_lr=0.02, first_order=first_order, scalar_rate=0.0)
    with torch.no_grad():
        before = meta_forward(learner, unseen, batch)[0].item()
    history = MetaTrainer(learner, train, settings).train()
    with torch.no_grad():
        after = meta_forward(learner, unseen, batch)[0].item()
    assert after < 0.85 * before, f"{before:.3f} before, {after:.3f} after: Φ alone learns nothing that transfers"
    losses = [row["loss"] for row in history.rounds]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:15])


def scripted(scores: list[float], seen: list[dict[str, Tensor]]) -> Callable[[MetaLearner], float]:
    """A validation that gives these scores one after another and keeps what it saw."""

    def validate(learner: MetaLearner) -> float:
        seen.append(copy.deepcopy(trainable_state(learner)))
        return scores[len(seen) - 1]

    return validate


@pytest.mark.parametrize("scores", [[0.1, 0.7, 0.5, 0.7], [0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4]])
def test_the_state_that_validation_finds_best_is_kept(scores: list[float]) -> None:
    store = toy_store()
    learner, seen = tiny_learner(store), []
    trainer = MetaTrainer(learner, store, meta_config(meta_steps=5, validate_every=2, outer_lr=0.05))
    history = trainer.train(scripted(scores, seen))
    assert [(row["round"], row["score"]) for row in history.validations] == list(zip((0, 2, 4, 5), scores, strict=True))
    best = scores.index(max(scores))
    final = trainable_state(learner)
    assert all(torch.equal(final[n], seen[best][n]) for n in final)
    assert not all(torch.equal(seen[0][n], seen[3][n]) for n in final)
    assert len(history.rounds) == 5


def test_without_validation_the_last_state_stays_and_no_steps_change_nothing() -> None:
    store = toy_store()
    learner = tiny_learner(store)
    start = copy.deepcopy(trainable_state(learner))
    assert MetaTrainer(learner, store, meta_config(meta_steps=0)).train().rounds == []
    assert all(torch.equal(start[n], t) for n, t in trainable_state(learner).items())
    MetaTrainer(learner, store, meta_config(meta_steps=1)).train()
    assert not torch.equal(start["theta"], learner.theta)


def test_phi_decays_towards_the_identity() -> None:
    def distance(phi_decay: float) -> float:
        store = toy_store()
        learner = tiny_learner(store)
        shake(learner, size=0.3)
        MetaTrainer(learner, store, meta_config(meta_steps=10, outer_lr=0.02, phi_decay=phi_decay)).train()
        return distance_from_identity(scale_shift_layers(learner.encoder).values()).item()

    assert distance(10.0) < 0.7 * distance(0.0)


# The curriculum in the rounds


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_hard_rounds_draw_from_the_pool_alone_at_the_ratio(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store(noise=3.0)
    trainer = MetaTrainer(tiny_learner(store), store, meta_config(n_way=(2,), meta_steps=24, hard_ratio=ratio))
    pools: list[dict[int, set[int]]] = []
    drawn: list[tuple[list[Episode], bool]] = []
    sample = trainer.sample_round

    def spied() -> tuple[list[Episode], bool]:
        pools.append({language: set(pool) for language, pool in trainer.pool.pools.items()})
        drawn.append(sample())
        return drawn[-1]

    monkeypatch.setattr(trainer, "sample_round", spied)
    history = trainer.train()
    wanted = [is_hard_round(number, ratio) for number in range(24)]
    ready = [any(len(classes) >= 2 for classes in pool.values()) for pool in pools]
    assert [bool(row["hard"]) for row in history.rounds] == [w and r for w, r in zip(wanted, ready, strict=True)]
    assert all(ready[4:]), "the pool fills within a few rounds here"
    for (episodes, hard), pool in zip(drawn, pools, strict=True):
        assert len(episodes) == 2
        if hard:
            assert all(set(e.classes.tolist()) <= pool[e.language] for e in episodes)


def test_the_class_of_lowest_f1_of_each_task_enters_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store(noise=3.0)
    trainer = MetaTrainer(tiny_learner(store), store, meta_config(meta_steps=3, meta_batch=3))
    drawn: list[list[Episode]] = []
    sample = trainer.sample_round

    def spied() -> tuple[list[Episode], bool]:
        episodes, hard = sample()
        drawn.append(episodes)
        return episodes, hard

    monkeypatch.setattr(trainer, "sample_round", spied)
    for _ in range(3):
        before = copy.deepcopy(trainer.learner)  # the F1 of a round is that before its update
        trainer.step()
        batch = stack(drawn[-1])
        with torch.no_grad():
            _, logits = meta_forward(before, store, batch)
        expected = []
        for task, episode in enumerate(drawn[-1]):
            true, predicted = episode.query_labels, logits[task].argmax(1)[: len(episode.query)]
            f1 = []
            for c in range(3):
                hits = int(((true == c) & (predicted == c)).sum())
                f1.append(2 * hits / (int((true == c).sum()) + int((predicted == c).sum())))
            expected.append((episode.language, int(episode.classes[int(np.argmin(f1))])))
        assert trainer.pool.history[-1] == expected
        names = [(store.languages[a], store.phonemes[p]) for a, p in expected]
        assert trainer.history.hard_classes[-1] == names


def test_shapes_that_the_data_does_not_allow_are_left_out_and_none_is_an_error() -> None:
    store = make_store([[0, 1, 2]] * 4)
    trainer = MetaTrainer(tiny_learner(store), store, meta_config(n_way=(2, 3, 9), n_shot=(1, 3, 8)))
    assert trainer.shapes == [(2, 1), (2, 3), (3, 1), (3, 3)]
    with pytest.raises(DataError, match="tasks of 9 phonemes with 8"):
        MetaTrainer(tiny_learner(store), store, meta_config(n_way=(9,), n_shot=(8,)))


def test_speakers_are_kept_apart_where_that_is_asked_for() -> None:
    store = toy_store(n_utterances=8)
    trainer = MetaTrainer(tiny_learner(store), store, meta_config(), by="speaker")
    for _ in range(5):
        for episode in trainer.sample_round()[0]:
            assert not set(store.speaker[episode.support].tolist()) & set(store.speaker[episode.query].tolist())


def test_a_layer_without_phi_stays_frozen() -> None:
    encoder = tiny_encoder()
    store = toy_store()
    learner = MetaLearner(attach(encoder, patterns=["embedding"]), 12, store.phonemes, "previous", 2, 0.5)
    before = frozen_bytes(encoder)
    MetaTrainer(learner, store, meta_config(outer_lr=0.05)).train()
    assert frozen_bytes(encoder) == before
    assert phi_names(learner) == {"encoder.embedding.scale", "encoder.embedding.shift"}
    assert isinstance(learner.encoder, nn.Module)


def test_a_store_with_another_table_of_phonemes_is_refused() -> None:
    store = toy_store()
    learner = tiny_learner(store, theta_init="prototype")
    with pytest.raises(ValueError, match="rows of θ would be mixed up"):
        MetaTrainer(learner, replace(store, phonemes=store.phonemes[::-1]), meta_config())
