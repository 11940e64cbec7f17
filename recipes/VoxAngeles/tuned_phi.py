"""Meta-transfer whose Φ moves in each task too: from the meta-learned start, Φ and the adapted head are tuned together.

Tasks of fewer than `MIN_SHOTS` examples a class are left to the inner loop: there, tuning lost on the validation languages.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from peers import TUNE_STEPS, Fitted, Tuned
from torch import Tensor, nn

from mtl_speech.features.store import SegmentStore
from mtl_speech.model.learner import Head, extend, row_of
from mtl_speech.training.episodes import Episode
from mtl_speech.training.meta_test import Tasks, Trained, summary

logger = logging.getLogger("mtl_speech.recipes")

NAME = "meta-transfer, Φ tuned"
RATES = (3e-4, 1e-3, 3e-3)  # of Φ; the best on the validation tasks is kept
HEAD_RATE = 3.0  # multiple of it that the head takes
MIN_SHOTS = 3


class PhiTuned(Tuned):
    """A learner that was meta-trained, tuned in every task: Φ is what requires a gradient in its encoder."""

    def score(self, store: SegmentStore, tasks: Tasks) -> dict[str, np.ndarray]:
        """As of the class above. Phonemes that the learner has not met get rows of θ."""
        return super(PhiTuned, self._for(store)).score(store, tasks)

    def adapt(self, store: SegmentStore, episode: Episode) -> tuple[nn.Module, float]:
        """As of the class above."""
        return super(PhiTuned, self._for(store)).adapt(store, episode)

    def _for(self, store: SegmentStore) -> PhiTuned:
        learner = copy.deepcopy(self.learner)
        extend(learner, store.phonemes)
        return replace(self, learner=learner)

    def _first_head(self, store: SegmentStore, episode: Episode) -> Head:
        classes = row_of(self.learner, store)[episode.classes]
        with torch.no_grad():
            support = self.learner.embed(*store.windows(episode.support))[None]
            return self.learner.adapt(support, episode.support_labels[None], classes[None], True, torch.Generator())

    def _optimizer(self, moved: Sequence[Tensor], head: Sequence[Tensor]) -> torch.optim.Optimizer:
        rate = self.settings["lr"]
        return torch.optim.Adam([{"params": moved, "lr": rate}, {"params": head, "lr": HEAD_RATE * rate}])

    def _n_steps(self, episode: Episode) -> int:
        return TUNE_STEPS if len(episode.support) >= MIN_SHOTS * len(episode.classes) else 0

    def plain(self, encoder: nn.Module) -> nn.Module | None:
        """As of `Fitted`: without Φ."""
        return Fitted.plain(self, encoder)


def tune_phi(trained: Trained, valid: SegmentStore, tasks: Tasks) -> PhiTuned:
    """The method on a learner that was meta-trained, with the rate that is best on the validation tasks."""
    started = time.perf_counter()
    best: PhiTuned | None = None
    for rate in RATES:
        found = PhiTuned(NAME, trained.learner, trained.trainable_parameters, 0.0, {}, settings={"lr": rate})
        found = replace(found, valid=summary(found.score(valid, tasks)))
        logger.info("%s %s: validation %.4f", NAME, found.settings, found.valid["mean"])
        if best is None or found.valid["mean"] > best.valid["mean"]:
            best = found
    assert best is not None
    return replace(best, seconds=trained.seconds + time.perf_counter() - started)
