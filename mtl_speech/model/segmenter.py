"""Where phones begin and end: a small network on the frames of Θ that finds boundaries, and tells speech from silence.

It is trained on the large corpus, after Θ, and knows no phoneme, so it serves any language; a language's own labelled recordings
then tune it, because corpora differ in where they put a boundary.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.files import mapped
from mtl_speech.core.terminal import progress
from mtl_speech.features.front_end import MARGIN, FrontEnd
from mtl_speech.features.store import FrameSource, SegmentStore, Track, audio_content
from mtl_speech.model.encoder import FrameConv, FrameEncoder
from mtl_speech.model.passes import heard_of, with_heard

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
    """Frames of Θ (without Φ) and the rows of log-mel under them -> the logits of a boundary and of speech, every 10 ms.

    bands: of the log-mel. stride: rows from frame to frame.
    """

    def __init__(self, channels: int, stride: int, bands: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.stride = stride
        self.first = FrameConv(channels + stride * bands, hidden, 5, padding=2)
        self.second = FrameConv(hidden, hidden, 3, padding=1)
        self.out = FrameConv(hidden, 2 * stride, 1)
        self.centre: Tensor = nn.Buffer(torch.zeros(channels))
        self.spread: Tensor = nn.Buffer(torch.ones(channels))

    def forward(self, frames: Tensor, rows: Tensor) -> Tensor:
        """Frames of Θ (batch, n_frames, channels) and rows (batch, stride * n_frames, bands) -> (batch, stride * n_frames, 2)."""
        return self.upper(self.lower(frames, rows))

    def lower(self, frames: Tensor, rows: Tensor) -> Tensor:
        """What the first convolution gives: (batch, n_frames, hidden)."""
        n_batch, n_frames = frames.shape[:2]
        x = torch.cat(((frames - self.centre) / self.spread, rows.reshape(n_batch, n_frames, -1)), dim=2)
        return F.gelu(self.first(x))

    def upper(self, hidden: Tensor) -> Tensor:
        """What `forward` gives, from that."""
        y: Tensor = self.out(F.gelu(self.second(hidden)))
        return y.reshape(len(hidden), -1, 2)


def new_segmenter(encoder: FrameEncoder) -> Segmenter:
    """A segmenter that hears the frames of `encoder`, with random weights."""
    return Segmenter(encoder.channels, round(encoder.hop), encoder.front_end.width)


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


def train_segmenter(encoder: FrameEncoder, store: SegmentStore, seed: int) -> Segmenter:
    """A segmenter on frozen Θ, from the segments of a large corpus.

    One pass over stretches of TRAIN_FRAMES frames, AdamW with a one-cycle schedule. More passes fit the corpus's own boundaries
    better and those of other languages worse.
    """
    generator = torch.Generator().manual_seed(seed)
    store, track = _heard(encoder, store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = new_segmenter(encoder)
    spans = _stretches(store, TRAIN_FRAMES, segmenter.stride)
    draws = [torch.randperm(len(spans), generator=generator) for _ in range(TRAIN_EPOCHS)]
    batches = [batch for draw in draws for batch in draw.split(TRAIN_BATCH)]
    _set_statistics(segmenter, store, track, [spans[i] for i in draws[0][: 4 * TRAIN_BATCH].tolist()])
    optimiser = torch.optim.AdamW(segmenter.parameters(), TRAIN_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, TRAIN_RATE, total_steps=len(batches) + 1, pct_start=0.1)
    tracked: Iterable[Tensor] = progress(batches, "segmenter")
    for batch in tracked:
        optimiser.zero_grad()
        examples = [_example(store, track, *spans[i]) for i in batch.tolist()]
        total = sum(float(example.weights.sum()) for example in examples)
        for group in _equally_long(examples):
            logits = segmenter(
                _noisy(torch.stack([e.frames for e in group]), generator), torch.stack([e.rows for e in group])
            )
            targets, weights = torch.stack([e.targets for e in group]), torch.stack([e.weights for e in group])
            (frame_loss(logits, targets, weights) * (float(weights.sum()) / max(total, 1.0))).backward()
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
    encoder: FrameEncoder,
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
    segmenter: Segmenter, encoder: FrameEncoder, store: SegmentStore, gaps_known: bool = True, seed: int = 0
) -> Segmenter:
    """A copy of `segmenter` tuned to the labelled recordings of one language, or to TUNE_FRAMES of them.

    `encoder` is Θ without Φ; what the store holds of it is not computed again. The first convolution stays as it is, so that it is
    computed once; the others take TUNE_STEPS full-batch steps of Adam, with a decay towards the weights they start from.
    """
    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(segmenter)
    learned = [p.requires_grad_(True) for layer in (tuned.second, tuned.out) for p in layer.parameters()]
    before = [parameter.detach().clone() for parameter in learned]
    store, track = _heard(encoder, store)
    _, known = frame_targets(store, gaps_known)
    first = store.first.tolist()
    stretches = _stretches(store, TUNE_STRETCH, segmenter.stride)
    spans = _drawn([s for s in stretches if bool(known[first[s[0]] + s[1] : first[s[0]] + s[2]].any())], generator)
    hidden, targets, weights = _in_a_row(tuned, [_example(store, track, *span, gaps_known) for span in spans])
    optimiser = torch.optim.Adam(learned, TUNE_RATE)
    for _ in range(TUNE_STEPS):
        optimiser.zero_grad()
        loss = frame_loss(tuned.upper(_noisy(hidden, generator))[0], targets, weights)
        moved = zip(learned, before, strict=True)
        (loss + TUNE_DECAY * torch.stack([(now - then).square().sum() for now, then in moved]).sum()).backward()
        optimiser.step()
    return tuned.requires_grad_(False).eval()


def _in_a_row(segmenter: Segmenter, examples: Sequence[_Example]) -> tuple[Tensor, Tensor, Tensor]:
    """What the first convolution gives for each of the stretches, with a frame of zeros after each, which counts nothing.

    Returns (1, n_frames, hidden), and the targets (n_rows, 2) and weights (n_rows,) of all rows.
    """
    with torch.inference_mode():
        hidden = [segmenter.lower(e.frames.unsqueeze(0), e.rows.unsqueeze(0))[0] for e in examples]
    together = torch.cat([F.pad(each, (0, 0, 0, 1)) for each in hidden]).clone()
    targets = torch.cat([F.pad(e.targets, (0, 0, 0, segmenter.stride)) for e in examples])
    weights = torch.cat([F.pad(e.weights, (0, segmenter.stride)) for e in examples])
    return together.unsqueeze(0), targets, weights


def _heard(encoder: FrameEncoder, store: SegmentStore) -> tuple[SegmentStore, Track]:
    """A store with segments in order, and the frames of `encoder`, which it may hold already."""
    order = torch.argsort(store.start)
    store = store.select(order)
    heard = heard_of(store, encoder)
    if heard is None or heard.track is None:
        heard = with_heard(store, encoder).heard
    assert heard is not None and heard.track is not None
    return store, heard.track


@dataclass(frozen=True)
class _Example:
    """A stretch of a recording. frames: (n_frames, channels); rows: (n_rows, bands); targets: (n_rows, 2); weights: (n_rows,), zero
    for the rows that are there as context alone."""

    frames: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor


def _example(
    store: SegmentStore, track: Track, recording: int, low: int, high: int, gaps_known: bool = True
) -> _Example:
    """The rows `low` to `high` of a recording, with what the segmenter sees of its neighbours."""
    stride = round(track.hop)
    n_frames = int(track.first[recording + 1] - track.first[recording])
    begin, end = max(low // stride - SEES, 0), min(-(-high // stride) + SEES, n_frames)
    at, first = int(track.first[recording]), int(store.first[recording])
    rows = store.take(torch.arange(first + begin * stride, first + end * stride))
    targets, weights = frame_targets(store, gaps_known, (first + begin * stride, first + end * stride))
    weights[: low - begin * stride] = 0.0
    weights[high - begin * stride :] = 0.0
    return _Example(track.frames[at + begin : at + end].float(), rows, targets, weights)


def _equally_long(examples: Sequence[_Example]) -> Iterable[list[_Example]]:
    groups: dict[int, list[_Example]] = defaultdict(list)
    for example in examples:
        groups[len(example.frames)].append(example)
    return groups.values()


def _stretches(store: SegmentStore, length: int, stride: int) -> list[tuple[int, int, int]]:
    """Stretches of the recordings that have a segment, `length` rows at most each: (recording, first row, end), by its own rows."""
    length = length // stride * stride
    return [
        (u, low, min(low + length, int(store.length[u])))
        for u in store.utterance.unique().tolist()
        for low in range(0, int(store.length[u]), length)
    ]


def _drawn(spans: Sequence[tuple[int, int, int]], generator: torch.Generator) -> list[tuple[int, int, int]]:
    """Some of the stretches in random order, TUNE_FRAMES rows or a little more in all."""
    chosen, n = [], 0
    for i in torch.randperm(len(spans), generator=generator).tolist():
        if n < TUNE_FRAMES:
            chosen.append(spans[i])
            n += spans[i][2] - spans[i][1]
    return chosen


def _noisy(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames (batch, n_frames, channels) with a random gain of each channel, which differs from corpus to corpus."""
    return frames * (1 + GAIN_NOISE * torch.randn(len(frames), 1, frames.shape[2], generator=generator))


def _set_statistics(
    segmenter: Segmenter, store: SegmentStore, track: Track, spans: Sequence[tuple[int, int, int]]
) -> None:
    """Set `centre` and `spread` from the frames of some stretches."""
    frames = torch.cat([_example(store, track, *span).frames for span in spans])
    segmenter.centre.copy_(frames.mean(0))
    segmenter.spread.copy_(frames.std(0).clamp_min(1e-3))


def heard_by(front_end: FrontEnd, store: SegmentStore) -> SegmentStore:
    """The store as another front end hears it: its recordings are read again. Raises DataError, OSError."""
    source = FrameSource(front_end=front_end)
    with source.cache.scratch() as stream:
        found = torch.from_numpy(mapped(stream, np.float16, (store.n_rows, front_end.width)))
    for u in store.utterance.unique().tolist():
        first, length = int(store.first[u]), int(store.length[u])
        rows, _ = source.frames_of(store.audio[u], audio_content(store.audio[u]), u)
        rows = rows[torch.arange(length).clamp_max(len(rows) - 1)]  # some front ends make one row more than others
        found[first - MARGIN : first + length + MARGIN] = front_end.with_margins(rows)
    return replace(store, frames=found, window=front_end.window, front_end=front_end.key, heard=None)
