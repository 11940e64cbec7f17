"""Encoders of other makers as Θ: wav2vec 2.0, HuBERT, WavLM (XLS-R and MMS are wav2vec 2.0), Whisper, or anybody's class.

They come from the Hugging Face hub or a folder, from torchaudio's pipelines, from a checkpoint of SpeechBrain, or are a class of
the user's own, named as `module:Class`. A `HubEncoder` hears the samples; Whisper is the built-in encoder with other weights.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mtl_speech.core.errors import DataError, UsageError, first_line
from mtl_speech.core.options import WhisperConfig
from mtl_speech.corpora.audio import HOP_LENGTH, SAMPLE_RATE, WINDOW_LENGTH
from mtl_speech.model.backbones import Backbone, TorchaudioBackbone, TransformersBackbone
from mtl_speech.model.encoder import FrameEncoder, SharedEncoder
from mtl_speech.model.whisper import WhisperEncoder

AT_ONCE = 32  # windows that pass through the encoder together; their activations are computed again in the reverse pass
STRETCH = 1_500  # rows (15 s) that are heard at once: about as long as what these models were trained on
FAMILIES = ("wav2vec2", "hubert", "wavlm", "whisper")
# Of a checkpoint of SpeechBrain: its settings, the names in them of the encoder that it has tuned, and its weights.
HYPERPARAMETERS = "hyperparams.yaml"
SOURCES = ("wav2vec2_hub", "wav2vec_hub", "hubert_hub", "wavlm_hub", "ssl_hub", "pretrained_model_hub", "source")
WEIGHTS = ("wav2vec2.ckpt", "wav2vec.ckpt", "hubert.ckpt", "wavlm.ckpt", "ssl.ckpt", "ssl_model.ckpt")


class HubEncoder(SharedEncoder):
    """A model of another maker as Θ. Nothing but Φ is learned."""

    stretch, context = STRETCH, 100

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.hop, self.centre = backbone.hop / HOP_LENGTH, backbone.receptive / 2 / HOP_LENGTH
        self.front_end, self.channels, self.phi_patterns = backbone.front_end, backbone.size, backbone.phi
        self.n_layers = self.layer = len(backbone.layers)
        self.float().requires_grad_(False).eval()  # some are published in half precision

    def frames(self, rows: Tensor) -> Tensor:
        """Rows of samples (n, n_rows, HOP_LENGTH) -> frames of the last layer (n, n_frames, size)."""
        return cast(Tensor, self.backbone(rows.flatten(1), False)[0])

    def all_layers(self, rows: Tensor) -> list[Tensor]:
        """As `FrameEncoder` says."""
        return cast("list[Tensor]", self.backbone(rows.flatten(1), True))

    def at_layer(self, layer: int) -> HubEncoder:
        """As `FrameEncoder` says; nothing above the layer is computed."""
        cut = copy.deepcopy(self)
        del cut.backbone.layers[layer:]
        cut.layer = layer
        return cut

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """As `FrameEncoder` says, AT_ONCE windows at a time."""
        embed, parts = super().forward, zip(windows.split(AT_ONCE), spans.split(AT_ONCE), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([cast(Tensor, checkpoint(embed, *part, use_reentrant=False)) for part in parts])
        return torch.cat([embed(*part) for part in parts])


def load_hub_encoder(name: str) -> FrameEncoder:
    """The encoder that `name` tells, with all of its layers: a class of the user's own as `module:Class`, a pipeline of torchaudio,
    a folder, or a name on the Hugging Face hub.

    Raises UsageError for what is none of these or a model of another kind, DataError where it cannot be read or fetched.
    """
    import torchaudio.pipelines

    module, colon, class_name = name.rpartition(":")
    if colon and class_name.isidentifier() and not Path(name).exists():
        return own_encoder(module, class_name)
    bundle = getattr(torchaudio.pipelines, name, None) if name.isidentifier() else None
    if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
        return HubEncoder(_of_torchaudio(name, bundle))
    if (Path(name) / HYPERPARAMETERS).is_file():
        source, state = speechbrain_source(Path(name))
        return _of_transformers(source, name, state)
    return _of_transformers(name, name)


def own_encoder(module: str, class_name: str) -> FrameEncoder:
    """An instance of a class of the user's own, from a module that can be imported or lies in the current folder.

    It must be a `FrameEncoder`; what it says of itself is tried on a second of noise. Raises UsageError.
    """
    named = f"--encoder {module}:{class_name}"
    sys.path.insert(0, "")
    try:
        made = getattr(importlib.import_module(module), class_name)()
    except Exception as error:  # of any kind: the code is the user's
        raise UsageError(f"{named}: cannot be made ({type(error).__name__}: {first_line(error)})") from error
    finally:
        sys.path.remove("")
    if not isinstance(made, FrameEncoder):
        raise UsageError(f"{named}: is no mtl_speech.model.encoder.FrameEncoder: derive the class from it")
    encoder = made.float().requires_grad_(False).eval()
    _try_out(encoder, named)
    return encoder


def _try_out(encoder: FrameEncoder, named: str) -> None:
    """Raises UsageError where an encoder does not give what it says on a second of noise."""
    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    heard = encoder.front_end.make(noise).float().unsqueeze(0)
    try:
        with torch.inference_mode():
            layers, again = encoder.all_layers(heard), encoder.frames(heard)
    except Exception as error:
        raise UsageError(
            f"{named}: fails on a second of noise ({type(error).__name__}: {first_line(error)})"
        ) from error
    wanted = heard.shape[1] / encoder.hop
    for frames in (*layers, again):
        fits = frames.dim() == 3 and len(frames) == 1 and frames.shape[2] == encoder.channels
        if not fits or abs(frames.shape[1] - wanted) > max(2.0, 0.1 * wanted):
            raise UsageError(
                f"{named}: gives {tuple(frames.shape)} for {heard.shape[1]} rows of 10 ms; by its hop and channels these must be "
                f"(1, about {wanted:.0f}, {encoder.channels})"
            )
    if len(layers) != encoder.n_layers:
        raise UsageError(f"{named}: says that it has {encoder.n_layers} layers, and gives the frames of {len(layers)}")
    if not torch.equal(layers[-1], again):
        raise UsageError(f"{named}: the same second of noise gives other frames the second time")


def _of_torchaudio(name: str, bundle: Any) -> Backbone:
    try:
        model = bundle.get_model(dl_kwargs={"weights_only": True})
    except (OSError, RuntimeError) as error:
        raise DataError(f"--encoder {name}: its weights could not be fetched or read ({first_line(error)})") from error
    # Large ones come in a wrapper that normalises each window; here a recording is normalised as a whole.
    model = getattr(model, "model", model)
    return TorchaudioBackbone(model, bool(bundle._normalize_waveform))


def _of_transformers(source: str, name: str, state: dict[str, Tensor] | None = None) -> FrameEncoder:
    """The model at `source`; with `state` only its shape is from there."""
    try:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise UsageError(f"--encoder {name}: needs the package transformers: pip install 'mtl_speech[hub]'") from error
    try:
        with _silent():
            config = AutoConfig.from_pretrained(source)
            if config.model_type not in FAMILIES:
                raise UsageError(
                    f"--encoder {name}: is of the kind '{config.model_type}'; served are {', '.join(FAMILIES)}"
                )
            extractor = AutoFeatureExtractor.from_pretrained(source)
            if state is None:
                model, told = AutoModel.from_pretrained(source, output_loading_info=True)
                missing = told["missing_keys"]
            else:
                model = AutoModel.from_config(config)
                missing = model.load_state_dict(state, strict=False).missing_keys
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(source).is_dir():
            raise DataError(f"--encoder {name}: the model there cannot be read: {first_line(error)}") from error
        raise DataError(
            f"--encoder {name}: neither a folder, nor a pipeline of torchaudio, nor a model that the Hugging Face hub gave "
            f"({first_line(error)}): check the name; without network, give the folder of a copy"
        ) from error
    # What is missing would be drawn at random; a mask of pretraining is not heard.
    left = sorted(key for key in missing if not key.endswith("masked_spec_embed"))
    if left:
        raise DataError(f"--encoder {name}: its weights have no '{left[0]}': they are of another model, or not whole")
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UsageError(
            f"--encoder {name}: hears {extractor.sampling_rate} samples a second; served are {SAMPLE_RATE}"
        )
    if config.model_type == "whisper":
        return _whisper(name, config, extractor, model.encoder.state_dict())
    return HubEncoder(TransformersBackbone(model, bool(extractor.do_normalize)))


def _whisper(name: str, config: Any, extractor: Any, state: dict[str, Tensor]) -> WhisperEncoder:
    """The built-in encoder with all layers and the weights of another Whisper."""
    if (extractor.n_fft, extractor.hop_length) != (WINDOW_LENGTH, HOP_LENGTH):
        raise UsageError(f"--encoder {name}: its spectra are of other windows than those of Whisper")
    if config.activation_function != "gelu" or config.encoder_ffn_dim != 4 * config.d_model:
        built = (
            f"activation '{config.activation_function}', {config.encoder_ffn_dim} hidden numbers for {config.d_model}"
        )
        raise UsageError(
            f"--encoder {name}: is not built as OpenAI's Whisper ({built}; there: gelu, four times as many)"
        )
    whole = WhisperConfig(config.num_mel_bins, config.d_model, config.encoder_attention_heads, config.encoder_layers)
    encoder = WhisperEncoder(whole)
    encoder.load_state_dict({key: state[key] for key in encoder.state_dict()})
    return encoder.float().requires_grad_(False).eval()


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, the package transformers says only what went wrong, and shows no progress."""
    from transformers.utils import logging as told

    verbosity, shown = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(verbosity)
        if shown:
            told.enable_progress_bar()


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
