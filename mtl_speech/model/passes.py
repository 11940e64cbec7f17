"""One pass: every recording goes through Θ once, and all of its segments are pooled from the frames.

A recording longer than an encoder hears at once is heard in stretches, each with some of its neighbours on either side; memory does
not grow with it. Stretches of one length go through the encoder together.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.files import mapped
from mtl_speech.core.terminal import progress
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import Heard, SegmentStore, Track
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.scale_shift import is_identity

LENGTHS = 10  # rows: what is heard of a recording is as long as a multiple of these, so that many are equally long
ROWS_AT_ONCE = 3_000  # that pass through an encoder together: 30 s
SEGMENTS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Stretch:
    """A stretch of one of several recordings: its rows, counted from the first of the recording, and what becomes of its frames.

    begin, end: the rows that are heard, margins included. low, high: the rows that the stretch is there for. skip, n_frames: the
    frames of these rows are `n_frames` after the first `skip`.
    """

    recording: int
    begin: int
    end: int
    low: int
    high: int
    skip: int
    n_frames: int


def n_frames_of(n_rows: int, encoder: FrameEncoder) -> int:
    """The frames of a recording of so many rows."""
    return math.ceil(n_rows / encoder.hop)


def stretches_of(recording: int, n_rows: int, encoder: FrameEncoder) -> Iterator[Stretch]:
    """How a recording is heard: whole, or in stretches of `encoder.stretch` rows with their context, the last one shorter."""
    unit = _unit(encoder)
    margin = encoder.margin // unit * unit
    whole = margin + n_rows + margin
    if whole <= encoder.stretch:
        end = -margin + min(_rounded_up(whole, math.lcm(LENGTHS, unit)), encoder.stretch // unit * unit)
        yield Stretch(recording, -margin, end, 0, n_rows, round(margin / encoder.hop), n_frames_of(n_rows, encoder))
        return
    context = encoder.context // unit * unit
    step = (encoder.stretch - 2 * context) // unit * unit
    for low in range(0, n_rows, step):
        high, begin = min(low + step, n_rows), max(low - context, -margin)
        end = begin + _rounded_up(min(high + context, n_rows + margin) - begin, unit)
        n_frames = n_frames_of(high, encoder) - round(low / encoder.hop)
        yield Stretch(recording, begin, end, low, high, round((low - begin) / encoder.hop), n_frames)


def _unit(encoder: FrameEncoder) -> int:
    """The fewest rows that are a whole number of frames."""
    return next(n for n in range(1, 1_000) if float(n / encoder.hop).is_integer())


def _rounded_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


Read = Callable[[Stretch], Tensor]  # the rows of a stretch, (end - begin, width) float32


def frames_of(
    encoder: FrameEncoder, stretches: Iterable[Stretch], read: Read, every: bool = False, title: str = ""
) -> Iterator[tuple[Stretch, list[Tensor]]]:
    """The frames of each stretch with its context, (n_frames, channels) each: of the encoder's layer, or of all (`every`).

    Those of one length pass through it together, so they come in another order. Under a `title` a bar shows how far they are.
    """
    groups: dict[int, list[Stretch]] = defaultdict(list)
    for stretch in stretches:
        groups[stretch.end - stretch.begin].append(stretch)
    batches = [
        group[i : i + max(1, ROWS_AT_ONCE // length)]
        for length, group in sorted(groups.items())
        for i in range(0, len(group), max(1, ROWS_AT_ONCE // length))
    ]
    for batch in progress(batches, title) if title else batches:
        rows = torch.stack([read(stretch) for stretch in batch])
        with torch.inference_mode():
            layers = encoder.all_layers(rows) if every else [encoder.frames(rows)]
        for number, stretch in enumerate(batch):
            yield stretch, [_enough(_single(each[number]), stretch) for each in layers]


def _single(frames: Tensor) -> Tensor:
    """Half precision as single."""
    return frames.to(torch.promote_types(frames.dtype, torch.float32))


def _enough(frames: Tensor, stretch: Stretch) -> Tensor:
    """The frames of a stretch, of which an encoder that hears many rows a frame makes one or two too few: the last one again."""
    missing = stretch.skip + stretch.n_frames - len(frames)
    return torch.cat((frames, frames[-1:].expand(missing, -1))) if missing > 0 else frames


def with_heard(
    store: SegmentStore, encoder: FrameEncoder, cache: FeatureCache | None = None, every: bool = False
) -> SegmentStore:
    """The store with what `encoder`, whose Φ is the identity, makes of it in one pass: embeddings of `encoder.layer`, and frames.

    With `every`, embeddings of all layers up to it, and no frames. They are mapped from files without a name in the folder of the
    cache. Raises OSError.
    """
    cache = cache if cache is not None else FeatureCache()
    layers = list(range(1, encoder.layer + 1)) if every else [encoder.layer]
    size = encoder.embedding_size
    with cache.scratch() as pooled, cache.scratch() as frames:
        embeddings = torch.from_numpy(mapped(pooled, np.float32, (len(layers), len(store), size)))
        track = None
        if not every:
            counts = [n_frames_of(n, encoder) for n in store.length.tolist()]
            first = torch.tensor([0, *counts]).cumsum(0)
            kept = mapped(frames, np.float16, (int(first[-1]), encoder.channels))
            track = Track(torch.from_numpy(kept), first, encoder.hop)
        places = _Places(store)
        for stretch, found in _passed(store, encoder, every):
            inside = places.of(stretch)
            for number, each in enumerate(found):
                embeddings[number, inside] = _pooled(encoder, each, store, inside, stretch)
            if track is not None:
                at = int(track.first[stretch.recording]) + round(stretch.low / encoder.hop)
                track.frames[at : at + stretch.n_frames] = found[0][stretch.skip : stretch.skip + stretch.n_frames]
    heard = Heard(encoder.fingerprint, dict(zip(layers, embeddings, strict=True)), track)
    return replace(store, heard=heard, number=torch.arange(len(store)))


def _passed(store: SegmentStore, encoder: FrameEncoder, every: bool = False) -> Iterator[tuple[Stretch, list[Tensor]]]:
    """The frames of the recordings of a store with a segment, as `frames_of` gives them."""
    if store.front_end not in (None, encoder.front_end.key):
        raise ValueError(f"the store was made by the front end '{store.front_end}', not '{encoder.front_end.key}'")
    planned = [
        each for u in store.utterance.unique().tolist() for each in stretches_of(u, int(store.length[u]), encoder)
    ]

    def read(stretch: Stretch) -> Tensor:
        first, n_rows = int(store.first[stretch.recording]), int(store.length[stretch.recording])
        rows = torch.arange(stretch.begin, stretch.end).clamp(-MARGIN, n_rows + MARGIN - 1)
        return store.take((first + rows).clamp(0, (len(store.frames) or store.n_rows) - 1))  # a `View` holds no frames

    return frames_of(encoder, planned, read, every, "encoding")


class _Places:
    """Which segments of a store lie where."""

    def __init__(self, store: SegmentStore) -> None:
        self.store = store
        self.owners, self.order = torch.sort(store.utterance, stable=True)

    def of(self, stretch: Stretch) -> Tensor:
        """The segments whose middles lie in what a stretch is there for: (n,)."""
        store, recording = self.store, stretch.recording
        ends = torch.tensor([recording, recording + 1])
        begin, end = torch.searchsorted(self.owners, ends).tolist()
        mine = self.order[begin:end]
        middle = (store.start[mine] + store.end[mine]) / 2 - store.first[recording]
        is_last = stretch.high == int(store.length[recording])
        return mine[((middle >= stretch.low) | (stretch.low == 0)) & ((middle < stretch.high) | is_last)]


def _pooled(encoder: FrameEncoder, frames: Tensor, store: SegmentStore, index: Tensor, stretch: Stretch) -> Tensor:
    """The embeddings of the segments `index` (n,) of a store, from the frames of the stretch that they lie in."""
    origin = store.first[stretch.recording] + stretch.begin
    spans = torch.stack((store.start[index] - origin, store.end[index] - origin), dim=1).to(frames)
    with torch.inference_mode():
        return torch.cat([encoder.pool(frames, some) for some in spans.split(SEGMENTS_AT_ONCE)])


def heard_of(store: SegmentStore, encoder: FrameEncoder) -> Heard | None:
    """What a store holds of an encoder, as it is without Φ; None where that is nothing."""
    heard = store.heard
    return heard if heard is not None and encoder.fingerprint and heard.encoder == encoder.fingerprint else None


def heard_below(store: SegmentStore, lower: FrameEncoder) -> SegmentStore:
    """The store whose rows are the frames that frozen layers make of those of `store`, margins included: they are computed once."""
    widened = replace(store, first=store.first - MARGIN, length=store.length + 2 * MARGIN, heard=None)
    heard = with_heard(widened, lower).heard
    assert heard is not None and heard.track is not None
    track, hop = heard.track, lower.hop
    begin = track.first[:-1]
    places = {
        name: begin[store.utterance] + (getattr(store, name) - widened.first[store.utterance]) / hop
        for name in ("start", "end")
    }
    margin = round(MARGIN / hop)
    length = track.first.diff() - 2 * margin
    rows = {"frames": track.frames, "first": begin + margin, "length": length, "window": round(store.window / hop)}
    # Of a `View`, too, a store that holds its rows.
    kept: dict[str, Any] = {each.name: getattr(store, each.name) for each in fields(SegmentStore)}
    return SegmentStore(**{**kept, **rows, **places, "front_end": None, "heard": None})


def embeddings_of(encoder: FrameEncoder, store: SegmentStore) -> Tensor:
    """The embeddings of all segments of a store, without gradient: (n_segments, embedding_size).

    Those that the store holds, where they are this encoder's and its Φ is the identity; otherwise its recordings pass through it.
    """
    heard = heard_of(store, encoder)
    if heard is not None and encoder.layer in heard.embeddings and is_identity(encoder):
        return heard.embeddings[encoder.layer][store.number]
    found = torch.zeros(len(store), encoder.embedding_size)
    places = _Places(store)
    for stretch, (frames,) in _passed(store, encoder):
        inside = places.of(stretch)
        found[inside] = _pooled(encoder, frames, store, inside, stretch)
    return found
