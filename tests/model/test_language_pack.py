"""Language packs: a recogniser comes back from the disk as it was, and says nothing of recordings and speakers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mtl_speech.core.errors import PackError
from mtl_speech.model.language_pack import LanguageModel, language_pack, load_language, true_labels, utterances
from mtl_speech.model.learner import Head, embed_segments
from mtl_speech.model.strategy import BaseModel
from tests.helpers import make_store, predicted, seeded, tiny_base, toy_store
from tests.pack_files import prepared, saved


@pytest.fixture
def base() -> BaseModel:
    return tiny_base()


def test_a_recogniser_comes_back_from_the_disk_with_the_same_predictions(base: BaseModel, tmp_path: Path) -> None:
    learner, config = prepared(base)
    store = toy_store()
    weight = torch.randn(1, 3, 12, generator=seeded(0))
    middle = learner.standardise(embed_segments(learner, store)).detach().mean(0)
    head = Head(weight, torch.tensor([[0.01, 0.0, -0.01]]) - weight @ middle)
    model = LanguageModel(learner, head, ("m", "a", "s"))
    pack = saved(language_pack(model, base, config, "pa", {"name": "pa"}), tmp_path)
    loaded = load_language(pack, base)
    assert loaded.classes == ("m", "a", "s") and pack.card["language"] == "pa"
    assert predicted(loaded, store) == predicted(model, store)
    embeddings = embed_segments(learner, store)
    expected = learner.standardise(embeddings) @ head.weight[0].T + head.bias[0]
    torch.testing.assert_close(model.logits(embeddings), expected.detach(), rtol=1e-4, atol=1e-5)
    assert predicted(model, store) == [("m", "a", "s")[int(i)] for i in expected.argmax(1)]
    assert len(set(predicted(model, store))) > 1


def test_a_language_pack_says_nothing_of_recordings_and_speakers(base: BaseModel, tmp_path: Path) -> None:
    learner, config = prepared(base)
    model = LanguageModel(learner, Head(torch.zeros(1, 1, 12), torch.zeros(1, 1)), ("a",))
    text = json.dumps(dict(saved(language_pack(model, base, config, "pa", {}), tmp_path).card))
    store = toy_store()
    assert not [name for name in (*store.utterance_ids, *store.speakers) if f'"{name}"' in text]


def test_a_head_that_does_not_fit_the_inventory_is_refused(base: BaseModel) -> None:
    learner, config = prepared(base)
    model = LanguageModel(learner, Head(torch.zeros(1, 2, 12), torch.zeros(1, 2)), ("a", "b", "m"))
    with pytest.raises(PackError, match=r"'head.weight' must have the shape \(3, 12\)"):
        load_language(language_pack(model, base, config, "pa", {}), base)


def test_labels_and_recordings_of_segments_by_name() -> None:
    store = make_store([[3, 1], [2]])
    assert true_labels(store) == ["e", "b", "d"]
    assert utterances(store) == ["toy/u0", "toy/u0", "toy/u1"]
