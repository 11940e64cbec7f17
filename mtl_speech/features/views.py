"""Views of a training corpus for pretraining: the recordings as they are, and augmented with draws of their own.

A view has tables of its recordings and segments and no frames: these come from the cache, recording by recording, and are made
when they are first asked for. So memory does not grow with the corpus, and training does not wait for all of them.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import HOP_LENGTH, MEL_BANDS
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.augment import WaveformAugment
from mtl_speech.features.store import (
    MARGIN,
    Found,
    SegmentStore,
    assemble,
    audio_content,
    owned_utterances,
    place,
    problem_of,
    recording_features,
)

BLOCK = 64  # recordings that a process reads at a time


@dataclass(frozen=True)
class View(SegmentStore):
    """A store whose frames come from the cache: `frames` is empty, `take` gives what another store has in it.

    audio, content: path and `audio_content` of each recording. The margins hold its edge frames; where an augmented recording is
    a frame shorter than `length` says, so does that frame.
    """

    audio: tuple[Path, ...] = ()
    content: tuple[str, ...] = ()
    augment: WaveformAugment | None = None
    cache: FeatureCache = field(default_factory=FeatureCache)
    checked: np.ndarray = field(
        default_factory=lambda: np.zeros(0, dtype=bool)
    )  # entries that this process has checked

    def take(self, rows: Tensor) -> Tensor:
        """The frames in `rows`, of any shape: (..., MEL_BANDS) float32. Raises DataError where a recording cannot be read."""
        flat = rows.flatten()
        owner = torch.searchsorted(self.first - MARGIN, flat, right=True) - 1
        found = torch.empty(len(flat), MEL_BANDS)
        for number in owner.unique().tolist():
            mine = owner == number
            frames = self._frames(number)
            found[mine] = frames[(flat[mine] - self.first[number]).clamp(0, len(frames) - 1)].float()
        return found.view(*rows.shape, MEL_BANDS)

    def _frames(self, number: int) -> Tensor:
        check = not self.checked[number]
        self.checked[number] = True
        return recording_features(self.audio[number], self.content[number], self.augment, number, self.cache, check)[0]


def make_views(
    corpus: Corpus,
    phonemes: Sequence[str],
    n_views: int,
    n_workers: int,
    seed: int,
    cache: FeatureCache | None = None,
) -> list[View]:
    """All views; the first is the recordings as they are, whose features are made here, by `n_workers` processes.

    `phonemes` fixes the label indices. What is made does not depend on `n_workers`. Raises DataError as `build_store` does.
    """
    kept = cache if cache is not None else FeatureCache()
    owned = owned_utterances([corpus])
    found: list[Found] = []
    contents: list[str] = []
    problems: list[Problem] = []
    read = _read_all([u.audio for _, u in owned], kept, n_workers)
    for (owner, utterance), (content, n_frames, fault) in zip(owned, progress(read, "features"), strict=True):
        if fault:
            problems.append(problem_of(utterance, DataError(fault)))
        else:
            found.append(Found(owner, utterance, n_frames, 1.0))
            contents.append(content)
    kept.prune()
    store = assemble([corpus], found, phonemes, problems, lambda: torch.empty(0, MEL_BANDS, dtype=torch.float16), kept)
    tables = {f.name: getattr(store, f.name) for f in fields(SegmentStore)}
    audio = tuple(f.utterance.audio for f in found)
    views = [View(**tables, audio=audio, content=tuple(contents), cache=kept, checked=np.zeros(len(found), dtype=bool))]
    for number in range(1, n_views):
        augment = WaveformAugment(seed * 1000 + number)
        places, checked = place(_at_speed(found, augment), kept), np.zeros(len(found), dtype=bool)
        views.append(replace(views[0], **places, augment=augment, checked=checked))  # labels and names are there once
    return views


def _at_speed(found: Sequence[Found], augment: WaveformAugment) -> list[Found]:
    """The recordings as long as their augmentation makes them, to within a frame."""
    speeds = [augment.speed_of(number) for number in range(len(found))]
    lengths = [1 + int((f.n_frames - 0.5) * HOP_LENGTH / s) // HOP_LENGTH for f, s in zip(found, speeds, strict=True)]
    return [Found(f.corpus, f.utterance, n, s) for f, n, s in zip(found, lengths, speeds, strict=True)]


def _read_all(paths: Sequence[Path], cache: FeatureCache, n_workers: int) -> Iterable[tuple[str, int, str]]:
    """Content, number of frames and fault of each recording, in order; its features are then in the cache."""
    blocks = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    n_workers = min(n_workers, len(blocks))
    if n_workers <= 1:
        yield from chain.from_iterable(_read_block(block, cache) for block in blocks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start_worker) as pool:
        yield from chain.from_iterable(pool.map(partial(_read_block, cache=cache), blocks))


def _read_block(paths: Sequence[Path], cache: FeatureCache) -> list[tuple[str, int, str]]:
    found = []
    for path in paths:
        content = audio_content(path)
        try:
            found.append((content, len(recording_features(path, content, None, 0, cache)[0]), ""))
        except DataError as error:
            found.append((content, 0, str(error)))
    return found


def _start_worker() -> None:
    """One thread a process; an interrupt ends it without a word."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
