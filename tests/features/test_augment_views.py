"""Views of a corpus: the recordings as they are, and the same augmented draws however many processes make them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError
from mtl_speech.features import augment as views
from mtl_speech.features.augment import WaveformAugment, make_views
from mtl_speech.features.crops import CropBatches
from mtl_speech.features.store import SegmentStore, build_store
from tests.helpers import PHONEMES, seeded, toy_corpus


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


def test_a_view_is_the_store_of_its_augmentation(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 6, 2)
    for view, augment in zip(make_views(corpus, PHONEMES, 3, 1, seed=4), (None, 4001, 4002), strict=True):
        store = build_store([corpus], PHONEMES, WaveformAugment(augment) if augment else None)
        assert int((view.length - store.length).abs().max()) <= 1
        for n in range(6):
            inner = torch.arange(min(int(view.length[n]), int(store.length[n])))
            assert torch.equal(view.take(view.first[n] + inner), store.take(store.first[n] + inner))
        own, other = (each.start - each.first[each.utterance] for each in (view, store))
        torch.testing.assert_close(own, other, rtol=0, atol=1e-9)


def test_margins_hold_the_edge_frames_and_rows_may_lie_in_several_recordings(tmp_path: Path) -> None:
    view, store = (
        make_views(toy_corpus(tmp_path, 3, 1), PHONEMES, 1, 1, 0)[0],
        build_store([toy_corpus(tmp_path, 3, 1)]),
    )
    rows = torch.randint(store.n_rows, (4, 50), generator=seeded(0))
    assert torch.equal(view.take(rows), store.take(rows))
    assert torch.equal(view.windows(torch.arange(len(view)))[0], store.windows(torch.arange(len(store)))[0])


def test_a_view_holds_no_frames_but_tables_of_some_bytes_a_segment(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 6, 2)
    made = make_views(corpus, PHONEMES, 2, 1, seed=0)
    batches = CropBatches(made, (40,), 400, seed=0)
    for number in range(len(batches)):
        assert torch.isfinite(batches[number].features).all()
    for view in made:
        tables = [value for value in vars(view).values() if isinstance(value, torch.Tensor)]
        assert sum(t.numel() * t.element_size() for t in tables) <= 64 * len(view)


def test_augmented_features_are_made_when_they_are_asked_for(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", 2**30)

    def made() -> int:
        return len(list(cache.folder.glob("??/*")))

    plain, augmented = make_views(toy_corpus(tmp_path / "c", 3, 1), PHONEMES, 2, 1, 0, cache=cache)
    assert made() == 3
    augmented.take(augmented.first[1:2])
    assert made() == 4
    before = plain.take(plain.first)
    for path in cache.folder.glob("??/*"):
        path.unlink()  # as another process that keeps to the limit does
    assert torch.equal(plain.take(plain.first), before) and made() == 3


def test_recordings_that_cannot_be_used_are_told_in_every_view_and_shift_nothing(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 4, 1)
    corpus.utterances[1].audio.write_bytes(b"no audio")
    for view in make_views(corpus, PHONEMES, 2, 1, 0):
        assert [problem.file for problem in view.problems] == [corpus.utterances[1].audio]
        assert view.utterance_ids == ("toy/s0/u0", "toy/s0/u2", "toy/s0/u3") and len(view.first) == 3
    with pytest.raises(DataError, match="no usable segment"):
        make_views(corpus.filter(lambda u: u.id == "s0/u1"), PHONEMES, 2, 1, 0)


@pytest.mark.slow
def test_processes_do_not_change_the_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BLOCK", 1)
    corpus = toy_corpus(tmp_path / "c", 3, 1)
    one, two = (make_views(corpus, PHONEMES, 2, n, 0, cache=FeatureCache(tmp_path / str(n))) for n in (1, 2))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert len(list((tmp_path / "2").glob("??/*"))) == 6
