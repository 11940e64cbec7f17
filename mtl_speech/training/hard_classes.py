"""The curriculum: which phoneme classes are hard, and tasks sampled from them.

Sun et al. (2019), section 4.3 and algorithm 1: over a meta-batch of tasks the class of lowest score on T^(te) is taken from each
task; these m classes are the hard classes, and the next round samples tasks T^(hard) ~ P(T | m). Here the score is F1. The paper's
public code does not have this part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtl_speech.training.episodes import Episode, EpisodeSampler


def hardest_classes(classes: Tensor, class_f1: Tensor) -> list[int]:
    """The class of lowest F1 of each task.

    classes: (n_tasks, n_way) phonemes; class_f1: (n_tasks, n_way), nan where a class had no query. Of equal classes the first
    counts. A task without any score gives none.
    """
    scored = ~torch.isnan(class_f1)
    worst = torch.where(scored, class_f1, torch.inf).argmin(1)
    return [
        int(c)
        for c, any_scored in zip(classes.gather(1, worst.unsqueeze(1))[:, 0], scored.any(1), strict=True)
        if any_scored
    ]


class HardClassPool:
    """The last `size` hard classes of each language, and what it samples.

    `history` holds, a round, the (language, phoneme) pairs that entered.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pools: dict[int, deque[int]] = {}
        self.history: list[list[tuple[int, int]]] = []

    def update(self, languages: Sequence[int], classes: Tensor, class_f1: Tensor) -> None:
        """Take the class of lowest F1 from each task of a meta-batch (shapes as in `hardest_classes`)."""
        entered = []
        for row, language in enumerate(languages):
            for phoneme in hardest_classes(classes[row : row + 1], class_f1[row : row + 1]):
                pool = self.pools.setdefault(language, deque(maxlen=self.size))
                if phoneme in pool:
                    pool.remove(phoneme)  # it becomes the newest again
                pool.append(phoneme)
                entered.append((language, phoneme))
        self.history.append(entered)

    def sample(
        self, rng: np.random.Generator, sampler: EpisodeSampler, n_way: int, n_shot: int, n_query: int
    ) -> Episode | None:
        """An episode whose n_way classes all come from the pool of one language.

        None while no language has n_way hard classes with enough tokens: the caller then samples at random.
        """
        ready: dict[int, list[int]] = {}
        for language, pool in self.pools.items():
            able = set(sampler.classes(language, n_shot))
            ready[language] = [p for p in pool if p in able]
        ready = {language: pool for language, pool in ready.items() if len(pool) >= n_way}
        if not ready:
            return None
        language = int(rng.choice(sorted(ready)))
        chosen = rng.choice(ready[language], size=n_way, replace=False)
        return sampler.sample(rng, language, chosen.tolist(), n_shot, n_query)
