"""What adaptation starts from: the base (Θ, with the head of its pretraining), and the strategy that meta-training found on it.

A base is a pack of the kind "encoder", a strategy (Φ, θ, inner rates) one of the kind "strategy".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mtl_speech.core.options import EncoderConfig, MetaTrainConfig
from mtl_speech.core.settings import as_dict
from mtl_speech.features.store import FrontEnd, SegmentStore
from mtl_speech.model.encoder import Encoder, FrameEncoder, over_windows
from mtl_speech.model.hub import AUTO, load_hub_encoder
from mtl_speech.model.learner import MetaLearner, embed_segments, guess_weights
from mtl_speech.model.pack import Pack, base_entry, load_pack, pack_hash, require_base, tensors_of
from mtl_speech.model.scale_shift import attach
from mtl_speech.model.segmenter import Segmenter

SHIPPED_ENCODER = "english"
OF_THE_LANGUAGE = ("head.", "segmenter.", "duration.")  # tensors that only a language pack has


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
    tensors = tensors_of(encoder.fold_batch_norm(), "encoder.") | tensors_of(head, "head.")
    tensors |= segmenter_tensors(segmenter) if segmenter is not None else {}
    return Pack("encoder", tensors, {**card, "encoder": as_dict(encoder.config), "phonemes": list(phonemes)})


def load_base(folder: Path | None = None) -> BaseModel:
    """The base in `folder`; by default the English model that the package ships. Raises PackError."""
    pack = load_pack(folder if folder is not None else shipped(SHIPPED_ENCODER), "encoder")
    phonemes, config = pack.phonemes(), pack.settings("encoder", EncoderConfig)
    encoder = pack.module(lambda: Encoder(config).fold_batch_norm(), "encoder.")
    head = pack.module(lambda: nn.Linear(config.embedding_size, len(phonemes)), "head.")
    return BaseModel(encoder, head, phonemes, pack, load_segmenter(config, pack))


def load_hub_base(name: str, layer: str = AUTO, phi: Sequence[str] = ()) -> BaseModel:
    """An encoder of another maker as a base; see `load_hub_encoder`. Its pack is never saved: it stands for its hash."""
    encoder, english = load_hub_encoder(name, layer, phi), load_base()
    how = {"layer": encoder.config.layer, "phi": list(encoder.config.phi), "segmenter": pack_hash(english.pack)}
    known_as = Path(name).resolve().name if Path(name).exists() else name  # where a folder lies is nobody's business
    pack = hub_pack(encoder, {"name": known_as, "hub": how})
    return BaseModel(encoder, None, (), pack, english.segmenter, english.built_in)


def hub_pack(encoder: nn.Module, card: Mapping[str, object]) -> Pack:
    """The pack that a `HubEncoder` would be: all its weights."""
    return Pack("encoder", tensors_of(encoder, "encoder."), card)


def segmenter_tensors(segmenter: Segmenter) -> dict[str, Tensor]:
    """The weights of a segmenter by name, as float16, which is precise enough for it."""
    return {name: value.half() for name, value in tensors_of(segmenter, "segmenter.").items()}


def load_segmenter(config: EncoderConfig, pack: Pack) -> Segmenter | None:
    """The segmenter in a pack on an encoder of these settings; None where the pack has none. Raises PackError."""
    if not pack.below("segmenter."):
        return None
    return pack.module(lambda: Segmenter(config.channels, config.stride), "segmenter.")


def shipped(name: str) -> Path:
    """The folder of a pack that the package ships."""
    return Path(str(files("mtl_speech") / "weights" / name))


def new_learner(base: BaseModel, phonemes: Sequence[str], config: MetaTrainConfig) -> MetaLearner:
    """A learner at the start of meta-training: Φ is the identity, θ is zero."""
    encoder = attach(base.encoder, config.granularity, base.encoder.phi_patterns)
    return MetaLearner(
        encoder.eval(),
        base.encoder.config.embedding_size,
        phonemes,
        config.theta_init,
        config.inner_steps,
        config.inner_lr,
    )


def prepare_learner(learner: MetaLearner, store: SegmentStore, config: MetaTrainConfig) -> None:
    """Closed-form start from the segments of meta-training: centre and whitener of the embeddings, and θ."""
    embeddings = embed_segments(learner, store)
    standardise_embeddings(learner, store, embeddings, config.shrinkage if config.whiten else None)
    with torch.no_grad():
        learner.log_scale.fill_(float(np.log(config.scale)))
        learner.log_prior.copy_(torch.tensor([config.prior, config.prior_unmet]).log())
    start_theta(learner, store, embeddings)
    learner.guess = guess_weights(learner, learner.phonemes)


def settings_on_target(strategy: MetaTrainConfig, own: MetaTrainConfig) -> MetaTrainConfig:
    """`own` settings of meta-training on a target, with what belongs to the strategy's weights taken from `strategy`."""
    return replace(
        own, theta_init=strategy.theta_init, granularity=strategy.granularity, inner_steps=strategy.inner_steps
    )


def strategy_tensors(learner: MetaLearner) -> dict[str, Tensor]:
    """Everything of a learner but Θ, by name, in the types that a pack holds: no bool, nothing empty."""
    held = {name: v for name, v in learner.state_dict().items() if v.numel() and not _is_frozen(name)}
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
    learner = new_learner(base, pack.phonemes(), config)
    tensors = {k: v for k, v in pack.tensors.items() if not k.startswith(OF_THE_LANGUAGE)}
    strangers = [name for name in tensors if _is_frozen(name)]
    if strangers:
        pack.misfit(f"'{strangers[0]}' belongs to the base")
    not_saved = {name: value for name, value in learner.state_dict().items() if _is_frozen(name) or not value.numel()}
    pack.fill(learner, {**not_saved, **tensors})
    learner.guess = guess_weights(learner, learner.phonemes)
    return learner.eval(), config


def standardise_embeddings(
    learner: MetaLearner, store: SegmentStore, embeddings: Tensor, shrinkage: float | None
) -> None:
    """Set `centre` and `whitener` from the embeddings (n_segments, dim) of meta-training segments.

    `shrinkage` in [0, 1] mixes the covariance within the phonemes of a language with a multiple of the identity, whose inverse
    square root then whitens; None only centres. Either way the mean squared norm becomes 1.
    """
    centre = embeddings.mean(0)
    deviations = embeddings - _class_means(store, embeddings)[0]
    dim = embeddings.shape[1]
    if shrinkage is None:
        whitener = torch.eye(dim)
    else:
        covariance = (deviations.T @ deviations).double() / len(embeddings)
        covariance = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / dim * torch.eye(dim)
        values, vectors = torch.linalg.eigh(covariance)
        whitener = (vectors @ torch.diag(values.clamp_min(1e-8 * float(values.max())).rsqrt()) @ vectors.T).to(
            embeddings
        )
    norm = ((embeddings - centre) @ whitener).square().sum(1).mean().sqrt()
    learner.centre.copy_(centre)
    learner.whitener.copy_(whitener / norm)


def _class_means(store: SegmentStore, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The mean embedding of each segment's (language, phoneme), (n_segments, dim), and how many segments it is of."""
    key = store.language * len(store.phonemes) + store.label
    _, group, counts = key.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), embeddings.shape[1]).index_add_(0, group, embeddings)
    return (sums / counts.unsqueeze(1))[group], counts[group]


def start_theta(learner: MetaLearner, store: SegmentStore, embeddings: Tensor) -> None:
    """Set θ to the nearest-mean head of the phonemes of `store`: each language with the phoneme counts the same.

    Phonemes of the table without a segment get the mean of all rows and do not count as met.
    """
    with torch.no_grad():
        z = learner.standardise(embeddings)
        _, n_of_class = _class_means(store, z)
        weight = 1.0 / n_of_class
        sums = torch.zeros_like(learner.theta).index_add_(0, store.label, z * weight.unsqueeze(1))
        totals = torch.zeros(len(learner.phonemes)).index_add_(0, store.label, weight)
        learner.met.copy_(totals > 0)
        learner.theta.copy_(
            torch.where(learner.met.unsqueeze(1), sums / totals.clamp_min(1e-9).unsqueeze(1), z.mean(0))
        )
        learner.theta_bias.copy_(-0.5 * learner.theta.square().sum(1))
