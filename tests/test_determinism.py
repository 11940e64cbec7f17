"""The same seed gives the same bits in another process, with two threads too; one thread gives nearly the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.threads import in_process, jobs, made_up
from mtl_speech.training.episodes import EpisodeSampler, stack
from mtl_speech.training.meta_train import meta_forward
from tests.helpers import phi_names, tiny_encoder, tiny_learner

# How far one thread and two may lie apart, in each job. Adam divides a gradient by its size: where it is next to nothing,
# rounding decides which way a weight goes, by a few learning rates (1.5e-3 in pretraining).
BOUNDS = {
    "encoder, 288 segments": 1e-5,
    "pretraining, 2 epochs": 1e-2,
    "pretraining, predictions": 0,
    "adaptation": 1e-4,
    "adaptation, predictions": 0,
    "meta-training, 1 round": 1e-5,
    "meta-training, 4 rounds": 1e-4,
}


def test_the_same_seed_gives_the_same_bits_and_threads_hardly_matter(tmp_path: Path) -> None:
    first, second = (in_process(2, hash_seed, tmp_path / f"{hash_seed}.npz") for hash_seed in (1, 2))
    assert torch.get_num_threads() == 1
    alone = {name: value.numpy() for name, value in jobs().items()}
    assert first.keys() == second.keys() == alone.keys() == BOUNDS.keys()
    for name, bound in BOUNDS.items():
        assert first[name].tobytes() == second[name].tobytes(), f"{name}: other bits in another process"
        assert np.abs(first[name].astype(float) - alone[name]).max() <= bound, name


@pytest.fixture
def two_threads():  # type: ignore[no-untyped-def]
    """Two threads, and then one again."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_the_gradient_of_phi_is_the_same_every_time() -> None:
    """Segments that tasks share are embedded once: their gradients are summed in one order."""
    store = made_up(12, 3)
    learner = tiny_learner(store, tiny_encoder(size=256), theta_init="posterior")
    rng, sampler = np.random.default_rng(0), EpisodeSampler(store)
    batch = stack([sampler.random(rng, 10, 3, 3) for _ in range(8)])
    gradients = []
    for _ in range(20):
        learner.zero_grad()
        meta_forward(learner, store, batch)[0].backward()
        named = dict(learner.named_parameters())
        gradients.append(torch.cat([named[name].grad.flatten() for name in sorted(phi_names(learner))]))  # type: ignore[union-attr]
    assert all(torch.equal(each, gradients[0]) for each in gradients)
