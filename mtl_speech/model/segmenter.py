"""Where phones begin and end: a small network on the frames of Θ that finds boundaries, and tells speech from silence.

It is trained on the large corpus, after Θ, and knows no phoneme, so it serves any language; a language's own labelled recordings
then tune it, because corpora differ in where they put a boundary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.store import LOG_MEL, MARGIN, SegmentStore
from mtl_speech.model.encoder import Encoder, FrameConv

HIDDEN = 128  # channels
SEES = 3  # frames of Θ that its two convolutions see to either side
KNOWN_FRAMES = 30  # frames (300 ms) around a labelled phone in which everything that is not labelled is silence

# Chosen on validation languages of VoxAngeles: see docs/decisions.md.
TRAIN_RATE, TRAIN_EPOCHS, TRAIN_BATCH, TRAIN_FRAMES = 2e-3, 1, 64, 200
TUNE_RATE, TUNE_STEPS, TUNE_DECAY = 1e-3, 60, 0.01
TUNE_STRETCH, TUNE_FRAMES = 500, 12_000  # frames of 10 ms
DURATION_PRIOR = 3.0  # examples
GAIN_NOISE = 0.1  # standard deviation of the random gain of each channel of Θ in training


class Segmenter(nn.Module):
    """Frames of Θ (without Φ) and the log-mel frames under them -> the logits of a boundary and of speech, every 10 ms."""

    def __init__(self, channels: int, stride: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.stride = stride
        self.first = FrameConv(channels + stride * MEL_BANDS, hidden, 5, padding=2)
        self.second = FrameConv(hidden, hidden, 3, padding=1)
        self.out = FrameConv(hidden, 2 * stride, 1)
        self.centre: Tensor = nn.Buffer(torch.zeros(channels))
        self.spread: Tensor = nn.Buffer(torch.ones(channels))

    def forward(self, frames: Tensor, features: Tensor) -> Tensor:
        """Frames of Θ (batch, n_frames / stride, channels) and features (batch, n_frames, MEL_BANDS) -> (batch, n_frames, 2)."""
        n_batch, n_frames = frames.shape[:2]
        x = torch.cat(((frames - self.centre) / self.spread, features.reshape(n_batch, n_frames, -1)), dim=2)
        x = F.gelu(self.second(F.gelu(self.first(x))))
        y: Tensor = self.out(x)
        return y.reshape(n_batch, n_frames * self.stride, 2)


def frame_targets(
    store: SegmentStore, gaps_known: bool = True, rows: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """What the segmenter learns from the rows of a store, or from its `rows` (first, last + 1) alone, where segments stand in
    order: targets (n_rows, 2), each 0 or 1, and weights (n_rows,).

    A row is a boundary within one frame of the start or the end of a segment. Rows count inside segments and within KNOWN_FRAMES
    of one; without `gaps_known`, where only some of the phones of a recording are labelled, inside segments alone. What is unknown
    never counts.
    """
    first, last = rows if rows is not None else (0, store.n_rows)
    n, reach = last - first, KNOWN_FRAMES + 1.0
    near = slice(int(torch.searchsorted(store.end, first - reach)), int(torch.searchsorted(store.start, last + reach)))
    start, end = (t[near].round().long() - first for t in (store.start, store.end))
    boundary = torch.zeros(n)
    for shift in (-1, 0, 1):
        places = torch.cat((start, end)) + shift
        boundary[places[(places >= 0) & (places < n)]] = 1.0
    speech = _covered(start, end, n)
    reached = KNOWN_FRAMES if gaps_known else 0
    here = slice(
        int(torch.searchsorted(store.first, first, right=True)) - 1, int(torch.searchsorted(store.first, last))
    )
    begin = store.first[max(0, here.start) : here.stop] - first
    in_recording = _covered(begin, begin + store.length[max(0, here.start) : here.stop], n)
    begin, stop = (store.unknown.round().long() - first).T
    unknown = _covered(begin, stop, n)
    weights = _covered(start - reached, end + reached, n) * in_recording * (1 - unknown)
    return torch.stack((boundary, speech), dim=1), weights


def _covered(start: Tensor, end: Tensor, n: int) -> Tensor:
    """1 for the rows that lie in one of the spans, else 0: (n,)."""
    steps = torch.zeros(n + 1)
    steps.index_add_(0, start.clamp(0, n), torch.ones(len(start)))
    steps.index_add_(0, end.clamp(0, n), -torch.ones(len(end)))
    return (steps.cumsum(0)[:n] > 0).float()


def frame_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean binary cross-entropy; logits and targets (..., 2), weights (...)."""
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
    return (losses * weights).sum() / weights.sum().clamp_min(1.0)


def train_segmenter(encoder: Encoder, store: SegmentStore, seed: int) -> Segmenter:
    """A segmenter on frozen Θ, from the segments of a large corpus.

    One pass over stretches of TRAIN_FRAMES frames, AdamW with a one-cycle schedule. More passes fit the corpus's own boundaries
    better and those of other languages worse.
    """
    generator = torch.Generator().manual_seed(seed)
    config = encoder.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = Segmenter(config.channels, config.stride)
    starts = _stretches(store)
    draws = [torch.randperm(len(starts), generator=generator) for _ in range(TRAIN_EPOCHS)]
    batches = [batch for draw in draws for batch in starts[draw].split(TRAIN_BATCH)]
    _set_statistics(segmenter, encoder, store, starts[draws[0][: 4 * TRAIN_BATCH]])
    optimiser = torch.optim.AdamW(segmenter.parameters(), TRAIN_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, TRAIN_RATE, total_steps=len(batches) + 1, pct_start=0.1)
    tracked: Iterable[Tensor] = progress(batches, "segmenter")
    for batch in tracked:
        rows = batch.unsqueeze(1) + torch.arange(-MARGIN, TRAIN_FRAMES + MARGIN)
        features = store.take(rows)
        logits = segmenter(_noisy(_frames(encoder, features), generator), features)[:, MARGIN:-MARGIN]
        found = [frame_targets(store, rows=(first, first + TRAIN_FRAMES)) for first in batch.tolist()]
        targets, weights = (torch.stack(each) for each in zip(*found, strict=True))
        optimiser.zero_grad()
        frame_loss(logits, targets, weights).backward()
        optimiser.step()
        schedule.step()
    return segmenter.requires_grad_(False).eval()


@dataclass(frozen=True)
class Timing:
    """What transcription needs beside the recogniser: a segmenter tuned to the language, and how long its phonemes last.

    log_duration: (n_classes,) mean logarithm of the frames of each phoneme; spread: their standard deviation within phonemes.
    """

    segmenter: Segmenter
    log_duration: Tensor
    spread: float


def learn_timing(
    segmenter: Segmenter,
    encoder: Encoder,
    store: SegmentStore,
    classes: Sequence[str],
    gaps_known: bool = True,
    seed: int = 0,
) -> Timing:
    """The timing of a language from its labelled recordings. `encoder` is Θ without Φ; for `gaps_known` see `frame_targets`.

    The mean of a phoneme is shrunk towards that of all phonemes, which counts DURATION_PRIOR examples; one without an example has
    that mean.
    """
    log_frames = torch.log((store.end - store.start).clamp_min(1.0)).float()
    overall = log_frames.mean()
    place = {phoneme: i for i, phoneme in enumerate(classes)}
    owner = torch.tensor([place.get(p, -1) for p in store.phonemes])[store.label]
    counts = torch.bincount(owner, minlength=len(classes))
    sums = torch.zeros(len(classes)).index_add_(0, owner, log_frames)
    means = (sums + DURATION_PRIOR * overall) / (counts + DURATION_PRIOR)
    spread = float((log_frames - means[owner]).square().mean().sqrt().clamp_min(0.1))
    return Timing(tune_segmenter(segmenter, encoder, store, gaps_known, seed), means, spread)


def tune_segmenter(
    segmenter: Segmenter, encoder: Encoder, store: SegmentStore, gaps_known: bool = True, seed: int = 0
) -> Segmenter:
    """A copy of `segmenter` tuned to the labelled recordings of one language, or to TUNE_FRAMES of them.

    `encoder` is Θ without Φ. TUNE_STEPS full-batch steps of Adam, with a decay towards the weights it starts from.
    """
    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(segmenter).requires_grad_(True)
    before = [parameter.detach().clone() for parameter in tuned.parameters()]
    targets, weights = frame_targets(store, gaps_known)
    spans = _labelled(store, weights, segmenter.stride, generator)
    edge = SEES * segmenter.stride  # all that the segmenter needs of the margins that Θ needs
    cut = MARGIN - edge
    features, frames = [], []
    for start, end in spans:
        whole = store.frames[start - MARGIN : end + MARGIN].float().unsqueeze(0)
        frames.append(_frames(encoder, whole)[:, cut // segmenter.stride : -cut // segmenter.stride])
        features.append(whole[:, cut:-cut])
    total = sum(float(weights[start:end].sum()) for start, end in spans)
    optimiser = torch.optim.Adam(tuned.parameters(), TUNE_RATE)
    for _ in range(TUNE_STEPS):
        optimiser.zero_grad()
        for (start, end), each, below in zip(spans, frames, features, strict=True):
            logits = tuned(_noisy(each, generator), below)[0, edge:-edge]
            share = float(weights[start:end].sum()) / total
            (share * frame_loss(logits, targets[start:end], weights[start:end])).backward()
        moved = zip(tuned.parameters(), before, strict=True)
        (TUNE_DECAY * torch.stack([(now - then).square().sum() for now, then in moved]).sum()).backward()
        optimiser.step()
    return tuned.requires_grad_(False).eval()


def _labelled(store: SegmentStore, weights: Tensor, stride: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Rows (first, end) of stretches with labels, TUNE_STRETCH frames at most each, in random order, up to TUNE_FRAMES in all."""
    found = []
    for u in store.utterance.unique().tolist():
        first, length = int(store.first[u]), int(store.length[u])
        for start in range(first, first + length, TUNE_STRETCH):
            end = min(start + TUNE_STRETCH, first + length)
            end -= (end - start) % stride
            if end > start and bool(weights[start:end].any()):
                found.append((start, end))
    chosen, n = [], 0
    for i in torch.randperm(len(found), generator=generator).tolist():
        if n < TUNE_FRAMES:
            chosen.append(found[i])
            n += found[i][1] - found[i][0]
    return chosen


def _frames(encoder: Encoder, features: Tensor) -> Tensor:
    with torch.inference_mode():
        frames = encoder.frames(features)
    return frames.clone()


def _noisy(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames with a random gain of each channel, which differs from corpus to corpus."""
    return frames * (1 + GAIN_NOISE * torch.randn(len(frames), 1, frames.shape[2], generator=generator))


def _stretches(store: SegmentStore) -> Tensor:
    """First rows of the stretches that the recordings are cut into, the last one of each ending with the recording."""
    starts = []
    for first, length in zip(store.first.tolist(), store.length.tolist(), strict=True):
        n = max(1, math.ceil(length / TRAIN_FRAMES))
        starts += [first + min(i * TRAIN_FRAMES, max(0, length - TRAIN_FRAMES)) for i in range(n)]
    last = store.n_rows - TRAIN_FRAMES - MARGIN  # a stretch longer than its recording reaches into the next
    return torch.tensor(starts).clamp(MARGIN, max(MARGIN, last))


def _set_statistics(segmenter: Segmenter, encoder: Encoder, store: SegmentStore, starts: Tensor) -> None:
    """Set `centre` and `spread` from the frames of some stretches."""
    rows = starts.unsqueeze(1) + torch.arange(TRAIN_FRAMES)
    frames = _frames(encoder, store.take(rows)).flatten(0, 1)
    segmenter.centre.copy_(frames.mean(0))
    segmenter.spread.copy_(frames.std(0).clamp_min(1e-3))


def as_log_mel(store: SegmentStore) -> SegmentStore:
    """The store as the front end LOG_MEL hears it, made of the samples that `store` holds."""
    frames = torch.zeros(store.n_rows, MEL_BANDS, dtype=torch.float16)
    for first, length in zip(store.first.tolist(), store.length.tolist(), strict=True):
        heard = LOG_MEL.make(store.frames[first : first + length].float().flatten().numpy())[:length]
        frames[first - MARGIN : first + length + MARGIN] = LOG_MEL.with_margins(heard)
    return replace(store, frames=frames, window=LOG_MEL.window)
