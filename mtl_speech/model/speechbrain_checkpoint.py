"""Checkpoints of SpeechBrain recipes whose encoder is a wav2vec 2.0, HuBERT or WavLM: which it is, and its weights."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import Tensor

from mtl_speech.core.errors import DataError, first_line

HYPERPARAMETERS = "hyperparams.yaml"
SOURCES = ("wav2vec2_hub", "wav2vec_hub", "hubert_hub", "wavlm_hub", "ssl_hub", "pretrained_model_hub", "source")
WEIGHTS = ("wav2vec2.ckpt", "wav2vec.ckpt", "hubert.ckpt", "wavlm.ckpt", "ssl.ckpt", "ssl_model.ckpt")


class _Plain(yaml.SafeLoader):
    """Reads a HyperPyYAML file as data: what its tags would call is not called, and references stay text."""


_Plain.add_multi_constructor("!", lambda loader, tag, node: None)


def speechbrain_source(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Where the configuration of the encoder is from (a hub's name or a folder), and its weights by name.

    No code of the checkpoint is run: its YAML is read as data, its weights by torch's unpickler of tensors alone. Raises DataError.
    """
    path = folder / HYPERPARAMETERS
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
    settings = found if isinstance(found, dict) else {}
    source = next((settings[key] for key in SOURCES if isinstance(settings.get(key), str)), None)
    if source is None:
        raise DataError(
            f"{path}: names no wav2vec 2.0, HuBERT or WavLM (one of {', '.join(SOURCES)}); others are not served"
        )
    beside = folder / source
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise DataError(f"{folder}: has no weights of an encoder (one of {', '.join(WEIGHTS)})")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        tensors = {str(key).removeprefix("model."): value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # of many kinds: the file is a stranger's
        raise DataError(f"{weights}: holds no tensors that can be read ({first_line(error)})") from error
    return (str(beside) if beside.is_dir() else source), tensors
