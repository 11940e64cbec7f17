"""What the commands `adapt`, `ablate`, `demo` and `evaluate` do: from recordings to a language pack and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mtl_speech.ablate import CURRICULUM, Ablation
from mtl_speech.ablate import ablate as run_ablation
from mtl_speech.adapt import Adaptation, Fold, adapt_fold, make_folds
from mtl_speech.base import BaseModel, load_base, shipped
from mtl_speech.base_learning import few_shot_index
from mtl_speech.config import AdaptConfig, MetaTrainConfig
from mtl_speech.corpora import read_corpus
from mtl_speech.corpus import Corpus, Problem
from mtl_speech.demo import CAVEAT, STAMP, is_synthetic, punjabi_fold
from mtl_speech.errors import DataError, UsageError
from mtl_speech.features import SegmentStore, build_store
from mtl_speech.language_pack import load_language, true_labels, utterances
from mtl_speech.languages import canonical, display_name
from mtl_speech.learner import MetaLearner
from mtl_speech.metrics import NotScored, Scores, score
from mtl_speech.options import AdaptOptions, DemoOptions, EvaluateOptions, part
from mtl_speech.pack import load_pack, pack_hash
from mtl_speech.report import ablation_table, f1_table, write_report
from mtl_speech.results import write_results
from mtl_speech.run import Run, problem_list
from mtl_speech.settings import as_dict
from mtl_speech.strategy import load_learner, new_learner, prepare_learner

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
    extra: dict[str, object]
    stamp: str


def load_start(base_folder: Path | None, strategy_folder: Path | None) -> Start:
    """The base, and the strategy: the one given, else the one that ships where it builds on that base, else an untrained one.

    An untrained one is prepared on the training examples of each fold alone. Raises PackError.
    """
    base = load_base(base_folder)
    rounds = MetaTrainConfig().meta_steps  # a strategy's own number is that of its making, not of the target
    folder = strategy_folder or shipped(SHIPPED_STRATEGY)
    if strategy_folder is not None or folder.is_dir():
        pack = load_pack(folder, "strategy")
        if strategy_folder is not None or pack.value("base", dict).get("sha256") == pack_hash(base.pack):
            learner, meta = load_learner(pack, base)
            how = f"starts from the strategy '{pack.name}' on the base '{base.pack.name}'"
            return Start(base, lambda _: learner, replace(meta, meta_steps=rounds), how)
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
    keys = ("start", "end", "label", "utterance", "language", "speaker")
    both = {key: torch.cat((getattr(fold.train, key), getattr(fold.test, key))) for key in keys}
    return Fold(replace(fold.train, **both), fold.test, "all recordings")


def describe(corpus: Corpus, lang: str) -> str:
    """One line on what a corpus holds."""
    counts = corpus.phoneme_counts()
    speakers = len({u.speaker for u in corpus.utterances})
    return (
        f"{display_name(lang)} ({lang}): {len(corpus.utterances)} recordings, {speakers} speakers, "
        f"{corpus.seconds / 60:.1f} min, {sum(counts.values()):,} examples of {len(counts)} phonemes"
    )


def adapt(options: AdaptOptions, run: Run) -> Scores:
    """Learn to recognise the phonemes of a language, and score it on what was held out."""
    job = _begin(options, run, "adapt")
    runs = [
        adapt_fold(job.start.learner(fold), fold, job.config, job.start.meta, run.progress) for fold in job.target.folds
    ]
    return _finish(job, run, {"": runs}, None)


def ablate(options: AdaptOptions, run: Run, experiment: str | None = None) -> Ablation:
    """What each step brings: baseline, + meta-transfer, + curriculum, on the same examples and tests."""
    job = _begin(options, run, "ablate", experiment)
    start = job.start
    ablation = run_ablation(start.base, start.learner, job.target.folds, job.config, start.meta, run.progress)
    _finish(job, run, ablation.systems, ablation)
    return ablation


def demo(options: DemoOptions, run: Run) -> Ablation:
    """The ablation on the built-in Punjabi corpus with few examples."""
    names = ("n_words", "shots", "meta_steps", "seed", "base", "strategy", "threads", "output_dir")
    return ablate(AdaptOptions(lang="pa", **{name: getattr(options, name) for name in names}), run, "demo")


@dataclass(frozen=True)
class _Job:
    """What `adapt` and `ablate` have in common."""

    options: AdaptOptions
    config: AdaptConfig
    folder: Path
    start: Start
    target: Target


def _begin(options: AdaptOptions, run: Run, command: str, experiment: str | None = None) -> _Job:
    """Check the options, then load everything. Raises UsageError where there is no data for the language."""
    lang = canonical(options.lang or "pa")
    if options.data is None and lang != "pa":
        raise UsageError(
            f"--data is needed for {display_name(lang)} ({lang}): a folder of audio files with TextGrids; only Punjabi (pa) is built in"
        )
    options = replace(options, lang=lang)
    folder = run.begin(options, experiment or f"{command}-{lang}")
    start = load_start(options.base, options.strategy)
    run.say(start.how)
    return _Job(options, part(options, AdaptConfig), folder, start, load_target(options, folder, run))


def _finish(job: _Job, run: Run, systems: Mapping[str, Sequence[Adaptation]], ablation: Ablation | None) -> Scores:
    """Learn the final model where the folds took turns, write everything, and print the tables."""
    start, target, runs = job.start, job.target, list(systems.values())[-1]
    notes = []
    for name, each in systems.items():
        for number, fold in enumerate(each, 1):
            place = ", ".join(filter(None, [name, f"fold {number}" if len(each) > 1 else ""]))
            notes += [f"{place}: {note}" if place else note for note in fold.notes]
    final = runs[0]
    if len(runs) > 1:
        final = adapt_fold(start.learner(target.everything), target.everything, job.config, start.meta, run.progress)
        notes.append("the language pack is learned from all recordings; the scores are those of the folds together")
    for note in notes:
        run.say(note)
    scores, paths = write_results(
        job.folder,
        runs,
        start.base,
        job.config,
        start.meta,
        command=run.command,
        final=final,
        ablation=ablation,
        notes=[start.how, *target.notes, *notes, *([CAVEAT] if target.stamp else [])],
        stamp=target.stamp,
        extra={**target.extra, "options": as_dict(job.options)},
    )
    run.table(f1_table(scores, target.stamp))
    if ablation is not None:
        run.table(ablation_table(ablation.rows, target.stamp))
    if target.stamp:
        run.result(CAVEAT)
    run.wrote(job.folder, paths)
    return scores


def evaluate(folder: Path, options: EvaluateOptions, run: Run) -> Scores:
    """Score the language pack in `folder` on a folder of labelled recordings."""
    assert options.data is not None
    pack = load_pack(folder, "language")
    lang = pack.value("language", str)
    output = run.begin(options, f"evaluate-{pack.name}")
    model = load_language(pack, load_base(options.base))
    corpus = read_corpus(options.data, lang, options.phone_set, run.progress)
    run.say(describe(corpus, lang))
    store = build_store([corpus], progress=run.progress)
    problems = [*corpus.problems, *store.problems]
    notes = [f"language pack '{pack.name}'", *run.left_out(problems, options.data)]
    known = torch.tensor([phoneme in model.classes for phoneme in store.phonemes])[store.label]
    outside = Counter(true_labels(store.select(torch.nonzero(~known).squeeze(1))))
    if not bool(known.any()):
        raise DataError(
            f"{options.data}: none of its {len(outside)} phonemes is in the pack's inventory ({', '.join(model.classes)})"
        )
    test = store.select(torch.nonzero(known).squeeze(1))
    reason = "not in the pack's inventory"
    not_scored = [NotScored(phoneme, n, reason) for phoneme, n in sorted(outside.items())]
    if outside:
        notes.append(
            f"{sum(outside.values())} examples of {len(outside)} phonemes are {reason}: not scored, so precision is that on the others"
        )
    n_train = {p: n for p, n in pack.value("examples", dict).items() if isinstance(n, int)}
    scores = score(true_labels(test), model.predict(test), utterances(test), n_train, not_scored, seed=options.seed)
    stamp = STAMP if is_synthetic(options.data) else ""
    notes += [CAVEAT] if stamp else []
    extra = {"pack": pack.name, "pack_sha256": pack_hash(pack), "problems": problem_list(problems, options.data)}
    paths = write_report(
        output, scores, settings=as_dict(options), command=run.command, notes=notes, extra=extra, stamp=stamp
    )
    run.table(f1_table(scores, stamp))
    for note in notes[-1:] if stamp else []:
        run.result(note)
    run.wrote(output, paths)
    return scores
