"""What to label or record next: the few of many candidates that together promise most for macro-F1.

The value of a set S of candidates is

    V(S) = Σ_c w_c f(n_c + Σ_{x ∈ S} e_c(x)) + λ C · mean_j max(k_j, max_{x ∈ S} s(x, j)),   f(n) = n / (n + 1).

The first sum is coverage with diminishing returns: n_c examples of phoneme c are there, candidate x is expected to bring e_c(x)
more (the sum of the posteriors of its phones), and w_c is larger for a phoneme of low F1. The second is how well the sounds of the
pool are known: a phone j by the confidence k_j with which it is recognised, or by the likeness s of a phone in a chosen recording.
So a recording counts if the model is unsure of many sounds like those in it, and the second of two like recordings counts little.
Both terms are monotone and submodular, so that the greedy choice has at least 1 − 1/e of the best possible value (Nemhauser,
Wolsey, Fisher 1978), and gains that are computed anew only ever fall (lazy evaluation; Minoux 1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PROBES = 1_000  # phones of the pool, drawn at random beyond this number, on which diversity is measured
HARDLY = 0.1  # expected examples of a phoneme below which a candidate is not said to bring it


@dataclass(frozen=True)
class Inventory:
    """What a model knows of each phoneme: examples (n_classes,) and F1 (n_classes,), nan where it is not known."""

    phonemes: tuple[str, ...]
    examples: NDArray[np.float64]
    f1: NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A recording or a word that may be chosen.

    posteriors: (n_phones, n_classes) probabilities of the phonemes of an `Inventory` for each of its phones; embeddings: (n_phones,
    dim), with dim 0 where nothing is heard; seconds: its length, nan where it is not known.
    """

    id: str
    posteriors: NDArray[np.float64]
    embeddings: NDArray[np.float64]
    seconds: float = float("nan")


@dataclass(frozen=True)
class Weights:
    """How much each part of the value counts: 0 leaves it out."""

    coverage: float = 1.0
    diversity: float = 0.5  # λ
    hardness: float = 0.5  # w_c = 1 − hardness · F1_c


@dataclass(frozen=True)
class Brought:
    """What a suggestion is expected to bring of one phoneme, and what it adds to the value by that."""

    phoneme: str
    expected: float  # further examples
    examples: int  # that the model was learned from
    f1: float  # nan: not known
    gain: float


@dataclass(frozen=True)
class Suggestion:
    """A candidate, what it adds to the value of those before it, how much of that is coverage, and of which phonemes."""

    candidate: Candidate
    gain: float
    coverage: float
    brings: tuple[Brought, ...]  # largest gain first


def choose(
    candidates: Sequence[Candidate],
    inventory: Inventory,
    number: int,
    weights: Weights = Weights(),
    per_phone: bool = False,
    seed: int = 0,
) -> list[Suggestion]:
    """The `number` best candidates, best first; all of them where there are fewer.

    With `per_phone` each gain is divided by the candidate's number of phones, which is what labelling costs (the greedy choice is
    then a heuristic). Of equal candidates the first is chosen. `seed` draws the phones on which diversity is measured, where the
    pool has more than MAX_PROBES.
    """
    value = _Value(candidates, inventory, weights, seed)
    costs = [len(c.posteriors) if per_phone else 1 for c in candidates]
    queue = [(-value.gain(i) / max(cost, 1), i, 0) for i, cost in enumerate(costs)]
    heapq.heapify(queue)
    chosen: list[Suggestion] = []
    while queue and len(chosen) < number:
        _, i, computed = heapq.heappop(queue)
        if computed < len(chosen):  # gains only fall: one that is first after it was computed anew is the largest
            heapq.heappush(queue, (-value.gain(i) / max(costs[i], 1), i, len(chosen)))
        else:
            chosen.append(Suggestion(candidates[i], value.gain(i), value.coverage(i), value.brings(i)))
            value.add(i)
    return chosen


class _Value:
    """The value of the candidates added so far, and what another one would add."""

    def __init__(self, candidates: Sequence[Candidate], inventory: Inventory, weights: Weights, seed: int) -> None:
        self._candidates, self._inventory = candidates, inventory
        self._class_weights = weights.coverage * (1.0 - weights.hardness * np.nan_to_num(inventory.f1))
        self._expected = [c.posteriors.sum(0) for c in candidates]
        self._counts = inventory.examples.astype(np.float64)
        probes, known = _probes(candidates, inventory, seed) if weights.diversity else (np.empty((0, 0)), np.empty(0))
        self._probes, self._known = probes, known
        self._per_probe = weights.diversity * len(inventory.phonemes) / max(len(known), 1)

    def gain(self, i: int) -> float:
        """What candidate `i` would add."""
        nearer = np.maximum(self._likeness(i) - self._known, 0.0).sum() if len(self._known) else 0.0
        return self.coverage(i) + self._per_probe * float(nearer)

    def coverage(self, i: int) -> float:
        """The part of the gain that is coverage."""
        return float(self._covered(i).sum())

    def add(self, i: int) -> None:
        """Take candidate `i`."""
        self._counts = self._counts + self._expected[i]
        if len(self._known):
            self._known = np.maximum(self._known, self._likeness(i))

    def brings(self, i: int) -> tuple[Brought, ...]:
        """What candidate `i` would bring of each phoneme, largest gain first; phonemes that it hardly has are left out."""
        gains, expected = self._covered(i), self._expected[i]
        order = [int(c) for c in np.argsort(-gains, kind="stable") if expected[c] >= HARDLY]
        found = self._inventory
        return tuple(
            Brought(found.phonemes[c], float(expected[c]), int(found.examples[c]), float(found.f1[c]), float(gains[c]))
            for c in order
        )

    def _covered(self, i: int) -> NDArray[np.float64]:
        """The gain in coverage by phoneme, (n_classes,)."""
        after = self._counts + self._expected[i]
        return self._class_weights * (after / (after + 1) - self._counts / (self._counts + 1))

    def _likeness(self, i: int) -> NDArray[np.float64]:
        """The likeness of each probe to the most similar phone of candidate `i`, (n_probes,): cosine, at least 0."""
        own = _normed(self._candidates[i].embeddings)
        if not len(own):
            return np.zeros(len(self._known))
        return np.maximum((self._probes @ own.T).max(1), 0.0)


def _probes(
    candidates: Sequence[Candidate], inventory: Inventory, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normed embeddings (n_probes, dim) of phones of the pool, and how surely each is a phoneme that has examples, (n_probes,)."""
    heard = [c for c in candidates if c.embeddings.size]
    if not heard:
        return np.empty((0, 0)), np.empty(0)
    embeddings = np.concatenate([c.embeddings for c in heard])
    posteriors = np.concatenate([c.posteriors for c in heard])[:, inventory.examples > 0]
    if len(embeddings) > MAX_PROBES:
        drawn = np.random.default_rng(seed).choice(len(embeddings), MAX_PROBES, replace=False)
        embeddings, posteriors = embeddings[drawn], posteriors[drawn]
    return _normed(embeddings), posteriors.max(1, initial=0.0)


def _normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (n, dim) of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
