"""The base of a strategy or language pack: Θ, with the head of its pretraining, as a pack of the kind "encoder"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from mtl_speech.core.config import EncoderConfig
from mtl_speech.core.errors import ConfigError, PackError
from mtl_speech.core.settings import as_dict, load_config
from mtl_speech.features.store import FrontEnd, SegmentStore
from mtl_speech.model.encoder import Encoder, FrameEncoder, over_windows
from mtl_speech.model.hub import AUTO, load_hub_encoder
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.model.segmenter import Segmenter

SHIPPED_ENCODER = "english"
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class BaseModel:
    """Θ in evaluation mode with folded batch-norm, the segment head that it was pretrained with, and a segmenter on its frames.

    Without a segmenter, language packs cannot transcribe. A `HubEncoder` as Θ has no head, and takes the segmenter of the English
    model that ships, together with the encoder that this hears: `segmenter_encoder`.
    """

    encoder: FrameEncoder
    head: nn.Linear | None
    phonemes: tuple[str, ...]
    pack: Pack
    segmenter: Segmenter | None = None
    segmenter_encoder: Encoder | None = None

    @property
    def front_end(self) -> FrontEnd:
        """What a store must be made with to be heard by Θ."""
        return self.encoder.front_end

    @property
    def built_in(self) -> Encoder:
        """The built-in encoder that the segmenter hears: Θ, unless that is of another maker."""
        return cast(Encoder, self.encoder) if self.segmenter_encoder is None else self.segmenter_encoder

    def predict(self, store: SegmentStore) -> Tensor:
        """The phoneme index that the pretrained model gives each segment from its window: (n_segments,)."""
        head = self.head
        assert head is not None
        return over_windows(lambda windows, spans: head(self.encoder(windows, spans)).argmax(1), store)


def base_pack(
    encoder: Encoder,
    head: nn.Linear,
    phonemes: tuple[str, ...],
    card: Mapping[str, object],
    segmenter: Segmenter | None = None,
) -> Pack:
    """The pack of a pretrained encoder. `card` tells its name, its data and their licences, and its scores."""
    folded = encoder.fold_batch_norm()
    tensors = {f"encoder.{k}": v.detach() for k, v in folded.state_dict().items()}
    tensors |= {f"head.{k}": v.detach() for k, v in head.state_dict().items()}
    tensors |= segmenter_tensors(segmenter) if segmenter is not None else {}
    return Pack("encoder", tensors, {**card, "encoder": as_dict(encoder.config), "phonemes": list(phonemes)})


def load_base(folder: Path | None = None) -> BaseModel:
    """The base in `folder`; by default the English model that the package ships. Raises PackError."""
    pack = load_pack(folder if folder is not None else shipped(SHIPPED_ENCODER), "encoder")
    phonemes = pack.phonemes()
    try:
        config = load_config(EncoderConfig, None, pack.value("encoder", dict))
    except ConfigError as error:
        raise PackError(
            f"card.json of '{pack.name}': its encoder settings cannot be used: {error}; make the pack anew"
        ) from error
    encoder = _fitted(lambda: Encoder(config).fold_batch_norm(), "encoder.", pack)
    head = _fitted(lambda: nn.Linear(config.embedding_size, len(phonemes)), "head.", pack)
    segmenter = load_segmenter(config, pack)
    return BaseModel(encoder.requires_grad_(False).eval(), head.requires_grad_(False).eval(), phonemes, pack, segmenter)


def load_hub_base(name: str, layer: str = AUTO, phi: Sequence[str] = ()) -> BaseModel:
    """An encoder of another maker as a base; see `load_hub_encoder`. Its pack is never saved: it stands for its hash."""
    encoder, english = load_hub_encoder(name, layer, phi), load_base()
    how = {"layer": encoder.config.layer, "phi": list(encoder.config.phi), "segmenter": pack_hash(english.pack)}
    known_as = Path(name).resolve().name if Path(name).exists() else name  # where a folder lies is nobody's business
    pack = hub_pack(encoder, {"name": known_as, "hub": how})
    return BaseModel(encoder, None, (), pack, english.segmenter, english.built_in)


def hub_pack(encoder: nn.Module, card: Mapping[str, object]) -> Pack:
    """The pack that a `HubEncoder` would be: all its weights."""
    return Pack("encoder", {f"encoder.{k}": v.detach() for k, v in encoder.state_dict().items()}, card)


def _fitted(make: Callable[[], M], prefix: str, pack: Pack) -> M:
    """The module that `make` makes, with the tensors of a pack under `prefix`.

    It is made on PyTorch's device without memory first: no tensor is allocated on the word of a card. Raises PackError.
    """
    tensors = {k.removeprefix(prefix): v for k, v in pack.tensors.items() if k.startswith(prefix)}
    with torch.device("meta"):
        _check_state(make(), tensors, pack)
    module = make()
    load_state(module, tensors, pack)
    return module


def segmenter_tensors(segmenter: Segmenter) -> dict[str, Tensor]:
    """The weights of a segmenter by name, as float16, which is precise enough for it."""
    return {f"segmenter.{k}": v.detach().half() for k, v in segmenter.state_dict().items()}


def load_segmenter(config: EncoderConfig, pack: Pack) -> Segmenter | None:
    """The segmenter in a pack on an encoder of these settings; None where the pack has none. Raises PackError."""
    tensors = {k.removeprefix("segmenter."): v.float() for k, v in pack.tensors.items() if k.startswith("segmenter.")}
    if not tensors:
        return None
    segmenter = Segmenter(config.channels, config.stride)
    load_state(segmenter, tensors, pack)
    return segmenter.requires_grad_(False).eval()


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], pack: Pack) -> None:
    """Set the tensors of `module`; raises PackError that names what does not fit."""
    _check_state(module, tensors, pack)
    module.load_state_dict(dict(tensors))


def _check_state(module: nn.Module, tensors: Mapping[str, Tensor], pack: Pack) -> None:
    own = module.state_dict()
    for name in sorted(set(own) | set(tensors)):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            state = "is missing" if name not in tensors else "does not fit the settings of the card"
            raise PackError(f"weights.safetensors of '{pack.name}': tensor '{name}' {state}; make the pack anew")


def shipped(name: str) -> Path:
    """The folder of a pack that the package ships."""
    return Path(str(files("mtl_speech") / "weights" / name))
