"""The segmenter: what it is taught, what it learns, and that tuning moves it towards one language's recordings alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore
from mtl_speech.model import segmenter as module
from mtl_speech.model.segmenter import (
    Segmenter,
    frame_targets,
    learn_timing,
    new_segmenter,
    train_segmenter,
    tune_segmenter,
)
from tests.helpers import GAP_FRAMES, TOKEN_FRAMES, frozen_bytes, make_store, seeded, tiny_encoder

ENCODER = tiny_encoder(channels=16).requires_grad_(False)


def spoken(n: int, seed: int = 0, noise: float = 0.2) -> SegmentStore:
    """Recordings of five phones each."""
    draw = torch.randint(0, 6, (n, 5), generator=seeded(seed))
    return make_store(draw.tolist(), noise=noise, seed=seed)


@torch.no_grad()
def loss_on(model: Segmenter, store: SegmentStore) -> float:
    targets, weights = frame_targets(store)
    total = []
    for first, length in zip(store.first.tolist(), store.length.tolist(), strict=True):
        length -= length % 2
        features = store.frames[first - MARGIN : first + length + MARGIN].float().unsqueeze(0)
        logits = model(ENCODER.frames(features), features)[0, MARGIN : MARGIN + length]
        span = slice(first, first + length)
        total.append(float(module.frame_loss(logits, targets[span], weights[span])))
    return sum(total) / len(total)


def test_targets_are_edges_speech_and_what_is_known() -> None:
    store = make_store([[0, 1]])
    targets, weights = frame_targets(store)
    first = MARGIN + GAP_FRAMES
    edges = [first, first + TOKEN_FRAMES, first + 2 * TOKEN_FRAMES]
    assert torch.nonzero(targets[:, 0]).squeeze(1).tolist() == [e + k for e in edges for k in (-1, 0, 1)]
    assert torch.nonzero(targets[:, 1]).squeeze(1).tolist() == list(range(edges[0], edges[2]))
    assert torch.nonzero(weights).squeeze(1).tolist() == list(range(MARGIN, MARGIN + int(store.length[0])))
    _, inside = frame_targets(store, gaps_known=False)
    assert torch.nonzero(inside).squeeze(1).tolist() == list(range(edges[0], edges[2]))


def test_frames_far_from_any_label_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_FRAMES", 3)
    _, weights = frame_targets(make_store([[0]]))
    first = MARGIN + GAP_FRAMES
    assert torch.nonzero(weights).squeeze(1).tolist() == list(range(first - 3, first + TOKEN_FRAMES + 3))


def test_what_is_unknown_teaches_nothing_wherever_the_rows_begin() -> None:
    """Neither speech nor silence: the frames of a stretch have no weight, in the whole store and in a part of it."""
    plain = make_store([[0, 1], [2, 3]])
    first = int(plain.first[1])
    store = replace(plain, unknown=torch.tensor([[first + 2.0, first + 6.4]], dtype=torch.float64))
    targets, weights = frame_targets(store)
    expected_targets, expected = frame_targets(plain)
    assert bool(expected[first : first + 8].all()), "without it they would count"
    expected[first + 2 : first + 6] = 0
    assert torch.equal(weights, expected) and torch.equal(targets, expected_targets)
    for begin in (first - 20, first + 3, first + 6):
        part = frame_targets(store, rows=(begin, begin + 9))[1]
        assert torch.equal(part, weights[begin : begin + 9])


def test_targets_of_some_rows_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KNOWN_FRAMES", 7)
    store = spoken(12)
    draw = torch.rand(len(store), generator=seeded(1)).double()
    store = replace(store, start=store.start + 0.3 * draw, end=store.end - 0.3 * draw)
    for gaps_known in (True, False):
        whole = frame_targets(store, gaps_known)
        for first in (0, 1, *range(5, store.n_rows - 60, 17), store.n_rows - 60):
            for expected, found in zip(whole, frame_targets(store, gaps_known, (first, first + 60)), strict=True):
                assert torch.equal(found, expected[first : first + 60]), first


def test_training_finds_boundaries_and_leaves_the_encoder_alone() -> None:
    before = frozen_bytes(ENCODER)
    train, held = spoken(300), spoken(6, seed=1)
    untrained = new_segmenter(ENCODER)
    trained = train_segmenter(ENCODER, train, 0)
    assert loss_on(trained, held) < 0.6 * loss_on(untrained, held)
    assert frozen_bytes(ENCODER) == before
    assert not any(p.requires_grad for p in trained.parameters())
    again = train_segmenter(ENCODER, train, 0)
    assert frozen_bytes(again) == frozen_bytes(trained)
    assert frozen_bytes(train_segmenter(ENCODER, train, 1)) != frozen_bytes(trained)


def test_tuning_helps_on_the_language_and_leaves_the_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    start = train_segmenter(ENCODER, spoken(60), 0)
    before = frozen_bytes(start)
    own, held = spoken(8, seed=2, noise=1.5), spoken(8, seed=3, noise=1.5)
    tuned = tune_segmenter(start, ENCODER, own)
    assert loss_on(tuned, held) < loss_on(start, held)
    assert frozen_bytes(start) == before
    monkeypatch.setattr(module, "TUNE_FRAMES", 100)
    few = tune_segmenter(start, ENCODER, own)
    assert frozen_bytes(few) != frozen_bytes(tuned)
    assert frozen_bytes(few) != before


def test_tuning_draws_stretches_that_are_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long recording of which little is labelled, that little is what is learned from."""
    monkeypatch.setattr(module, "TUNE_STRETCH", 50)
    monkeypatch.setattr(module, "TUNE_FRAMES", 1)  # one stretch
    monkeypatch.setattr(module, "TUNE_STEPS", 2)
    whole = make_store([[i % 3 for i in range(60)]])
    store = whole.select(torch.arange(56, 60))
    start = train_segmenter(ENCODER, spoken(8), 0)
    for seed in range(5):
        tuned = tune_segmenter(start, ENCODER, store, gaps_known=False, seed=seed)
        assert frozen_bytes(tuned) != frozen_bytes(start)


def test_durations_are_means_shrunk_towards_all_phonemes() -> None:
    store = make_store([[0, 0, 1]])
    longer = store.end.clone()
    longer[:2] += 2.0 * TOKEN_FRAMES  # the two tokens of "a" last three times as long
    store = SegmentStore(**{**vars(store), "end": longer})
    timing = learn_timing(new_segmenter(ENCODER), ENCODER, store, ("b", "a", "k"))
    logs = [math.log(3 * TOKEN_FRAMES)] * 2 + [math.log(TOKEN_FRAMES)]
    overall, prior = sum(logs) / 3, module.DURATION_PRIOR
    expected = [(logs[2] + prior * overall) / (1 + prior), (2 * logs[0] + prior * overall) / (2 + prior), overall]
    assert timing.log_duration.tolist() == pytest.approx(expected, abs=1e-5)
    residuals = [logs[0] - expected[1]] * 2 + [logs[2] - expected[0]]
    assert timing.spread == pytest.approx(max(0.1, math.sqrt(sum(r * r for r in residuals) / 3)), abs=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_segmenter_sees_as_far_as_it_says_and_no_further(stride: int) -> None:
    segmenter = Segmenter(6, stride, MEL_BANDS).eval()
    frames, below = torch.randn(1, 40, 6), torch.randn(1, 40 * stride, MEL_BANDS)
    whole = segmenter(frames, below)
    for sees, same in ((module.SEES, True), (module.SEES - 1, False)):
        begin, end = 10 - sees, 30 + sees
        part = segmenter(frames[:, begin:end], below[:, begin * stride : end * stride])[
            :, sees * stride : -sees * stride
        ]
        assert torch.allclose(part, whole[:, 10 * stride : 30 * stride], atol=1e-5) == same
