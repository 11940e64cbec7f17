"""The meta-gradient is exact, whatever the order and division of the tasks; the loss is balanced and blind to padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import ConvEncoder
from mtl_speech.model.learner import MetaLearner
from mtl_speech.training import meta_train
from mtl_speech.training.episodes import EpisodeBatch, stack
from mtl_speech.training.meta_train import (
    Forward,
    meta_forward,
    query_loss,
)
from tests.helpers import (
    DoubleStore,
    double_precision,
    episodes_of,
    seeded,
    shake,
    tiny_encoder,
    tiny_learner,
    toy_store,
)


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
        found_loss, logits = meta_forward(learner, store, batch, Forward(first_order=True))
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
            loss, _ = meta_forward(learner, store, stack([episodes[i] for i in order]), Forward(first_order))
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
    frames = ConvEncoder.frames
    monkeypatch.setattr(ConvEncoder, "frames", lambda self, x: (sizes.append(len(x)), frames(self, x))[1])
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
            loss, _ = meta_forward(learner, store, batch, Forward(first_order))
            gradients.append(torch.autograd.grad(loss, trainable, allow_unused=True))
    assert len(batch.query.unique()) > 5
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_in_first_order_the_support_set_is_embedded_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    store = toy_store()
    learner, batch = tiny_learner(store, theta_init="prototype"), stack(episodes_of(store))
    calls: list[tuple[int, bool]] = []
    frames = ConvEncoder.frames
    monkeypatch.setattr(
        ConvEncoder, "frames", lambda self, x: (calls.append((len(x), torch.is_grad_enabled())), frames(self, x))[1]
    )
    meta_forward(learner, store, batch, Forward(first_order=True))
    assert calls == [(len(batch.support.unique()), False), (len(batch.query.unique()), True)]


@pytest.mark.parametrize("first_order", [True, False])
def test_augmentation_changes_the_windows_of_support_and_query(first_order: bool) -> None:
    """Augmented by a step, the task is that of a store whose frames all are a step higher."""
    store = toy_store()
    learner, batch = tiny_learner(store), stack(episodes_of(store))
    plain, _ = meta_forward(learner, store, batch, Forward(first_order))
    augmented, _ = meta_forward(learner, store, batch, Forward(first_order, lambda windows: windows + 0.5))
    expected, _ = meta_forward(learner, replace(store, frames=store.frames.float() + 0.5), batch, Forward(first_order))
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
