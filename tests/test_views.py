"""Views of a corpus: the recordings as they are, and the same augmented draws however many processes make them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtl_speech.features import SegmentStore, build_store
from mtl_speech.views import make_views
from tests.helpers import PHONEMES, toy_corpus


def same(one: SegmentStore, other: SegmentStore) -> bool:
    rows = torch.arange(one.n_rows)
    tables = all(torch.equal(getattr(one, key), getattr(other, key)) for key in ("first", "start", "end", "label"))
    return tables and torch.equal(one.take(rows), other.take(rows))


def test_the_first_view_is_plain_and_the_others_are_augmented(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 3, 1)
    plain, one, two = make_views(corpus, PHONEMES, 3, 1, seed=0)
    assert same(plain, build_store([corpus], PHONEMES))
    assert plain.utterance_ids == one.utterance_ids == two.utterance_ids
    assert not same(plain, one) and not same(one, two)
    assert same(one, make_views(corpus, PHONEMES, 2, 1, seed=0)[1])
    assert not same(one, make_views(corpus, PHONEMES, 2, 1, seed=1)[1])


@pytest.mark.slow
def test_processes_do_not_change_the_views(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 2, 1)
    pairs = zip(make_views(corpus, PHONEMES, 2, 1, seed=0), make_views(corpus, PHONEMES, 2, 2, seed=0), strict=True)
    assert all(same(one, other) for one, other in pairs)
