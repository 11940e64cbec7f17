"""What is read from models of other makers, and what they hear, on tiny ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mtl_speech.core.cache import FeatureCache
from mtl_speech.corpora.audio import HOP_LENGTH
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.front_end import LOG_MEL, RAW, RAW_NORMALISED, whisper_front_end
from mtl_speech.features.store import build_store
from mtl_speech.model.backbones import TransformersBackbone
from mtl_speech.model.hub import HubEncoder, load_hub_encoder
from mtl_speech.model.whisper import WhisperEncoder
from tests.helpers import seeded
from tests.hub_models import KINDS, N_LAYERS, rows_of_noise

pytest.importorskip("transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'")


OF_SAMPLES = tuple(kind for kind in KINDS if kind != "whisper")


@pytest.mark.parametrize("kind", OF_SAMPLES)
def test_hop_receptive_field_normalisation_and_layers_are_those_of_the_model(kind: str, save: Any) -> None:
    encoder = load_hub_encoder(save(kind))
    assert isinstance(encoder, HubEncoder)
    assert (encoder.backbone.hop, encoder.backbone.receptive) == (320, 400)
    assert (encoder.hop, encoder.centre) == (2.0, 1.25)  # in rows of 10 ms
    assert (encoder.layer, encoder.n_layers, encoder.channels, encoder.embedding_size) == (3, N_LAYERS, 16, 3 * 16 + 1)
    assert encoder.front_end is (RAW_NORMALISED if kind == "wav2vec2-layer-norm" else RAW)
    assert encoder.frames(rows_of_noise(2)[0]).shape == (2, 47, 16)


def test_a_whisper_is_the_built_in_encoder_with_all_of_its_layers(save: Any) -> None:
    from transformers import WhisperModel

    name = save("whisper")
    encoder = load_hub_encoder(name)
    assert isinstance(encoder, WhisperEncoder) and (encoder.layer, encoder.n_layers) == (N_LAYERS, N_LAYERS)
    theirs = WhisperModel.from_pretrained(name).encoder.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_a_frame_hears_the_samples_of_its_receptive_field(save: Any) -> None:
    """The norms of this kind are of each frame alone, so that the gradient of a frame shows what it hears."""
    encoder = load_hub_encoder(save("wav2vec2-layer-norm"))
    samples = torch.randn(1, 4000, generator=seeded(0)).requires_grad_()
    frame = 3
    encoder.backbone.model.feature_extractor(samples)[0, :, frame].sum().backward()
    heard = torch.nonzero(samples.grad[0]).squeeze(1)
    first = frame * encoder.backbone.hop
    assert (int(heard.min()), int(heard.max())) == (first, first + encoder.backbone.receptive - 1)


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


@pytest.mark.parametrize("kind", OF_SAMPLES)
def test_layers_are_those_that_the_model_gives_itself(kind: str, save: Any) -> None:
    """The one of a number, with nothing computed above it, and all of them, against the model as its maker runs it.

    Where a norm comes after the last layer of all, it is not applied.
    """
    import transformers

    name = save(kind)
    rows = rows_of_noise(2)[0]
    waveforms = rows.flatten(1)
    if kind == "torchaudio":
        states = torchaudio.pipelines.WAV2VEC2_TINY.get_model().extract_features(waveforms)[0]
    else:
        model = transformers.AutoModel.from_pretrained(name if kind != "speechbrain" else f"{name}/source").eval()
        if kind == "speechbrain":
            weights = torch.load(f"{name}/wav2vec2.ckpt", weights_only=True)
            model.load_state_dict({key.removeprefix("model."): value for key, value in weights.items()})
        given = model(waveforms, output_hidden_states=True)
        states = (*given.hidden_states[1:-1], given.last_hidden_state)
    encoder = load_hub_encoder(name)
    every = encoder.all_layers(rows)
    assert len(every) == N_LAYERS
    torch.testing.assert_close(every[:-1], list(states[:-1]))
    last = model.encoder.layer_norm(every[-1]) if kind == "wav2vec2-layer-norm" else every[-1]
    torch.testing.assert_close(last, states[-1])
    for number in range(1, N_LAYERS + 1):
        cut = encoder.at_layer(number)
        assert isinstance(cut, HubEncoder) and (len(cut.backbone.layers), cut.layer) == (number, number)
        torch.testing.assert_close(cut.frames(rows), every[number - 1])
        assert {p.data_ptr() for p in cut.parameters()} <= {p.data_ptr() for p in encoder.parameters()}
    assert len(encoder.backbone.layers) == N_LAYERS


def test_recordings_are_heard_as_they_are_or_normalised_as_a_whole() -> None:
    waveform = (3.0 + np.random.default_rng(0).normal(0, 0.2, 1000)).astype(np.float32)
    rows = RAW.make(waveform)
    assert rows.shape == (7, HOP_LENGTH) and rows.dtype == torch.float16
    np.testing.assert_allclose(rows.flatten()[:1000].float().numpy(), waveform, rtol=1e-3)
    assert torch.count_nonzero(rows.flatten()[1000:]) == 0
    heard = RAW_NORMALISED.make(waveform).flatten()[:1000].double()
    assert abs(float(heard.mean())) < 1e-3 and float(heard.std()) == pytest.approx(1.0, abs=1e-2)


def test_the_cache_keeps_what_each_encoder_hears_apart(buzzes: Path, tmp_path: Path) -> None:
    cache, corpus = FeatureCache(tmp_path / "cache"), read_corpus(buzzes, "pa")
    ends = (LOG_MEL, RAW, RAW_NORMALISED, whisper_front_end(), whisper_front_end(128))
    first = [build_store([corpus], cache=cache, front_end=end).frames.clone() for end in ends]
    n_entries = len(list((tmp_path / "cache").rglob("*.safetensors")))
    again = [build_store([corpus], cache=cache, front_end=end).frames for end in ends]
    assert [frames.shape[1] for frames in again] == [end.width for end in ends]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert n_entries == len(list((tmp_path / "cache").rglob("*.safetensors"))) == 5 * len(corpus.utterances)


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
