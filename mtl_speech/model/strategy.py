"""What adaptation starts from: the base (Θ, with the head of its pretraining), and the strategy that meta-training found on it.

A base is a pack of the kind "encoder", a strategy (Φ, θ, inner rates) one of the kind "strategy".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from mtl_speech.core.errors import UsageError
from mtl_speech.core.options import EncoderConfig, MetaTrainConfig, WhisperConfig
from mtl_speech.core.settings import as_dict
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.front_end import FrontEnd
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.encoder import ConvEncoder, FrameEncoder
from mtl_speech.model.hub import load_hub_encoder
from mtl_speech.model.learner import MetaLearner, guess_weights
from mtl_speech.model.pack import Pack, base_entry, load_pack, pack_hash, require_base, tensors_of
from mtl_speech.model.passes import embeddings_of, with_heard
from mtl_speech.model.scale_shift import attach
from mtl_speech.model.segmenter import Segmenter, new_segmenter
from mtl_speech.model.whisper import WhisperEncoder

WHISPER = "whisper"  # what the card of an encoder says under `architecture`; nothing where it is a convolutional one
AUTO = "auto"
SHIPPED_ENCODER = "english"
OF_THE_LANGUAGE = ("head.", "segmenter.", "duration.")  # tensors that only a language pack has


@dataclass(frozen=True)
class BaseModel:
    """Θ in evaluation mode, the segment head that it was pretrained with where it has one, and a segmenter.

    Without a segmenter, language packs cannot transcribe. An encoder of another maker takes the segmenter of the base that ships,
    with the encoder that this hears: `segmenter_encoder`. Where `layer_open`, nobody has said yet which of its layers is heard.
    """

    encoder: FrameEncoder
    head: nn.Linear | None
    phonemes: tuple[str, ...]
    pack: Pack
    segmenter: Segmenter | None = None
    segmenter_encoder: FrameEncoder | None = None
    layer_open: bool = False

    @property
    def front_end(self) -> FrontEnd:
        """What a store must be made with to be heard by Θ."""
        return self.encoder.front_end

    @property
    def boundary_encoder(self) -> FrameEncoder:
        """The encoder that the segmenter hears: Θ, unless that is of another maker."""
        return self.encoder if self.segmenter_encoder is None else self.segmenter_encoder

    def at_layer(self, layer: int) -> BaseModel:
        """The base up to a layer of an encoder of another maker; itself where it is that."""
        if layer == self.encoder.layer and not self.layer_open:
            return self
        hub = {**self.pack.value("hub", dict), "layer": str(layer)}
        pack = self.pack.with_card({**self.pack.card, "hub": hub})
        return replace(self, encoder=self.encoder.at_layer(layer), pack=pack, layer_open=False)

    def hear(self, corpora: Sequence[Corpus], phonemes: Sequence[str] | None = None) -> SegmentStore:
        """All recordings of `corpora` as `build_store` reads them, passed once through Θ: through all layers, where that is open.

        Raises DataError, OSError.
        """
        store = build_store(corpora, phonemes, front_end=self.front_end)
        return with_heard(store, self.encoder, every=self.layer_open)

    def predict(self, store: SegmentStore) -> Tensor:
        """The phoneme index that the pretrained model gives each segment: (n_segments,)."""
        assert self.head is not None
        with torch.inference_mode():
            return self.head(embeddings_of(self.encoder, store)).argmax(1)


def base_pack(
    encoder: FrameEncoder,
    head: nn.Linear | None,
    phonemes: tuple[str, ...],
    card: Mapping[str, object],
    segmenter: Segmenter | None = None,
) -> Pack:
    """The pack of an encoder of a known architecture. `card` tells its name, its data and their licences, and its scores.

    The first layers of a Whisper are kept as float16, which is what they are published in.
    """
    if isinstance(encoder, WhisperEncoder):
        tensors = {name: value.half() for name, value in tensors_of(encoder, "encoder.").items()}
        about: dict[str, object] = {"architecture": WHISPER, "encoder": as_dict(encoder.config)}
    else:
        assert isinstance(encoder, ConvEncoder) and head is not None
        tensors = tensors_of(encoder.fold_batch_norm(), "encoder.") | tensors_of(head, "head.")
        about = {"encoder": as_dict(encoder.config), "phonemes": list(phonemes)}
    tensors |= segmenter_tensors(segmenter) if segmenter is not None else {}
    return Pack("encoder", tensors, {**card, **about})


def load_base(folder: Path | None = None) -> BaseModel:
    """The base in `folder`; by default the English model that the package ships. Raises PackError."""
    pack = load_pack(folder if folder is not None else shipped(SHIPPED_ENCODER), "encoder")
    encoder: FrameEncoder
    head: nn.Linear | None = None
    phonemes: tuple[str, ...] = ()
    if pack.card.get("architecture") == WHISPER:
        of_whisper = pack.settings("encoder", WhisperConfig)
        encoder = pack.module(lambda: WhisperEncoder(of_whisper), "encoder.")
    else:
        phonemes, config = pack.phonemes(), pack.settings("encoder", EncoderConfig)
        encoder = pack.module(lambda: ConvEncoder(config).fold_batch_norm(), "encoder.")
        head = pack.module(lambda: nn.Linear(config.embedding_size, len(phonemes)), "head.")
    encoder.fingerprint = pack_hash(pack)
    return BaseModel(encoder, head, phonemes, pack, load_segmenter(encoder, pack))


def load_hub_base(name: str, layer: str = AUTO, phi: Sequence[str] = ()) -> BaseModel:
    """An encoder of another maker as a base; see `load_hub_encoder`. Its pack is never saved: it stands for its hash.

    `layer` is a number, or AUTO for one that is still to be chosen. Raises UsageError for a layer that it has not.
    """
    encoder, english = load_hub_encoder(name), load_base()
    number = layer_number(layer, encoder.n_layers)
    encoder.phi_patterns = tuple(phi) or encoder.phi_patterns
    how = {"layer": AUTO, "phi": list(encoder.phi_patterns), "segmenter": pack_hash(english.pack)}
    known_as = Path(name).resolve().name if Path(name).exists() else name  # where a folder lies is nobody's business
    pack = hub_pack(encoder, {"name": known_as, "hub": how})
    encoder.fingerprint = pack_hash(pack)
    base = BaseModel(encoder, None, (), pack, english.segmenter, english.encoder, layer_open=True)
    return base if number is None else base.at_layer(number)


def layer_number(layer: str, n: int) -> int | None:
    """The layer that a number or AUTO (None: still to be chosen) means in an encoder of `n` layers. Raises UsageError."""
    if layer == AUTO:
        return None if n > 1 else 1
    if not layer.isdecimal() or not 1 <= int(layer) <= n:
        raise UsageError(f"--encoder-layer {layer}: the encoder has {n} layers: give 1 to {n}, or {AUTO}")
    return int(layer)


def hub_pack(encoder: nn.Module, card: Mapping[str, object]) -> Pack:
    """The pack that an encoder of another maker would be: all its weights."""
    return Pack("encoder", tensors_of(encoder, "encoder."), card)


def segmenter_tensors(segmenter: Segmenter) -> dict[str, Tensor]:
    """The weights of a segmenter by name, as float16, which is precise enough for it."""
    return {name: value.half() for name, value in tensors_of(segmenter, "segmenter.").items()}


def load_segmenter(encoder: FrameEncoder, pack: Pack) -> Segmenter | None:
    """The segmenter in a pack, which hears frames of `encoder`; None where the pack has none. Raises PackError."""
    if not pack.below("segmenter."):
        return None
    return pack.module(lambda: new_segmenter(encoder), "segmenter.")


def shipped(name: str) -> Path:
    """The folder of a pack that the package ships."""
    return Path(str(files("mtl_speech") / "weights" / name))


def new_learner(
    base: BaseModel, phonemes: Sequence[str], config: MetaTrainConfig, phi: Sequence[str] = ()
) -> MetaLearner:
    """A learner at the start of meta-training: Φ is the identity, θ is zero. `phi`: patterns of names of layers that carry Φ."""
    encoder = attach(base.encoder, config.granularity, phi or base.encoder.phi_patterns)
    size = encoder.embedding_size
    return MetaLearner(
        encoder.eval(),
        min(config.dimensions, size) if config.whiten else size,
        phonemes,
        config.theta_init,
        config.inner_steps,
        config.inner_lr,
    )


def settings_on_target(strategy: MetaTrainConfig, own: MetaTrainConfig) -> MetaTrainConfig:
    """`own` settings of meta-training on a target, with what belongs to the strategy's weights taken from `strategy`."""
    of_weights = ("theta_init", "granularity", "inner_steps", "whiten", "dimensions")
    return replace(own, **{name: getattr(strategy, name) for name in of_weights})


def strategy_tensors(learner: MetaLearner) -> dict[str, Tensor]:
    """Everything of a learner but Θ, by name, in the types that a pack holds: no bool, nothing empty; the whitener in half
    precision, where that is exact."""
    held = {name: v for name, v in learner.state_dict().items() if v.numel() and not _is_frozen(name)}
    half = held["whitener"].half()
    if torch.equal(half.to(held["whitener"]), held["whitener"]):
        held["whitener"] = half
    return {name: v.to(torch.uint8 if v.dtype == torch.bool else v.dtype, copy=True) for name, v in held.items()}


def _is_frozen(name: str) -> bool:
    """Whether a tensor of a learner is one of Θ, which a strategy does not hold: neither Φ nor outside the encoder."""
    return name.startswith("encoder.") and not name.endswith((".scale", ".shift"))


def strategy_pack(learner: MetaLearner, base: BaseModel, config: MetaTrainConfig, card: Mapping[str, object]) -> Pack:
    """The pack of a strategy."""
    entries = {"base": base_entry(base.pack), "phonemes": list(learner.phonemes), "meta_train": as_dict(config)}
    return Pack("strategy", strategy_tensors(learner), {**card, **entries})


def load_learner(pack: Pack, base: BaseModel) -> tuple[MetaLearner, MetaTrainConfig]:
    """The learner of a strategy or language pack on its base, and the settings it was meta-trained with.

    Raises PackError when the pack was made on another base, or does not fit.
    """
    require_base(pack, base.pack)
    config = pack.settings("meta_train", MetaTrainConfig)
    known = dict(base.encoder.named_modules())
    phi = {name.removeprefix("encoder.").rpartition(".")[0] for name in pack.tensors if name.startswith("encoder.")}
    learner = new_learner(base, pack.phonemes(), config, sorted(phi & known.keys()))
    tensors = {k: v for k, v in pack.tensors.items() if not k.startswith(OF_THE_LANGUAGE)}
    strangers = [name for name in tensors if _is_frozen(name)]
    if strangers:
        pack.misfit(f"'{strangers[0]}' belongs to the base")
    not_saved = {name: value for name, value in learner.state_dict().items() if _is_frozen(name) or not value.numel()}
    pack.fill(learner, {**not_saved, **tensors})
    learner.guess = guess_weights(learner, learner.phonemes)
    return learner.eval(), config
