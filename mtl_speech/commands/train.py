"""What the commands `pretrain` and `meta-train` do: from a large corpus to an encoder pack, from tasks to a strategy pack."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mtl_speech.commands.target import load_chosen_base
from mtl_speech.core.distributed import leave_to_main, processes
from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.files import atomic_write, unchanged
from mtl_speech.core.options import (
    EncoderConfig,
    MetaTrainConfig,
    MetaTrainOptions,
    PretrainConfig,
    PretrainOptions,
    part,
)
from mtl_speech.core.run import CHECKPOINTS, Run
from mtl_speech.core.settings import as_dict
from mtl_speech.corpora.corpus import Corpus, Utterance, split_by
from mtl_speech.corpora.reading import language_folders, read_corpus
from mtl_speech.corpora.remote import local_folder, local_labels
from mtl_speech.features.store import build_store
from mtl_speech.model.pack import PACK, Pack, pack_hash, save_pack
from mtl_speech.model.segmenter import train_segmenter
from mtl_speech.model.strategy import base_pack, strategy_pack
from mtl_speech.phonology.languages import canonical
from mtl_speech.report.results import earlier_kept
from mtl_speech.training.base_learning import choose_layer
from mtl_speech.training.checkpoint import Checkpoints, hashes_of
from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.folds import MIN_SPEAKERS, refuse_shared
from mtl_speech.training.meta_test import Setup, benchmark_tasks, train_meta_transfer

MIN_LANGUAGES = 5  # from here on whole languages are held out
# What a run that goes on may have otherwise than the one that was stopped: where things lie (recordings and base are compared by
# what is in them), how they are computed, and what only the card tells. Options of commands, then settings of recipes.
NO_MATTER = frozenset(
    "output_dir threads cache_dir cache_gib data_gib device workers valid labels base name attribution licence fresh "
    "checkpoint_minutes checkpoint_steps data_folder output_folder n_threads".split()
)
VALID_DRAWS = 5  # draws of the support set of each validation language's full inventory


def pretrain(folder: Path, options: PretrainOptions, run: Run) -> Path:
    """Pretrain an encoder on the recordings in `folder`; gives the path of its pack."""
    from mtl_speech.features.augment import make_views
    from mtl_speech.training import pretrain as training  # loads speechbrain, which `meta_train` does without

    config = part(options, PretrainConfig)
    name = options.name or folder.resolve().name
    run.hold(processes(config.device))
    output = run.begin(options, f"pretrain-{name}")
    folder = local_folder(folder, run).folder
    train, valid, how = _divided(folder, options, run)
    phonemes = sorted(train.phoneme_counts())
    valid, n_unknown = only_phonemes(valid, phonemes)
    run.say(f"training: {_size(train)}, {len(phonemes)} phonemes; validation ({how}): {_size(valid)}")
    if n_unknown:
        run.say(f"{n_unknown} validation examples are of phonemes that training does not have: left out")
    n_workers = options.threads or torch.get_num_threads()
    with unchanged(u.audio for u in (*train.utterances, *valid.utterances)):
        checkpoints = checkpoints_of(output, "pretrain", {"training": [train], "validation": [valid]}, options, run)
        views = make_views(train, phonemes, 1 + options.augmented_views, n_workers, options.seed)
        held = build_store([valid], phonemes)
    run.left_out((*views[0].problems, *held.problems), folder)
    model, history = training.pretrain(views, held, part(options, EncoderConfig), config, checkpoints=checkpoints)
    leave_to_main()
    segmenter = train_segmenter(model.encoder, views[0], options.seed)
    accuracy, macro_f1 = training.segment_scores(model, held)
    scores = {"validation": {"accuracy": round(accuracy, 4), "macro_f1": round(macro_f1, 4), "held_out": how}}
    card = {**_card(options, name), "language": canonical(options.lang), "scores": scores}
    pack = base_pack(model.encoder, model.segment_head, tuple(phonemes), card, segmenter)
    paths = _keep(output, pack, {"epochs": history, "scores": scores}, run)
    checkpoints.clear()
    run.result(f"validation ({how}): phone accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}")
    run.wrote(output, paths)
    return paths[0]


def meta_train(folder: Path, options: MetaTrainOptions, run: Run) -> Path:
    """Meta-train a strategy on tasks of the languages in `folder`; gives the path of its pack."""
    config = part(options, MetaTrainConfig)
    name = options.name or folder.resolve().name
    run.hold(processes())
    output = run.begin(options, f"meta-train-{name}")
    base = load_chosen_base(options)
    train, valid, how = _divided_languages(folder, options, run)
    run.say(f"meta-training: {_sizes(train)}; validation ({how}): {_sizes(valid)}")
    with unchanged(u.audio for corpus in (*train, *valid) for u in corpus.utterances):
        parts = {"training": train, "validation": valid}
        checkpoints = checkpoints_of(output, "meta-train", parts, options, run, {"base": pack_hash(base.pack)})
        store, held = base.hear(train), base.hear(valid)
    if base.layer_open:
        base = base.at_layer(choose_layer(base, store, config))
        run.say(f"encoder: layer {base.encoder.layer} of {base.encoder.n_layers}, by cross-validation in closed form")
    run.left_out((*store.problems, *held.problems), folder)
    told = EpisodeSampler(store).left_out([(n_way, n_shot) for n_way in config.n_way for n_shot in config.n_shot])
    if told is not None:
        run.say(told)
    tasks = benchmark_tasks(held, options.valid_tasks, VALID_DRAWS, options.seed + 1)
    if not tasks:
        raise DataError(
            f"validation ({how}): no language has enough examples for a task; raise --valid-share or give --valid"
        )
    trained = train_meta_transfer(name, Setup(base, store, held, tasks, config), checkpoints)
    leave_to_main()
    assert trained.history is not None
    before, valid_scores = trained.history.validations[0]["score"], {k: round(v, 4) for k, v in trained.valid.items()}
    scores = {"validation": {"held_out": how, "macro_f1": valid_scores, "macro_f1_before": round(before, 4)}}
    card = {**_card(options, name), "languages": list(store.languages), "scores": scores}
    history = {"rounds": trained.history.rounds, "validations": trained.history.validations, "scores": scores}
    paths = _keep(output, strategy_pack(trained.learner, base, config, card), history, run)
    checkpoints.clear()
    run.result(f"validation ({how}): macro-F1 {before:.3f} before, {trained.valid['mean']:.3f} after meta-training")
    run.wrote(output, paths)
    return paths[0]


def _keep(output: Path, pack: Pack, history: Mapping[str, object], run: Run) -> list[Path]:
    """Write a pack and history.json, and keep what was there before. Returns their paths."""
    with earlier_kept(output, run.say):
        return [
            save_pack(pack, output / PACK),
            atomic_write(output / "history.json", json.dumps(history, indent=1)),
        ]


def _divided(folder: Path, options: PretrainOptions, run: Run) -> tuple[Corpus, Corpus, str]:
    """The recordings to train on, those to validate on, and how they were divided, in words."""
    labels = local_labels(options.labels, run)
    corpus = read_corpus(folder, options.lang, options.phone_set, options.tier, labels=labels)
    run.left_out(corpus.problems, folder)
    if options.valid is None:
        return hold_out(corpus, options.valid_share, options.seed)
    valid_folder = local_folder(options.valid, run).folder
    valid = read_corpus(valid_folder, options.lang, options.phone_set, options.tier, labels=labels)
    refuse_shared(corpus, valid)
    run.left_out(valid.problems, valid_folder)
    return corpus, valid, "--valid"


def _divided_languages(folder: Path, options: MetaTrainOptions, run: Run) -> tuple[list[Corpus], list[Corpus], str]:
    """The same for the languages of a folder."""
    corpora = read_languages(folder, options, run)
    if options.valid is None:
        return hold_out_many(corpora, options.valid_share, options.seed)
    valid = read_languages(options.valid, options, run)
    for one, other in itertools.product(corpora, valid):
        refuse_shared(one, other)
    return corpora, valid, "--valid"


def checkpoints_of(
    output: Path,
    command: str,
    parts: Mapping[str, Sequence[Corpus]],
    options: PretrainOptions | MetaTrainOptions,
    run: Run,
    needed: Mapping[str, str] | None = None,
) -> Checkpoints:
    """The checkpoints in the folder `output`, of a run with these settings on the recordings `parts`; none with --fresh.

    `needed` are hashes of what else the run depends on. Raises DataError where they are those of another run.
    """
    settings = {name: value for name, value in as_dict(options).items() if name not in NO_MATTER}
    about: dict[str, Mapping[str, object]] = {
        "run": {"command": command, **(needed or {})},
        "settings": settings,
        "recordings": hashes_of(parts),
    }
    found = Checkpoints(output / CHECKPOINTS, about, options.checkpoint_minutes, options.checkpoint_steps, run.say)
    found.check(options.fresh)
    return found


def read_languages(folder: Path, options: MetaTrainOptions, run: Run) -> list[Corpus]:
    """The corpora in `folder`: one for each subfolder where all are named by languages, else the whole as one.

    Subfolders of speakers can bear names that are codes too, so what was taken for what is said; `options.lang` makes it one.
    """
    folder, subfolders = local_folder(folder, run).folder, []
    if options.lang is None:
        try:
            subfolders = [(path, canonical(path.name)) for path in language_folders(folder)]
            run.say(f"{folder}: {len(subfolders)} languages ({', '.join(tag for _, tag in subfolders)})")
        except (DataError, UsageError):
            run.say(f"{folder}: one corpus, for its subfolders are not all named by languages")
    found = subfolders or [(folder, options.lang or "und")]
    labels = local_labels(options.labels, run)
    if labels is not None and subfolders:
        apart = _labels_by_language(labels, [path.name for path, _ in subfolders])
    else:
        apart = [labels] * len(found)
    corpora = [
        read_corpus(path, tag, options.phone_set, options.tier, labels=own)
        for (path, tag), own in zip(found, apart, strict=True)
    ]
    run.left_out([problem for corpus in corpora for problem in corpus.problems], folder)
    return corpora


def _labels_by_language(labels: Path, names: Sequence[str]) -> list[Path | None]:
    """The folder of labels of each language. Raises DataError where one has none: another's could have files of the same names."""
    missing = [name for name in names if not (labels / name).is_dir()]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"{labels}: has no folder for {listed}: divide the labels into one folder for each language, named as those "
            "of the recordings"
        )
    return [labels / name for name in names]


def hold_out(corpus: Corpus, share: float, seed: int) -> tuple[Corpus, Corpus, str]:
    """A corpus without some of its speakers, or recordings where there are few speakers; those; and which, in words."""
    by = "speaker" if len({u.speaker for u in corpus.utterances}) >= MIN_SPEAKERS else "utterance"
    rest, held = split_by(corpus, by, [1 - share, share], seed)
    return rest, held, "held-out speakers" if by == "speaker" else "held-out recordings"


def hold_out_many(corpora: Sequence[Corpus], share: float, seed: int) -> tuple[list[Corpus], list[Corpus], str]:
    """The same for several languages: whole languages are held out where there are MIN_LANGUAGES."""
    if len(corpora) < MIN_LANGUAGES:
        parts = [hold_out(corpus, share, seed) for corpus in corpora]
        how = " and ".join(sorted({what for *_, what in parts}))
        return [rest for rest, *_ in parts], [held for _, held, _ in parts], how
    languages = Corpus("languages", tuple(Utterance(c.name, Path(), "und", c.name, 0.0, ()) for c in corpora))
    _, drawn = split_by(languages, "utterance", [1 - share, share], seed)
    names = {u.id for u in drawn.utterances}
    rest = [corpus for corpus in corpora if corpus.name not in names]
    held = [corpus for corpus in corpora if corpus.name in names]
    return rest, held, f"held-out languages {', '.join(sorted(names))}"


def only_phonemes(corpus: Corpus, phonemes: Sequence[str]) -> tuple[Corpus, int]:
    """The corpus with only the segments of these phonemes, and how many others it had."""
    known = set(phonemes)
    cut = [replace(u, segments=tuple(s for s in u.segments if s.phoneme in known)) for u in corpus.utterances]
    n_others = sum(len(u.segments) for u in corpus.utterances) - sum(len(u.segments) for u in cut)
    return replace(corpus, utterances=tuple(u for u in cut if u.segments)), n_others


def _card(options: PretrainOptions | MetaTrainOptions, name: str) -> dict[str, object]:
    return {"name": name, "attribution": options.attribution, "licence": options.licence}


def _size(corpus: Corpus) -> str:
    speakers = len({u.speaker for u in corpus.utterances})
    return f"{len(corpus.utterances)} recordings of {speakers} speakers, {corpus.seconds / 60:.1f} min"


def _sizes(corpora: Sequence[Corpus]) -> str:
    n = sum(len(c.utterances) for c in corpora)
    return f"{len(corpora)} corpora, {n} recordings, {sum(c.seconds for c in corpora) / 60:.1f} min"
