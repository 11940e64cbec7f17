"""Encoders of other makers as Θ: what is learned on them and what a pack holds, on tiny models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import MARGIN, RAW, RAW_NORMALISED, FrontEnd, build_store
from mtl_speech.model import hub
from mtl_speech.model.pack import load_pack, pack_hash
from mtl_speech.model.scale_shift import phi_state, scale_shift_layers
from mtl_speech.model.segmenter import as_log_mel
from mtl_speech.model.strategy import load_base, load_hub_base, new_learner, prepare_learner
from mtl_speech.report.findings import compare_base
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.transcription import transcribe
from mtl_speech.transcription.transcribe import Transcriber
from tests.command_line import INVENTORY, run
from tests.helpers import frozen_bytes, meta_config, seeded, toy_recording
from tests.hub_models import AUTO_LAYER, FEW, KINDS, N_LAYERS, rows_of_noise

pytest.importorskip("transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'")

CONVOLUTIONS = 7

# --- from end to end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_adapts_on_words_of_voxangeles(kind: str, save: Any, words: Path, tmp_path: Path) -> None:
    adapts(kind, save, words, "lad", tmp_path)


def test_adaptation_on_generated_recordings(save: Any, buzzes: Path, tmp_path: Path) -> None:
    adapts("wavlm", save, buzzes, "pa", tmp_path)


def adapts(kind: str, save: Any, data: Path, lang: str, tmp_path: Path) -> None:
    """Adapt; the pack holds what was learned alone, serves with this encoder, and with no other."""
    encoder = save(kind)
    out, pack = tmp_path / "out", tmp_path / "out" / "pack"
    run("adapt", "--lang", lang, "--data", data, "--encoder", encoder, *FEW, "-o", out)
    assert (out / "report.html").read_text(encoding="utf-8").count("largest difference of its outputs") == 1
    base = load_hub_base(encoder)
    found = load_pack(pack, "language")
    phi = {f"encoder.{name}" for name in phi_state(new_learner(base, "ab", meta_config()).encoder)}
    assert {name for name in found.tensors if name.startswith("encoder.")} == phi
    n_frozen = sum(tensor.numel() for tensor in base.encoder.state_dict().values())
    assert sum(found.tensors[name].numel() for name in phi) < 0.5 * n_frozen
    assert found.card["base"] == {
        "name": Path(encoder).name,
        "sha256": pack_hash(base.pack),
        "hub": {
            "layer": str(AUTO_LAYER),
            "phi": list(base.encoder.config.phi),
            "segmenter": pack_hash(load_base().pack),
        },
    }

    assert "it loads on its base as a language" in run("verify", pack, "--encoder", encoder).stdout
    scores = run("evaluate", pack, "--data", data, "--encoder", encoder, "-o", tmp_path / "scores")
    assert "macro" in scores.stdout

    other = save(kind, 1)
    refused = run("verify", pack, "--encoder", other, code=1).stdout
    assert pack_hash(base.pack) in refused and pack_hash(load_hub_base(other).pack) in refused
    assert "give --encoder with the encoder that it was made on" in refused


def test_what_a_pack_was_made_with_is_read_from_it(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, out = save("wav2vec2"), tmp_path / "out"
    chosen = ("--encoder-layer", "learned", "--phi-layers", "*.attention.v_proj,*.attention.q_proj")
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *chosen, *FEW, "-o", out)
    how = load_pack(out / "pack").card["base"]["hub"]
    assert (how["layer"], how["phi"]) == ("learned", ["*.attention.v_proj", "*.attention.q_proj", "mix"])
    assert "FAILED" not in run("verify", out / "pack", "--encoder", encoder).stdout
    told = run("info", out / "pack").stdout
    assert "give it by --encoder" in told and "learned, Φ on *.attention.v_proj, *.attention.q_proj, mix" in told
    run("verify", out / "pack", "--encoder", encoder, "--encoder-layer", "1", code=1)
    for command in (("transcribe", out / "pack", buzzes), ("suggest", out / "pack", "--pool", buzzes)):
        assert "give --encoder with the encoder" in run(*command, "-o", tmp_path / "no", code=1).stderr, command
    said = run("export", out / "pack", "-o", tmp_path / "no", code=1).stderr
    assert "export, which has no such option, serves packs on the built-in encoder alone" in said


def test_recordings_are_transcribed_and_suggested(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, pack = save("whisper"), tmp_path / "out" / "pack"
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *FEW, "-o", tmp_path / "out")
    given = ("--encoder", encoder, "--threads", 1)
    run("transcribe", pack, buzzes, *given, "--score", "-o", tmp_path / "labelled")
    scores = json.loads((tmp_path / "labelled" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["boundary_f1"]["value"] > 0.9 and scores["phone_error_rate"]["value"] < 0.4
    for n in range(3):
        toy_recording(tmp_path / "pool" / f"{n}.wav", INVENTORY[n : n + 4], seed=100 + n)
    run("suggest", pack, *given, "--pool", tmp_path / "pool", "--number", 2, "-o", tmp_path / "next")
    lines = (tmp_path / "next" / "suggestions.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 1 + 2

    card = json.loads((pack / "card.json").read_text(encoding="utf-8"))
    card["base"]["hub"]["segmenter"] = "0" * 64  # of another version of the English model
    (pack / "card.json").write_text(json.dumps(card), encoding="utf-8")
    refused = run("transcribe", pack, buzzes, *given, "-o", tmp_path / "no", code=1).stderr
    assert "cannot transcribe: it was made on" in refused
    assert "macro" in run("evaluate", pack, *given, "--data", buzzes, "-o", tmp_path / "scores").stdout


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2-layer-norm", "whisper"])
def test_each_span_of_a_recording_is_heard_as_in_training(
    kind: str, save: Any, buzzes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the recording is cut on the way."""
    for name, value in (("CHUNK", 300), ("LAST_PART", 150)):
        monkeypatch.setattr(transcribe, name, value)
    encoder, audio = save(kind), tmp_path / "long.wav"
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *FEW, "-o", tmp_path / "out")
    transcriber = Transcriber.load(tmp_path / "out" / "pack", load_hub_base(encoder))
    toy_recording(audio, [INVENTORY[n % len(INVENTORY)] for n in range(100)])
    examined = transcriber.examine(audio)
    assert len(examined.spans) > 50 and examined.transcription.duration == pytest.approx(10.2)

    front_end = transcriber.base.front_end
    waveform, _ = soundfile.read(audio, dtype="float32")
    rows = front_end.with_margins(front_end.make(waveform)).float()
    spans = (examined.spans * 100).round() + MARGIN
    left = spans.mean(1).round().long() - front_end.window // 2
    with torch.inference_mode():
        windows = rows[left.unsqueeze(1) + torch.arange(front_end.window)]
        expected = transcriber.model.learner.encoder(windows, spans - left.unsqueeze(1))
        expected = transcriber.model.learner.standardise(expected)
    torch.testing.assert_close(examined.embeddings, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("front_end", [RAW, RAW_NORMALISED])
def test_samples_become_log_mel_for_the_segmenter(front_end: FrontEnd, buzzes: Path) -> None:
    corpus = read_corpus(buzzes, "pa")
    expected, found = build_store([corpus]), as_log_mel(build_store([corpus], front_end=front_end))
    for u in range(len(expected.first)):
        n = min(int(expected.length[u]), int(found.length[u]))
        a, b = (store.frames[int(store.first[u]) :][:n].float() for store in (expected, found))
        assert float((a - b).abs().mean()) < 0.05  # of values that spread by about 1


def test_a_strategy_is_meta_trained_on_it_and_adapted_from(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, strategy = save("hubert"), tmp_path / "strategy"
    few = "--meta-steps 3 --meta-batch 2 --n-way 2 --n-shot 1 --n-query 1 --valid-tasks 2 --validate-every 3".split()
    chosen = ("--encoder", encoder, "--encoder-layer", 1, "--phi-layers", "*.feed_forward.*_dense")
    run("meta-train", buzzes, "--lang", "pa", *chosen, *few, "--threads", 1, "-o", strategy)
    assert "FAILED" not in run("verify", strategy / "pack", "--encoder", encoder).stdout
    given = ("--strategy", strategy / "pack", "--encoder", encoder)
    run("ablate", "--lang", "pa", "--data", buzzes, *given, *FEW, "-o", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    how = load_pack(tmp_path / "out" / "pack").card["base"]["hub"]
    assert (how["layer"], how["phi"]) == ("1", ["*.feed_forward.*_dense"])  # as the strategy has them
    assert "+ meta-transfer" in page and load_pack(strategy / "pack").name in page


# --- what is learned -----------------------------------------------------------------------------------------------

PARTS = {
    "transformers": ["attention.k_proj", "attention.out_proj", "attention.q_proj", "attention.v_proj"],
    "dense": ["feed_forward.intermediate_dense", "feed_forward.output_dense"],
    "whisper": ["fc1", "fc2", *(f"self_attn.{part}_proj" for part in ("k", "out", "q", "v"))],
}


def expected_layers(kind: str) -> set[str]:
    """The names of the layers that carry Φ in a model of this kind."""
    if kind == "whisper":
        layers = {f"backbone.encoder.layers.{n}.{part}" for n in range(AUTO_LAYER) for part in PARTS["whisper"]}
        return {"backbone.encoder.conv1", "backbone.encoder.conv2", *layers}
    torchs = kind == "torchaudio"
    encoder = "backbone.model.encoder"
    layers = {f"backbone.model.feature_extractor.conv_layers.{n}.conv" for n in range(CONVOLUTIONS)}
    layers.add(f"{encoder}.feature_projection.projection" if torchs else "backbone.model.feature_projection.projection")
    parts = PARTS["dense"] + ([] if kind in ("wavlm", "torchaudio") else PARTS["transformers"])
    inner = f"{encoder}.transformer.layers" if torchs else f"{encoder}.layers"
    return layers | {f"{inner}.{n}.{part}" for n in range(AUTO_LAYER) for part in parts}


@pytest.mark.parametrize("kind", KINDS)
def test_meta_training_moves_phi_alone_and_there_is_one_copy_of_theta(kind: str, save: Any, buzzes: Path) -> None:
    base = load_hub_base(save(kind))
    before = frozen_bytes(base.encoder)
    where = {tensor.data_ptr() for tensor in base.encoder.parameters()}
    store = build_store([read_corpus(buzzes, "pa")], front_end=base.front_end)
    config = meta_config(meta_steps=2, n_way=(2,), n_shot=(1,), n_query=1, meta_batch=2, outer_lr=0.05)
    learner = new_learner(base, store.phonemes, config)
    prepare_learner(learner, store, config)
    copies = [learner, copy.deepcopy(learner)]
    for each in copies:
        frozen = {p.data_ptr() for p in each.encoder.parameters() if not p.requires_grad}
        assert frozen == where
    assert set(scale_shift_layers(learner.encoder)) == expected_layers(kind)
    trained = {name for name, p in learner.encoder.named_parameters() if p.requires_grad}
    assert trained == set(phi_state(learner.encoder))
    phi = {name: tensor.clone() for name, tensor in phi_state(learner.encoder).items()}
    trainer = MetaTrainer(learner, store, config)
    assert all(np.isfinite(trainer.step()["loss"]) for _ in range(2))
    moved = [name for name, tensor in phi_state(learner.encoder).items() if not torch.equal(tensor, phi[name])]
    assert len(moved) >= 0.9 * len(phi), sorted(set(phi) - set(moved))
    assert all(torch.equal(tensor, phi[name]) for name, tensor in phi_state(copies[1].encoder).items())
    assert frozen_bytes(base.encoder) == before
    found = compare_base(base, learner, store)
    assert found.largest_difference == 0.0 and found.sha256_before == found.sha256_after == pack_hash(base.pack)


def test_weights_of_layers_are_learned(save: Any, buzzes: Path) -> None:
    base = load_hub_base(save("wav2vec2"), "learned")
    windows, _ = rows_of_noise(3)
    states = base.encoder.backbone(windows.flatten(1), True)
    mean = torch.stack([torch.nn.functional.layer_norm(state, (16,)) for state in states]).mean(0)
    torch.testing.assert_close(base.encoder.frames(windows), mean)
    store = build_store([read_corpus(buzzes, "pa")], front_end=base.front_end)
    config = meta_config(meta_steps=2, n_way=(2,), n_shot=(1,), n_query=1, meta_batch=2, outer_lr=0.05)
    learner = new_learner(base, store.phonemes, config)
    prepare_learner(learner, store, config)
    MetaTrainer(learner, store, config).step()
    weights = phi_state(learner.encoder)["mix.scale"]
    assert weights.numel() == N_LAYERS and torch.count_nonzero(weights - 1.0) == N_LAYERS


def test_parts_of_a_batch_give_what_the_whole_gives(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so do activations that are computed again in the reverse pass."""
    base = load_hub_base(save("hubert"))
    learner = new_learner(base, "ab", meta_config())
    windows, spans = rows_of_noise(5)
    found = []
    for at_once in (5, 2):
        monkeypatch.setattr(hub, "AT_ONCE", at_once)
        learner.zero_grad()
        embedded = learner.encoder(windows, spans)
        embedded.square().sum().backward()
        gradients = [p.grad.clone() for p in learner.encoder.parameters() if p.grad is not None]
        with torch.no_grad():
            torch.testing.assert_close(learner.encoder(windows, spans), embedded.detach())
        found.append([embedded.detach(), *gradients])
    assert len(found[0]) > 1
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_large_embeddings_are_projected_the_same_way_every_time() -> None:
    projections = [hub._projection(3 * 768 + 1) for _ in range(2)]
    assert projections[0] is not None and projections[0].shape == (2305, hub.MAX_EMBEDDING)
    assert torch.equal(*projections) and hub._projection(hub.MAX_EMBEDDING) is None
    vectors = torch.randn(40, 2305, generator=seeded(0))
    distances, projected = torch.pdist(vectors), torch.pdist(vectors @ projections[0])
    assert float((projected / distances - 1).abs().max()) < 0.2
