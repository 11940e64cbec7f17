"""The curriculum: the class of lowest F1 enters the pool, and hard tasks come from the pool alone."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.hard_classes import HardClassPool, hardest_classes
from mtl_speech.training.meta_train import is_hard_round
from tests.helpers import make_store, toy_store

NAN = float("nan")


def hard(*phonemes: int) -> deque[int]:
    return deque(phonemes, maxlen=4)


def test_the_class_of_lowest_f1_is_taken_from_each_task() -> None:
    classes = torch.tensor([[7, 3, 5], [2, 9, 4], [1, 6, 8], [5, 3, 7]])
    f1 = torch.tensor([[0.9, 0.2, 0.5], [0.0, 0.1, 1.0], [0.8, 0.7, 0.6], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert hardest_classes(classes, f1) == [3, 2, 8, 5]  # of equal classes the first


def test_classes_without_a_query_are_neither_hard_nor_in_the_way() -> None:
    classes = torch.tensor([[7, 3, 5], [1, 2, 4], [8, 9, 6]])
    f1 = torch.tensor([[NAN, 0.4, 0.3], [NAN, NAN, NAN], [0.5, NAN, 0.5]])
    assert hardest_classes(classes, f1) == [5, 8]  # the second task has no score: nothing enters


def test_the_pool_keeps_the_last_classes_of_each_language() -> None:
    pool = HardClassPool(2)

    def enter(language: int, phoneme: int) -> None:
        pool.update([language], torch.tensor([[phoneme, 11]]), torch.tensor([[0.1, 0.9]]))

    for phoneme in (1, 2, 3):
        enter(0, phoneme)
    enter(5, 1)
    assert {k: list(v) for k, v in pool.pools.items()} == {0: [2, 3], 5: [1]}
    enter(0, 2)  # met again: it is the newest now, not there twice
    assert list(pool.pools[0]) == [3, 2]
    enter(0, 4)
    assert list(pool.pools[0]) == [2, 4]
    assert pool.history == [[(0, 1)], [(0, 2)], [(0, 3)], [(5, 1)], [(0, 2)], [(0, 4)]]


def test_a_meta_batch_enters_with_the_language_of_each_task() -> None:
    pool = HardClassPool(10)
    classes, f1 = torch.tensor([[4, 5], [4, 6], [7, 4]]), torch.tensor([[0.1, 0.9], [0.8, 0.2], [NAN, NAN]])
    pool.update([2, 0, 1], classes, f1)
    assert {k: list(v) for k, v in pool.pools.items()} == {2: [4], 0: [6]}
    assert pool.history == [[(2, 4), (0, 6)]]


def test_hard_tasks_come_from_the_pool_of_one_language_alone() -> None:
    store = toy_store(n_languages=3, n_phonemes=6)  # language l has the phonemes 2 l to 2 l + 5
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    pool = HardClassPool(4)
    pool.pools = {0: hard(1, 3, 5), 1: hard(2, 4), 2: hard(4, 6, 8, 9)}
    seen = set()
    for _ in range(60):
        episode = pool.sample(rng, sampler, 3, 1, 2)
        assert episode is not None
        chosen = set(episode.classes.tolist())
        assert len(chosen) == 3 and chosen <= set(pool.pools[episode.language])
        assert bool((store.language[torch.cat((episode.support, episode.query))] == episode.language).all())
        seen.add((episode.language, frozenset(chosen)))
    assert {language for language, _ in seen} == {0, 2}, "language 1 has too few hard classes for three ways"
    assert len({chosen for language, chosen in seen if language == 2}) == 4, "every choice of three of four"


def test_no_hard_task_while_the_pool_is_small_or_its_classes_are_rare() -> None:
    store = make_store([[0, 1, 2], [0, 1, 2], [3, 3, 3]])  # phoneme 3 lies in one recording only
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    pool = HardClassPool(4)
    assert pool.sample(rng, sampler, 2, 1, 1) is None
    pool.pools = {0: hard(0, 3)}
    assert pool.sample(rng, sampler, 2, 1, 1) is None
    pool.pools = {0: hard(0, 3, 2)}
    for _ in range(10):
        episode = pool.sample(rng, sampler, 2, 1, 1)
        assert episode is not None and set(episode.classes.tolist()) == {0, 2}


def test_the_same_seed_gives_the_same_hard_tasks() -> None:
    sampler = EpisodeSampler(toy_store())
    pool = HardClassPool(4)
    pool.pools = {0: hard(0, 1, 2, 3), 1: hard(4, 5, 6)}
    drawn = []
    for seed in (3, 3, 4):
        rng = np.random.default_rng(seed)
        episodes = [pool.sample(rng, sampler, 2, 1, 2) for _ in range(5)]
        drawn.append([e.support.tolist() for e in episodes if e is not None])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("ratio", "pattern"), [(0.0, "....."), (0.25, "...#"), (0.5, ".#"), (0.75, ".###"), (1.0, "#")]
)
def test_hard_rounds_alternate_at_the_ratio(ratio: float, pattern: str) -> None:
    rounds = "".join("#" if is_hard_round(number, ratio) else "." for number in range(20))
    assert rounds == pattern * (20 // len(pattern))
