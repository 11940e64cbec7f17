"""Adaptation to a language: from a strategy and labelled recordings to a recogniser of its phonemes, scored on what was held out.

The steps: hold recordings out; go on meta-training on tasks drawn from the target's own examples where there are enough of them;
base-learn θ over the full inventory; score. Everything chosen on the way is chosen on the training recordings.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.config import AdaptConfig, MetaTrainConfig
from mtl_speech.core.errors import DataError
from mtl_speech.core.files import content_hash
from mtl_speech.corpora.corpus import Corpus, split_by
from mtl_speech.features.store import LOG_MEL, FrontEnd, SegmentStore, build_store
from mtl_speech.model.language_pack import LanguageModel, Neighbours, times, true_labels, utterances
from mtl_speech.model.learner import MetaLearner, embed_segments, extend, row_of
from mtl_speech.scoring.metrics import NotScored, Scores, episode_macro_f1, score
from mtl_speech.training.base_learning import StepChoice, choose_steps, few_shot_index, fit_temperature, learn_head
from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.meta_train import MetaHistory, MetaTrainer
from mtl_speech.training.zero_shot import add_unheard

logger = logging.getLogger(__name__)

MIN_SPEAKERS = 5  # from here on whole speakers are held out
MIN_RECORDINGS = 100  # below, cross-validation over recordings
N_FOLDS = 5
NONE_TO_TEST_ON = "no example left to test on"  # why a phoneme is not scored


@dataclass(frozen=True)
class Fold:
    """Training and test examples of one language, from different recordings. `how` says in words how they were divided.

    `valid`, where it is given, chooses the round of meta-training; otherwise a part of the training recordings does.
    `inventory` are the phonemes of the language, where they are known.
    """

    train: SegmentStore
    test: SegmentStore
    how: str
    valid: SegmentStore | None = None
    inventory: tuple[str, ...] = ()

    @property
    def unheard(self) -> tuple[str, ...]:
        """The phonemes of the inventory without a training example."""
        heard = set(true_labels(self.train))
        return tuple(phoneme for phoneme in self.inventory if phoneme not in heard)


@dataclass(frozen=True)
class Adaptation:
    """A recogniser and how it was learned. `true`, `predicted`, `confidences` and `groups` are of the scored test segments.

    `embedded` are the embeddings of the training and of the scored test segments as `embed_segments` gives them, where Φ is still
    that of the strategy and all scored phonemes have examples.
    """

    model: LanguageModel
    scores: Scores
    choice: StepChoice
    history: MetaHistory
    notes: tuple[str, ...]
    true: tuple[str, ...]
    predicted: tuple[str, ...]
    confidences: tuple[float, ...]  # calibrated probability of the predicted phoneme
    groups: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]  # start and end of each of them in its recording, in seconds
    n_train: dict[str, int]  # examples of each phoneme that it was learned from
    trainable_parameters: int
    seconds: float
    embedded: tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)


def make_folds(
    corpus: Corpus,
    test: Corpus | None,
    config: AdaptConfig,
    front_end: FrontEnd = LOG_MEL,
) -> list[Fold]:
    """Divide a corpus into training and test: one fold, or N_FOLDS of them (cross-validation) where there is little.

    With `test` that is the test, and a recording that lies in both is an error. Otherwise whole speakers are held out where
    there are MIN_SPEAKERS, else recordings; below MIN_RECORDINGS all recordings take turns.

    Raises DataError when nothing can be held out.
    """
    corpora = [corpus] if test is None else [replace(corpus, name="train"), replace(test, name="test")]
    if test is not None:
        refuse_shared(corpus, test)
    store = build_store(corpora, front_end=front_end)
    if test is not None:
        return [fold_of(store, {f"test/{u.id}" for u in test.utterances}, "the test folder")]
    usable = {store.utterance_ids[int(i)] for i in store.utterance.unique()}  # read, and with a phoneme segment
    corpus = corpus.filter(lambda u: f"{corpus.name}/{u.id}" in usable)
    speakers = {u.speaker for u in corpus.utterances}
    n = len(corpus.utterances)
    if n < 2:
        raise DataError(
            f"corpus '{corpus.name}': one recording cannot be both learned from and tested on; add recordings or give --test"
        )
    if len(speakers) < MIN_SPEAKERS and n < MIN_RECORDINGS:
        k = min(N_FOLDS, n)
        parts = split_by(corpus, "utterance", [1 / k] * k, config.seed)
        how = f"{k}-fold cross-validation over {n} recordings"
        return [fold_of(store, _ids(part), how) for part in parts]
    by = "speaker" if len(speakers) >= MIN_SPEAKERS else "utterance"
    _, held = split_by(corpus, by, [1 - config.test_share, config.test_share], config.seed)
    what = "speakers" if by == "speaker" else "recordings"
    n_held = len({u.speaker for u in held.utterances}) if by == "speaker" else len(held.utterances)
    n_all = len(speakers) if by == "speaker" else n
    return [fold_of(store, _ids(held), f"{n_held} of {n_all} {what} held out, drawn by the seed")]


def _ids(corpus: Corpus) -> set[str]:
    return {f"{corpus.name}/{u.id}" for u in corpus.utterances}


def refuse_shared(train: Corpus, test: Corpus) -> None:
    """Raises DataError when a recording is in both corpora: the same file, or a copy of it under another name."""
    sizes = {u.audio.stat().st_size for u in train.utterances} & {u.audio.stat().st_size for u in test.utterances}
    learned = {content_hash(u.audio): u.audio for u in train.utterances if u.audio.stat().st_size in sizes}
    for path in (u.audio for u in test.utterances if u.audio.stat().st_size in sizes):
        if content_hash(path) in learned:
            raise DataError(
                f"{path} lies in the training and in the test folder (there as {learned[content_hash(path)]}); "
                "a recording cannot be both"
            )


def fold_of(store: SegmentStore, held: set[str], how: str) -> Fold:
    """The fold that tests on the recordings `held`, names in `store.utterance_ids`. Raises DataError if a side is empty."""
    is_held = torch.tensor([name in held for name in store.utterance_ids])[store.utterance]
    train, test = (store.select(torch.nonzero(mask).squeeze(1)) for mask in (~is_held, is_held))
    if len(train) == 0 or len(test) == 0:
        raise DataError(f"{how}: no phoneme segment is left to {'learn from' if len(train) == 0 else 'test on'}")
    return Fold(train, test, how)


def fold_of_parts(parts: Mapping[str, Corpus], how: str, front_end: FrontEnd = LOG_MEL) -> Fold:
    """The fold of corpora "train", "valid" and "test" that are divided already. Raises DataError when one has no segment."""
    names = ("train", "valid", "test")
    corpora = [replace(parts[name], name=name) for name in names]
    store = build_store(corpora, front_end=front_end)
    owner = torch.tensor([names.index(name.split("/", 1)[0]) for name in store.utterance_ids])[store.utterance]
    train, valid, test = (store.select(torch.nonzero(owner == i).squeeze(1)) for i in range(3))
    empty = [name for name, each in zip(names, (train, valid, test), strict=True) if len(each) == 0]
    if empty:
        raise DataError(f"{how}: no phoneme segment is left in '{empty[0]}'")
    return Fold(train, test, how, valid)


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


def divide_for_tasks(store: SegmentStore, seed: int) -> tuple[SegmentStore, SegmentStore]:
    """Training examples to draw tasks of, and a quarter of the recordings, which chooses the round of meta-training."""
    names = store.utterance.unique()
    shuffled = names[torch.from_numpy(np.random.default_rng(seed).permutation(len(names)))]
    held = torch.isin(store.utterance, shuffled[: max(1, len(names) // 4)])
    return store.select(torch.nonzero(~held).squeeze(1)), store.select(torch.nonzero(held).squeeze(1))


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
    rows, labels = store.label.unique(return_inverse=True)
    query = valid.select(torch.nonzero(torch.isin(valid.label, rows)).squeeze(1))
    z, z_query = (learner.standardise(embed_segments(learner, part)).detach() for part in (store, query))
    head = learn_head(learner, z, labels, row_of(learner, store)[rows], choice)
    return head.logits(z_query.unsqueeze(0))[0], torch.searchsorted(rows, query.label)


def adapt_fold(
    strategy: MetaLearner,
    fold: Fold,
    config: AdaptConfig,
    meta: MetaTrainConfig,
) -> Adaptation:
    """Adapt a copy of `strategy` to the training examples of a fold and score it on its test examples."""
    started = time.perf_counter()
    learner = copy.deepcopy(strategy)
    extend(learner, fold.train.phonemes)
    train = fold.train.select(few_shot_index(fold.train.label, config.shots, config.seed))
    tasks, valid = (train, fold.valid) if fold.valid is not None else divide_for_tasks(train, config.seed)
    rounds, why = target_rounds(train, tasks, config, meta)
    notes = [f"meta-training on the target: {rounds} rounds ({why})"]
    history = MetaHistory()
    if rounds:
        settings = replace(meta, meta_steps=rounds, seed=config.seed)
        history = continue_meta_training(learner, tasks, valid, settings)
        best = max(history.validations, key=lambda row: row["score"])
        judge = "the validation recordings" if fold.valid is not None else "a quarter of the training recordings"
        notes[0] += f"; round {best['round']:.0f} is best on {judge}, macro-F1 {best['score']:.3f}"
    raw = embed_segments(learner, train)
    model, choice = learn_inventory(learner, train, raw, config.seed, fold.unheard)
    if rounds:  # Φ knows the training recordings, so that they would make the model too sure of itself
        model = replace(model, temperature=fit_temperature(*logits_on(valid, learner, tasks, choice)))
    notes.append(f"base learning: {choice}")
    n_train = Counter(true_labels(train))
    not_scored = too_few(fold, n_train, config.shots)
    silent = {item.phoneme for item in not_scored}
    scored = torch.tensor([p not in silent for p in true_labels(fold.test)])
    if not bool(scored.any()):
        raise DataError(
            "no phoneme has enough examples to be learned and tested; add labelled recordings or lower --shots"
        )
    test = fold.test.select(torch.nonzero(scored).squeeze(1))
    raw_test = embed_segments(learner, test)
    probabilities, classes = model.probabilities(raw_test).max(1)
    true, predicted, groups = true_labels(test), [model.classes[int(i)] for i in classes], utterances(test)
    scores = score(true, predicted, groups, n_train, not_scored, seed=config.seed)
    n_trainable = sum(p.numel() for p in learner.parameters() if p.requires_grad) if rounds else 0
    n_parameters = n_trainable or model.head.weight.numel() + model.head.bias.numel()
    seconds = time.perf_counter() - started
    return Adaptation(
        model,
        scores,
        choice,
        history,
        tuple(notes),
        tuple(true),
        tuple(predicted),
        tuple(probabilities.tolist()),
        tuple(groups),
        tuple(times(test)),
        dict(sorted(n_train.items())),
        n_parameters,
        seconds,
        None if rounds or fold.unheard else (raw, raw_test),
    )


def learn_inventory(
    learner: MetaLearner,
    train: SegmentStore,
    embeddings: Tensor,
    seed: int,
    unheard: Sequence[str] = (),
) -> tuple[LanguageModel, StepChoice]:
    """Base-learn θ over all phonemes of `train`, and add rows for the phonemes `unheard`, of which it has none.

    embeddings: (n_segments, dim) as `embed_segments` gives them.
    """
    present, labels = train.label.unique(return_inverse=True)
    rows = row_of(learner, train)[present]
    z = learner.standardise(embeddings).detach()
    choice = choose_steps(learner, z, labels, train.utterance, rows, seed)
    head = learn_head(learner, z, labels, rows, choice, seed)
    classes = tuple(train.phonemes[int(i)] for i in present)
    neighbours: Neighbours = {}
    if unheard:
        head, neighbours = add_unheard(learner, z, labels, train.utterance, rows, head, choice, unheard, seed)
    return LanguageModel(learner, head, (*classes, *unheard), choice.temperature, neighbours), choice


def too_few(fold: Fold, n_train: Mapping[str, int], shots: int | None) -> list[NotScored]:
    """Phonemes of the fold that cannot be scored: fewer training examples than asked for, or no test example.

    Those of the inventory without a training example are scored all the same, as zero-shot, where they have a test example.
    """
    wanted = shots or 1
    few = "no example" if wanted == 1 else f"fewer than {wanted} examples"
    n_all, n_test = Counter(true_labels(fold.train)), Counter(true_labels(fold.test))
    found = []
    unheard = set(fold.unheard)
    for phoneme in sorted({*n_test, *n_all, *unheard}):
        n = n_all[phoneme] + n_test[phoneme]  # `n_train` has at most `shots` of them
        if phoneme in unheard:
            reason = "zero-shot: no example to learn from or to test on"
            found += [] if n else [NotScored(phoneme, 0, reason, zero_shot=True)]
        elif n_train.get(phoneme, 0) < wanted:
            found.append(NotScored(phoneme, n, f"{few} left to learn from"))
        elif n_test[phoneme] == 0:
            found.append(NotScored(phoneme, n, NONE_TO_TEST_ON))
    return found
