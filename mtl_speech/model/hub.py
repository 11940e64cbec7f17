"""Encoders of other makers as Θ: wav2vec 2.0, HuBERT, WavLM (XLS-R and MMS are wav2vec 2.0) and Whisper's encoder.

They come from the Hugging Face hub or a folder, from torchaudio's pipelines, or from a checkpoint of SpeechBrain. A `HubEncoder`
hears rows of 160 samples (`RAW`), so that a store of recordings as they are serves it as one of log-mel frames serves the built-in
encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtl_speech.core.errors import DataError, UsageError, first_line
from mtl_speech.corpora.audio import HOP_LENGTH, SAMPLE_RATE
from mtl_speech.model.backbones import Backbone, TorchaudioBackbone, TransformersBackbone, WhisperBackbone
from mtl_speech.model.encoder import N_PARTS, FrameEncoder, part_weights, with_duration

MAX_EMBEDDING = 512  # dimensions; larger embeddings are projected to these at random (Johnson, Lindenstrauss 1984)
AT_ONCE = 32  # windows that pass through the encoder together; their activations are computed again in the reverse pass
LEARNED, AUTO = "learned", "auto"
FAMILIES = ("wav2vec2", "hubert", "wavlm", "whisper")
# Of a checkpoint of SpeechBrain: its settings, the names in them of the encoder that it has tuned, and its weights.
HYPERPARAMETERS = "hyperparams.yaml"
SOURCES = ("wav2vec2_hub", "wav2vec_hub", "hubert_hub", "wavlm_hub", "ssl_hub", "pretrained_model_hub", "source")
WEIGHTS = ("wav2vec2.ckpt", "wav2vec.ckpt", "hubert.ckpt", "wavlm.ckpt", "ssl.ckpt", "ssl_model.ckpt")


@dataclass(frozen=True)
class HubConfig:
    """What is read from a model: `hop` and `receptive` are samples from frame to frame and that one frame hears.

    `phi` are the patterns of names of the layers that carry Φ. `layer` is the one taken, counted from 1, or "learned".
    """

    embedding_size: int
    hop: int
    receptive: int
    layer: str
    phi: tuple[str, ...]


class HubEncoder(FrameEncoder):
    """A model of another maker as Θ.

    A segment is pooled over its onset, middle and offset as by the built-in encoder, of one layer, above which nothing is computed;
    or of all layers, whose weights are then learned: `mix` is a layer of its own whose Φ they are. Nothing but Φ is learned.
    """

    def __init__(self, backbone: Backbone, layer: str = AUTO, phi: Sequence[str] = ()) -> None:
        super().__init__()
        n = len(backbone.layers)
        self.backbone, self.mix = backbone, None
        number = layer_number(layer, n)
        if number is None:
            self.mix = nn.Conv1d(n, n, 1, groups=n, bias=False)
            nn.init.constant_(self.mix.weight, 1.0 / n)
        else:
            del backbone.layers[number:]
        size = N_PARTS * backbone.size + 1
        self.register_buffer("projection", _projection(size), persistent=False)
        patterns = tuple(dict.fromkeys((*(phi or backbone.phi), *(("mix",) if number is None else ()))))
        taken = LEARNED if number is None else str(number)
        embedding_size = min(size, MAX_EMBEDDING)
        self.config: HubConfig = HubConfig(embedding_size, backbone.hop, backbone.receptive, taken, patterns)
        self.front_end, self.phi_patterns = backbone.front_end, self.config.phi
        self.float().requires_grad_(False).eval()  # some are published in half precision

    def frames(self, features: Tensor) -> Tensor:
        """Rows of samples (n, n_rows, HOP_LENGTH) -> frame features (n, n_frames, size)."""
        states = self.backbone(features.flatten(1), self.mix is not None)
        if self.mix is None:
            return cast(Tensor, states[0])
        stacked = torch.stack([F.layer_norm(state, state.shape[-1:]) for state in states], dim=1)
        return cast(Tensor, self.mix(stacked.flatten(2))).view_as(stacked).sum(1)

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """(n_segments, n_rows, HOP_LENGTH) and (n_segments, 2), rows -> (n_segments, embedding_size)."""
        parts = zip(windows.split(AT_ONCE), spans.split(AT_ONCE), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([cast(Tensor, checkpoint(self._embed, *part, use_reentrant=False)) for part in parts])
        return torch.cat([self._embed(*part) for part in parts])

    def embed_within(self, rows: Tensor, spans: Tensor) -> Tensor:
        """Embeddings (n, embedding_size) of spans (n, 2), in rows, of one stretch of a recording (n_rows, HOP_LENGTH).

        A span is heard in the window around its middle, as by `forward`: windows elsewhere, fewer of them, give other labels.
        """
        width = self.front_end.window
        left, owner = (spans.mean(1).round().long() - width // 2).unique(return_inverse=True)
        within = (spans - left[owner].unsqueeze(1)).clamp(0.0, width)
        padded = F.pad(rows, (0, 0, width, width))
        found = spans.new_zeros(len(spans), self.config.embedding_size)
        for number, starts in enumerate((left + width).split(AT_ONCE)):
            frames = self.frames(padded[starts.unsqueeze(1) + torch.arange(width)]).float()
            mine = owner // AT_ONCE == number
            found[mine] = self._pool(frames[owner[mine] % AT_ONCE], within[mine])
        return found

    def _embed(self, windows: Tensor, spans: Tensor) -> Tensor:
        return self._pool(self.frames(windows).float(), spans)

    def _pool(self, frames: Tensor, spans: Tensor) -> Tensor:
        """The onset, middle and offset of spans (n, 2), in rows, in frames (n, n_frames, size): (n, embedding_size)."""
        # Where a segment lies among the frames: frame i is centred at sample i · hop + receptive / 2.
        places = (spans * HOP_LENGTH - self.config.receptive / 2) / self.config.hop
        embedded = with_duration(torch.bmm(part_weights(places, frames.shape[1]), frames), spans)
        return embedded if self.projection is None else embedded @ cast(Tensor, self.projection)

    def __deepcopy__(self, memo: dict[int, Any]) -> HubEncoder:
        """A copy that shares what is frozen: there is one Θ, however many learners build on it."""
        memo |= {id(t): t for t in [*self.parameters(), *self.buffers()] if not t.requires_grad}
        copied = HubEncoder.__new__(HubEncoder)
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied


def layer_number(layer: str, n: int) -> int | None:
    """The layer that "auto", a number or "learned" (None) means in a model of `n` layers. Raises UsageError."""
    if layer == LEARNED:
        return None
    if layer == AUTO:
        return max(1, round(2 * n / 3))  # phonemes are clearest above the middle (Pasad et al. 2021)
    if not layer.isdecimal() or not 1 <= int(layer) <= n:
        raise UsageError(f"--encoder-layer {layer}: the encoder has {n} layers: give 1 to {n}, {AUTO} or {LEARNED}")
    return int(layer)


def _projection(size: int) -> Tensor | None:
    """A fixed random projection of embeddings larger than MAX_EMBEDDING to as many dimensions; None for others."""
    if size <= MAX_EMBEDDING:
        return None
    return torch.randn(size, MAX_EMBEDDING, generator=torch.Generator().manual_seed(size)) / MAX_EMBEDDING**0.5


def load_hub_encoder(name: str, layer: str = AUTO, phi: Sequence[str] = ()) -> HubEncoder:
    """The encoder that `name` tells: a pipeline of torchaudio, a folder, or a name on the Hugging Face hub.

    Raises UsageError for what is none of these or a model of another kind, DataError where it cannot be read or fetched.
    """
    import torchaudio.pipelines

    bundle = getattr(torchaudio.pipelines, name, None) if name.isidentifier() else None
    if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
        backbone: Backbone = _of_torchaudio(name, bundle)
    elif (Path(name) / HYPERPARAMETERS).is_file():
        source, state = speechbrain_source(Path(name))
        backbone = _of_transformers(source, name, state)
    else:
        backbone = _of_transformers(name, name)
    return HubEncoder(backbone, layer, phi)


def _of_torchaudio(name: str, bundle: Any) -> Backbone:
    try:
        model = bundle.get_model(dl_kwargs={"weights_only": True})
    except (OSError, RuntimeError) as error:
        raise DataError(f"--encoder {name}: its weights could not be fetched or read ({first_line(error)})") from error
    # Large ones come in a wrapper that normalises each window; here a recording is normalised as a whole.
    model = getattr(model, "model", model)
    return TorchaudioBackbone(model, bool(bundle._normalize_waveform))


def _of_transformers(source: str, name: str, state: dict[str, Tensor] | None = None) -> Backbone:
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
        return WhisperBackbone(model.encoder, extractor)
    return TransformersBackbone(model, bool(extractor.do_normalize))


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
