"""Adaptation to a language: from a strategy and labelled recordings to a recogniser of its phonemes, scored on what was held out.

The steps: hold recordings out (`folds`); go on meta-training on tasks drawn from the target's own examples where there are enough
of them; base-learn θ over the full inventory; score. Everything chosen on the way is chosen on the training recordings. The
ablation tells what each step brings: baseline → + meta-transfer → + curriculum, on the same examples and tests.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mtl_speech.core.errors import DataError
from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.language_pack import LanguageModel, Neighbours, times, true_labels, utterances
from mtl_speech.model.learner import MetaLearner, embed_segments, extend, row_of
from mtl_speech.model.strategy import BaseModel, new_learner
from mtl_speech.scoring.metrics import (
    AblationRow,
    Scores,
    Token,
    episode_macro_f1,
    score_tokens,
    scored_tokens,
    token_difference,
)
from mtl_speech.training.base_learning import (
    Examples,
    StepChoice,
    add_unheard,
    choose_steps,
    examples_of,
    fit_temperature,
    learn_head,
)
from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.folds import NONE_TO_TEST_ON, Fold, divide_for_tasks, few_shots, too_few
from mtl_speech.training.folds import make_folds as make_folds  # as part of adaptation it is public here
from mtl_speech.training.meta_train import MetaHistory, MetaTrainer

BASELINE, META_TRANSFER, CURRICULUM = "baseline", "+ meta-transfer", "+ curriculum"


@dataclass(frozen=True)
class Learned:
    """A recogniser and how it was learned. `embeddings`: (n, dim) of its examples `train`, as `embed_segments` gives them."""

    model: LanguageModel
    choice: StepChoice
    history: MetaHistory
    notes: tuple[str, ...]
    seconds: float
    train: SegmentStore = field(compare=False, repr=False)
    embeddings: Tensor = field(compare=False, repr=False)

    @property
    def n_train(self) -> dict[str, int]:
        """Examples of each phoneme that it was learned from."""
        return dict(sorted(Counter(true_labels(self.train)).items()))

    @property
    def trainable_parameters(self) -> int:
        """How many numbers were learned: those of the learner where it was meta-trained on the target, else those of the head."""
        if self.history.rounds:
            return sum(p.numel() for p in self.model.learner.parameters() if p.requires_grad)
        return self.model.head.weight.numel() + self.model.head.bias.numel()


@dataclass(frozen=True)
class Adaptation:
    """What was learned, and how it does on the scored test segments, of which `tokens` tell one by one.

    `test_embeddings`: (n_tokens, dim) as `embed_segments` gives them.
    """

    learned: Learned
    scores: Scores
    tokens: tuple[Token, ...]
    test_embeddings: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ablation:
    """What each step brings: the rows of the table, and the adaptations of each system, one a fold."""

    rows: tuple[AblationRow, ...]
    systems: dict[str, tuple[Adaptation, ...]]


def target_rounds(
    train: SegmentStore, tasks: SegmentStore, config: AdaptConfig, meta: MetaTrainConfig
) -> tuple[int, str]:
    """How many meta-training rounds the training examples are worth, and why, in words. `tasks`: those to draw tasks of."""
    if config.meta_steps is not None:
        return config.meta_steps, "as asked for"
    sampler = EpisodeSampler(tasks)
    if len(train) < config.enough_segments:
        return 0, f"{len(train)} examples: too few, {config.enough_segments} are enough"
    if not any(sampler.feasible(n_way, n_shot) for n_way in meta.n_way for n_shot in meta.n_shot):
        return (
            0,
            f"{len(train)} examples: fewer than {min(meta.n_way)} phonemes lie in two recordings, too few for a task",
        )
    return meta.meta_steps, f"{len(train)} examples: enough"


def continue_meta_training(
    learner: MetaLearner,
    store: SegmentStore,
    valid: SegmentStore,
    meta: MetaTrainConfig,
) -> MetaHistory:
    """Meta-train on tasks of the target itself and keep the state that is best on `valid`, the state before included."""
    choice = StepChoice(meta.inner_steps)
    table = row_of(learner, store)

    def validate(current: MetaLearner) -> float:
        logits, targets = logits_on(valid, current, store, choice)
        return float(episode_macro_f1(targets[None], logits.argmax(1)[None], logits.shape[1])[0])

    renamed = replace(store, label=table[store.label], phonemes=learner.phonemes)
    return MetaTrainer(learner, renamed, meta).train(validate)


def logits_on(
    valid: SegmentStore, learner: MetaLearner, store: SegmentStore, choice: StepChoice
) -> tuple[Tensor, Tensor]:
    """The logits (n, n_classes) of the segments of `valid` whose phoneme `store` has, and their classes (n,).

    The head is learned from `store`.
    """
    classes = store.label.unique()
    query = valid.select(torch.isin(valid.label, classes))
    head = learn_head(examples_of(learner, store, embed_segments(learner, store)), choice)
    z = learner.standardise(embed_segments(learner, query)).detach()
    return head.logits(z.unsqueeze(0))[0], torch.searchsorted(classes, query.label)


def adapt_fold(strategy: MetaLearner, fold: Fold, config: AdaptConfig, meta: MetaTrainConfig) -> Adaptation:
    """Adapt a copy of `strategy` to the training examples of a fold and score it on its test examples.

    Raises DataError where no phoneme can be learned and tested.
    """
    return score_fold(learn(strategy, fold, config, meta), fold, config)


def learn(strategy: MetaLearner, fold: Fold, config: AdaptConfig, meta: MetaTrainConfig) -> Learned:
    """Adapt a copy of `strategy` to the training examples of a fold; its test examples are not looked at."""
    started = time.perf_counter()
    learner, few = copy.deepcopy(strategy), few_shots(fold, config)
    extend(learner, few.train.phonemes)
    tasks, valid = (few.train, fold.valid) if fold.valid is not None else divide_for_tasks(few.train, config.seed)
    rounds, why = target_rounds(few.train, tasks, config, meta)
    note = f"meta-training on the target: {rounds} rounds ({why})"
    history = MetaHistory()
    if rounds:
        history = continue_meta_training(learner, tasks, valid, replace(meta, meta_steps=rounds, seed=config.seed))
        best = max(history.validations, key=lambda row: row["score"])
        judge = "the validation recordings" if fold.valid is not None else "a quarter of the training recordings"
        note += f"; round {best['round']:.0f} is best on {judge}, macro-F1 {best['score']:.3f}"
    embeddings = embed_segments(learner, few.train)
    model, choice = learn_inventory(examples_of(learner, few.train, embeddings, config.seed), few.unheard)
    if rounds:  # Φ knows the training recordings, so that they would make the model too sure of itself
        model = replace(model, temperature=fit_temperature(*logits_on(valid, learner, tasks, choice)))
    notes: tuple[str, ...] = (*([] if config.meta_steps == 0 else [note]), f"base learning: {choice}")
    seconds = time.perf_counter() - started
    heard = few.train.heard
    if heard is not None and len(heard.embeddings) > 1:
        notes = (
            *notes,
            f"encoder: layer {learner.encoder.layer} of {len(heard.embeddings)}, by cross-validation in closed form",
        )
    return Learned(model, choice, history, notes, seconds, few.train, embeddings)


def learn_inventory(examples: Examples, unheard: Sequence[str] = ()) -> tuple[LanguageModel, StepChoice]:
    """Base-learn θ over all phonemes of the examples, and add rows for the phonemes `unheard`, of which they have none."""
    choice = choose_steps(examples)
    head = learn_head(examples, choice)
    neighbours: Neighbours = {}
    if unheard:
        head, neighbours = add_unheard(examples, head, choice, unheard)
    classes = (*examples.phonemes, *unheard)
    return LanguageModel(examples.learner, head, classes, choice.temperature, neighbours), choice


def score_fold(learned: Learned, fold: Fold, config: AdaptConfig) -> Adaptation:
    """Score what was learned from a fold on its test examples. Raises DataError as `adapt_fold` does."""
    n_train = learned.n_train
    not_scored = too_few(fold, n_train, config.shots)
    test = fold.test_without({item.phoneme for item in not_scored})
    if len(test) == 0:
        raise DataError(
            "no phoneme has enough examples to be learned and tested; add labelled recordings or lower --shots"
        )
    embeddings = embed_segments(learned.model.learner, test)
    tokens = recognise(learned.model, test, embeddings, n_train)
    scores = score_tokens(tokens, n_train, not_scored, config.seed)
    return Adaptation(learned, scores, tokens, embeddings)


def recognise(
    model: LanguageModel, test: SegmentStore, embeddings: Tensor, learned: Container[str]
) -> tuple[Token, ...]:
    """What the model takes each segment of `test` for. `learned`: the phonemes of which it had an example.

    embeddings: (n_segments, dim) as `embed_segments` gives them.
    """
    confidences, best = model.probabilities(embeddings).max(1)
    predicted = [model.classes[int(i)] for i in best]
    return tuple(
        scored_tokens(utterances(test), times(test), true_labels(test), predicted, confidences.tolist(), learned)
    )


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
        start = strategy if isinstance(strategy, MetaLearner) else strategy(fold)
        learner, settings = baseline_learner(base.at_layer(start.encoder.layer), fold, meta)
        systems[BASELINE].append(adapt_fold(learner, fold, replace(config, meta_steps=0), settings))
        plain = replace(meta, hard_ratio=0.0)
        systems[META_TRANSFER].append(adapt_fold(start, fold, config, plain))
        systems[CURRICULUM].append(adapt_fold(start, fold, config, meta))
    before = (None, *systems.values())
    rows = [_row(*item, earlier, config.seed) for item, earlier in zip(systems.items(), before, strict=False)]
    return Ablation(tuple(rows), {name: tuple(runs) for name, runs in systems.items()})


def pooled(runs: Sequence[Adaptation]) -> list[Token]:
    """The tokens of all folds, one after another."""
    return [token for run in runs for token in run.tokens]


def _row(name: str, runs: Sequence[Adaptation], previous: Sequence[Adaptation] | None, seed: int) -> AblationRow:
    tokens = pooled(runs)
    scores = score_tokens(tokens, seed=seed)
    return AblationRow(
        name=name,
        macro_f1=scores.macro_f1,
        macro_f1_ci95=scores.macro_f1_ci95,
        micro_f1=scores.micro_f1,
        micro_f1_ci95=scores.micro_f1_ci95,
        difference_to_previous=None if previous is None else token_difference(tokens, pooled(previous), seed),
        trainable_parameters=max(run.learned.trainable_parameters for run in runs),
        seconds=sum(run.learned.seconds for run in runs),
    )


def pooled_scores(runs: Sequence[Adaptation], seed: int) -> Scores:
    """The scores of one fold, or of all test segments of a cross-validation together."""
    if len(runs) == 1:
        return runs[0].scores
    tokens = pooled(runs)
    n_train: dict[str, int] = {}
    for run in runs:
        for item in run.scores.phonemes:
            n_train[item.phoneme] = max(n_train.get(item.phoneme, 0), item.n_train or 0)
    scored = {token.true for token in tokens}
    # Of a fold that could not score a phoneme, and one that had none to test on, the first tells why it is not scored.
    each = sorted((m for run in runs for m in run.scores.not_scored), key=lambda m: m.reason != NONE_TO_TEST_ON)
    missing = {m.phoneme: m for m in each if m.phoneme not in scored}
    return score_tokens(tokens, n_train, tuple(missing[p] for p in sorted(missing)), seed)
