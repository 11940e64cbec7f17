"""Crops: labels stand where the speech is, every recording has its turn, and an epoch is what the seed says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features import crops as crops_module
from mtl_speech.features.crops import UNKNOWN, CropBatches, Crops, frame_labels, mostly_speech, tile
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore
from tests.helpers import PHONEMES, make_store

SILENCE = len(PHONEMES)


def long_store(n: int = 6, tokens: int = 20) -> SegmentStore:
    """Recordings of about 170 frames; fractions of a frame in all times."""
    rng = np.random.default_rng(0)
    store = make_store([rng.integers(0, 5, tokens).tolist() for _ in range(n)])
    return replace(store, start=store.start + 0.3, end=store.end + 0.3)


def numbered(store: SegmentStore) -> SegmentStore:
    """The store with the number of its row in the first two bands, as base 1000 (half precision is exact to 2048)."""
    rows = torch.arange(len(store.frames))
    frames = torch.zeros(len(rows), MEL_BANDS, dtype=torch.float16)
    frames[:, 0], frames[:, 1] = rows // 1000, rows % 1000
    return replace(store, frames=frames)


def all_labels(store: SegmentStore) -> torch.Tensor:
    """The label of every row of a store."""
    return frame_labels(store, torch.arange(store.n_rows))


def row_numbers(crops: Crops) -> torch.Tensor:
    """The rows of the store that a batch of crops holds: (n_crops, n_frames)."""
    return (crops.features[:, :, 0] * 1000 + crops.features[:, :, 1]).long()


def test_frames_of_which_nobody_knows_what_is_said_have_no_label() -> None:
    store = make_store([[0, 1], [2]])
    begin, end = float(store.start[0]) - 5, float(store.start[0]) + 3
    unknown = torch.tensor([[begin, end], [float(store.end[2]) + 2, float(store.end[2]) + 4]], dtype=torch.float64)
    found, plain = all_labels(replace(store, unknown=unknown)), all_labels(store)
    rows = torch.arange(store.n_rows)
    outside = (plain == len(store.phonemes)) & (
        ((rows >= begin) & (rows < end)) | (rows >= unknown[1, 0]) & (rows < unknown[1, 1])
    )
    assert int(outside.sum()) == 7 and bool((found[outside] == UNKNOWN).all())
    assert torch.equal(found[~outside], plain[~outside]), "segments and silence are as they were"


def test_frame_labels_by_hand() -> None:
    store = make_store([[0, 1], [2]])
    start = torch.tensor([50.0, 53.4, 180.6], dtype=torch.float64)
    end = torch.tensor([53.4, 55.0, 182.4], dtype=torch.float64)
    labels = all_labels(replace(store, start=start, end=end))
    expected = torch.full((len(store.frames),), SILENCE)
    expected[50:53], expected[53:55], expected[181:182] = 0, 1, 2
    assert torch.equal(labels, expected)


def test_halves_of_frames_are_rounded_to_even_ones() -> None:
    store = make_store([[0, 1, 2]])
    times = torch.tensor([50.5, 52.5, 53.5, 55.5], dtype=torch.float64)  # 50, 52, 54, 56
    labels = all_labels(replace(store, start=times[:-1], end=times[1:]))
    assert labels[48:58].tolist() == [SILENCE, SILENCE, 0, 0, 1, 1, 2, 2, SILENCE, SILENCE]


def test_what_is_mostly_speech_does_not_depend_on_how_many_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = long_store()
    starts = np.arange(0, store.n_rows - 40, 7)
    whole = mostly_speech(store, starts, 40)
    assert 0 < whole.sum() < len(whole)
    for block in (1, 5):
        monkeypatch.setattr(crops_module, "BLOCK", block)
        assert np.array_equal(mostly_speech(store, starts, 40), whole)


def test_crops_hold_the_frames_and_labels_of_their_stretch_and_every_segment_within() -> None:
    store = numbered(long_store())
    batches = CropBatches([store], (64, 96), 300, seed=0)
    labels = all_labels(store)
    n_segments = 0
    for crops in (batches[i] for i in range(len(batches))):
        rows = row_numbers(crops)
        assert torch.equal(rows, rows[:, :1] + torch.arange(rows.shape[1])), "a crop is one stretch"
        assert torch.equal(crops.frame_labels, labels[rows])
        for crop, first in enumerate(rows[:, 0].tolist()):
            inside = (store.start >= first) & (store.end < first + rows.shape[1])
            mine = crops.rows == crop
            assert torch.equal(crops.labels[mine], store.label[inside])
            expected = torch.stack((store.start[inside] - first, store.end[inside] - first), dim=1).float()
            torch.testing.assert_close(crops.spans[mine], expected)
        middle = crops.spans.mean(1).long()
        assert torch.equal(crops.frame_labels[crops.rows, middle], crops.labels), "a segment lies where its frames do"
        n_segments += len(crops.labels)
    assert n_segments > len(store) / 2


def test_batches_keep_to_their_size_and_to_one_length() -> None:
    batches = CropBatches([long_store()], (64, 96), 300, seed=0)
    shapes = {tuple(batches[i].features.shape[:2]) for i in range(len(batches))}
    assert {length for _, length in shapes} == {64, 96}
    assert max(n * length for n, length in shapes) <= 300
    assert max(n for n, _ in shapes) > 1
    assert len(CropBatches([long_store()], (96,), 50, seed=0)[0].features) == 1  # never an empty batch


def visits(batches: CropBatches, stores: list[SegmentStore]) -> dict[int, set[int]]:
    """The views in which each recording (by the frames of its own) came in this epoch."""
    seen: dict[int, set[int]] = {}
    for view, length, first in batches.plan:
        middle = first + length // 2
        begin = stores[view].first - MARGIN
        for recording in (torch.searchsorted(begin, middle, right=True) - 1).tolist():
            seen.setdefault(recording, set()).add(view)
    return seen


def test_an_epoch_visits_every_recording_in_one_view_and_another_epoch_in_others() -> None:
    stores = [long_store() for _ in range(3)]
    batches = CropBatches(stores, (64,), 300, seed=0)
    chosen = []
    for epoch in range(6):
        batches.set_epoch(epoch)
        seen = visits(batches, stores)
        assert sorted(seen) == list(range(6))
        assert all(len(views) == 1 for views in seen.values())
        chosen.append([next(iter(seen[recording])) for recording in range(6)])
    assert {view for row in chosen for view in row} == {0, 1, 2}
    assert len({tuple(row) for row in chosen}) > 1


def test_a_crop_comes_from_the_view_that_the_plan_names() -> None:
    stores = [replace(s, frames=torch.full_like(s.frames, v)) for v, s in enumerate([long_store(), long_store()])]
    batches = CropBatches(stores, (64,), 300, seed=1)
    for number, (view, _, _) in enumerate(batches.plan):
        assert bool((batches[number].features == view).all())


def test_the_plan_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    def plan(seed: int, *epochs: int) -> list[tuple[int, int, tuple[int, ...]]]:
        batches = CropBatches([long_store()], (64, 96), 300, seed)
        for epoch in epochs:
            batches.set_epoch(epoch)
        return [(view, length, tuple(first.tolist())) for view, length, first in batches.plan]

    assert plan(3, 2) == plan(3, 1, 5, 2)
    assert plan(3, 2) != plan(3, 1) and plan(3, 2) != plan(4, 2)
    assert plan(3) == plan(3, 0)


def test_phases_differ_between_epochs_so_that_segments_at_the_cuts_get_their_turn() -> None:
    store = long_store()
    batches = CropBatches([store], (64,), 300, seed=0)
    seen = torch.zeros(len(store))
    for epoch in range(30):
        batches.set_epoch(epoch)
        for _, length, first in batches.plan:
            for row in first.tolist():
                seen += ((store.start >= row) & (store.end < row + length)).float()
    assert float(seen.min()) > 0


def test_crops_with_little_speech_are_left_out() -> None:
    store = long_store(n=2)
    quiet = store.select(torch.nonzero(store.utterance == 1).squeeze(1))  # recording 0 has no labels at all
    batches = CropBatches([quiet], (64,), 300, seed=0)
    labels = all_labels(quiet)
    firsts = torch.cat([first for _, _, first in batches.plan])
    assert len(firsts) > 0
    for first in firsts.tolist():
        assert int((labels[first : first + 64] < SILENCE).sum()) >= 16
    assert sorted(visits(batches, [quiet])) == [1]


def test_every_frame_of_every_recording_is_visited_in_every_epoch_in_its_own_margins() -> None:
    store = long_store(n=5, tokens=23)
    begin, end = store.first - MARGIN, store.first + store.length + MARGIN
    for length in (64, 96, 150):
        counts = np.zeros((20, store.n_rows))
        for epoch in range(20):
            starts = tile(store, np.arange(5), length, np.random.default_rng(epoch))
            owner = torch.searchsorted(begin, torch.from_numpy(starts), right=True) - 1
            assert bool((torch.from_numpy(starts) >= begin[owner]).all())
            assert bool((torch.from_numpy(starts) + length <= end[owner]).all()), "a crop is of one recording"
            for start in starts:
                counts[epoch, start : start + length] += 1
        for first, n_frames in zip(store.first.tolist(), store.length.tolist(), strict=True):
            assert counts[:, first : first + n_frames].min() >= 1
            assert counts[:, first : first + n_frames].max() <= 2


def test_a_recording_shorter_than_the_crop_is_one_crop_within_the_store() -> None:
    store = make_store([[0, 1], [2, 3], [4, 1]])
    starts = tile(store, np.arange(3), 200, np.random.default_rng(0))
    assert len(starts) == 3 and starts.min() >= 0 and starts.max() + 200 <= store.n_rows
    assert all(s <= f and f + n <= s + 200 for s, f, n in zip(starts, store.first, store.length, strict=True))
    assert len(tile(store, np.arange(3), store.n_rows + 1, np.random.default_rng(0))) == 0


def test_speech_is_counted_as_the_labels_have_it() -> None:
    store = long_store(3)
    starts = np.arange(store.n_rows - 64)
    labels = all_labels(store)
    expected = [int((labels[s : s + 64] < SILENCE).sum()) >= 16 for s in starts.tolist()]
    assert mostly_speech(store, starts, 64).tolist() == expected and len(set(expected)) == 2
