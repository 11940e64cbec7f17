"""Meta-training with Φ on the upper layers alone: what lies below is computed once and kept."""

from __future__ import annotations

import pytest
import torch

from mtl_speech.core.options import WhisperConfig
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.passes import heard_below
from mtl_speech.model.scale_shift import attach, phi_state
from mtl_speech.model.whisper import WhisperEncoder
from mtl_speech.training.meta_train import MetaTrainer
from tests.command_line import labelled_folder
from tests.helpers import meta_config

UPPER = ("layers.1.*.[qvo]*_proj", "layers.1.fc?")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SegmentStore:
    folder = labelled_folder(tmp_path_factory.mktemp("kept"), 8, 2)
    return build_store([read_corpus(folder, "pa")], front_end=encoder().front_end)


def encoder() -> WhisperEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = WhisperEncoder(WhisperConfig(bands=80, size=16, heads=2, layers=2))
    return made.requires_grad_(False).eval()


def test_the_parts_together_are_the_whole(store: SegmentStore) -> None:
    adapted = attach(encoder(), "channel", UPPER)
    split = adapted.split()
    assert split is not None
    lower, upper = split
    windows, _ = store.windows(torch.arange(4))
    torch.testing.assert_close(upper.frames(lower.frames(windows)), adapted.frames(windows))
    assert attach(encoder(), "channel", ("*",)).split() is None  # its convolutions carry Φ too


def test_kept_frames_lie_where_the_segments_are(store: SegmentStore) -> None:
    lower = encoder().at_layer(1)
    kept = heard_below(store, lower)
    u = 3
    rows = store.take(torch.arange(int(store.first[u]) - MARGIN, int(store.first[u] + store.length[u]) + MARGIN))
    even = rows[: len(rows) // 10 * 10]
    with torch.inference_mode():
        whole = lower.frames(even.unsqueeze(0))[0]
    first = int(kept.first[u]) - MARGIN // 2
    torch.testing.assert_close(kept.frames[first : first + 40].float(), whole[:40], rtol=0, atol=0.02)
    mine = torch.nonzero(store.utterance == u).squeeze(1)
    seconds = (store.start[mine] - store.first[u]) / 2
    torch.testing.assert_close(kept.start[mine] - kept.first[u], seconds, rtol=0, atol=0.51)


def test_phi_of_the_upper_layer_learns_and_nothing_below_is_computed_again(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = attach(encoder(), "channel", UPPER)
    learner = MetaLearner(adapted, adapted.embedding_size, store.phonemes, "posterior", 1, 0.1)
    before = {name: value.clone() for name, value in phi_state(adapted).items()}
    trainer = MetaTrainer(learner, store, meta_config(meta_steps=2, n_way=(2,), n_shot=(1,), n_query=1))
    calls: list[int] = []
    stem = WhisperEncoder._stem
    monkeypatch.setattr(WhisperEncoder, "_stem", lambda self, rows: (calls.append(len(rows)), stem(self, rows))[1])
    trainer.step()
    trainer.step()
    assert not calls
    after = phi_state(adapted)
    assert all(name.startswith("layers.1.") for name in after)
    assert any(not torch.equal(before[name], after[name]) for name in after)
