"""Where adaptation starts from and what it learns: the base and the strategy, and the examples of the target language.

These are a person's recordings, or the built-in Punjabi corpus: synthetic, offline, made on the spot.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mtl_speech.core.errors import DataError, UsageError, problem_list
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
from mtl_speech.corpora.reading import language_folders, read_corpus
from mtl_speech.corpora.remote import local_folder, local_labels
from mtl_speech.corpora.voice.synthetic import make_punjabi_corpus
from mtl_speech.features.store import PER_SEGMENT
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.language_pack import true_labels
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.model.strategy import (
    AUTO,
    BaseModel,
    load_base,
    load_hub_base,
    load_learner,
    new_learner,
    settings_on_target,
    shipped,
)
from mtl_speech.phonology.inventories import Phonemes, find_inventory
from mtl_speech.phonology.languages import display_name
from mtl_speech.training.base_learning import choose_layer
from mtl_speech.training.folds import Fold, few_shots, fold_of_parts, make_folds

SHIPPED_STRATEGY = "english-strategy"
EARLIER_RUN, MACHINE = "the earlier run", "the machine's labels"

STAMP = "synthetic speech"
CAVEAT = (
    "The Punjabi voice is synthetic (espeak-ng): these figures compare methods on a machine's voice and show nothing about how "
    "well human Punjabi is recognised."
)


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


def load_chosen_base(options: BaseOptions, pack: Pack | None = None) -> BaseModel:
    """The base that the options name: an encoder pack, or with --encoder one of another maker.

    Where `pack` was made with it, it is taken as it was for that, but for what the options say. Raises
    PackError, UsageError or DataError.
    """
    if options.encoder is None:
        base = load_base(options.base)
        base.encoder.phi_patterns = options.phi_layers or base.encoder.phi_patterns
        return base
    made_with = pack.value("base", dict).get("hub", {}) if pack is not None and "base" in pack.card else {}
    layer = options.encoder_layer or made_with.get("layer", AUTO)
    return load_hub_base(options.encoder, layer, options.phi_layers or made_with.get("phi", ()))


def load_start(base: BaseModel | Path | None, strategy: Pack | Path | None) -> Start:
    """The base (in a folder; by default the one that ships), and the strategy: the one given, else the one that ships where it
    builds on that base, else an untrained one.

    An untrained one is prepared on the training examples of each fold alone. Raises PackError.
    """
    base = base if isinstance(base, BaseModel) else load_base(base)
    if strategy is None and shipped(SHIPPED_STRATEGY).is_dir():
        own = load_pack(shipped(SHIPPED_STRATEGY), "strategy")
        strategy = own if own.value("base", dict).get("sha256") == pack_hash(base.pack) else None
    if strategy is not None:
        pack = strategy if isinstance(strategy, Pack) else load_pack(strategy, "strategy")
        learner, meta = load_learner(pack, base)
        how = f"starts from the strategy '{pack.name}' on the base '{base.pack.name}'"
        return Start(base, lambda _: learner, settings_on_target(meta, MetaTrainConfig()), how)
    meta = MetaTrainConfig()

    def untrained(fold: Fold) -> MetaLearner:
        heard_at = base.at_layer(choose_layer(base, fold.train, meta)) if base.layer_open else base
        learner = new_learner(heard_at, fold.train.phonemes, meta)
        prepare_learner(learner, fold.train, meta)
        return learner

    how = f"starts from no meta-trained strategy (none ships for the base '{base.pack.name}'): only Θ is from elsewhere"
    return Start(base, untrained, meta, how)


def load_target(options: AdaptOptions, folder: Path, run: Run, base: BaseModel) -> Target:
    """The folds of the folder given, else of the synthetic Punjabi words, which are then written below `folder`.

    They pass once through Θ of the base. Says what was left out and how the examples were divided.
    """
    config = part(options, AdaptConfig)
    given = find_inventory(options.inventory) if options.inventory else Phonemes(())
    if options.data is None:
        target = _built_in(config, folder / "corpus", base)
    else:
        target = _labelled(options, options.data, folder, run, base)
    how = [f"split: {target.folds[0].how}"]
    how += [f"at most {config.shots} examples per phoneme"] if config.shots else []
    outside = outside_inventory(target.folds[0], given.phonemes)
    for line in (*given.notes, *how, *outside):
        run.say(line)

    def limited(fold: Fold) -> Fold:
        return replace(few_shots(fold, config), inventory=given.phonemes)

    return replace(
        target,
        folds=tuple(map(limited, target.folds)),
        everything=limited(target.everything),
        notes=(*given.notes, *target.notes, *outside, *how),
    )


def _built_in(config: AdaptConfig, corpus: Path, base: BaseModel) -> Target:
    """The synthetic Punjabi words, which are written to the folder `corpus`."""
    fold = punjabi_fold(corpus, config.seed, config.n_words, base)
    recordings = recordings_of(read_corpus(corpus / "test", config.lang, "ipa"))
    return Target((fold,), _everything(fold), (), {"problems": []}, STAMP, recordings)


def _labelled(options: AdaptOptions, data: Path, folder: Path, run: Run, base: BaseModel) -> Target:
    """All examples of the recordings in `data`; says what they are, what was left out, and how their labels have changed."""
    local = local_folder(data, run)
    labels = local_labels(options.labels, run)
    corpus = read_corpus(local.folder, options.lang, options.phone_set, options.tier, labels=labels)
    test_folder = local_folder(options.test, run).folder if options.test else None
    test = None
    if test_folder is not None:
        test = read_corpus(test_folder, options.lang, options.phone_set, options.tier, labels=labels)
    run.say(describe(corpus, options.lang))
    with unchanged(u.audio for u in (*corpus.utterances, *(test.utterances if test else ()))):
        folds = make_folds(corpus, test, part(options, AdaptConfig), base)
    unusable = folds[0].train.problems
    problems = [*corpus.problems, *(test.problems if test else ()), *unusable]
    left_out = run.left_out(problems, local.folder)
    unread = {problem.file for problem in unusable}
    read = corpus.filter(lambda u: u.audio not in unread)
    examples = examples_of(read)
    changes = changes_of(read, examples, options.after, folder)
    extra: dict[str, object] = {"problems": problem_list([*local.problems, *problems], local.folder)}
    return Target(
        folds=tuple(folds),
        everything=_everything(folds[0]),
        notes=tuple(tell_changes(changes, run)),
        extra=extra | ({"changes": {a: summary(found) for a, found in changes.items()}} if changes else {}),
        stamp=STAMP if is_synthetic(local.folder) else "",
        recordings=recordings_of(test or corpus),
        left_out=tuple(left_out),
        examples=examples,
        changes=changes,
    )


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


def outside_inventory(fold: Fold, inventory: Sequence[str]) -> list[str]:
    """A line on the labels of a fold that are not in the inventory given; none where all are, or none is given."""
    counts = Counter(label for store in (fold.train, fold.test) for label in true_labels(store))
    outside = [f"{phoneme} ({n})" for phoneme, n in sorted(counts.items()) if inventory and phoneme not in inventory]
    return [f"labels outside the inventory given, learned all the same: {', '.join(outside)}"] if outside else []


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


def punjabi_fold(folder: Path, seed: int, n_words: int, base: BaseModel) -> Fold:
    """The synthetic Punjabi words as training, validation and test examples; no word is in two of them.

    The corpus is written to `folder` and left there, to be looked at in Praat; one that is there already is used again.
    Raises MtlSpeechError when espeak-ng is not installed, DataError when the folder holds another corpus.
    """
    _make_once(folder, seed, n_words)
    corpora = {path.name: read_corpus(path, "pa", "ipa") for path in language_folders(folder)}
    counts = [len({u.words[0][0] for u in corpora[name].utterances}) for name in ("train", "valid", "test")]
    how = "words: {} to learn from, {} to choose by, {} to test on, no word twice".format(*counts)
    return fold_of_parts(corpora, how, base)


def is_synthetic(folder: Path) -> bool:
    """Whether a folder, or the one that it lies in, says in its manifest that its speech is synthetic."""
    return any(_manifest(path).get("synthetic") is True for path in (folder, folder.resolve().parent))


def _make_once(folder: Path, seed: int, n_words: int) -> None:
    found = _manifest(folder)
    if not found:
        try:
            make_punjabi_corpus(folder, seed, n_words)
        except OSError as error:
            error.filename = str(folder)  # not a file of those that are removed again
            raise
    elif (found.get("seed"), found.get("n_words")) != (seed, n_words):
        raise DataError(
            f"{folder} holds another corpus ({found.get('n_words')} words, seed {found.get('seed')}): "
            "remove it, or choose another --output-dir"
        )


def _manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json in the folder says; nothing where there is none of ours."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
