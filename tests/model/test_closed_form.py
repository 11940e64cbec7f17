"""The closed-form start against scikit-learn's discriminant analysis, and what must not matter to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from mtl_speech.model import closed_form
from mtl_speech.model.closed_form import class_averages, class_numbers, discriminant, standardise_embeddings
from tests.helpers import seeded, tiny_learner, toy_store

N_CLASSES = 7


def generated(n: int, size: int, seed: int = 0, n_classes: int = N_CLASSES) -> tuple[Tensor, Tensor]:
    """Embeddings (n, size) with unequal variances and correlated dimensions, of classes (n,) of unequal numbers, each met."""
    draw = seeded(seed)
    share = torch.arange(1.0, n_classes + 1)
    drawn = torch.multinomial(share, n - n_classes, replacement=True, generator=draw)
    classes = torch.cat((torch.arange(n_classes), drawn))
    mixing = torch.randn(size, size, generator=draw) * torch.linspace(0.2, 2.0, size)
    means = 2.0 * torch.randn(n_classes, size, generator=draw)
    return 5.0 + means[classes] + torch.randn(n, size, generator=draw) @ mixing, classes


def spans_equal(one: Tensor, other: Tensor) -> None:
    """Two projections (size, dim) are the same but for the signs of their columns."""
    signs = torch.sign((one * other).sum(0))
    torch.testing.assert_close(one * signs, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def within(z: Tensor, classes: Tensor) -> Tensor:
    """The covariance within classes, (dim, dim)."""
    means, _ = class_averages(z, classes)
    deviations = z.double() - means[classes]
    return deviations.T @ deviations / len(z)


@pytest.mark.parametrize("size", [5, 20])
@pytest.mark.parametrize("dim", [2, 4])
def test_without_shrinkage_it_is_the_discriminant_of_scikit_learn(size: int, dim: int) -> None:
    embeddings, classes = generated(900, size)
    found = discriminant(embeddings, classes, dim, 0.0)
    theirs = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.0, n_components=dim)
    z = theirs.fit_transform(embeddings.double().numpy(), classes.numpy())
    z -= z.mean(0)  # theirs is not centred
    ours = found.apply(embeddings).numpy()
    signs = np.sign((ours * z).sum(0))
    np.testing.assert_allclose(ours * signs, z, rtol=0, atol=2e-3 * np.abs(z).max())
    torch.testing.assert_close(within(found.apply(embeddings), classes), torch.eye(dim).double(), rtol=0, atol=2e-3)


def test_its_predictions_are_those_of_scikit_learn() -> None:
    """The nearest class mean, where all classes are equally frequent."""
    embeddings, classes = generated(600, 12)
    tested, _ = generated(300, 12, seed=5)
    even = np.full(N_CLASSES, 1 / N_CLASSES)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.0, priors=even)
    counts = torch.bincount(classes)
    rows = torch.cat([torch.nonzero(classes == k).squeeze(1)[: int(counts.min())] for k in range(N_CLASSES)])
    assert len(rows) > 2 * 12
    some, own = embeddings[rows], classes[rows]
    found = discriminant(some, own, N_CLASSES - 1, 0.0)
    means, _ = class_averages(found.apply(some), own)
    predicted = torch.cdist(found.apply(tested).double(), means).argmin(1)
    expected = theirs.fit(some.double().numpy(), own.numpy()).predict(tested.double().numpy())
    assert float((predicted.numpy() == expected).mean()) > 0.99 and len(set(expected.tolist())) == N_CLASSES


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_few_segments_and_many_give_the_same(shrinkage: float) -> None:
    """Each segment twice is the same data; once there are more segments than dimensions, and once there are not."""
    embeddings, classes = generated(40, 50)
    few = discriminant(embeddings, classes, 4, shrinkage)
    many = discriminant(embeddings.repeat(2, 1), classes.repeat(2), 4, shrinkage)
    torch.testing.assert_close(few.centre, many.centre)
    if shrinkage:
        spans_equal(few.whitener, many.whitener)
    else:  # what no segment tells of is as good as infinitely wide: where they are, both tell the same
        spans_equal(few.apply(embeddings), many.apply(embeddings))


def test_nothing_is_computed_in_more_dimensions_than_there_are_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, eigh = [], torch.linalg.eigh

    def watched(matrix: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(len(matrix))
        found: tuple[Tensor, Tensor] = eigh(matrix)
        return found

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    discriminant(*generated(40, 3_000), dim=4, shrinkage=0.3)
    assert max(shapes) == 40 + N_CLASSES  # the segments, and the means of their classes
    shapes.clear()
    discriminant(*generated(400, 50), dim=4, shrinkage=0.3)
    assert max(shapes) == 50


@pytest.mark.parametrize(("n", "size"), [(500, 30), (25, 30), (500, 4)])
def test_classes_differ_in_one_direction_less_than_there_are(n: int, size: int) -> None:
    """Further directions are of the variance within classes, held back, and tell no class from another."""
    embeddings, classes = generated(n, size)
    found, rank = discriminant(embeddings, classes, 10, 0.3), min(N_CLASSES - 1, size)
    assert found.whitener.shape == (size, 10)
    assert found.whitener.any(0).tolist() == [True] * min(10, size) + [False] * max(0, 10 - size)
    z = found.apply(embeddings)
    means, _ = class_averages(z, classes)
    assert float(means[:, :rank].var(0).min()) > 0.05
    torch.testing.assert_close(means[:, rank:], torch.zeros(N_CLASSES, 10 - rank).double(), rtol=0, atol=1e-4)
    if rank < size:
        spread = z[:, rank:].var(0)
        torch.testing.assert_close(spread, spread.sort(descending=True).values)
        full = float(spread[0]) * closed_form.HOLD_BACK
        assert 0.2 < full < 2.0, "their variance is that of whitened embeddings, divided by HOLD_BACK"
    fewer = discriminant(embeddings, classes, 3, 0.3)
    torch.testing.assert_close(fewer.whitener, found.whitener[:, :3])


def test_the_directions_are_those_in_which_classes_differ_most() -> None:
    embeddings, classes = generated(900, 12)
    found = discriminant(embeddings, classes, N_CLASSES - 1, 0.0)
    means, counts = class_averages(found.apply(embeddings), classes)
    spread = (counts.unsqueeze(1) * means.square()).sum(0)
    assert torch.equal(spread, spread.sort(descending=True).values) and float(spread[0] / spread[-1]) > 2


def test_one_class_or_one_segment_is_no_fault() -> None:
    """Columns that nothing speaks for are zero: what rounding leaves is no direction."""
    embeddings, _ = generated(30, 6)
    for rows, classes, n_columns in ((30, torch.zeros(30), 4), (1, torch.zeros(1), 0), (2, torch.arange(2), 1)):
        found = discriminant(embeddings[:rows], classes.long(), 4, 0.3)
        assert bool(torch.isfinite(found.whitener).all()) and found.whitener.shape == (6, 4)
        assert int(found.whitener.any(0).sum()) == n_columns


@pytest.mark.parametrize("n", [25, 400])
def test_a_gain_and_an_offset_of_the_embeddings_cancel(n: int) -> None:
    embeddings, classes = generated(n, 30)
    before = discriminant(embeddings, classes, 5, 0.3).apply(embeddings)
    for gain, offset in ((100.0, 0.0), (0.01, 0.0), (1.0, 7.0)):
        moved = gain * embeddings + offset
        spans_equal(discriminant(moved, classes, 5, 0.3).apply(moved), before)


def test_the_order_and_the_blocks_of_segments_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, classes = generated(300, 20)
    expected = discriminant(embeddings, classes, 5, 0.3)
    order, names = torch.randperm(300, generator=seeded(1)), torch.randperm(N_CLASSES, generator=seeded(2))
    monkeypatch.setattr(closed_form, "AT_ONCE", 64)
    found = discriminant(embeddings[order], names[classes[order]], 5, 0.3)
    torch.testing.assert_close(found.centre, expected.centre)
    spans_equal(found.whitener, expected.whitener)


def test_class_averages_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
    means, counts = class_averages(values, torch.tensor([0, 0, 2]))
    assert means.tolist() == [[2.0, 3.0], [0.0, 0.0], [10.0, 0.0]] and counts.tolist() == [2.0, 0.0, 1.0]


def test_a_class_is_a_phoneme_of_a_language() -> None:
    store = toy_store(n_languages=2, n_phonemes=6)
    found = class_numbers(store)
    assert sorted(found.unique().tolist()) == list(range(12))
    pairs = {(int(c), int(k), int(p)) for c, k, p in zip(found, store.language, store.label, strict=True)}
    assert len(pairs) == 12


def test_a_strategy_standardises_by_the_discriminant_at_norm_one() -> None:
    store = toy_store(n_languages=2, n_utterances=20)
    learner = tiny_learner(store)
    embeddings = 3 + torch.randn(len(store), 12, generator=seeded(6)) * torch.linspace(1, 5, 12)
    embeddings += 2 * torch.randn(12, 12, generator=seeded(7))[store.label]
    standardise_embeddings(learner, store, embeddings, 0.2)
    found = discriminant(embeddings, class_numbers(store), 12, 0.2)
    assert torch.equal(learner.whitener, found.whitener.half().float())  # as a pack holds it
    assert torch.equal(learner.centre, found.centre)
    z = learner.standardise(embeddings).detach()
    assert float(z.square().sum(1).mean()) == pytest.approx(1, rel=1e-3)
