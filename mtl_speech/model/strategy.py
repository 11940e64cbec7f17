"""A strategy: what meta-training found (Φ, θ, inner rates), made, saved and loaded. It is the start of every adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.config import MetaTrainConfig
from mtl_speech.core.errors import ConfigError, PackError
from mtl_speech.core.settings import as_dict, load_config
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.base import BaseModel, load_state
from mtl_speech.model.learner import MetaLearner, embed_segments
from mtl_speech.model.pack import Pack, base_entry, require_base
from mtl_speech.model.scale_shift import attach
from mtl_speech.phonology.articulation import articulatory_features, articulatory_regression

OF_THE_LANGUAGE = ("head.", "segmenter.", "duration.")  # tensors that only a language pack has
N_NEIGHBOURS = 3  # rows of θ that a phoneme never met borrows from


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


def guess_weights(learner: MetaLearner, phonemes: Sequence[str]) -> Tensor:
    """How the rows of θ of `phonemes` are guessed from those that `learner` has met, a phoneme itself left out.

    The mean of the articulatory neighbours; under `theta_init` "articulatory" a regression on the articulatory features.
    Returns the weights of the rows of θ: (n, n_phonemes).
    """
    weights = torch.zeros(len(phonemes), len(learner.phonemes))
    if learner.theta_init != "articulatory":
        rows = nearest(learner, phonemes)
        return weights.scatter_(1, rows, 1.0 / rows.shape[1])
    for number, phoneme in enumerate(phonemes):
        others = [i for i in _met(learner) if learner.phonemes[i] != phoneme]
        if others:
            names = [learner.phonemes[i] for i in others]
            found = articulatory_regression(names, [1.0] * len(names), [phoneme])[0]
            weights[number, others] = torch.from_numpy(found).float()
    return weights


def _met(learner: MetaLearner) -> list[int]:
    """The rows of θ of phonemes that `learner` has met; all where it has met none."""
    return [i for i in range(len(learner.phonemes)) if bool(learner.met[i])] or list(range(len(learner.phonemes)))


def nearest(learner: MetaLearner, phonemes: Sequence[str]) -> Tensor:
    """The articulatory neighbours of `phonemes` among those that `learner` has met, a phoneme itself left out.

    Returns rows of θ, nearest first: (n, N_NEIGHBOURS), fewer where it has met fewer.
    """
    known = _met(learner)
    names = [learner.phonemes[i] for i in known]
    distance = np.abs(articulatory_features(list(phonemes))[:, None] - articulatory_features(names)[None]).sum(2)
    distance[np.asarray(phonemes)[:, None] == np.asarray(names)[None]] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :N_NEIGHBOURS]
    return torch.tensor(known)[torch.from_numpy(order)]


def extend(learner: MetaLearner, phonemes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give `learner` rows of θ for further phonemes, guessed from those it has met (`guess_weights`).

    Returns the neighbours of each new phoneme, nearest first. Phonemes that are there already stay as they are.
    """
    new = [p for p in dict.fromkeys(phonemes) if p not in learner.phonemes]
    if not new:
        return {}
    rows, guess = nearest(learner, new), guess_weights(learner, new)
    with torch.no_grad():
        theta = torch.cat((learner.theta, guess @ learner.theta))
        bias = torch.cat((learner.theta_bias, guess @ learner.theta_bias))
    learner.theta, learner.theta_bias = torch.nn.Parameter(theta), torch.nn.Parameter(bias)
    learner.met = torch.cat((learner.met, torch.zeros(len(new), dtype=torch.bool)))
    names = learner.phonemes
    learner.phonemes = (*names, *new)
    learner.guess = guess_weights(learner, learner.phonemes)
    return {p: tuple(names[int(i)] for i in row) for p, row in zip(new, rows, strict=True)}


def settings_on_target(strategy: MetaTrainConfig, own: MetaTrainConfig) -> MetaTrainConfig:
    """`own` settings of meta-training on a target, with what belongs to the strategy's weights taken from `strategy`."""
    return replace(
        own, theta_init=strategy.theta_init, granularity=strategy.granularity, inner_steps=strategy.inner_steps
    )


def row_of(learner: MetaLearner, store: SegmentStore) -> Tensor:
    """The row of θ of each phoneme of a store's table: (n_phonemes,)."""
    place = {p: i for i, p in enumerate(learner.phonemes)}
    return torch.tensor([place[p] for p in store.phonemes])


def strategy_tensors(learner: MetaLearner) -> dict[str, Tensor]:
    """Everything of a learner but Θ, by name, in the types that a pack holds: no bool, nothing empty."""
    found = {}
    for name, value in learner.state_dict().items():
        if value.numel() and not _is_frozen(name):
            found[name] = (value.to(torch.uint8) if value.dtype == torch.bool else value).detach().clone()
    return found


def _is_frozen(name: str) -> bool:
    return name.startswith("encoder.") and not _is_phi(name)


def _is_phi(name: str) -> bool:
    return name.rpartition(".")[2] in ("scale", "shift")


def strategy_pack(learner: MetaLearner, base: BaseModel, config: MetaTrainConfig, card: Mapping[str, object]) -> Pack:
    """The pack of a strategy."""
    entries = {"base": base_entry(base.pack), "phonemes": list(learner.phonemes), "meta_train": as_dict(config)}
    return Pack("strategy", strategy_tensors(learner), {**card, **entries})


def load_learner(pack: Pack, base: BaseModel) -> tuple[MetaLearner, MetaTrainConfig]:
    """The learner of a strategy or language pack on its base, and the settings it was meta-trained with.

    Raises PackError when the pack was made on another base, or does not fit.
    """
    require_base(pack, base.pack)
    try:
        config = load_config(MetaTrainConfig, None, pack.value("meta_train", dict))
    except ConfigError as error:
        raise PackError(
            f"card.json of '{pack.name}': its meta_train settings cannot be used: {error}; make the pack anew"
        ) from error
    learner = new_learner(base, pack.phonemes(), config)
    own = learner.state_dict()
    tensors = {k: v for k, v in pack.tensors.items() if not k.startswith(OF_THE_LANGUAGE)}
    strangers = [name for name in tensors if _is_frozen(name)]
    if strangers:
        raise PackError(
            f"weights.safetensors of '{pack.name}': '{strangers[0]}' belongs to the base; make the pack anew"
        )
    not_saved = {name: value for name, value in own.items() if _is_frozen(name) or not value.numel()}
    load_state(learner, {**not_saved, **tensors}, pack)
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
