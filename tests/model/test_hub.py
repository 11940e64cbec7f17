"""Encoders of other makers as Θ: what is read from them, what is learned on them and what a pack holds, on tiny models."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file, save_file

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError, PackError, UsageError
from mtl_speech.corpora.audio import HOP_LENGTH
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import LOG_MEL, MARGIN, RAW, RAW_NORMALISED, FrontEnd, build_store, raw_rows
from mtl_speech.model import hub
from mtl_speech.model.backbones import TorchaudioBackbone, TransformersBackbone, WhisperBackbone
from mtl_speech.model.hub import HubEncoder, load_hub_encoder
from mtl_speech.model.pack import load_pack, pack_hash, save_pack
from mtl_speech.model.scale_shift import phi_state, scale_shift_layers
from mtl_speech.model.segmenter import as_log_mel
from mtl_speech.model.strategy import load_base, load_hub_base, new_learner, prepare_learner, strategy_pack
from mtl_speech.report.findings import compare_base
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.transcription import transcribe
from mtl_speech.transcription.transcribe import Transcriber
from tests.command_line import INVENTORY, labelled_folder, run
from tests.helpers import frozen_bytes, meta_config, seeded, toy_recording
from tests.hub_models import KINDS, N_LAYERS, save_model

pytest.importorskip("transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'")

FEW = ("--meta-steps", 2, "--threads", 1, "--quiet")
AUTO_LAYER = 2  # of N_LAYERS
CONVOLUTIONS = 7
WORDS = 15


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves a model of one of KINDS; gives what --encoder is to be. No hub is asked for anything."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return lambda kind, seed=0: save_model(kind, tmp_path / "models" / f"{kind}-{seed}", monkeypatch, seed)


@pytest.fixture(scope="module")
def words(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some words of Ladino."""
    folder = tmp_path_factory.mktemp("lad")
    for path in sorted((corpora / "voxangeles" / "lad").iterdir())[: 2 * WORDS]:  # each is a .flac and a .TextGrid
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def buzzes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("buzzes"), 8, 2)


def rows_of_noise(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n windows of noise, and spans within them."""
    windows = 0.1 * torch.randn(n, RAW.window, HOP_LENGTH, generator=seeded(seed))
    return windows, torch.tensor([[40.0, 50.0]]).expand(n, 2)


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


# --- what is read from a model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_hop_receptive_field_normalisation_and_layers_are_those_of_the_model(kind: str, save: Any) -> None:
    encoder = load_hub_encoder(save(kind))
    config = encoder.config
    assert (config.hop, config.layer, config.embedding_size) == (320, str(AUTO_LAYER), 3 * 16 + 1)
    assert config.receptive == (0 if kind == "whisper" else 400)
    assert encoder.front_end is (RAW_NORMALISED if kind == "wav2vec2-layer-norm" else RAW)
    assert len(encoder.backbone.layers) == AUTO_LAYER  # what is above is not kept
    n_frames = 48 if kind == "whisper" else 47
    assert encoder.frames(rows_of_noise(2)[0]).shape == (2, n_frames, 16)


def test_a_frame_hears_the_samples_of_its_receptive_field(save: Any) -> None:
    """The norms of this kind are of each frame alone, so that the gradient of a frame shows what it hears."""
    encoder = load_hub_encoder(save("wav2vec2-layer-norm"))
    samples = torch.randn(1, 4000, generator=seeded(0)).requires_grad_()
    frame = 3
    encoder.backbone.model.feature_extractor(samples)[0, :, frame].sum().backward()
    heard = torch.nonzero(samples.grad[0]).squeeze(1)
    first = frame * encoder.config.hop
    assert (int(heard.min()), int(heard.max())) == (first, first + encoder.config.receptive - 1)


def test_another_stride_is_read_too() -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        conv_dim=(4, 4),
        conv_kernel=(20, 4),
        conv_stride=(10, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=1,
        num_feat_extract_layers=2,
        apply_spec_augment=False,
    )
    backbone = TransformersBackbone(Wav2Vec2Model(config).eval(), False)
    assert (backbone.hop, backbone.receptive) == (40, 3 * 10 + 20)
    assert backbone(torch.zeros(1, 400), False)[0].shape[1] == (400 - 50) // 40 + 1


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_those_that_the_model_gives_itself(kind: str, save: Any) -> None:
    """The one of a number, with nothing computed above it, and all of them, against the model as its maker runs it."""
    import transformers

    name = save(kind)
    waveforms = rows_of_noise(2)[0].flatten(1)
    if kind == "torchaudio":
        states = torchaudio.pipelines.WAV2VEC2_TINY.get_model().extract_features(waveforms)[0]
    elif kind == "whisper":
        waveforms = 0.1 * torch.randn(1, 30 * 16_000, generator=seeded(0))  # it hears no other length by itself
        extractor = transformers.AutoFeatureExtractor.from_pretrained(name)
        features = extractor(waveforms[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        model = transformers.WhisperModel.from_pretrained(name).eval()
        states = model.encoder(features, output_hidden_states=True).hidden_states[1:]
    else:
        model = transformers.AutoModel.from_pretrained(name if kind != "speechbrain" else f"{name}/source").eval()
        if kind == "speechbrain":
            weights = torch.load(f"{name}/wav2vec2.ckpt", weights_only=True)
            model.load_state_dict({key.removeprefix("model."): value for key, value in weights.items()})
        states = model(waveforms, output_hidden_states=True).hidden_states[1:]
    every = load_hub_encoder(name, "learned").backbone(waveforms, True)
    torch.testing.assert_close(every[:-1], list(states[:-1]))
    for number in (1, 2):
        (one,) = load_hub_encoder(name, str(number)).backbone(waveforms, False)
        if kind == "wav2vec2-layer-norm":  # whose layers end without a norm: the one over the last is taken
            expected = model.encoder.layer_norm(states[number - 1])
        else:
            expected = model.encoder.layer_norm(states[number - 1]) if kind == "whisper" else states[number - 1]
        torch.testing.assert_close(one, expected)


def test_frames_of_whisper_are_scaled_as_its_extractor_does(save: Any) -> None:
    from transformers import AutoFeatureExtractor

    name = save("whisper")
    waveform = 0.1 * torch.randn(30 * 16_000, generator=seeded(1))
    expected = AutoFeatureExtractor.from_pretrained(name)(waveform.numpy(), sampling_rate=16_000).input_features[0]
    backbone = load_hub_encoder(name).backbone
    assert isinstance(backbone, WhisperBackbone)
    np.testing.assert_allclose(backbone.log_mel(waveform[None])[0].numpy(), expected, atol=1e-3)


def test_recordings_are_heard_as_they_are_or_normalised_as_a_whole() -> None:
    waveform = (3.0 + np.random.default_rng(0).normal(0, 0.2, 1000)).astype(np.float32)
    rows = raw_rows(waveform)
    assert rows.shape == (7, HOP_LENGTH) and rows.dtype == torch.float16
    np.testing.assert_allclose(rows.flatten()[:1000].float().numpy(), waveform, rtol=1e-3)
    assert torch.count_nonzero(rows.flatten()[1000:]) == 0
    heard = raw_rows(waveform, normalised=True).flatten()[:1000].double()
    assert abs(float(heard.mean())) < 1e-3 and float(heard.std()) == pytest.approx(1.0, abs=1e-2)


def test_the_cache_keeps_what_each_encoder_hears_apart(buzzes: Path, tmp_path: Path) -> None:
    cache, corpus = FeatureCache(tmp_path / "cache"), read_corpus(buzzes, "pa")
    ends = (LOG_MEL, RAW, RAW_NORMALISED)
    first = [build_store([corpus], cache=cache, front_end=end).frames.clone() for end in ends]
    n_entries = len(list((tmp_path / "cache").rglob("*.safetensors")))
    again = [build_store([corpus], cache=cache, front_end=end).frames for end in ends]
    assert [frames.shape[1] for frames in again] == [end.width for end in ends]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert n_entries == len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3 * len(corpus.utterances)


def test_a_window_of_samples_is_that_of_its_segment(buzzes: Path) -> None:
    corpus = read_corpus(buzzes, "pa")
    store = build_store([corpus], front_end=RAW)
    windows, spans = store.windows(torch.arange(len(store)))
    assert windows.shape[1:] == (RAW.window, HOP_LENGTH)
    left, right = (spans * HOP_LENGTH).round().long()[0]
    utterance = next(u for u in corpus.utterances if f"{corpus.name}/{u.id}" == store.utterance_ids[0])
    waveform, rate = soundfile.read(utterance.audio, dtype="float32")
    segment = utterance.segments[0]
    inside = windows[0].flatten()[left:right]
    start = round(segment.start * rate)
    expected = torch.from_numpy(waveform[start : start + len(inside)])
    torch.testing.assert_close(inside, expected, atol=1e-3, rtol=0)


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


# --- what is refused -----------------------------------------------------------------------------------------------


def test_which_layer() -> None:
    assert [hub.layer_number("auto", n) for n in (1, 3, 12, 24)] == [1, 2, 8, 16]
    assert hub.layer_number("3", 3) == 3 and hub.layer_number("learned", 3) is None
    for wrong in ("0", "4", "-1", "last", "1.5"):
        with pytest.raises(UsageError, match="has 3 layers"):
            hub.layer_number(wrong, 3)


def test_options_that_do_not_go_together(save: Any, buzzes: Path) -> None:
    data = ("--lang", "pa", "--data", buzzes)
    assert "one of them at most" in run("adapt", *data, "--encoder", "x", "--base", "y", code=2).stderr
    assert "needs --encoder" in run("adapt", *data, "--encoder-layer", "2", code=2).stderr
    assert "needs --encoder" in run("adapt", *data, "--phi-layers", "*", code=2).stderr
    encoder = save("wav2vec2")
    assert "3 layers" in run("adapt", *data, "--encoder", encoder, "--encoder-layer", "9", code=2).stderr
    assert "no Conv or Linear layer" in run("adapt", *data, "--encoder", encoder, "--phi-layers", "*.q", code=2).stderr


def test_what_is_no_encoder_is_told(save: Any, tmp_path: Path) -> None:
    from transformers import BertConfig

    with pytest.raises(DataError, match="neither a folder, nor a pipeline of torchaudio, nor a model"):
        load_hub_encoder("someone/no-such-model")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match="is of the kind 'bert'; served are wav2vec2, hubert, wavlm, whisper"):
        load_hub_encoder(str(tmp_path / "bert"))
    folder = Path(save("wav2vec2"))
    told = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "sampling_rate": 8000}), encoding="utf-8")
    with pytest.raises(UsageError, match="8000 samples a second"):
        load_hub_encoder(str(folder))
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="the model there cannot be read"):
        load_hub_encoder(str(folder))


def test_weights_that_are_damaged_or_not_whole_are_refused(save: Any) -> None:
    """A package of models draws what is missing at random, and goes on."""
    folder = Path(save("wav2vec2"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = "encoder.layers.2.feed_forward.intermediate_dense.bias"
    save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"have no '{gone}'"):
        load_hub_encoder(str(folder))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        load_hub_encoder(str(folder))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_hub_encoder(str(folder))


def test_a_pipeline_whose_weights_are_damaged_is_refused(save: Any, tmp_path: Path) -> None:
    name = save("torchaudio")
    (fetched,) = tmp_path.rglob("tiny.pth")
    fetched.write_bytes(fetched.read_bytes()[:500])
    with pytest.raises(DataError, match="WAV2VEC2_TINY: its weights could not be fetched or read"):
        load_hub_encoder(name)


class _RunsCode:
    """What runs code when it is unpickled as any object."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_checkpoint_of_speechbrain_runs_no_code(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(save("speechbrain"))
    path = folder / "hyperparams.yaml"
    told = path.read_text(encoding="utf-8")
    path.write_text(f"{told}touch: !apply:pathlib.Path.touch [!new:pathlib.Path [ran]]\n", encoding="utf-8")
    load_hub_encoder(str(folder))
    path.write_text("wav2vec2_hub: !!python/object/apply:os.mkdir [ran]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"hyperparams\.yaml"):
        load_hub_encoder(str(folder))
    path.write_text(told.replace("wav2vec2_hub: source", "other: source"), encoding="utf-8")
    with pytest.raises(DataError, match="names no wav2vec 2.0"):
        load_hub_encoder(str(folder))
    path.write_text(told, encoding="utf-8")
    for other in ({"a": _RunsCode()}, torch.ones(3), [1.0]):
        torch.save(other, folder / "wav2vec2.ckpt")
        with pytest.raises(DataError, match="holds no tensors that can be read"):
            load_hub_encoder(str(folder))
    torch.save({"a": torch.ones(1)}, folder / "wav2vec2.ckpt")
    with pytest.raises(DataError, match="they are of another model, or not whole"):
        load_hub_encoder(str(folder))
    (folder / "wav2vec2.ckpt").unlink()
    with pytest.raises(DataError, match="has no weights of an encoder"):
        load_hub_encoder(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_name_of_the_hub_is_found_where_fetched_models_lie(save: Any, tmp_path: Path) -> None:
    """In the layout of the hub's own cache, so that nothing is fetched again."""
    model = tmp_path / "home" / "hub" / "models--someone--tiny"
    shutil.copytree(save("hubert"), model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    code = "from mtl_speech.model.strategy import load_hub_base; print(load_hub_base('someone/tiny').pack.card)"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "'name': 'someone/tiny'" in done.stdout and "*.attention.*_proj" in done.stdout and not done.stderr


def test_without_the_package_it_is_told_what_to_install(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = save("wav2vec2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'mtl_speech\[hub\]'"):
        load_hub_encoder(name)


def test_a_card_that_tells_another_shape_of_encoder_is_refused(save: Any, tmp_path: Path) -> None:
    base = load_hub_base(save("wav2vec2"))
    pack = strategy_pack(new_learner(base, "ab", meta_config()), base, meta_config(), {"name": "x"})
    right = {"layer": "2", "phi": ["*"], "segmenter": "0" * 64}
    for how in ({**right, "layer": 2}, {"layer": "2"}, {**right, "phi": [1]}, {**right, "phi": "*"}, 3):
        pack.card["base"]["hub"] = how
        with pytest.raises(PackError, match="'base' does not hold"):
            save_pack(pack, tmp_path / "pack")


def test_half_precision_is_made_single(save: Any) -> None:
    folder = Path(save("wav2vec2"))
    path = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}), encoding="utf-8")
    encoder = load_hub_encoder(str(folder))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder(*rows_of_noise(2)).dtype == torch.float32


@pytest.mark.slow
def test_a_pipeline_of_torchaudio_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape that is published, with random weights where the fetched ones would lie."""
    bundle = torchaudio.pipelines.WAV2VEC2_BASE
    fetched = tmp_path / "hub" / "checkpoints" / Path(bundle._path).name
    fetched.parent.mkdir(parents=True)
    model = torchaudio.models.wav2vec2_model(**bundle._params)
    torch.save(model.state_dict(), fetched)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    encoder = load_hub_encoder("WAV2VEC2_BASE")
    assert isinstance(encoder, HubEncoder) and isinstance(encoder.backbone, TorchaudioBackbone)
    assert (encoder.config.layer, encoder.config.embedding_size) == ("8", hub.MAX_EMBEDDING)
    assert encoder(*rows_of_noise(2)).shape == (2, hub.MAX_EMBEDDING)
