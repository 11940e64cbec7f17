"""Views of a training corpus for pretraining: the recordings as they are, and augmented with draws of their own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from mtl_speech.augment import WaveformAugment
from mtl_speech.corpora import Progress
from mtl_speech.corpus import Corpus
from mtl_speech.features import SegmentStore, build_store


def make_view(corpus: Corpus, phonemes: Sequence[str], number: int, seed: int) -> SegmentStore:
    """The recordings of a corpus as they are (view 0), or augmented."""
    return build_store([corpus], phonemes, WaveformAugment(seed * 1000 + number) if number else None)


def make_views(
    corpus: Corpus,
    phonemes: Sequence[str],
    n_views: int,
    n_workers: int,
    seed: int,
    progress: Progress | None = None,
) -> list[SegmentStore]:
    """All views, `n_workers` at a time, each in a process of its own; the result does not depend on `n_workers`.

    `phonemes` fixes the label indices. Raises DataError as `build_store` does.
    """
    track: Progress = progress or (lambda items, _: items)
    numbers = range(n_views)
    if min(n_views, n_workers) == 1:
        return [make_view(corpus, phonemes, number, seed) for number in track(numbers, "features and augmentation")]
    torch.multiprocessing.set_sharing_strategy("file_system")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start_worker) as pool:
        jobs = [pool.submit(make_view, corpus, phonemes, number, seed) for number in numbers]
        return [job.result() for job in track(jobs, "features and augmentation")]


def _start_worker() -> None:
    """One thread a process; an interrupt ends it without a word."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
