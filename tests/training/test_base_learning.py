"""Base learning of an inventory: plain steps, chosen by recordings held out of the training examples alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.model.learner import Head, MetaLearner, adapt_head
from mtl_speech.model.scale_shift import attach
from mtl_speech.training import base_learning
from mtl_speech.training.base_learning import (
    N_FOLDS,
    PRIOR_CHOICES,
    RATE_CHOICES,
    STRATEGY_EXAMPLES,
    Examples,
    StepChoice,
    choose_steps,
    extended_rates,
    fit_temperature,
    held_out_logits,
    learn_head,
    own_metric,
)
from tests.helpers import seeded, tiny_encoder

DIM, N_CLASSES = 12, 4
ROWS = torch.tensor([3, 0, 1, 2])


def plain_learner(theta_init: str = "posterior", steps: int = 3, rate: float = 0.3) -> MetaLearner:
    learner = MetaLearner(attach(tiny_encoder()), DIM, ("a", "b", "m", "s", "t"), theta_init, steps, rate)
    with torch.no_grad():
        learner.theta.copy_(torch.randn(5, DIM, generator=seeded(0)))
        learner.log_rates.add_(torch.linspace(-0.5, 0.5, steps))
    learner.met[:] = True
    return learner


def examples(n_recordings: int, separable: float, learner: MetaLearner, seed: int = 0) -> Examples:
    """Each class twice in each recording. The two are alike; recordings are not."""
    draw = seeded(100 + seed)
    centres = torch.randn(N_CLASSES, DIM, generator=draw)
    labels = torch.arange(N_CLASSES).repeat(2 * n_recordings)
    groups = torch.arange(n_recordings).repeat_interleave(2 * N_CLASSES) * 7 + 3  # numbers with gaps
    here = torch.randn(n_recordings, N_CLASSES, DIM, generator=draw)
    z = separable * centres[labels] + here[(groups - 3) // 7, labels]
    z += 0.01 * torch.randn(z.shape, generator=draw)
    return Examples(learner, z, labels, groups, ROWS)


# Steps


def test_rates_go_on_with_the_last_one() -> None:
    rates = torch.tensor([0.5, 0.4, 0.3])
    assert extended_rates(rates, 2).tolist() == pytest.approx([0.5, 0.4])
    assert extended_rates(rates, 5, 2.0).tolist() == pytest.approx([1.0, 0.8, 0.6, 0.6, 0.6])
    assert len(extended_rates(rates, 0)) == 0
    assert extended_rates(torch.zeros(0), 2, 3.0).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("theta_init", ["previous", "prototype"])
def test_learning_a_head_is_gradient_descent_on_the_balanced_loss(theta_init: str) -> None:
    learner = plain_learner(theta_init)
    given = examples(3, 1.0, learner)
    given = given.select(torch.arange(len(given.z)) % 3 != 0)  # classes of unequal size
    z, labels = given.z, given.labels
    found = learn_head(given, StepChoice(5, 2.0))
    start = learner.initial_head(z[None], labels[None], ROWS[None])
    weight, bias = (t[0].detach().requires_grad_() for t in (start.weight, start.bias))
    for rate in [2 * r for r in (*learner.rates.tolist(), learner.rates[-1].item(), learner.rates[-1].item())]:
        per_class = [F.cross_entropy(z[labels == c] @ weight.T + bias, labels[labels == c]) for c in range(N_CLASSES)]
        grads = torch.autograd.grad(torch.stack(per_class).mean(), (weight, bias))
        weight = (weight - rate * grads[0]).detach().requires_grad_()
        bias = (bias - rate * grads[1]).detach().requires_grad_()
    torch.testing.assert_close(found.weight[0], weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.bias[0], bias.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.weight, start.weight, rtol=0, atol=1e-4)
    assert not found.weight.requires_grad


@pytest.mark.parametrize("n_recordings", [1, 4])  # fewer and more examples than dimensions
def test_learning_in_legs_and_together_is_learning_at_one_go_and_alone(n_recordings: int) -> None:
    learner = plain_learner("previous")
    given = examples(n_recordings, 1.0, learner)
    stops = (0, 2, 5, 20)
    choices = (StepChoice(0, 3.0), StepChoice(0, 1.0))
    legs = base_learning._trajectories(given, choices, stops)
    for steps, head in zip(stops, legs, strict=True):
        for number, choice in enumerate(choices):
            whole = learn_head(given, replace(choice, steps=steps))
            torch.testing.assert_close(head.weight[number], whole.weight[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(head.bias[number], whole.bias[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_recordings", [1, 4])
def test_the_steps_are_those_of_the_meta_learner(n_recordings: int) -> None:
    learner = plain_learner()
    given = examples(n_recordings, 1.0, learner)
    z, labels = given.z, given.labels
    start = learner.initial_head(z[None], labels[None], ROWS[None])
    rates = base_learning.extended_rates(learner.rates, 9, 3.0).detach()
    with torch.no_grad():
        theirs = adapt_head(z[None], labels[None], start, rates)
        ours = base_learning._descend(z, labels, start, rates[:, None])
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 31])  # of 32 examples
def test_examples_taken_in_parts_are_learned_as_at_one_go(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    given = examples(4, 0.5, plain_learner("previous"))
    whole, choice = learn_head(given, StepChoice(20)), choose_steps(given)
    monkeypatch.setattr(base_learning, "AT_ONCE", at_once)
    parts, same = learn_head(given, StepChoice(20)), choose_steps(given)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=1e-4, atol=1e-5)
    assert same.steps == choice.steps and same.macro_f1 == pytest.approx(choice.macro_f1)


# In closed form


def metric_by_hand(given: Examples) -> Tensor:
    """The inverse of the covariance within classes, which the strategy's counts in: (DIM, DIM) in double precision."""
    classes = [given.z[given.labels == c].double() for c in range(N_CLASSES)]
    scatter = torch.stack([(each - each.mean(0)).T @ (each - each.mean(0)) for each in classes]).sum(0)
    free = sum(len(each) - 1 for each in classes)
    variance = given.learner.log_scale.exp().double().square()
    mixed = (STRATEGY_EXAMPLES * variance * torch.eye(DIM).double() + scatter) / (STRATEGY_EXAMPLES + free)
    return (variance * torch.linalg.inv(mixed)).detach()


def scaled_learner() -> MetaLearner:
    learner = plain_learner()
    with torch.no_grad():
        learner.log_scale.fill_(math.log(3.0))
    return learner


def test_a_language_has_its_own_metric_as_far_as_its_examples_reach() -> None:
    given = examples(9, 1.0, scaled_learner())
    given = given.select(torch.arange(len(given.z)) % 5 != 0)  # classes of unequal size
    given.z[:, 3:] *= 2.0
    given.z[:, 7:] = 0.0  # directions that the strategy has cut away
    found = own_metric(given).double()
    torch.testing.assert_close(found, metric_by_hand(given), rtol=1e-4, atol=1e-5)
    assert bool((torch.linalg.eigvalsh(found) > 0).all())


def test_one_example_a_phoneme_tells_nothing_of_the_metric() -> None:
    given = examples(2, 1.0, scaled_learner())
    torch.testing.assert_close(own_metric(given.select(torch.arange(N_CLASSES))), torch.eye(DIM))
    assert not torch.allclose(own_metric(given), torch.eye(DIM), atol=1e-3)


def test_rows_that_are_means_give_the_nearest_mean_with_the_strategy_as_the_prior() -> None:
    given = examples(5, 1.0, scaled_learner())
    given = given.select(torch.arange(len(given.z)) % 3 != 0)
    learner, choice = given.learner, StepChoice(0, 1.0, 0.5)
    with torch.no_grad():
        learner.log_prior.copy_(torch.tensor([2.0, 0.6]).log())
    head, metric = learn_head(given, choice), metric_by_hand(given)
    assert not head.weight.requires_grad
    means = []
    for c in range(N_CLASSES):
        own = given.z[given.labels == c]
        means.append((own.sum(0) + 0.5 * 2.0 * learner.theta[ROWS[c]].detach()) / (len(own) + 0.5 * 2.0))
    points = torch.randn(20, DIM, generator=seeded(1)).double()
    apart = points[:, None] - torch.stack(means).double()
    distances = torch.einsum("nci,ij,ncj->nc", apart, metric, apart)
    logits = head.logits(points[None].float())[0].double()
    expected = torch.log_softmax(-0.5 * distances, 1)
    torch.testing.assert_close(torch.log_softmax(logits, 1), expected, rtol=1e-3, atol=1e-3)
    legs = base_learning._trajectories(given, [choice], (0, 5))
    assert all(torch.equal(each.weight, head.weight) and torch.equal(each.bias, head.bias) for each in legs)


# The choice


def test_the_score_of_a_choice_is_cross_validated_by_recording() -> None:
    """Within a recording the two examples of a class are alike, across recordings they have nothing in common: whoever divides
    a recording, or scores what was learned from, gets a macro-F1 of 1. By recordings it is chance."""
    choice = choose_steps(examples(30, 0.0, plain_learner("random")))
    assert 0.05 < choice.macro_f1 < 0.45
    assert choose_steps(examples(30, 3.0, plain_learner("random"))).macro_f1 > 0.9


def test_no_head_sees_a_recording_that_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(7, 1.0, plain_learner())
    given.z[:, 0] = given.recordings  # so that an example tells its recording
    learned: list[set[float]] = []
    predicted: list[set[float]] = []
    trajectory, logits = base_learning._trajectories, Head.logits

    def spied(examples: Examples, *rest: object) -> object:
        learned.append(set(examples.z[:, 0].tolist()))
        predicted.append(set())
        return trajectory(examples, *rest)  # type: ignore[arg-type]

    def spied_logits(self: Head, embeddings: Tensor) -> Tensor:
        predicted[-1] |= set(embeddings[0, :, 0].tolist())
        return logits(self, embeddings)

    monkeypatch.setattr(base_learning, "_trajectories", spied)
    monkeypatch.setattr(base_learning, "_descend", lambda z, labels, head, rates: head)
    monkeypatch.setattr(Head, "logits", spied_logits)
    choose_steps(given)
    everything = set(given.recordings.unique().tolist())
    assert learned and all(known | held == everything for known, held in zip(learned, predicted, strict=True))
    assert all(not known & held for known, held in zip(learned, predicted, strict=True))
    assert set().union(*predicted) == everything
    assert len({frozenset(held) for held in predicted}) == N_FOLDS


def by_hand(given: Examples, choice: StepChoice) -> float:
    """Macro-F1 of a choice, where each recording is a fold, from the definition."""
    z, labels, fold = given.z, given.labels, given.recordings
    predicted = torch.full_like(labels, -1)
    for k in fold.unique():
        head = learn_head(given.select(fold != k), choice)
        predicted[fold == k] = head.logits(z[fold == k][None])[0].argmax(1)
    f1 = []
    for c in range(N_CLASSES):
        hits = int(((predicted == c) & (labels == c)).sum())
        f1.append(2 * hits / int((predicted == c).sum() + (labels == c).sum()))
    return float(np.mean(f1))


@pytest.mark.parametrize(
    ("theta_init", "steps", "rates", "priors"),
    [("posterior", (0,), (1.0,), PRIOR_CHOICES), ("prototype", (0, 2, 12), RATE_CHOICES, (1.0,))],
)
def test_the_best_of_all_choices_is_taken_and_of_equals_the_shortest_and_slowest(
    monkeypatch: pytest.MonkeyPatch,
    theta_init: str,
    steps: tuple[int, ...],
    rates: tuple[float, ...],
    priors: tuple[float, ...],
) -> None:
    monkeypatch.setattr(base_learning, "STEP_CHOICES", (0, 2, 12))
    learner = plain_learner(theta_init)
    for seed, separable in ((0, 0.7), (1, 0.7), (2, 3.0)):
        given = replace(
            examples(N_FOLDS, separable, learner, seed), seed=seed
        )  # one recording a fold: the folds are known
        choice = choose_steps(given)
        scores = {
            (n, rate, -prior): by_hand(given, StepChoice(n, rate, prior))
            for n in steps
            for rate in rates
            for prior in priors
        }
        best = max(scores.values())
        assert choice.macro_f1 == pytest.approx(best)
        assert (choice.steps, choice.rate, -choice.prior) == min(k for k, score in scores.items() if score == best)


def test_of_many_examples_one_fold_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(12, 1.0, plain_learner())
    monkeypatch.setattr(base_learning, "ENOUGH", len(given.z))
    labels, fold = given.labels, given.folds()
    assert fold is not None
    choice = choose_steps(given)
    logits = held_out_logits(given, fold, choice, [0])
    assert bool((torch.isinf(logits).all(1) == (fold != 0)).all())
    assert choice.temperature == fit_temperature(logits, labels)
    first = fold == 0
    f1 = [
        2
        * int(((logits.argmax(1) == c) & (labels == c) & first).sum())
        / int(((logits.argmax(1) == c) & first).sum() + ((labels == c) & first).sum())
        for c in range(N_CLASSES)
    ]
    assert choice.macro_f1 == pytest.approx(float(np.mean(f1)))


def test_a_head_from_scratch_takes_steps_and_a_good_start_may_do_without() -> None:
    assert choose_steps(examples(9, 3.0, plain_learner("random"))).steps > 0
    choice = choose_steps(examples(9, 3.0, plain_learner("prototype")))
    assert choice.steps == 0
    # The weight of the prior is a choice only where there is a prior.
    assert choice.prior == 1.0


def test_classes_that_a_fold_cannot_learn_are_not_predicted_in_it() -> None:
    learner = plain_learner("previous")
    given = examples(6, 3.0, learner)
    only = given.labels == 3
    given.z[only], given.recordings[only] = (
        given.z[only].flip(0),
        given.recordings.min(),
    )  # class 3 lies in one recording
    with torch.no_grad():
        learner.theta_bias[ROWS[3]] = 1e3  # it would always win
    choice = choose_steps(given)
    assert choice.macro_f1 > 0.5


@pytest.mark.parametrize(("theta_init", "steps"), [("posterior", 0), ("previous", 3)])
def test_without_enough_to_choose_by_what_is_learned_stands(theta_init: str, steps: int) -> None:
    given = examples(N_FOLDS - 1, 3.0, plain_learner(theta_init, steps=3))
    choice = choose_steps(given)
    assert (choice.steps, choice.rate, choice.prior) == (steps, 1.0, 1.0) and math.isnan(choice.macro_f1)
    one_each = torch.arange(N_CLASSES)  # each class once, in a recording of its own: never learned when held out
    choice = choose_steps(replace(given, z=given.z[:N_CLASSES], labels=one_each, recordings=one_each))
    assert (choice.steps, choice.rate, choice.prior) == (steps, 1.0, 1.0) and math.isnan(choice.macro_f1)


def test_the_same_seed_gives_the_same_choice_and_head() -> None:
    given = examples(8, 0.5, plain_learner("random"))
    state = torch.random.get_rng_state()
    one, same = (choose_steps(replace(given, seed=4)) for _ in range(2))
    assert one == same
    heads = [learn_head(replace(given, seed=seed), one) for seed in (4, 4, 5)]
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator moved"


# The temperature


def test_the_temperature_is_that_of_the_draw() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(20_000, 5, generator=draw)
    labels = torch.multinomial(torch.softmax(logits / 2.5, 1), 1, generator=draw).squeeze(1)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)
    logits[torch.arange(10), labels[:10]] = -torch.inf  # not learned: they do not count
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(torch.full((3, 2), -torch.inf), torch.tensor([0, 1, 0])) == 1.0
    one_right = fit_temperature(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert 0.8 < one_right < 1.0  # alone it would be 0


def test_held_out_logits_know_nothing_of_their_fold() -> None:
    """Changing the labels of one fold changes the logits of the others alone."""
    given = examples(6, 1.0, plain_learner())
    fold = given.folds()
    assert fold is not None
    first = held_out_logits(given, fold, StepChoice(5))
    changed = torch.where(fold == 1, (given.labels + 1) % len(ROWS), given.labels)
    second = held_out_logits(replace(given, labels=changed), fold, StepChoice(5))
    assert torch.equal(first[fold == 1], second[fold == 1])
    assert not torch.equal(first[fold != 1], second[fold != 1])
