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

    The order of epoch e depends on (seed, e) alone.
    """

    def __init__(
        self, views: Sequence[SegmentStore], crop_lengths: Sequence[int], batch_frames: int, seed: int
    ) -> None:
        self.views, self.crop_lengths, self.batch_frames, self.seed = views, crop_lengths, batch_frames, seed
        self.epoch = 0
        self.frame_labels = [frame_labels(view) for view in views]
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
                chosen = np.flatnonzero((view_of == view) & (length_of == length))
                firsts = [self._tile(store, int(u), length, rng) for u in chosen]
                if not firsts:
                    continue
                starts = np.concatenate(firsts)
                starts = starts[self._speech(view, starts, length)]
                rng.shuffle(starts)
                size = max(1, self.batch_frames // length)
                batches += [(view, length, torch.from_numpy(starts[i : i + size])) for i in range(0, len(starts), size)]
        rng.shuffle(batches)
        return batches

    @staticmethod
    def _tile(store: SegmentStore, utterance: int, length: int, rng: np.random.Generator) -> np.ndarray:
        first, n_frames = int(store.first[utterance]), int(store.length[utterance])
        phase = int(rng.integers(min(length, MARGIN)))
        return np.arange(first - phase, max(first - phase + 1, first + n_frames + MARGIN - length + 1), length)

    def _speech(self, view: int, starts: np.ndarray, length: int) -> np.ndarray:
        """Which crops are at least a quarter speech."""
        speech = (self.frame_labels[view] < len(self.views[view].phonemes)).numpy()
        total = np.concatenate(([0], np.cumsum(speech)))
        ends = np.minimum(starts + length, len(speech))
        return (ends == starts + length) & (total[ends] - total[starts] >= length // 4)

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
        return Crops(store.frames[rows].float(), self.frame_labels[view][rows], spans.float(), crop, store.label[index])


def frame_labels(store: SegmentStore) -> Tensor:
    """The phoneme of every row of `store.frames`, len(store.phonemes) for silence: (n_rows,)."""
    labels = torch.full((len(store.frames),), len(store.phonemes), dtype=torch.long)
    lengths = (store.end.round() - store.start.round()).long().clamp_min(0)
    owner = torch.repeat_interleave(torch.arange(len(store)), lengths)
    offset = torch.arange(len(owner)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    labels[store.start.round().long()[owner] + offset] = store.label[owner]
    return labels
