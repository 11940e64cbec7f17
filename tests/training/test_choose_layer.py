"""The layer of an encoder: chosen on training examples alone, recording by recording, in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mtl_speech.features.store import Heard, SegmentStore
from mtl_speech.training import base_learning
from mtl_speech.training.base_learning import N_FOLDS, choose_layer
from tests.helpers import make_store, meta_config, seeded, tiny_base

BASE, CONFIG = tiny_base(), meta_config()
SIZE, N_CLASSES = 6, 3


def heard(n_recordings: int, **layers: Tensor | None) -> SegmentStore:
    """Recordings that hold each class twice, with the embeddings of layers 1, 2, ...: noise where none are given."""
    store = make_store([[0, 1, 2] * 2] * n_recordings)
    found = {
        number: torch.randn(len(store), SIZE, generator=seeded(number)) if values is None else values
        for number, values in enumerate(layers.values(), 1)
    }
    return replace(store, heard=Heard(BASE.encoder.fingerprint, found))


def separable(n_recordings: int, seed: int = 0) -> Tensor:
    """Embeddings that lie near the mean of their class."""
    labels = torch.arange(N_CLASSES).repeat(2 * n_recordings)
    centres = 4.0 * torch.randn(N_CLASSES, SIZE, generator=seeded(seed))
    return centres[labels] + torch.randn(len(labels), SIZE, generator=seeded(seed + 1))


def of_the_recording(n_recordings: int) -> Tensor:
    """Embeddings that are alike for a class within a recording, and have nothing in common across recordings."""
    each = 4.0 * torch.randn(n_recordings, N_CLASSES, SIZE, generator=seeded(8))
    return each.repeat(1, 2, 1).flatten(0, 1) + 0.01 * torch.randn(6 * n_recordings, SIZE, generator=seeded(9))


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_layer_that_tells_the_classes_apart_is_chosen(best: int) -> None:
    values = {f"layer_{number}": separable(9) if number == best else None for number in (1, 2, 3)}
    assert choose_layer(BASE, heard(9, **values), CONFIG) == best


def test_no_recording_is_on_both_sides_of_the_choice() -> None:
    """Whoever divides recordings finds the first layer perfect."""
    store = heard(9, alike=of_the_recording(9), better=separable(9))
    assert choose_layer(BASE, store, CONFIG) == 2


def test_of_equal_layers_the_lowest_is_chosen() -> None:
    same = separable(6)
    assert choose_layer(BASE, heard(6, noise=None, one=same, other=same), CONFIG) == 2


def test_with_nothing_to_choose_by_it_is_the_layer_in_the_middle() -> None:
    few = N_FOLDS - 1
    assert choose_layer(BASE, heard(few, one=separable(few), two=None, three=None), CONFIG) == 2


def test_examples_that_were_not_selected_have_no_say() -> None:
    """A fold's training examples choose: what the others would like does not matter."""
    n = 12
    first, second = separable(n), separable(n, 5)
    rows = torch.arange(6 * n) < 3 * n
    noise = torch.randn(6 * n, SIZE, generator=seeded(3))
    one, two = (torch.where(mask.unsqueeze(1), values, noise) for mask, values in ((rows, first), (~rows, second)))
    store = heard(n, one=one, two=two)
    assert choose_layer(BASE, store.select(rows), CONFIG) == 1
    assert choose_layer(BASE, store.select(~rows), CONFIG) == 2


def test_some_examples_tell_enough_and_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    closed_form = base_learning._closed_form_f1

    def counted(embeddings: Tensor, *rest: object) -> float:
        sizes.append(len(embeddings))
        return closed_form(embeddings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(base_learning, "LAYER_EXAMPLES", 40)
    monkeypatch.setattr(base_learning, "_closed_form_f1", counted)
    store = heard(12, noise=None, good=separable(12))
    assert choose_layer(BASE, store, CONFIG) == 2 and sizes == [40, 40]
    assert choose_layer(BASE, store, CONFIG, seed=1) == choose_layer(BASE, store, CONFIG, seed=1)


def test_examples_of_another_encoder_are_refused() -> None:
    store = heard(3, one=None, two=None)
    assert store.heard is not None
    with pytest.raises(ValueError, match="no embeddings of this encoder"):
        choose_layer(BASE, replace(store, heard=None), CONFIG)
    with pytest.raises(ValueError, match="no embeddings of this encoder"):
        choose_layer(BASE, replace(store, heard=replace(store.heard, encoder="another")), CONFIG)
