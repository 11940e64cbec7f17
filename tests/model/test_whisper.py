"""The first layers of Whisper against the package transformers, with random weights; recordings longer than it hears at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mtl_speech.core.errors import ConfigError
from mtl_speech.core.options import WhisperConfig
from mtl_speech.corpora.audio import HOP_LENGTH, SAMPLE_RATE, load_audio
from mtl_speech.features.front_end import WHISPER_PEAK, WHISPER_RANGE, whisper_front_end, whisper_scaled
from mtl_speech.features.store import build_store
from mtl_speech.model.passes import stretches_of, with_heard
from mtl_speech.model.strategy import load_base
from mtl_speech.model.whisper import POSITIONS, WhisperEncoder, sinusoids
from tests.helpers import frozen_bytes, seeded, tone, toy_corpus, toy_recording

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mtl_speech[hub]'")

CONFIG = WhisperConfig(bands=80, size=16, heads=2, layers=3)
CLIP = 3_000  # rows, 30 s: the one length that the encoder of transformers takes


def tiny_whisper(seed: int = 0, config: WhisperConfig = CONFIG) -> WhisperEncoder:
    """Random weights, none at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = WhisperEncoder(config)
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, 0.0, 0.2)
    return encoder.requires_grad_(False).eval()


def of_transformers(encoder: WhisperEncoder) -> Any:
    """The encoder of transformers with the same weights and positions."""
    config = encoder.config
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(
        transformers.WhisperConfig(
            d_model=config.size,
            encoder_layers=config.layers,
            encoder_attention_heads=config.heads,
            encoder_ffn_dim=4 * config.size,
            num_mel_bins=config.bands,
        )
    ).eval()
    nn.init.normal_(model.layer_norm.weight, 1.0, 0.2, seeded(8))
    model.load_state_dict(encoder.state_dict(), strict=False)
    model.embed_positions.weight.data.copy_(encoder.positions)
    return model


@pytest.mark.parametrize("bands", [80, 128])
def test_every_layer_gives_what_transformers_gives(bands: int) -> None:
    """But for the norm after the last layer, which is not applied here."""
    encoder = tiny_whisper(config=WhisperConfig(bands, size=24, heads=3, layers=3))
    model = of_transformers(encoder)
    rows = torch.randn(2, CLIP, bands, generator=seeded(1))
    with torch.inference_mode():
        first, *expected = model(rows.transpose(1, 2), output_hidden_states=True).hidden_states
        found = encoder.all_layers(rows)
        found[-1], plain = model.layer_norm(found[-1]), found[-1]
        again = encoder.frames(rows)
    assert len(found) == len(expected) == 3 and found[0].shape == (2, POSITIONS, 24)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), 1):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5, msg=lambda m, n=number: f"layer {n}: {m}")
        assert not torch.allclose(theirs, first, atol=0.1), "a layer that changes nothing would show nothing"
    assert torch.equal(again, plain)


def test_names_of_weights_are_those_of_transformers() -> None:
    encoder = tiny_whisper()
    theirs = of_transformers(encoder).state_dict()
    ours = encoder.state_dict()
    assert {name: value.shape for name, value in ours.items()}.items() <= {
        k: v.shape for k, v in theirs.items()
    }.items()
    assert set(theirs) - set(ours) == {"embed_positions.weight", "layer_norm.weight", "layer_norm.bias"}


@pytest.mark.parametrize("size", [16, 384])
def test_positions_are_those_of_transformers_in_half_precision(size: int) -> None:
    theirs = transformers.models.whisper.modeling_whisper.sinusoids(POSITIONS, size)
    ours = sinusoids(POSITIONS, size)
    assert torch.equal(ours, ours.half().float()) and ours.shape == (POSITIONS, size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-4)
    assert float((ours - theirs).abs().max()) > 1e-4
    assert torch.equal(ours[0], torch.cat((torch.zeros(size // 2), torch.ones(size // 2))))


def test_a_frame_knows_where_it_lies() -> None:
    """The same rows later in a recording give other frames, and each frame keeps its number."""
    encoder = tiny_whisper()
    rows = torch.full((1, 400, 80), 0.3)
    stem = encoder._stem(rows)[0]
    inside = slice(1, -1)  # the convolutions see one row beyond either end
    torch.testing.assert_close(
        (stem - encoder.positions[:200])[inside], (stem[5] - encoder.positions[5]).expand(198, -1)
    )
    assert float((encoder.frames(rows)[0, 20] - encoder.frames(rows)[0, 120]).abs().max()) > 0.05


@pytest.mark.parametrize("n_rows", [1, 2, 3, 10, 2_999, 3_000])
def test_there_is_a_frame_for_two_rows_and_no_more_than_30_s(n_rows: int) -> None:
    assert tiny_whisper().frames(torch.zeros(1, n_rows, 80)).shape == (1, -(-n_rows // 2), 16)


def test_a_layer_is_what_the_whole_gives_there_and_shares_its_weights() -> None:
    encoder = tiny_whisper()
    before = frozen_bytes(encoder)
    rows = torch.randn(2, 100, 80, generator=seeded(2))
    every = encoder.all_layers(rows)
    for layer in (1, 2, 3):
        cut = encoder.at_layer(layer)
        assert (cut.layer, len(cut.layers)) == (layer, layer)
        assert torch.equal(cut.frames(rows), every[layer - 1])
        assert {p.data_ptr() for p in cut.parameters()} <= {p.data_ptr() for p in encoder.parameters()}
    assert encoder.layer == 3 and frozen_bytes(encoder) == before
    assert not torch.allclose(every[0], every[1], atol=0.1)


def test_settings_that_are_no_whisper_are_refused() -> None:
    for wrong in ({"size": 15, "heads": 3}, {"size": 16, "heads": 3}):
        with pytest.raises(ConfigError, match="is not even, or not a multiple"):
            WhisperConfig(**wrong)


# What it hears


def speech(corpora: Path) -> np.ndarray:
    """A word of real speech, (n_samples,)."""
    return load_audio(sorted((corpora / "voxangeles" / "lad").glob("*.flac"))[0])


def extracted(waveform: np.ndarray, bands: int) -> Tensor:
    """What the extractor of transformers makes of a recording, filled up to 30 s: (3000, bands)."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands)
    return extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0].T


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("kind", ["buzz", "speech"])
def test_rows_are_those_of_the_extractor_but_for_the_level_and_the_end(
    bands: int, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "speech":
        waveform = speech(request.getfixturevalue("corpora"))
    else:
        toy_recording(tmp_path / "a.wav", ("a", "k", "s", "u"))
        waveform = load_audio(tmp_path / "a.wav")
    expected = extracted(waveform, bands)
    found = whisper_front_end(bands).make(waveform)
    assert found.dtype == torch.float16 and found.shape == (1 + len(waveform) // HOP_LENGTH, bands)
    assert float(found.max()) == pytest.approx(whisper_scaled(WHISPER_PEAK), abs=1e-3)
    n = len(waveform) // HOP_LENGTH - 2  # the last rows see beyond the end: silence there, a mirror here
    level = expected.max() - whisper_scaled(WHISPER_PEAK)
    torch.testing.assert_close(found[:n].float(), expected[:n] - level, rtol=0, atol=2e-3)
    assert float(expected[:n].std()) > 0.1


@pytest.mark.parametrize("gain", [0.1, 0.3, 2.0])
def test_a_gain_of_the_recording_cancels(gain: float, tmp_path: Path) -> None:
    toy_recording(tmp_path / "a.wav", ("a", "k", "s", "u"))
    waveform = load_audio(tmp_path / "a.wav")
    rows, louder = (whisper_front_end().make(each).float() for each in (waveform, np.float32(gain) * waveform))
    torch.testing.assert_close(louder, rows, rtol=0, atol=2e-3)


def test_the_margins_are_silence() -> None:
    end = whisper_front_end()
    assert whisper_front_end(80) is end and whisper_front_end(128) is not end and whisper_front_end(128).key != end.key
    assert end.quiet == pytest.approx((WHISPER_PEAK - WHISPER_RANGE + 4) / 4)
    waveform = np.concatenate((tone(0.5, 200.0), np.zeros(SAMPLE_RATE // 2, dtype=np.float32)))
    assert float(end.make(waveform)[-10:].max()) == pytest.approx(end.quiet, abs=1e-3)


# Longer than it hears at once


def test_a_recording_longer_than_30_s_is_heard_in_stretches_of_30_s(tmp_path: Path) -> None:
    """Each frame is that of the stretch which is there for it, with a second of either neighbour, and none is missing."""
    encoder = tiny_whisper()
    corpus = toy_corpus(tmp_path, 1, 1, ["a", "k", "s", "u"] * 160)  # 64.2 s
    store = build_store([corpus], front_end=encoder.front_end)
    n_rows, first = int(store.length[0]), int(store.first[0])
    heard = with_heard(store, encoder).heard
    assert n_rows > 2 * CLIP and heard is not None and heard.track is not None
    assert heard.track.frames.shape == (-(-n_rows // 2), 16)
    assert [(s.begin, s.end) for s in stretches_of(0, n_rows, encoder)][:2] == [(0, 2_900), (2_700, 5_700)]
    for low, high, begin, end in (
        (0, 2_800, 0, 2_900),
        (2_800, 5_600, 2_700, 5_700),
        (5_600, n_rows, 5_500, n_rows + 1),
    ):
        rows = store.frames[first + begin : first + end].float()
        expected = encoder.frames(rows.unsqueeze(0))[0, (low - begin) // 2 :][: -(-(high - low) // 2)]
        found = heard.track.frames[low // 2 : low // 2 + len(expected)].float()
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    spans = torch.stack((store.start, store.end), dim=1).float() - first
    late = spans[:, 0] >= 5_600
    rows = store.frames[first + 5_500 : first + n_rows + 1].float()
    expected = encoder.pool(encoder.frames(rows.unsqueeze(0))[0], spans[late] - 5_500)
    torch.testing.assert_close(heard.embeddings[3][late], expected, rtol=1e-4, atol=1e-4)


def test_the_base_that_ships_are_the_first_two_layers_of_tiny() -> None:
    encoder = load_base().encoder
    assert isinstance(encoder, WhisperEncoder)
    assert (encoder.config, encoder.embedding_size) == (WhisperConfig(80, 384, 6, 2), 3 * 384 + 1)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(p, p.half().float()) for p in encoder.parameters())
