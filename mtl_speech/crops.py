"""Stretches of recordings for pretraining, with the labels of their frames and of the segments inside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_speech.features import MARGIN, SegmentStore


@dataclass(frozen=True)
class Crops:
    """A batch of stretches of recordings.

    features: (n_crops, n_frames, MEL_BANDS); frame_labels: (n_crops, n_frames), silence being the last class;
    spans: (n_segments, 2) frames; rows: (n_segments,) crop of each segment; labels: (n_segments,).
    """

    features: Tensor
    frame_labels: Tensor
    spans: Tensor
    rows: Tensor
    labels: Tensor


class CropBatches(Dataset[Crops]):
    """Batches of crops: an epoch visits every recording once, in one of its views, cut at a random phase.

    The order of epoch e depends on (seed, e) alone. A batch is cut from the views when it is asked for.
    """

    def __init__(
        self, views: Sequence[SegmentStore], crop_lengths: Sequence[int], batch_frames: int, seed: int
    ) -> None:
        self.views, self.crop_lengths, self.batch_frames, self.seed = views, crop_lengths, batch_frames, seed
        self.epoch = 0
        self.plan = self._plan(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch
        self.plan = self._plan(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Crops:
        return self._cut(*self.plan[number])

    def _plan(self, epoch: int) -> list[tuple[int, int, Tensor]]:
        rng = np.random.default_rng((self.seed, epoch))
        n = len(self.views[0].first)
        view_of = rng.integers(len(self.views), size=n)
        length_of = rng.choice(np.asarray(self.crop_lengths), size=n)
        batches: list[tuple[int, int, Tensor]] = []
        for view, store in enumerate(self.views):
            for length in self.crop_lengths:
                starts = tile(store, np.flatnonzero((view_of == view) & (length_of == length)), length, rng)
                starts = starts[mostly_speech(store, starts, length)]
                rng.shuffle(starts)
                size = max(1, self.batch_frames // length)
                batches += [(view, length, torch.from_numpy(starts[i : i + size])) for i in range(0, len(starts), size)]
        rng.shuffle(batches)
        return batches

    def _cut(self, view: int, length: int, first: Tensor) -> Crops:
        store = self.views[view]
        rows = first.unsqueeze(1) + torch.arange(length)
        low, high = (
            torch.searchsorted(store.start, first.double()),
            torch.searchsorted(store.end, (first + length).double()),
        )
        counts = (high - low).clamp_min(0)
        crop = torch.repeat_interleave(torch.arange(len(first)), counts)
        offset = torch.arange(len(crop)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        index = low[crop] + offset
        spans = torch.stack((store.start[index], store.end[index]), dim=1) - first[crop].unsqueeze(1)
        return Crops(store.take(rows), frame_labels(store, rows), spans.float(), crop, store.label[index])


def tile(store: SegmentStore, recordings: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """First rows of the crops of some recordings: one after another from a random phase before the first frame on.

    Every frame lies in one of them. The last crop is moved back where it would reach beyond the margin of its recording; only one
    longer than a recording with its margins reaches into the next.
    """
    first, n_frames = (t.numpy()[recordings] for t in (store.first, store.length))
    phase = rng.integers(min(length, MARGIN), size=len(recordings))
    counts = -(-(n_frames + phase) // length)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    last = np.maximum(first - phase, first + n_frames + MARGIN - phase - length)
    starts = np.minimum(np.repeat(first - phase, counts) + number * length, np.repeat(last, counts))
    starts = np.minimum(starts, store.n_rows - length)
    return starts[starts >= 0]


def mostly_speech(store: SegmentStore, starts: np.ndarray, length: int) -> np.ndarray:
    """Which of the crops (first rows) are at least a quarter speech."""
    begin, end = (t.round().long().numpy() for t in (store.start, store.end))
    before = np.concatenate(([0], np.cumsum(np.maximum(end - begin, 0))))

    def speech_before(rows: np.ndarray) -> np.ndarray:
        segment = np.minimum(
            np.searchsorted(end, rows, side="right"), len(end) - 1
        )  # the first that ends behind the row
        return before[segment] + np.clip(rows - begin[segment], 0, end[segment] - begin[segment])

    return speech_before(starts + length) - speech_before(starts) >= length // 4


def frame_labels(store: SegmentStore, rows: Tensor) -> Tensor:
    """The phoneme of each of the rows of a store, len(store.phonemes) for silence: of the shape of `rows`."""
    begin, end = store.start.round().long(), store.end.round().long()
    segment = torch.searchsorted(end, rows, right=True).clamp_max(len(store) - 1)
    inside = (rows >= begin[segment]) & (rows < end[segment])
    return torch.where(inside, store.label[segment], len(store.phonemes))
