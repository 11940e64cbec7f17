"""Stretches of recordings for pretraining, with the labels of their frames and of the segments inside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore

UNKNOWN = -100  # the label of a frame in which nobody knows what is said; torch's cross-entropy ignores it
BLOCK = 4096  # crops whose segments are looked at together


@dataclass(frozen=True)
class Crops:
    """A batch of stretches of recordings.

    features: (n_crops, n_frames, MEL_BANDS); frame_labels: (n_crops, n_frames), silence being the last class, UNKNOWN none;
    spans: (n_segments, 2) frames; rows: (n_segments,) crop of each segment, in order; labels: (n_segments,).
    Where several processes share a batch, `index` (n_crops,) tells which of its `n_crops` crops these are; `n_segments` is how many
    segments all of them have.
    """

    features: Tensor
    frame_labels: Tensor
    spans: Tensor
    rows: Tensor
    labels: Tensor
    index: Tensor
    n_crops: int
    n_segments: int

    def split(self, n: int) -> list[Crops]:
        """The crops in n parts, of which the last can be empty."""
        parts = []
        for part in torch.arange(len(self.features)).tensor_split(n):
            first, last = (int(part[0]), int(part[-1])) if len(part) else (0, -1)
            inside = (self.rows >= first) & (self.rows <= last)
            features, frame_labels, index = self.features[part], self.frame_labels[part], self.index[part]
            spans, rows, labels = self.spans[inside], self.rows[inside] - first, self.labels[inside]
            parts.append(Crops(features, frame_labels, spans, rows, labels, index, self.n_crops, self.n_segments))
        return parts

    def to(self, device: torch.device | str) -> Crops:
        """The same on another device."""
        names = ("features", "frame_labels", "spans", "rows", "labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


class CropBatches(Dataset[Crops]):
    """Batches of crops: an epoch visits every recording once, in one of its views, cut at a random phase.

    The order of epoch e depends on (seed, e) alone. A batch is cut from the views when it is asked for. With a `share` (i, n) it is
    every n-th crop of the batch, from the i-th on.
    """

    def __init__(
        self,
        views: Sequence[SegmentStore],
        crop_lengths: Sequence[int],
        batch_frames: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.share = share
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
        index = torch.arange(self.share[0], len(first), self.share[1])
        low, high = _segments_inside(store, first, length)
        n_crops, n_segments = len(first), int((high - low).sum())
        first, low, high = first[index], low[index], high[index]
        rows = first.unsqueeze(1) + torch.arange(length)
        counts = high - low
        crop = torch.repeat_interleave(torch.arange(len(first)), counts)
        offset = torch.arange(len(crop)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        inside = low[crop] + offset
        spans = torch.stack((store.start[inside], store.end[inside]), dim=1) - first[crop].unsqueeze(1)
        features, labels = store.take(rows), frame_labels(store, rows)
        return Crops(features, labels, spans.to(features.dtype), crop, store.label[inside], index, n_crops, n_segments)


def _segments_inside(store: SegmentStore, first: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The first segment that lies whole in each of the crops from rows `first` (n,) on, and the one after the last."""
    low = torch.searchsorted(store.start, first.double())
    return low, torch.maximum(low, torch.searchsorted(store.end, (first + length).double()))


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
    blocks = [starts[i : i + BLOCK] for i in range(0, len(starts), BLOCK)]
    return np.concatenate([np.zeros(0, dtype=bool), *(_mostly_speech(store, block, length) for block in blocks)])


def _mostly_speech(store: SegmentStore, starts: np.ndarray, length: int) -> np.ndarray:
    low = int(torch.searchsorted(store.end, float(starts.min()) - 1.0))
    high = int(torch.searchsorted(store.start, float(starts.max() + length) + 1.0))
    if low >= high:
        return np.zeros(len(starts), dtype=bool)
    begin, end = (t[low:high].round().long().numpy() for t in (store.start, store.end))
    before = np.concatenate(([0], np.cumsum(np.maximum(end - begin, 0))))

    def speech_before(rows: np.ndarray) -> np.ndarray:
        segment = np.minimum(
            np.searchsorted(end, rows, side="right"), len(end) - 1
        )  # the first that ends behind the row
        return before[segment] + np.clip(rows - begin[segment], 0, end[segment] - begin[segment])

    return speech_before(starts + length) - speech_before(starts) >= length // 4


def frame_labels(store: SegmentStore, rows: Tensor) -> Tensor:
    """The phoneme of each of the rows of a store, len(store.phonemes) for silence, UNKNOWN where none knows: shaped as `rows`."""
    last = len(store) - 1
    # The first segment whose end, rounded, lies behind the row; half a frame is rounded to an even one.
    segment = torch.searchsorted(store.end, rows + 0.5).clamp_max(last)
    segment = (segment + (store.end[segment].round() <= rows)).clamp_max(last)
    inside = (rows >= store.start[segment].round()) & (rows < store.end[segment].round())
    labels = torch.where(inside, store.label[segment], len(store.phonemes))
    if not len(store.unknown):
        return labels
    begin, end = store.unknown.round().T.contiguous()
    stretch = (torch.searchsorted(begin, rows.double(), right=True) - 1).clamp_min(0)
    return torch.where(~inside & (rows >= begin[stretch]) & (rows < end[stretch]), UNKNOWN, labels)
