"""Meta-training: exact meta-gradients, Θ untouched to the bit, the same numbers for the same seed, and it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.errors import DataError
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import Encoder
from mtl_speech.model.learner import MetaLearner, embed_segments
from mtl_speech.model.scale_shift import attach, distance_from_identity, scale_shift_layers
from mtl_speech.model.strategy import standardise_embeddings, start_theta
from mtl_speech.scoring.metrics import episode_macro_f1
from mtl_speech.training import meta_train
from mtl_speech.training.episodes import Episode, EpisodeBatch, EpisodeSampler, full_inventory, stack
from mtl_speech.training.meta_train import (
    MetaTrainer,
    is_hard_round,
    meta_forward,
    predict_episodes,
    query_loss,
    score_episodes,
    trainable_state,
)
from tests.helpers import (
    DoubleStore,
    double_precision,
    frozen_bytes,
    make_store,
    meta_config,
    phi_names,
    seeded,
    shake,
    tiny_encoder,
    tiny_learner,
    toy_store,
)


def episodes_of(store: SegmentStore, n: int = 3, seed: int = 0, n_way: int = 3, n_shot: int = 2) -> list[Episode]:
    sampler, rng = EpisodeSampler(store), np.random.default_rng(seed)
    return [sampler.random(rng, n_way, n_shot, 2) for _ in range(n)]


def uneven_batch(store: SegmentStore) -> EpisodeBatch:
    """Tasks of which one lacks queries: of class 0 one is left, so padding and balance both count."""
    one, *others = episodes_of(store)
    keep = torch.nonzero((one.query_labels != 0) | (torch.arange(len(one.query)) == 0)).squeeze(1)
    assert len(keep) < len(one.query)
    return stack([replace(one, query=one.query[keep], query_labels=one.query_labels[keep]), *others])


def double_learner(theta_init: str, granularity: str = "channel") -> tuple[MetaLearner, SegmentStore]:
    """A shaken learner and a store in float64. Some phonemes count as never met."""
    store = toy_store(kind=DoubleStore)
    learner = tiny_learner(toy_store(), tiny_encoder(), granularity, theta_init).double()
    shake(learner, size=0.05)
    learner.met[3:5] = False
    learner.guess = 0.5 * (torch.eye(12).roll(1, 1) + torch.eye(12).roll(-1, 1))
    return learner, store


# The meta-gradient


@pytest.mark.parametrize(
    ("theta_init", "granularity"),
    [
        ("previous", "channel"),
        ("previous", "kernel"),
        ("prototype", "channel"),
        ("posterior", "channel"),
        ("posterior", "kernel"),
    ],
)
def test_second_order_meta_gradient_is_that_of_finite_differences(theta_init: str, granularity: str) -> None:
    """Through the whole path: frames, support embeddings, inner loop, query loss."""
    learner, store = double_learner(theta_init, granularity)
    with double_precision():
        batch = uneven_batch(store)
        guessed = torch.tensor([[False, True, False]]).expand(len(batch.classes), -1)

        def loss() -> Tensor:
            return meta_forward(learner, store, batch, guessed=guessed)[0]

        trainable = {n: p for n, p in learner.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss(), list(trainable.values()), allow_unused=True)
        used, draw, step = set(), seeded(3), 1e-5
        for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True):
            direction = torch.randn(parameter.shape, generator=draw)
            direction /= direction.norm()
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter += sign * step * direction
                    values.append(loss().item())
                    parameter -= sign * step * direction
            numeric = (values[0] - values[1]) / (2 * step)
            exact = 0.0 if gradient is None else float((gradient * direction).sum())
            assert exact == pytest.approx(numeric, rel=1e-5, abs=1e-8), name
            if abs(numeric) > 1e-6:
                used.add(name)
    unused = {"previous": {"log_prior"}, "prototype": {"theta", "theta_bias", "log_prior"}, "posterior": {"theta_bias"}}
    assert used == set(trainable) - unused[theta_init], "some parameters have no gradient to compare"


def reference_first_order(learner: MetaLearner, store: SegmentStore, batch: EpisodeBatch) -> Tensor:
    """First-order meta-loss of "previous" as anyone would write it: task by task, inner gradients as constants."""
    losses = []
    for task in range(len(batch.classes)):
        with torch.no_grad():
            support = learner.embed(*store.windows(batch.support[task]))
        query = learner.embed(*store.windows(batch.query[task][batch.mask[task]]))
        labels, targets = batch.support_labels[task], batch.query_labels[task][batch.mask[task]]
        weight, bias = learner.theta[batch.classes[task]], learner.theta_bias[batch.classes[task]]
        for rate in learner.rates:
            w, b = weight.detach().requires_grad_(), bias.detach().requires_grad_()
            inner = F.cross_entropy(support @ w.T + b, labels)  # support sets are balanced
            grads = torch.autograd.grad(inner, (w, b))
            weight, bias = weight - rate * grads[0], bias - rate * grads[1]
        logits = query @ weight.T + bias
        per_class = [F.cross_entropy(logits[targets == c], targets[targets == c]) for c in targets.unique()]
        losses.append(torch.stack(per_class).mean())
    return torch.stack(losses).mean()


def test_first_order_meta_gradient_is_that_of_a_loop_by_hand() -> None:
    learner, store = double_learner("previous")
    with double_precision():
        batch = uneven_batch(store)
        trainable = {n: p for n, p in learner.named_parameters() if p.requires_grad and n != "log_prior"}
        found_loss, logits = meta_forward(learner, store, batch, first_order=True)
        expected_loss = reference_first_order(learner, store, batch)
        assert found_loss.item() == pytest.approx(expected_loss.item(), rel=1e-9)
        found = torch.autograd.grad(found_loss, list(trainable.values()))
        expected = torch.autograd.grad(expected_loss, list(trainable.values()))
        exact = torch.autograd.grad(meta_forward(learner, store, batch)[0], list(trainable.values()))
        assert logits.shape == (*batch.query.shape, 3)
        differs = 0
        for name, ours, theirs, second in zip(trainable, found, expected, exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
            differs += not torch.allclose(ours, second, rtol=1e-3)
        assert differs > len(trainable) // 2, "first and second order do not differ"


@pytest.mark.parametrize("first_order", [True, False])
def test_the_order_of_tasks_in_a_batch_changes_no_gradient(first_order: bool) -> None:
    learner, store = double_learner("posterior")
    with double_precision():
        episodes = episodes_of(store, 4)
        gradients = []
        for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
            loss, _ = meta_forward(learner, store, stack([episodes[i] for i in order]), first_order)
            learner.zero_grad()
            loss.backward()
            gradients.append({n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_all_segments_of_a_meta_batch_are_embedded_in_one_batch_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store()
    learner, batch = tiny_learner(store), stack(episodes_of(store, 5))
    sizes: list[int] = []
    frames = Encoder.frames
    monkeypatch.setattr(Encoder, "frames", lambda self, x: (sizes.append(len(x)), frames(self, x))[1])
    meta_forward(learner, store, batch)
    assert sizes == [len(torch.cat((batch.support, batch.query), dim=1).unique())]


@pytest.mark.parametrize("first_order", [True, False])
def test_segments_embedded_in_parts_give_the_gradients_of_one_batch(
    monkeypatch: pytest.MonkeyPatch, first_order: bool
) -> None:
    learner, store = double_learner("posterior")
    trainable = [p for p in learner.parameters() if p.requires_grad]
    with double_precision():
        batch, gradients = stack(episodes_of(store)), []
        for at_once in (1000, 5):
            monkeypatch.setattr(meta_train, "AT_ONCE", at_once)
            loss, _ = meta_forward(learner, store, batch, first_order)
            gradients.append(torch.autograd.grad(loss, trainable, allow_unused=True))
    assert len(batch.query.unique()) > 5
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_in_first_order_the_support_set_is_embedded_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store()
    learner, batch = tiny_learner(store, theta_init="prototype"), stack(episodes_of(store))
    calls: list[tuple[int, bool]] = []
    frames = Encoder.frames
    monkeypatch.setattr(
        Encoder, "frames", lambda self, x: (calls.append((len(x), torch.is_grad_enabled())), frames(self, x))[1]
    )
    meta_forward(learner, store, batch, first_order=True)
    assert calls == [(len(batch.support.unique()), False), (len(batch.query.unique()), True)]


@pytest.mark.parametrize("first_order", [True, False])
def test_augmentation_changes_the_windows_of_support_and_query(first_order: bool) -> None:
    """Augmented by a step, the task is that of a store whose frames all are a step higher."""
    store = toy_store()
    learner, batch = tiny_learner(store), stack(episodes_of(store))
    plain, _ = meta_forward(learner, store, batch, first_order)
    augmented, _ = meta_forward(learner, store, batch, first_order, augment=lambda windows: windows + 0.5)
    expected, _ = meta_forward(learner, replace(store, frames=store.frames.float() + 0.5), batch, first_order)
    torch.testing.assert_close(augmented, expected)
    assert not torch.allclose(augmented, plain)


# The loss


def test_query_loss_by_hand_is_balanced_over_classes_and_blind_to_padding() -> None:
    logits = torch.randn(2, 4, 3, generator=seeded(0))
    labels = torch.tensor([[0, 0, 0, 1], [2, 1, 0, 0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    empty = torch.zeros(2, 0, dtype=torch.long)
    batch = EpisodeBatch(empty, empty, labels, labels, mask, torch.zeros(2, 3), torch.zeros(2))
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 4)
    first = (loss[0, :3].mean() + loss[0, 3]) / 2  # three queries of class 0 weigh as much as the one of class 1
    second = (loss[1, 0] + loss[1, 1]) / 2
    torch.testing.assert_close(query_loss(logits, batch), (first + second) / 2)
    wild = logits.clone()
    wild[1, 2:] = 1e4 * torch.randn(2, 3, generator=seeded(1))
    torch.testing.assert_close(query_loss(wild, batch), (first + second) / 2)


def test_masked_queries_change_neither_loss_nor_gradient_of_a_task() -> None:
    store = toy_store()
    learner = tiny_learner(store)
    short, long = episodes_of(store, 2)
    short = replace(short, query=short.query[:3], query_labels=short.query_labels[:3])
    alone, _ = meta_forward(learner, store, stack([short]))
    other, _ = meta_forward(learner, store, stack([long]))
    both, _ = meta_forward(learner, store, stack([short, long]))
    torch.testing.assert_close(both, (alone + other) / 2, rtol=1e-5, atol=1e-6)


# Closed-form start


def test_embed_segments_gives_what_the_encoder_gives_in_any_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store()
    learner = tiny_learner(store)
    shake(learner)
    expected = learner.encoder(*store.windows(torch.arange(len(store)))).detach()
    for size in (7, 512):
        learner.train()  # dropout must not show
        monkeypatch.setattr("mtl_speech.model.encoder.WINDOWS_AT_ONCE", size)
        torch.testing.assert_close(embed_segments(learner, store), expected, rtol=1e-4, atol=1e-5)


def test_whitening_makes_the_spread_within_phonemes_round_and_the_norm_one() -> None:
    store = toy_store(n_languages=2, n_utterances=20)
    learner = tiny_learner(store)
    mixing = torch.randn(12, 12, generator=seeded(5))
    embeddings = 3 + torch.randn(len(store), 12, generator=seeded(6)) @ mixing + store.label.unsqueeze(1)
    key = store.language * 100 + store.label

    def within(z: Tensor) -> Tensor:
        deviations = torch.cat([z[key == k] - z[key == k].mean(0) for k in key.unique()])
        return deviations.T @ deviations / len(z)

    def standardised(shrinkage: float | None) -> Tensor:
        standardise_embeddings(learner, store, embeddings, shrinkage)
        return (embeddings - learner.centre) @ learner.whitener

    for shrinkage in (0.0, 0.3, 1.0, None):
        z = standardised(shrinkage)
        torch.testing.assert_close(z.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
        assert float(z.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-4)
    round_ = within(standardised(0.0))
    torch.testing.assert_close(round_, round_[0, 0] * torch.eye(12), rtol=0, atol=1e-3 * float(round_[0, 0]))
    for shrinkage in (1.0, None):  # no direction is preferred: a number times the identity
        standardise_embeddings(learner, store, embeddings, shrinkage)
        torch.testing.assert_close(learner.whitener, learner.whitener[0, 0] * torch.eye(12), rtol=0, atol=1e-5)
    covariance = within(embeddings)
    mixed = 0.7 * covariance + 0.3 * covariance.trace() / 12 * torch.eye(12)
    standardise_embeddings(learner, store, embeddings, 0.3)
    product = learner.whitener @ mixed @ learner.whitener
    torch.testing.assert_close(product, product[0, 0] * torch.eye(12), rtol=0, atol=1e-3 * float(product[0, 0]))


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


# Meta-test


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
