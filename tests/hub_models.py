"""Tiny models with random weights, saved as their makers save them: what `--encoder` is tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.pipelines import Wav2Vec2Bundle

from mtl_speech.corpora.audio import HOP_LENGTH
from mtl_speech.features.front_end import RAW
from tests.helpers import seeded

N_LAYERS = 3
FEW = ("--meta-steps", 2, "--threads", 1, "--quiet")
KINDS = ("wav2vec2", "wav2vec2-layer-norm", "hubert", "wavlm", "whisper", "torchaudio", "speechbrain")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
TORCHAUDIO_NAME = "WAV2VEC2_TINY"
HYPERPARAMETERS = """\
# Of a recipe: what its tags call is not there, and is not asked for.
seed: 1986
__set_seed: !apply:torch.manual_seed [!ref <seed>]
wav2vec2_hub: source
save_folder: !ref results/<seed>/save
wav2vec2: !new:speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2
    source: !ref <wav2vec2_hub>
    output_norm: True
    save_path: !ref <save_folder>/wav2vec2_checkpoint
"""


def save_model(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> str:
    """Save a model of one of KINDS below `folder`; gives what --encoder is to be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "torchaudio":
            return _torchaudio(folder, monkeypatch)
        if kind == "speechbrain":
            return _speechbrain(folder)
        return _transformers(kind, folder)


def _transformers(kind: str, folder: Path) -> str:
    import transformers

    if kind == "whisper":
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=N_LAYERS,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=32,
            num_mel_bins=80,
            init_std=0.2,  # at the usual 0.02 nothing but the positions would be heard
            vocab_size=20,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        )
        model: Any = transformers.WhisperForConditionalGeneration(config)
        transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    else:
        layered = kind == "wav2vec2-layer-norm"  # as XLS-R, MMS and the large ones of LibriLight are
        extra = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True} if layered else {}
        name = {"hubert": "Hubert", "wavlm": "WavLM"}.get(kind, "Wav2Vec2")
        config = getattr(transformers, f"{name}Config")(**SMALL, **extra)
        # One with a head for letters, as most are published; the other as it was pretrained.
        model = getattr(transformers, f"{name}ForCTC" if layered else f"{name}Model")(config)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=layered).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def _torchaudio(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pipeline beside those of torchaudio, whose weights have been fetched already."""
    parameters = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        "extractor_conv_bias": False,
        "encoder_embed_dim": 16,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": N_LAYERS,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 32,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": False,
        "encoder_layer_drop": 0.05,
        "aux_num_out": None,
    }
    model = torchaudio.models.wav2vec2_model(**parameters)
    fetched = folder / "hub" / "checkpoints" / "tiny.pth"
    fetched.parent.mkdir(parents=True)
    torch.save(model.state_dict(), fetched)
    bundle = Wav2Vec2Bundle("tiny.pth", parameters, 16_000, False, "Wav2Vec2")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(torchaudio.pipelines, TORCHAUDIO_NAME, bundle, raising=False)
    return TORCHAUDIO_NAME


def _speechbrain(folder: Path) -> str:
    """What a recipe saved: its hyperparameters, a checkpoint of the encoder, and the source of its configuration."""
    from transformers import AutoModel

    _transformers("wav2vec2", folder / "source")
    state = AutoModel.from_pretrained(folder / "source").state_dict()
    tuned = {f"model.{name}": tensor + 0.01 * torch.randn_like(tensor) for name, tensor in state.items()}
    torch.save(tuned, folder / "wav2vec2.ckpt")
    (folder / "hyperparams.yaml").write_text(HYPERPARAMETERS, encoding="utf-8")
    return str(folder)


def rows_of_noise(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n windows of noise, and spans within them."""
    windows = 0.1 * torch.randn(n, RAW.window, HOP_LENGTH, generator=seeded(seed))
    return windows, torch.tensor([[40.0, 50.0]]).expand(n, 2)
