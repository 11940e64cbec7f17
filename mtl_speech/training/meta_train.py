"""Meta learning of Φ, θ and the inner learning rates on few-shot phoneme tasks, with a curriculum of hard classes.

Sun et al. (2019), eq. 3 to 6 and algorithm 1: Φ ← Φ − γ ∇_Φ L_{T(te)}([Θ, θ′], Φ), and the same for θ. Departures: Adam takes the
outer step; the loss of a task is class-balanced, for the score is macro-F1; embeddings are standardised in closed form first
(`standardise_embeddings`), so that Φ starts from whitened embeddings; Φ decays towards the identity.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.distributed import from_main, is_main, n_processes, rank, sum_gradients, total
from mtl_speech.core.errors import DataError
from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.core.terminal import progress
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.learner import MetaLearner, balanced_weights
from mtl_speech.model.passes import heard_below
from mtl_speech.model.scale_shift import distance_from_identity, scale_shift_layers
from mtl_speech.scoring.metrics import episode_class_f1
from mtl_speech.training.checkpoint import Checkpoints, State, optimiser_tensors, put_optimiser, put_tensors, tensors_of
from mtl_speech.training.episodes import Episode, EpisodeBatch, EpisodeSampler, stack
from mtl_speech.training.hard_classes import HardClassPool

logger = logging.getLogger(__name__)
AT_ONCE = 800  # segments that pass through the encoder together; the memory of larger tensors is mapped anew each time


@dataclass(frozen=True)
class MetaHistory:
    """What happened in meta-training: one row a round, one row a validation, and the hard classes of each round."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    hard_classes: list[list[tuple[str, str]]] = field(default_factory=list)  # (language, phoneme)


def query_loss(logits: Tensor, batch: EpisodeBatch) -> Tensor:
    """L_{T(te)}: the class-balanced cross-entropy of the queries, the mean over tasks. logits: (n_tasks, n_query, n_way)."""
    n_way = logits.shape[2]
    labels = torch.where(batch.mask, batch.query_labels, n_way)  # padding becomes a class of its own, of weight zero
    weights = torch.where(batch.mask, balanced_weights(labels, n_way + 1), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten(), reduction="none").view_as(weights)
    return (losses * weights).sum(1).mean()


@dataclass(frozen=True)
class Forward:
    """How a meta-batch is computed.

    first_order: leave second derivatives out, the support set is then embedded without gradient; augment: changes windows (n,
    n_frames, MEL_BANDS); generator: draws a θ that starts at random; bf16: the encoder computes under autocast, all else in
    float32; encoder: what windows pass through where the store is what lies below it (`heard_below`).
    """

    first_order: bool = False
    augment: Callable[[Tensor], Tensor] | None = None
    generator: torch.Generator | None = None
    bf16: bool = False
    encoder: FrameEncoder | None = None


def meta_forward(
    learner: MetaLearner,
    store: SegmentStore,
    batch: EpisodeBatch,
    how: Forward = Forward(),
    guessed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L_{T(te)} of a meta-batch and its query logits (n_tasks, n_query, n_way). All tasks are embedded together, AT_ONCE segments
    at a time.

    Phonemes for which `guessed` (n_tasks, n_way) is true are treated as never met.
    """

    encoder = learner.encoder if how.encoder is None else how.encoder

    def embed(index: Tensor) -> Tensor:
        unique, inverse = index.flatten().unique(return_inverse=True)
        windows, spans = store.windows(unique)
        windows = windows if how.augment is None else how.augment(windows)
        parts = zip(windows.split(AT_ONCE), spans.split(AT_ONCE), strict=True)
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=how.bf16):
            raw = [encoder(*part) for part in parts]
        embeddings = torch.cat([learner.standardise(each.float() if how.bf16 else each) for each in raw])
        # The gradient of `embeddings[inverse]` is summed by all threads at once, in an order that differs from run to run.
        return embeddings.index_select(0, inverse).view(*index.shape, -1)

    if how.first_order:
        with torch.no_grad():
            support = embed(batch.support)
        query = embed(batch.query)
    else:
        n_support = batch.support.shape[1]
        both = embed(torch.cat((batch.support, batch.query), dim=1))
        support, query = both[:, :n_support], both[:, n_support:]
    head = learner.adapt(support, batch.support_labels, batch.classes, how.first_order, how.generator, guessed)
    logits = head.logits(query)
    return query_loss(logits, batch), logits


def is_hard_round(number: int, ratio: float) -> bool:
    """Whether round `number` (from 0) draws from the hard classes: spread evenly, `ratio` of all rounds, the first is random."""
    return int((number + 1) * ratio) > int(number * ratio)


class MetaTrainer:
    """Meta-training of one learner on one store; `step` is one round, `train` is all of them.

    `views` are stores of the same segments in augmented recordings: each round takes its windows from one of them or `store`.
    """

    def __init__(
        self,
        learner: MetaLearner,
        store: SegmentStore,
        config: MetaTrainConfig,
        by: str = "utterance",
        views: Sequence[SegmentStore] = (),
    ) -> None:
        if store.phonemes != learner.phonemes:
            raise ValueError(
                "the phonemes of the store are not those of the learner, in its order: rows of θ would be mixed up"
            )
        if not all(torch.equal(view.label, store.label) for view in views):
            raise ValueError("the views have other segments than the store")
        self.learner, self.store, self.config = learner, store, config
        self.views = (store, *views)
        self.generator = torch.Generator().manual_seed(config.seed)
        augment = _augmentation() if config.augment else None
        split = learner.encoder.split() if augment is None else None  # which changes the windows themselves
        upper = None
        if split is not None:
            lower, upper = split
            self.views = tuple(heard_below(view, lower) for view in self.views)
        self.how = Forward(config.first_order, augment, self.generator, config.precision == "bf16", upper)
        self.sampler = EpisodeSampler(store, by)
        self.pool = HardClassPool(config.hard_pool)
        self.rng = np.random.default_rng(config.seed)
        self.history = MetaHistory()
        self.best: tuple[float, dict[str, Tensor]] | None = None  # score and state of the best validation
        self.shapes = [(w, k) for w in config.n_way for k in config.n_shot if self.sampler.feasible(w, k)]
        if not self.shapes:
            raise DataError(
                f"no language has enough phonemes for tasks of {min(config.n_way)} phonemes with {min(config.n_shot)} "
                "example(s) and a query in another recording"
            )
        self.optimizer = _optimizer(learner, config)

    def sample_round(self) -> tuple[list[Episode], bool]:
        """The tasks of the next round, and whether they are drawn from the hard classes."""
        config = self.config
        n_way, n_shot = self.shapes[int(self.rng.integers(len(self.shapes)))]
        shape = n_way, n_shot, config.n_query
        n_hard = config.meta_batch if is_hard_round(len(self.history.rounds), config.hard_ratio) else 0
        drawn = [self.pool.sample(self.rng, self.sampler, *shape) for _ in range(n_hard)]
        hard = [episode for episode in drawn if episode is not None]
        others = [self.sampler.random(self.rng, *shape) for _ in range(config.meta_batch - len(hard))]
        return [*hard, *others], bool(hard)

    def step(self) -> dict[str, float]:
        """One round: sample tasks, learn their heads, move Φ and θ, remember the hard classes."""
        episodes, hard = self.sample_round()
        batch = stack(episodes)
        view = self.views[int(self.rng.integers(len(self.views)))] if len(self.views) > 1 else self.views[0]
        for group in self.optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * self._schedule()
        guessed = torch.from_numpy(self.rng.random(batch.classes.shape) < self.config.guess_share)
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]):  # the augmentation draws from torch's own generator
            loss, predicted = self._gradients(view, batch, guessed, int(self.rng.integers(2**31)))
        sum_gradients(moved)
        torch.nn.utils.clip_grad_norm_(moved, 10.0)
        self.optimizer.step()
        n_way = batch.classes.shape[1]
        class_f1 = torch.from_numpy(episode_class_f1(batch.query_labels, predicted, n_way, batch.mask))
        self.pool.update(batch.language.tolist(), batch.classes, class_f1)
        self.history.hard_classes.append(self._named(self.pool.history[-1]))
        row = {
            "round": float(len(self.history.rounds)),
            "hard": float(hard),
            "n_way": float(n_way),
            "loss": float(loss),
            "macro_f1": float(class_f1.nanmean()),
        }
        self.history.rounds.append(row)
        return row

    def _gradients(self, view: SegmentStore, batch: EpisodeBatch, guessed: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Compute this process's share of the gradients, part by part: every n-th task of the batch.

        Returns the loss of the whole batch and the predicted queries of all of its tasks (n_tasks, n_query).
        """
        config, n_tasks = self.config, len(batch.classes)
        mine = torch.arange(rank(), n_tasks, n_processes())
        loss, predicted = torch.zeros(()), torch.zeros_like(batch.query_labels)
        torch.manual_seed(seed + rank())
        if n_processes() > 1:
            self.generator.manual_seed(seed + rank())  # it is the same again where a run goes on
        layers = scale_shift_layers(self.learner.encoder).values()
        penalty: Tensor | float = config.phi_decay * distance_from_identity(layers) if layers and is_main() else 0.0
        for part in mine.tensor_split(min(config.accumulate, len(mine)) or 1) if len(mine) else ():
            mean, logits = meta_forward(self.learner, view, batch.select(part), self.how, guessed[part])
            share = mean * (len(part) / n_tasks)
            (share + penalty).backward()
            penalty = 0.0  # it counts once
            loss += share.detach()
            predicted[part] = logits.detach().argmax(2)
        return total(loss), total(predicted)

    def _named(self, entered: Iterable[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(self.store.languages[language], self.store.phonemes[phoneme]) for language, phoneme in entered]

    def _schedule(self) -> float:
        done = len(self.history.rounds) / max(1, self.config.meta_steps)
        return float(0.5 * (1 + np.cos(np.pi * min(1.0, done)))) * 0.95 + 0.05

    def train(
        self,
        validate: Callable[[MetaLearner], float] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> MetaHistory:
        """All rounds. With `validate` (a score, higher is better) the best state seen, the first included, is kept.

        With `checkpoints` a run that was stopped goes on. Raises what `Checkpoints.resume` and `Checkpoints.save` do.
        """
        if checkpoints is not None:
            checkpoints.resume(self)
        with checkpoints.stoppable() if checkpoints is not None else nullcontext():
            rounds: Iterable[int] = range(len(self.history.rounds), self.config.meta_steps + 1)
            for number in progress(rounds, "meta-training"):
                last = number == self.config.meta_steps
                if checkpoints is not None:
                    checkpoints.tick(self, last)
                if validate is not None and (last or number % self.config.validate_every == 0):
                    (found,) = from_main([validate(self.learner) if is_main() else 0.0])
                    self._validate(number, found)
                if not last:
                    self.learner.eval()  # Θ keeps to its running statistics and has no dropout
                    self.step()
        if self.best is not None:
            self.learner.load_state_dict(self.best[1], strict=False)
        return self.history

    def _validate(self, number: int, score: float) -> None:
        self.history.validations.append({"round": float(number), "score": score})
        logger.info("meta-training round %d: validation score %.4f", number, score)
        if not np.isnan(score) and (self.best is None or score > self.best[0]):
            self.best = score, copy.deepcopy(trainable_state(self.learner))

    def state(self) -> State:
        """All that the next rounds depend on, at the start of a round."""
        tensors = tensors_of("learner", self._moving()) | optimiser_tensors(self.optimizer)
        tensors["generator"] = self.generator.get_state()
        values = {
            "rounds": self.history.rounds,
            "validations": self.history.validations,
            "hard_classes": self.pool.history,
            "pools": [[language, list(pool)] for language, pool in self.pool.pools.items()],
            "rng": plain_rng(self.rng),
            "best": None,
        }
        if self.best is not None:
            values["best"] = self.best[0]
            tensors |= tensors_of("best", self.best[1])
        return State(tensors, values)

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        values = state.values
        put_tensors("learner", self._moving(), state)
        put_optimiser(self.optimizer, state)
        self.generator.set_state(state.tensors["generator"])
        self.rng.bit_generator.state = rng_state(values["rng"])
        self.pool.history = [[(a, p) for a, p in entered] for entered in values["hard_classes"]]
        self.pool.pools = {language: deque(pool, maxlen=self.pool.size) for language, pool in values["pools"]}
        hard_classes = [self._named(entered) for entered in self.pool.history]
        self.history = MetaHistory(list(values["rounds"]), list(values["validations"]), hard_classes)
        if values["best"] is not None:
            best = copy.deepcopy(trainable_state(self.learner))
            put_tensors("best", best, state)
            self.best = float(values["best"]), best

    def _moving(self) -> dict[str, Tensor]:
        """The tensors of the learner by name, but for the frozen ones of Θ."""
        return trainable_state(self.learner) | dict(self.learner.named_buffers())


def _augmentation() -> Callable[[Tensor], Tensor]:
    from mtl_speech.features.augment import SpecAugment  # speechbrain takes seconds to load

    return SpecAugment()


def _optimizer(learner: MetaLearner, config: MetaTrainConfig) -> torch.optim.Optimizer:
    """Adam for Φ, θ and the scalars of a learner, each at its rate."""
    phi = [p for layer in scale_shift_layers(learner.encoder).values() for p in layer.parameters(recurse=False)]
    groups = [
        (phi, config.phi_rate),
        ([learner.theta, learner.theta_bias], config.theta_rate),
        ([learner.log_rates, learner.log_scale, learner.log_prior], config.scalar_rate),
    ]
    return torch.optim.Adam([{"params": moved, "lr": config.outer_lr * rate} for moved, rate in groups])


def plain_rng(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a generator as plain values; its numbers of 128 bits as text."""
    state = rng.bit_generator.state
    return {**state, "state": {name: str(value) for name, value in state["state"].items()}}


def rng_state(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `plain_rng` was given the generator's state of."""
    return {**plain, "state": {name: int(value) for name, value in plain["state"].items()}}


def trainable_state(learner: MetaLearner) -> dict[str, Tensor]:
    """The trainable tensors of a learner by name: Φ, θ, rates, scale and prior; nothing of Θ."""
    return {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
