"""The ablation: what each step brings. Baseline → + meta-transfer → + curriculum, on the same examples and tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mtl_speech.core.config import AdaptConfig, MetaTrainConfig
from mtl_speech.model.base import BaseModel
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.strategy import new_learner, prepare_learner
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import AblationRow, macro_f1_difference, score
from mtl_speech.training.adapt import Adaptation, Fold, adapt_fold

BASELINE, META_TRANSFER, CURRICULUM = "baseline", "+ meta-transfer", "+ curriculum"


@dataclass(frozen=True)
class Ablation:
    """The rows of the table, and the adaptations of each system, one a fold."""

    rows: tuple[AblationRow, ...]
    systems: dict[str, tuple[Adaptation, ...]]


def baseline_learner(base: BaseModel, fold: Fold, meta: MetaTrainConfig) -> tuple[MetaLearner, MetaTrainConfig]:
    """Frozen Θ and a θ trained from scratch: no Φ that moves, no strategy; embeddings are centred, not whitened.

    Its number of steps and its rate are chosen by the same cross-validation as for the other rows.
    """
    settings = replace(meta, theta_init="random", whiten=False, granularity="channel", inner_steps=100, inner_lr=1.0)
    learner = new_learner(base, fold.train.phonemes, settings)
    prepare_learner(learner, fold.train, settings)
    return learner, settings


def ablate(
    base: BaseModel,
    strategy: MetaLearner | Callable[[Fold], MetaLearner],
    folds: Sequence[Fold],
    config: AdaptConfig,
    meta: MetaTrainConfig,
) -> Ablation:
    """Run the three systems on each fold. `strategy` is where meta-transfer and curriculum start from, or gives it for a fold."""
    systems: dict[str, list[Adaptation]] = {BASELINE: [], META_TRANSFER: [], CURRICULUM: []}
    for fold in folds:
        learner, settings = baseline_learner(base, fold, meta)
        systems[BASELINE].append(adapt_fold(learner, fold, replace(config, meta_steps=0), settings))
        start = strategy if isinstance(strategy, MetaLearner) else strategy(fold)
        plain = replace(meta, hard_ratio=0.0)
        systems[META_TRANSFER].append(adapt_fold(start, fold, config, plain))
        systems[CURRICULUM].append(adapt_fold(start, fold, config, meta))
    rows: list[AblationRow] = []
    previous: Sequence[Adaptation] | None = None
    for name, runs in systems.items():
        rows.append(_row(name, runs, previous, config.seed))
        previous = runs
    return Ablation(tuple(rows), {name: tuple(runs) for name, runs in systems.items()})


def pooled(runs: Sequence[Adaptation], key: str) -> list[str]:
    """`true`, `predicted` or `groups` of all folds, one after another."""
    return [item for run in runs for item in getattr(run, key)]


def _row(name: str, runs: Sequence[Adaptation], previous: Sequence[Adaptation] | None, seed: int) -> AblationRow:
    true, predicted, groups = (pooled(runs, key) for key in ("true", "predicted", "groups"))
    scores = score(true, predicted, groups, seed=seed)
    gain: Difference | None = None
    if previous is not None:
        gain = macro_f1_difference(true, predicted, pooled(previous, "predicted"), groups, seed=seed)
    return AblationRow(
        name=name,
        macro_f1=scores.macro_f1,
        macro_f1_ci95=scores.macro_f1_ci95,
        micro_f1=scores.micro_f1,
        micro_f1_ci95=scores.micro_f1_ci95,
        difference_to_previous=gain,
        trainable_parameters=max(run.trainable_parameters for run in runs),
        seconds=sum(run.seconds for run in runs),
    )
