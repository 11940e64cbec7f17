"""Where adaptation starts from and what it learns: the base and the strategy, and the examples of the target language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mtl_speech.adapt import Fold, make_folds
from mtl_speech.base import BaseModel, load_base, shipped
from mtl_speech.base_learning import few_shot_index
from mtl_speech.config import AdaptConfig, MetaTrainConfig
from mtl_speech.corpora import read_corpus
from mtl_speech.corpus import Corpus, Problem
from mtl_speech.demo import STAMP, is_synthetic, punjabi_fold
from mtl_speech.features import PER_SEGMENT
from mtl_speech.languages import display_name
from mtl_speech.learner import MetaLearner
from mtl_speech.options import AdaptOptions, part
from mtl_speech.pack import load_pack, pack_hash
from mtl_speech.run import Run, problem_list
from mtl_speech.strategy import load_learner, new_learner, prepare_learner, settings_on_target

SHIPPED_STRATEGY = "english-strategy"


@dataclass(frozen=True)
class Start:
    """Where adaptation starts from. `learner` gives the strategy for a fold; `how` says in words what it is."""

    base: BaseModel
    learner: Callable[[Fold], MetaLearner]
    meta: MetaTrainConfig
    how: str


@dataclass(frozen=True)
class Target:
    """The examples of the target language. `notes` are what a reader must know of them, `extra` is for report.json."""

    folds: tuple[Fold, ...]
    everything: Fold  # to learn the final model from, where the folds take turns
    notes: tuple[str, ...]
    extra: Mapping[str, object]
    stamp: str


def load_start(base_folder: Path | None, strategy_folder: Path | None) -> Start:
    """The base, and the strategy: the one given, else the one that ships where it builds on that base, else an untrained one.

    An untrained one is prepared on the training examples of each fold alone. Raises PackError.
    """
    base = load_base(base_folder)
    folder = strategy_folder or shipped(SHIPPED_STRATEGY)
    if strategy_folder is not None or folder.is_dir():
        pack = load_pack(folder, "strategy")
        if strategy_folder is not None or pack.value("base", dict).get("sha256") == pack_hash(base.pack):
            learner, meta = load_learner(pack, base)
            how = f"starts from the strategy '{pack.name}' on the base '{base.pack.name}'"
            return Start(base, lambda _: learner, settings_on_target(meta, MetaTrainConfig()), how)
    meta = MetaTrainConfig()

    def untrained(fold: Fold) -> MetaLearner:
        learner = new_learner(base, fold.train.phonemes, meta)
        prepare_learner(learner, fold.train, meta)
        return learner

    how = f"starts from no meta-trained strategy (none ships for the base '{base.pack.name}'): only Θ is from elsewhere"
    return Start(base, untrained, meta, how)


def load_target(options: AdaptOptions, folder: Path, run: Run) -> Target:
    """The folds of the folder given, else of the synthetic Punjabi words, which are then written below `folder`.

    Says what was left out and how the examples were divided.
    """
    config = part(options, AdaptConfig)
    problems: list[Problem] = []
    notes: list[str] = []
    if options.data is None:
        stamp, source = STAMP, folder / "corpus"
        folds = [punjabi_fold(source, config.seed, config.n_words, run.progress)]
    else:
        stamp, source = STAMP if is_synthetic(options.data) else "", options.data
        corpus = read_corpus(source, config.lang, options.phone_set, run.progress)
        test = read_corpus(options.test, config.lang, options.phone_set, run.progress) if options.test else None
        run.say(describe(corpus, config.lang))
        folds = make_folds(corpus, test, config, run.progress)
        problems = [*corpus.problems, *(test.problems if test else ()), *folds[0].train.problems]
        notes += run.left_out(problems, source)
    how = [f"split: {folds[0].how}", *([f"at most {config.shots} examples per phoneme"] if config.shots else [])]
    for line in how:
        run.say(line)
    few = tuple(few_shots(fold, config) for fold in folds)
    extra = {"problems": problem_list(problems, source)}
    return Target(few, few_shots(_everything(folds[0]), config), (*notes, *how), extra, stamp)


def few_shots(fold: Fold, config: AdaptConfig) -> Fold:
    """The fold with at most `config.shots` training examples of each phoneme."""
    return replace(fold, train=fold.train.select(few_shot_index(fold.train.label, config.shots, config.seed)))


def _everything(fold: Fold) -> Fold:
    """All examples of a fold, to learn from: nothing of it can be tested."""
    both: dict[str, Any] = {key: torch.cat((getattr(fold.train, key), getattr(fold.test, key))) for key in PER_SEGMENT}
    return Fold(replace(fold.train, **both), fold.test, "all recordings")


def describe(corpus: Corpus, lang: str) -> str:
    """One line on what a corpus holds."""
    counts = corpus.phoneme_counts()
    speakers = len({u.speaker for u in corpus.utterances})
    return (
        f"{display_name(lang)} ({lang}): {len(corpus.utterances)} recordings, {speakers} speakers, "
        f"{corpus.seconds / 60:.1f} min, {sum(counts.values()):,} examples of {len(counts)} phonemes"
    )
