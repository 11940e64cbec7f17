"""Pretraining: it learns what can be learned, tells what it did, and gives the same weights for the same seed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speechbrain as sb
import torch
from torch.nn import functional as F

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.options import EncoderConfig, PretrainConfig
from mtl_speech.features.augment import make_views
from mtl_speech.features.crops import UNKNOWN, CropBatches
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import FrameBatchNorm, part_weights
from mtl_speech.phonology.articulation import articulatory_features
from mtl_speech.training.pretrain import (
    PretrainBrain,
    PretrainModel,
    _frame_loss,
    predict_segments,
    pretrain,
    segment_scores,
)
from tests.helpers import frozen_bytes, make_store, seeded, toy_corpus

ENCODER = EncoderConfig(channels=8, blocks=1, embedding_size=12, dropout=0.1)
CONFIG = PretrainConfig(epochs=3, batch_frames=400, crop_lengths=(48, 96), pretrain_lr=0.01, average_decay=0.9)
TABLE = ("a", "s")


def corpus(seed: int, n: int = 8) -> SegmentStore:
    """Recordings of two phonemes of clearly different spectra."""
    rng = np.random.default_rng(seed)
    return make_store([rng.integers(0, 2, 12).tolist() for _ in range(n)], phonemes=TABLE, seed=seed)


@pytest.fixture(scope="module")
def trained() -> tuple[PretrainModel, list[dict[str, float]]]:
    return pretrain([corpus(1), corpus(2)], corpus(3), ENCODER, CONFIG)


def test_two_clearly_different_phonemes_are_learned(trained: tuple[PretrainModel, list[dict[str, float]]]) -> None:
    model, history = trained
    unseen = corpus(4)
    untrained = PretrainModel(ENCODER, TABLE).eval()
    assert segment_scores(untrained, unseen)[1] < 0.8
    accuracy, macro_f1 = segment_scores(model, unseen)
    assert accuracy > 0.97 and macro_f1 > 0.97
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]


def test_the_history_has_a_row_for_each_epoch(trained: tuple[PretrainModel, list[dict[str, float]]]) -> None:
    model, history = trained
    assert [row["epoch"] for row in history] == [1, 2, 3]
    keys = {"epoch", "train_loss", "valid_accuracy", "valid_macro_f1", "seconds"}
    assert all(set(row) == keys and all(map(math.isfinite, row.values())) for row in history)
    accuracy, macro_f1 = segment_scores(model, corpus(3))
    assert history[-1]["valid_accuracy"] == pytest.approx(accuracy, abs=0.011)  # folding moves the last digits only
    assert history[-1]["valid_macro_f1"] == pytest.approx(macro_f1, abs=0.011)


def test_the_model_is_folded_and_in_evaluation_mode(trained: tuple[PretrainModel, list[dict[str, float]]]) -> None:
    model, _ = trained
    assert not any(isinstance(m, FrameBatchNorm) for m in model.modules())
    assert not model.training and not model.encoder.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    short = replace(CONFIG, epochs=1)
    weights = []
    for seed in (5, 5, 6):
        torch.manual_seed(1000 + len(weights))  # what was drawn before does not matter
        model, _ = pretrain([corpus(1, 4)], corpus(3, 2), ENCODER, replace(short, seed=seed))
        weights.append(frozen_bytes(model))
    assert weights[0] == weights[1]
    assert all(weights[0][name] != weights[2][name] for name in weights[0] if name.endswith("weight"))


def test_workers_and_a_full_cache_change_no_weight(tmp_path: Path) -> None:
    recordings = toy_corpus(tmp_path / "c", 6, 2, "as")
    config = replace(CONFIG, epochs=2, crop_lengths=(40,), batch_frames=120)
    found = []
    for workers, folder in ((0, "one"), (1, "two"), (2, "two"), (2, "three")):
        views = make_views(recordings, TABLE, 2, 1, 0, cache=FeatureCache(tmp_path / folder))
        model, history = pretrain(views, corpus(3, 2), ENCODER, replace(config, workers=workers))
        found.append((frozen_bytes(model), [row["train_loss"] for row in history]))
    assert all(each == found[0] for each in found[1:])


# Losses


def test_losses_are_those_of_segments_frames_and_articulation() -> None:
    store = corpus(1)
    batches = CropBatches([store], (48,), 400, seed=0)
    crops = batches[0]
    model = PretrainModel(ENCODER, TABLE).eval()
    segment, frame, articulation = model(crops)
    frames = model.encoder.frames(crops.features)
    embedded = torch.cat([model.encoder.pool(frames[r], s[None]) for r, s in zip(crops.rows, crops.spans, strict=True)])
    logits = torch.log_softmax(model.segment_head(embedded), dim=1)
    right = logits.gather(1, crops.labels.unsqueeze(1)).mean()
    torch.testing.assert_close(segment, -(0.95 * right + 0.05 * logits.mean()))  # label smoothing of 0.05
    assert int(crops.frame_labels.max()) == 2, "silence is a class of its own"
    targets = torch.stack([crops.frame_labels[:, i] for i in range(0, 48, 2)], dim=1)
    torch.testing.assert_close(frame, F.cross_entropy(model.frame_head(frames).transpose(1, 2), targets))
    values = torch.from_numpy(articulatory_features(TABLE))[crops.labels]
    expected = (torch.tanh(model.feature_head(embedded)) - values).square().mean()
    torch.testing.assert_close(articulation, expected)


def brain_of(**settings: Any) -> PretrainBrain:
    config = replace(CONFIG, **settings)
    batches = CropBatches([corpus(1)], config.crop_lengths, config.batch_frames, config.seed)
    return PretrainBrain(config, PretrainModel(ENCODER, TABLE), batches, corpus(3))


def test_the_objective_weighs_the_losses_as_the_settings_say() -> None:
    brain = brain_of(frame_loss=0.25, articulatory_loss=2.0)
    losses = tuple(torch.tensor(x) for x in (1.0, 4.0, 0.5))
    assert float(brain.compute_objectives(losses, brain.batches[0], sb.Stage.TRAIN)) == 3.0


def test_features_are_augmented_in_training_only_and_the_batch_is_left_as_it_is() -> None:
    brain = brain_of(pretrain_lr=1e-12)
    brain.init_optimizers()
    brain.modules.eval()
    batch = brain.batches[0]
    before = batch.features.clone()
    torch.manual_seed(0)
    exact = [brain.evaluate_batch(batch, sb.Stage.VALID).item() for _ in range(2)]
    drawn = [brain.fit_batch(batch).item() for _ in range(2)]
    assert exact[0] == exact[1]
    assert len({round(loss, 6) for loss in (exact[0], *drawn)}) == 3
    assert torch.equal(batch.features, before)


# The loop


def test_the_learning_rate_rises_and_falls_once_over_all_steps() -> None:
    brain = brain_of(epochs=4)
    brain.init_optimizers()
    counted = 0
    for epoch in range(1, 5):
        brain.batches.set_epoch(epoch)
        counted += len(brain.batches)
    assert brain.n_steps == counted
    rates = []
    for step in range(brain.n_steps):
        brain.updates = step
        brain.on_fit_batch_start(brain.batches[0], True)
        rates.append(brain.optimizer.param_groups[0]["lr"])
    top = int(np.argmax(rates))
    assert max(rates) <= 0.01 and max(rates) > 0.0095 and top <= 0.1 * len(rates) + 1
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.02 * max(rates) and min(rates) > 0


def test_weights_and_statistics_are_averaged_over_steps() -> None:
    brain = brain_of(average_decay=0.5)
    model, average = brain.modules.model, brain.average
    now, mean = model.encoder.embedding.weight, average.encoder.embedding.weight
    expected = mean.detach().clone()
    for update in range(1, 13):
        with torch.no_grad():
            now.add_(1.0)
            model.encoder.stem.norm.running_mean.add_(2.0)
            model.encoder.stem.norm.num_batches_tracked.add_(1)
        brain.on_fit_batch_end(None, None, torch.zeros(()), True)  # type: ignore[arg-type]
        decay = min(0.5, update / (update + 10))
        expected = decay * expected + (1 - decay) * now.detach()
        torch.testing.assert_close(mean.detach(), expected)
    assert int(average.encoder.stem.norm.num_batches_tracked) == 12
    statistics = average.encoder.stem.norm.running_mean
    assert bool((statistics > 10).all()) and bool((statistics < 24).all())


def test_each_epoch_takes_its_own_plan_of_crops() -> None:
    brain = brain_of()
    brain.on_stage_start(sb.Stage.TRAIN, 3)
    other = CropBatches([corpus(1)], CONFIG.crop_lengths, CONFIG.batch_frames, CONFIG.seed)
    other.set_epoch(3)
    assert [first.tolist() for *_, first in brain.batches.plan] == [first.tolist() for *_, first in other.plan]


def test_the_averaged_weights_are_what_is_scored_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[object] = []

    def fit(self: PretrainBrain, *_: object, **__: object) -> None:
        with torch.no_grad():
            self.average.segment_head.bias.fill_(7.0)
        self.started = 0.0
        self.on_stage_end(sb.Stage.TRAIN, 1.0, 1)
        scored.append(self.average)

    monkeypatch.setattr(PretrainBrain, "fit", fit)
    monkeypatch.setattr(
        "mtl_speech.training.pretrain.segment_scores", lambda model, store: (scored.append(model), (0.5, 0.5))[1]
    )
    model, history = pretrain([corpus(1, 3)], corpus(3, 2), ENCODER, CONFIG)
    assert scored[0] is scored[1] is model and model.segment_head.bias.tolist() == [7.0, 7.0]
    assert history[0]["valid_accuracy"] == 0.5


# Scores


def test_segment_scores_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store([[0, 0, 0, 1]], phonemes=("a", "s", "t"))
    model = PretrainModel(ENCODER, ("a", "s", "t"))
    monkeypatch.setattr("mtl_speech.training.pretrain.predict_segments", lambda *_: torch.tensor([0, 0, 2, 1]))
    accuracy, macro_f1 = segment_scores(model, store)
    assert accuracy == 0.75 and macro_f1 == pytest.approx((0.8 + 1.0) / 2)  # t does not occur: no term of its own


def test_predictions_are_those_of_the_head_on_recordings_heard_whole(
    trained: tuple[PretrainModel, list[dict[str, float]]],
) -> None:
    store, (model, _) = corpus(3), trained
    found = predict_segments(model, store)
    for number, (first, length) in enumerate(zip(store.first.tolist(), store.length.tolist(), strict=True)):
        here = store.utterance == number
        spans = torch.stack((store.start[here], store.end[here]), dim=1) - first + MARGIN
        frames = model.encoder.frames(store.take(torch.arange(first - MARGIN, first + length + MARGIN))[None])
        parts = part_weights(model.encoder.places(spans.float()), frames.shape[1]) @ frames
        expected = model.segment_head(model.encoder.embed(parts, spans.float()))
        assert torch.equal(found[here], expected.argmax(1))
    assert len(found.unique()) == 2


def test_unknown_frames_add_nothing_to_the_loss() -> None:
    output = torch.randn(2, 6, 4, generator=seeded(0), requires_grad=True)
    target = torch.randint(4, (2, 6), generator=seeded(1))
    plain = _frame_loss(output, target)
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(output.flatten(0, 1), target.flatten()))
    masked = target.clone()
    masked[1] = UNKNOWN
    loss = _frame_loss(output, masked)
    (gradient,) = torch.autograd.grad(loss, output)
    assert not gradient[1].any() and bool(gradient[0].any())
    torch.testing.assert_close(loss, _frame_loss(output[:1], target[:1]) / 2)
    assert _frame_loss(output[:0], target[:0]).item() == 0.0
