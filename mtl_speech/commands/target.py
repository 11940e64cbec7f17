"""Where adaptation starts from and what it learns: the base and the strategy, and the examples of the target language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtl_speech.commands.demo import STAMP, is_synthetic, punjabi_fold
from mtl_speech.core.errors import Problem, UsageError, problem_list
from mtl_speech.core.files import unchanged
from mtl_speech.core.options import AdaptConfig, AdaptOptions, BaseOptions, MetaTrainConfig, part
from mtl_speech.core.run import Run
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.corrections import (
    EXAMPLES,
    Changes,
    Recording,
    against_machine,
    changes_table,
    compare,
    examples_of,
    machine_sentence,
    read_examples,
    sentence,
    summary,
)
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.remote import local_folder
from mtl_speech.features.store import LOG_MEL, PER_SEGMENT, FrontEnd
from mtl_speech.model.hub import AUTO
from mtl_speech.model.language_pack import true_labels
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.model.strategy import (
    BaseModel,
    load_base,
    load_hub_base,
    load_learner,
    new_learner,
    prepare_learner,
    settings_on_target,
    shipped,
)
from mtl_speech.phonology.inventories import Phonemes, find_inventory
from mtl_speech.phonology.languages import display_name
from mtl_speech.training.folds import Fold, few_shots, make_folds

SHIPPED_STRATEGY = "english-strategy"
EARLIER_RUN, MACHINE = "the earlier run", "the machine's labels"


@dataclass(frozen=True)
class Start:
    """Where adaptation starts from. `learner` gives the strategy for a fold; `how` says in words what it is."""

    base: BaseModel
    learner: Callable[[Fold], MetaLearner]
    meta: MetaTrainConfig
    how: str


@dataclass(frozen=True)
class Target:
    """The examples of the target language. `notes` are what a reader must know of them, `extra` is for report.json.

    `left_out` are lines on what was left out, which name recordings: they are for the report, not for a pack.
    """

    folds: tuple[Fold, ...]
    everything: Fold  # to learn the final model from, where the folds take turns
    notes: tuple[str, ...]
    extra: Mapping[str, object]
    stamp: str
    recordings: Mapping[str, Path]  # the audio file of each recording that is tested on, by its id
    left_out: tuple[str, ...] = ()
    examples: Mapping[str, Recording] = field(default_factory=dict)  # the labels of --data, by recording
    changes: Mapping[str, Changes] = field(default_factory=dict)  # how they differ, by from what


def load_chosen_base(options: BaseOptions, made_with: Pack | Path | None = None) -> BaseModel:
    """The base that the options name: an encoder pack, or with --encoder one of another maker.

    Where the pack `made_with`, or the one in that folder, was made with it, it is taken as it was for that, but for what the
    options say. Raises PackError, UsageError or DataError.
    """
    if options.encoder is None:
        return load_base(options.base)
    pack = load_pack(made_with) if isinstance(made_with, Path) else made_with
    how = pack.value("base", dict).get("hub", {}) if pack is not None and "base" in pack.card else {}
    layer = options.encoder_layer or how.get("layer", AUTO)
    return load_hub_base(options.encoder, layer, options.phi_layers or how.get("phi", ()))


def load_start(base: BaseModel | Path | None, strategy_folder: Path | None) -> Start:
    """The base (in a folder; by default the one that ships), and the strategy: the one given, else the one that ships where it
    builds on that base, else an untrained one.

    An untrained one is prepared on the training examples of each fold alone. Raises PackError.
    """
    base = base if isinstance(base, BaseModel) else load_base(base)
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


def load_target(options: AdaptOptions, folder: Path, run: Run, front_end: FrontEnd = LOG_MEL) -> Target:
    """The folds of the folder given, else of the synthetic Punjabi words, which are then written below `folder`.

    `front_end` is that of the base.

    Says what was left out and how the examples were divided.
    """
    config = part(options, AdaptConfig)
    given = find_inventory(options.inventory) if options.inventory else Phonemes(())
    inventory = given.phonemes
    problems: list[Problem] = []
    notes = list(given.notes)
    left_out: list[str] = []
    examples: dict[str, Recording] = {}
    changes: dict[str, Changes] = {}
    if options.data is None:
        stamp, source = STAMP, folder / "corpus"
        folds = [punjabi_fold(source, config.seed, config.n_words, front_end)]
        recordings = recordings_of(read_corpus(source / "test", config.lang, "ipa"))
    else:
        local = local_folder(options.data, run)
        stamp, source = STAMP if is_synthetic(local.folder) else "", local.folder
        corpus = read_corpus(source, config.lang, options.phone_set)
        test_folder = local_folder(options.test, run).folder if options.test else None
        test = read_corpus(test_folder, config.lang, options.phone_set) if test_folder else None
        run.say(describe(corpus, config.lang))
        with unchanged(u.audio for u in (*corpus.utterances, *(test.utterances if test else ()))):
            folds = make_folds(corpus, test, config, front_end)
        recordings = recordings_of(test or corpus)
        problems = [*corpus.problems, *(test.problems if test else ()), *folds[0].train.problems]
        left_out = run.left_out(problems, source)
        problems = [*local.problems, *problems]
        unread = {problem.file for problem in folds[0].train.problems}
        read = corpus.filter(lambda u: u.audio not in unread)
        examples = examples_of(read)
        changes = changes_of(read, examples, options.after, folder)
        notes += tell_changes(changes, run)
    for note in given.notes:
        run.say(note)
    how = [f"split: {folds[0].how}", *([f"at most {config.shots} examples per phoneme"] if config.shots else [])]
    for line in how:
        run.say(line)
    outside = outside_inventory(folds[0], inventory) if inventory else ""
    if outside:
        run.say(outside)
        notes.append(outside)
    few = tuple(replace(few_shots(fold, config), inventory=inventory) for fold in folds)
    extra: dict[str, object] = {"problems": problem_list(problems, source)}
    everything = replace(few_shots(_everything(folds[0]), config), inventory=inventory)
    extra |= {"changes": {against: summary(found) for against, found in changes.items()}} if changes else {}
    return Target(few, everything, (*notes, *how), extra, stamp, recordings, tuple(left_out), examples, changes)


def changes_of(
    corpus: Corpus, examples: Mapping[str, Recording], after: Path | None, folder: Path
) -> dict[str, Changes]:
    """How the labels differ from those of an earlier run, of `after` or else of the folder to write to, and from a machine's.

    Raises UsageError where `after` has no examples, DataError where they cannot be read.
    """
    earlier = (after or folder) / EXAMPLES
    if after is not None and not earlier.is_file():
        raise UsageError(
            f"--after {after}: there is no {EXAMPLES}: give the results folder of an earlier run with --data"
        )
    found = {EARLIER_RUN: compare(read_examples(earlier), examples)} if earlier.is_file() else {}
    machine = against_machine(corpus)
    return found | ({MACHINE: machine} if machine is not None else {})


def tell_changes(changes: Mapping[str, Changes], run: Run) -> list[str]:
    """Say what changed. Returns the lines, for a report."""
    lines = []
    if EARLIER_RUN in changes:
        lines.append(f"labels against the earlier run: {sentence(changes[EARLIER_RUN])}")
        if changes[EARLIER_RUN].any:
            run.table(changes_table(changes[EARLIER_RUN]))
        else:
            run.say(lines[0])
    if MACHINE in changes:
        lines.append(machine_sentence(changes[MACHINE]))
        run.say(lines[-1])
    return lines


def recordings_of(corpus: Corpus) -> dict[str, Path]:
    """The audio file of each recording of a corpus by its id."""
    return {utterance.id: utterance.audio for utterance in corpus.utterances}


def outside_inventory(fold: Fold, inventory: Sequence[str]) -> str:
    """A line on the labels of a fold that are not in the inventory given; empty where there are none."""
    counts = Counter(label for store in (fold.train, fold.test) for label in true_labels(store))
    outside = [f"{phoneme} ({n})" for phoneme, n in sorted(counts.items()) if phoneme not in inventory]
    return f"labels outside the inventory given, learned all the same: {', '.join(outside)}" if outside else ""


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
