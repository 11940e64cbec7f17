"""The inner loop: batched dual descent is plain gradient descent task by task, to the second derivative."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.errors import UsageError
from mtl_speech.model.learner import (
    ROWS_ARE_MEANS,
    THETA_INITS,
    Head,
    MetaLearner,
    _DualDescent,
    adapt_head,
    balanced_weights,
    centroid_head,
    prototypes,
)
from mtl_speech.model.scale_shift import attach
from tests.helpers import double_precision, phi_names, seeded, tiny_encoder, tiny_learner, toy_store

N_TASKS, N_WAY, N_SUPPORT, DIM, N_STEPS = 3, 3, 7, 5, 4
# Unequal classes, so that the balance of the loss counts; every class is there.
LABELS = torch.tensor([[0, 0, 0, 0, 1, 1, 2], [1, 2, 0, 0, 2, 2, 2], [0, 1, 2, 1, 1, 1, 1]])


@pytest.fixture
def problem() -> Iterator[dict[str, Tensor]]:
    """Supports, queries, heads and rates of three tasks in float64, that all want gradients."""
    draw = seeded(0)
    shapes = {
        "support": (N_TASKS, N_SUPPORT, DIM),
        "weight": (N_TASKS, N_WAY, DIM),
        "bias": (N_TASKS, N_WAY),
        "query": (N_TASKS, 6, DIM),
    }
    tensors = {k: torch.randn(shape, dtype=torch.float64, generator=draw) for k, shape in shapes.items()}
    tensors["rates"] = torch.tensor([0.9, 0.5, 1.3, 0.2], dtype=torch.float64)
    with double_precision():
        yield {k: t.requires_grad_() for k, t in tensors.items()}


def query_loss(head: Head, query: Tensor) -> Tensor:
    """A loss after adaptation that treats all entries differently."""
    logits = head.logits(query)
    labels = torch.arange(query.shape[1]) % N_WAY
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(query))) + 0.01 * logits.square().mean()


def plain_descent(
    support: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, rates: Tensor, second_order: bool
) -> tuple[Tensor, Tensor]:
    """The inner loop of one task as anyone would write it: class-balanced loss, autograd.grad, a step."""
    for rate in rates:
        per_class = [
            F.cross_entropy(support[labels == c] @ weight.T + bias, labels[labels == c]) for c in labels.unique()
        ]
        loss = torch.stack(per_class).mean()
        grads = torch.autograd.grad(loss, (weight, bias), create_graph=second_order)
        weight, bias = weight - rate * grads[0], bias - rate * grads[1]
    return weight, bias


def loop(p: dict[str, Tensor], second_order: bool = True, detach_support: bool = False) -> Head:
    """`plain_descent` of each task in turn."""
    support = p["support"].detach() if detach_support else p["support"]
    heads = [
        plain_descent(support[t], LABELS[t], p["weight"][t], p["bias"][t], p["rates"], second_order)
        for t in range(N_TASKS)
    ]
    return Head(torch.stack([w for w, _ in heads]), torch.stack([b for _, b in heads]))


def gradients(head: Head, p: dict[str, Tensor]) -> dict[str, Tensor]:
    names = list(p)
    found = torch.autograd.grad(query_loss(head, p["query"]), [p[n] for n in names], allow_unused=True)
    return {n: torch.zeros_like(p[n]) if g is None else g for n, g in zip(names, found, strict=True)}


# The steps


def test_batched_steps_equal_a_loop_over_tasks_in_value_and_second_order_gradient(problem: dict[str, Tensor]) -> None:
    ours = adapt_head(problem["support"], LABELS, Head(problem["weight"], problem["bias"]), problem["rates"])
    reference = loop(problem)
    torch.testing.assert_close(ours.weight, reference.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.bias, reference.bias, rtol=1e-8, atol=1e-10)
    expected = gradients(reference, problem)
    for name, gradient in gradients(ours, problem).items():
        assert float(expected[name].abs().max()) > 1e-3, name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_first_order_gradients_equal_those_of_a_loop_that_keeps_no_graph(problem: dict[str, Tensor]) -> None:
    head = Head(problem["weight"], problem["bias"])
    ours = adapt_head(problem["support"], LABELS, head, problem["rates"], first_order=True)
    reference = loop(problem, second_order=False, detach_support=True)
    torch.testing.assert_close(ours.weight, reference.weight, rtol=1e-8, atol=1e-10)
    expected, found = gradients(reference, problem), gradients(ours, problem)
    for name in ("weight", "bias", "rates", "query"):
        assert float(expected[name].abs().max()) > 1e-3, name
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert float(found["support"].abs().max()) == 0, "in first order no gradient reaches the support set"
    exact = gradients(loop(problem), problem)
    assert not torch.allclose(found["weight"], exact["weight"], rtol=1e-2), "first order is not second order"


def test_dual_descent_has_the_gradient_of_finite_differences() -> None:
    draw = seeded(1)
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=draw)
    gram = (x @ x.transpose(1, 2) + 1).requires_grad_()
    logits = torch.randn(2, 4, 3, dtype=torch.float64, generator=draw).requires_grad_()
    rates = torch.tensor([0.7, 1.1, 0.4], dtype=torch.float64, requires_grad=True)
    targets = F.one_hot(torch.tensor([[0, 1, 2, 2], [1, 1, 0, 2]]), 3).double()
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda g, z, r: _DualDescent.apply(g, z, targets, weights, r, False), (gram, logits, rates)
    )


@pytest.mark.parametrize("n_support", [3, 12])  # fewer and more examples than dimensions
def test_the_primal_way_takes_the_same_steps_as_the_dual(n_support: int) -> None:
    draw = seeded(2)
    support = torch.randn(2, n_support, DIM, dtype=torch.float64, generator=draw)
    labels = torch.arange(n_support).remainder(N_WAY).repeat(2, 1)
    head = Head(torch.randn(2, N_WAY, DIM, dtype=torch.float64, generator=draw), torch.zeros(2, N_WAY).double())
    rates = torch.tensor([0.9, 0.5, 1.3], dtype=torch.float64)
    with torch.enable_grad():
        dual = adapt_head(support, labels, head, rates)
    with torch.no_grad():
        other = adapt_head(support, labels, head, rates)
    with torch.inference_mode():
        third = adapt_head(support, labels, head, rates, first_order=True)
    for found in (other, third):
        torch.testing.assert_close(found.weight, dual.weight, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found.bias, dual.bias, rtol=1e-7, atol=1e-9)


def test_tasks_of_a_batch_do_not_touch_each_other(problem: dict[str, Tensor]) -> None:
    head = Head(problem["weight"], problem["bias"])
    together = adapt_head(problem["support"], LABELS, head, problem["rates"])
    for task in range(N_TASKS):
        one = slice(task, task + 1)
        alone = adapt_head(
            problem["support"][one], LABELS[one], Head(head.weight[one], head.bias[one]), problem["rates"]
        )
        torch.testing.assert_close(together.weight[one], alone.weight)
        torch.testing.assert_close(together.bias[one], alone.bias)


def test_steps_lower_the_support_loss_and_no_steps_leave_the_head(problem: dict[str, Tensor]) -> None:
    head = Head(problem["weight"], problem["bias"])
    assert adapt_head(problem["support"], LABELS, head, torch.zeros(0)) is head

    def loss(found: Head) -> float:
        return F.cross_entropy(found.logits(problem["support"]).flatten(0, 1), LABELS.flatten()).item()

    losses = [loss(adapt_head(problem["support"], LABELS, head, torch.full((n,), 0.3))) for n in (0, 1, 5, 50)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]


# Pieces


def test_balanced_weights_by_hand() -> None:
    weights = balanced_weights(torch.tensor([[0, 0, 0, 1], [2, 2, 1, 0]]), 3)
    expected = torch.tensor([[1 / 6, 1 / 6, 1 / 6, 1 / 2], [1 / 6, 1 / 6, 1 / 3, 1 / 3]])
    torch.testing.assert_close(weights, expected)


def test_prototypes_by_hand_and_the_centroid_head_picks_the_nearest_mean() -> None:
    support = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [0.0, 5.0]]])
    means, counts = prototypes(support, torch.tensor([[0, 0, 2]]), 3)
    assert means[0].tolist() == [[2.0, 1.0], [0.0, 0.0], [0.0, 5.0]] and counts.tolist() == [[2.0, 0.0, 1.0]]
    means = torch.randn(2, 4, 3, generator=seeded(3))
    points = torch.randn(2, 50, 3, generator=seeded(4))
    nearest = torch.cdist(points, means).argmin(2)
    assert torch.equal(centroid_head(means).logits(points).argmax(2), nearest)


def test_logits_by_hand() -> None:
    head = Head(torch.tensor([[[1.0, 2.0], [0.0, -1.0]]]), torch.tensor([[0.5, -0.5]]))
    assert head.logits(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[11.5, -4.5]]]


# Where θ starts


@pytest.fixture
def learner() -> Iterator[MetaLearner]:
    found = MetaLearner(attach(tiny_encoder(size=2)), 2, ("a", "b", "m", "s"), "previous", 2, 0.5)
    with torch.no_grad():
        found.theta.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [4.0, 4.0]]))
        found.theta_bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
        found.log_prior.copy_(torch.tensor([2.0, 0.5]).log())
    found.met.copy_(torch.tensor([True, True, False, True]))
    return found


SUPPORT = torch.tensor([[[2.0, 0.0], [0.0, 4.0], [0.0, 2.0]]])  # class 0 once, class 1 twice: means (2, 0), (0, 3)
SUPPORT_LABELS = torch.tensor([[0, 1, 1]])


def test_theta_init_previous_takes_the_rows_of_the_phonemes_in_the_order_of_the_classes(learner: MetaLearner) -> None:
    head = learner.initial_head(SUPPORT, SUPPORT_LABELS, torch.tensor([[2, 0]]))
    assert head.weight.tolist() == [[[-1.0, 1.0], [1.0, 0.0]]]
    torch.testing.assert_close(head.bias, torch.tensor([[0.3, 0.1]]))


def test_theta_init_random_is_small_follows_the_generator_and_ignores_theta(learner: MetaLearner) -> None:
    learner.theta_init = "random"
    classes = torch.tensor([[2, 0], [1, 3]])
    support, labels = SUPPORT.repeat(2, 1, 1), SUPPORT_LABELS.repeat(2, 1)
    one, same, other = (learner.initial_head(support, labels, classes, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one.weight, same.weight) and not torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight[0], one.weight[1])
    assert 0 < float(one.weight.abs().max()) < 0.1 and not bool(one.bias.any())


def test_theta_init_prototype_is_the_head_of_the_nearest_class_mean(learner: MetaLearner) -> None:
    learner.theta_init = "prototype"
    head = learner.initial_head(SUPPORT, SUPPORT_LABELS, torch.tensor([[2, 0]]))
    assert head.weight.tolist() == [[[2.0, 0.0], [0.0, 3.0]]]
    torch.testing.assert_close(head.bias, torch.tensor([[-2.0, -4.5]]))


def test_theta_init_posterior_weighs_theta_and_examples(learner: MetaLearner) -> None:
    learner.theta_init = "posterior"
    head = learner.initial_head(SUPPORT, SUPPORT_LABELS, torch.tensor([[2, 1]]))
    # Phoneme 2 was not met: its row (-1, 1) counts half an example beside one at (2, 0).
    # Phoneme 1 was met: its row (0, 2) counts two examples beside two of mean (0, 3).
    expected = torch.tensor([[(0.5 * -1 + 2) / 1.5, (0.5 * 1 + 0) / 1.5], [0.0, (2 * 2 + 2 * 3) / 4]])
    torch.testing.assert_close(head.weight[0], expected)
    torch.testing.assert_close(head.bias[0], -0.5 * expected.square().sum(1))
    heavier = learner.initial_head(SUPPORT, SUPPORT_LABELS, torch.tensor([[2, 1]]), prior=10.0)
    torch.testing.assert_close(heavier.weight[0, 1], torch.tensor([0.0, (20 * 2 + 2 * 3) / 22]))


@pytest.mark.parametrize("theta_init", ROWS_ARE_MEANS)
def test_a_guessed_phoneme_is_treated_as_never_met(learner: MetaLearner, theta_init: str) -> None:
    learner.theta_init = theta_init
    learner.guess = 0.5 * torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    guessed = torch.tensor([[False, True]])
    head = learner.initial_head(SUPPORT, SUPPORT_LABELS, torch.tensor([[0, 1]]), guessed=guessed)
    # Phoneme 1 is guessed from 0 and 3: the row ((1, 0) + (4, 4)) / 2 counts half an example beside two of mean (0, 3).
    expected = torch.tensor([[(2 * 1 + 2) / 3, 0.0], [0.5 * 2.5 / 2.5, (0.5 * 2 + 2 * 3) / 2.5]])
    torch.testing.assert_close(head.weight[0], expected)


@pytest.mark.parametrize("theta_init", THETA_INITS)
def test_adapt_is_the_start_and_then_the_steps(learner: MetaLearner, theta_init: str) -> None:
    learner.theta_init = theta_init
    classes = torch.tensor([[2, 0]])
    start = learner.initial_head(SUPPORT, SUPPORT_LABELS, classes, seeded(0))
    expected = adapt_head(SUPPORT, SUPPORT_LABELS, start, torch.tensor([0.5, 0.5]))
    found = learner.adapt(SUPPORT, SUPPORT_LABELS, classes, generator=seeded(0))
    torch.testing.assert_close(found.weight, expected.weight)
    assert not torch.allclose(found.weight, start.weight)


# The learner


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_the_exact_set_of_trainable_tensors(granularity: str) -> None:
    learner = tiny_learner(toy_store(), granularity=granularity)
    layers = ["stem.conv", "down.conv", "blocks.0.first.conv", "blocks.0.second.conv", "embedding"]
    phi = {f"encoder.{layer}.{key}" for layer in layers for key in ("scale", "shift")}
    assert phi_names(learner) == phi
    trainable = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert trainable == phi | {"theta", "theta_bias", "log_rates", "log_scale", "log_prior"}
    frozen = {name for name, p in learner.named_parameters() if not p.requires_grad}
    assert frozen == {f"encoder.{layer}.layer.{key}" for layer in layers for key in ("weight", "bias")}


def test_embeddings_are_centred_whitened_and_scaled(learner: MetaLearner) -> None:
    learner.centre.copy_(torch.tensor([1.0, -1.0]))
    learner.whitener.copy_(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    with torch.no_grad():
        learner.log_scale.fill_(math.log(10.0))
    expected = [[[(3 - 1) * 2 * 10.0, ((3 - 1) * 1 + (1 + 1) * 3) * 10.0]]]
    torch.testing.assert_close(learner.standardise(torch.tensor([[[3.0, 1.0]]])), torch.tensor(expected))
    store = toy_store()
    windows, spans = store.windows(torch.arange(3))
    torch.testing.assert_close(learner.embed(windows, spans), learner.standardise(learner.encoder(windows, spans)))
    torch.testing.assert_close(learner.rates, torch.tensor([0.5, 0.5]))


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(UsageError, match="'zero' is unknown; choose one of previous, random, prototype, posterior"):
        MetaLearner(attach(tiny_encoder()), 12, ("a",), "zero")
