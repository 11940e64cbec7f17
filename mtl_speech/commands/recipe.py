"""What the scripts of recipes share: how they begin, pretraining and meta-training of their own, and their tables."""

from __future__ import annotations

import atexit
import copy
import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import parse_arguments

from mtl_speech.commands.target import SHIPPED_STRATEGY, Start
from mtl_speech.commands.train import NO_MATTER
from mtl_speech.core.distributed import is_main, leave_to_main, only_one_process, processes, wait_for_all
from mtl_speech.core.files import atomic_write, json_text, only_run, plain
from mtl_speech.core.options import AdaptConfig
from mtl_speech.core.run import CHECKPOINTS, log_to
from mtl_speech.core.settings import Config, as_dict
from mtl_speech.core.terminal import show_bars
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.augment import make_views
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.language_pack import utterances
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import Pack, load_pack, pack_hash, save_pack
from mtl_speech.model.segmenter import train_segmenter
from mtl_speech.model.strategy import (
    BaseModel,
    base_pack,
    load_base,
    load_learner,
    new_learner,
    settings_on_target,
    shipped,
    strategy_pack,
)
from mtl_speech.report.results import Experiment, Outcome, write_report, write_results
from mtl_speech.scoring.bootstrap import mean_interval
from mtl_speech.scoring.metrics import Scores, score
from mtl_speech.training.adapt import Ablation, ablate
from mtl_speech.training.base_learning import mapping_lines
from mtl_speech.training.checkpoint import Checkpoints, hashes_of
from mtl_speech.training.folds import Fold, few_shots
from mtl_speech.training.meta_test import TITLES, benchmark_tasks, score_tasks, summary
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.training.pretrain import PretrainModel, predict_segments, pretrain

logger = logging.getLogger(__name__)
N_TASKS, N_DRAWS = 200, 5  # few-shot tasks of a kind, and draws of a full inventory


@dataclass(frozen=True)
class Recipe:
    """A recipe that has begun: its settings by name, and the folder that it writes to."""

    hparams: Mapping[str, Any]
    output: Path

    def base(self) -> BaseModel:
        """The encoder pack that the settings name, else the English model that ships. Raises PackError."""
        folder = self.hparams["base"]
        return load_base(Path(folder) if folder else None)

    def strategy(self) -> Pack:
        """The strategy pack that the settings name, else the one that ships. Raises PackError."""
        return load_pack(Path(self.hparams["strategy"] or shipped(SHIPPED_STRATEGY)), "strategy")

    def start(self) -> Start:
        """Where adaptation starts from: this base and strategy, with what the settings say of the target. Raises PackError."""
        base, pack = self.base(), self.strategy()
        learner, meta = load_learner(pack, base)
        return Start(base, lambda _: learner, settings_on_target(meta, self.hparams["meta"]), f"from '{pack.name}'")

    def settings(self) -> dict[str, Any]:
        """All settings as plain values."""
        return {key: as_dict(value) if isinstance(value, Config) else value for key, value in self.hparams.items()}

    def checkpoints(
        self, parts: Mapping[str, Sequence[Corpus]], base: Pack | None = None, name: str = ""
    ) -> Checkpoints:
        """The checkpoints of the training, or of the one that is called `name`; none with `fresh: True`.

        Raises DataError where they are those of another run.
        """
        about: dict[str, Mapping[str, object]] = {
            "settings": {key: value for key, value in self.settings().items() if key not in NO_MATTER},
            "recordings": hashes_of(parts),
            "base": {"hash": pack_hash(base) if base else ""},
        }
        found = Checkpoints(self.output / CHECKPOINTS / name, about, self.hparams["checkpoint_minutes"])
        found.check(self.hparams["fresh"])
        return found

    def drawn(self, store: SegmentStore, n: int | None) -> SegmentStore:
        """At most `n` of the segments, drawn by the seed."""
        order = np.random.default_rng(self.hparams["seed"]).permutation(len(store))[:n]
        return store.select(torch.from_numpy(np.sort(order)))

    def write_table(self, lines: Sequence[str]) -> str:
        """Write table.md. Gives its text."""
        text = "\n".join(lines) + "\n"
        atomic_write(self.output / "table.md", text)
        return text


def begin_recipe(arguments: Sequence[str], many: bool = False) -> Recipe:
    """The recipe of a command line: a file of settings, and options that override it.

    The folder to write to is made, no other run can write to it until this process ends, the log begins in it (that of a run that
    was stopped goes on), and the number of threads is set. A file of settings is the user's own, for it can run code. With `many`
    the recipe can be run by several processes, of which only the main one writes and logs; any other refuses that (UsageError).
    """
    hparams_file, _, overrides = parse_arguments(list(arguments))
    with open(hparams_file, encoding="utf-8") as file:
        hparams: dict[str, Any] = load_hyperpyyaml(file, overrides)
    output = Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    held = ExitStack()
    held.enter_context(show_bars())
    atexit.register(held.close)
    if many:
        held.enter_context(processes(getattr(hparams.get("pretrain"), "device", "cpu")))
    only_one_process(sys.argv[0])
    if is_main():
        held.enter_context(only_run(output, command_line()))
        log_to(output / "log.txt", append=(output / CHECKPOINTS).is_dir())
    wait_for_all()
    torch.set_num_threads(hparams["n_threads"])
    return Recipe(hparams, output)


def command_line() -> str:
    """The command that runs, as typed."""
    return "python " + shlex.join(sys.argv)


def train_encoder(
    recipe: Recipe,
    splits: Mapping[str, Corpus],
    tests: Callable[[], Mapping[str, Corpus]],
    card: Mapping[str, Any],
    fold: Mapping[str, str] | None = None,
) -> dict[str, Scores]:
    """Pretrain Θ on the split "train", watched on "valid", then a segmenter; write both as the pack `english`, with history.json.

    `tests` is called once training has ended: the corpora to score on, by name. `fold` names phonemes that count as others there.
    """
    started, hparams, output = time.perf_counter(), recipe.hparams, recipe.output
    checkpoints = recipe.checkpoints({"training": [splits["train"]], "validation": [splits["valid"]]})
    phonemes = sorted(splits["train"].phoneme_counts())
    n_views, n_threads = 1 + hparams["n_augmented_views"], hparams["n_threads"]
    views = make_views(splits["train"], phonemes, n_views, n_threads, hparams["seed"])
    valid = build_store([splits["valid"]], phonemes)
    logger.info("features ready after %.0f s", time.perf_counter() - started)
    model, history = pretrain(views, valid, hparams["encoder"], hparams["pretrain"], checkpoints=checkpoints)
    leave_to_main()
    segmenter = train_segmenter(model.encoder, views[0], hparams["seed"])
    found, figures = {}, {}
    for name, corpus in tests().items():
        store = build_store([corpus], phonemes)
        scores = _segment_scores(model, store, fold or {}, splits["train"].phoneme_counts())
        found[name], n = scores, len(scores.phonemes)
        figures[name] = {"accuracy": round(scores.accuracy, 4), "macro_f1": round(scores.macro_f1, 4), "n_phonemes": n}
        logger.info("%s: phone accuracy %.4f, macro-F1 %.4f", name, scores.accuracy, scores.macro_f1)
    validation = {key: round(value, 4) for key, value in history[-1].items() if key.startswith("valid")}
    about = {"name": "english", "language": "en", **card, "scores": figures, "validation": validation}
    save_pack(base_pack(model.encoder, model.segment_head, tuple(phonemes), about, segmenter), output / "english")
    atomic_write(output / "history.json", json.dumps({"epochs": history, "scores": figures}, indent=1))
    checkpoints.clear()
    logger.info("done in %.0f s: %s", time.perf_counter() - started, output / "english")
    return found


def _segment_scores(
    model: PretrainModel, store: SegmentStore, fold: Mapping[str, str], learned: Counter[str]
) -> Scores:
    names = [fold.get(phoneme, phoneme) for phoneme in store.phonemes]
    true = [names[i] for i in store.label.tolist()]
    predicted = [names[i] for i in predict_segments(model, store).tolist()]
    n_train: Counter[str] = Counter()
    for phoneme, n in learned.items():
        n_train[fold.get(phoneme, phoneme)] += n
    return score(true, predicted, utterances(store), n_train)


def write_phone_reports(recipe: Recipe, found: Mapping[str, Scores], notes: Sequence[str]) -> str:
    """Write table.md, a row a test, and a phone report for each test in a folder of its name. Gives the table."""
    rows = []
    for name, scores in found.items():
        macro = f"{scores.macro_f1:.3f} " + "[{:.3f}, {:.3f}]".format(*scores.macro_f1_ci95)
        rows.append([name, f"{scores.n:,}", f"{scores.accuracy:.3f}", macro, str(len(scores.phonemes))])
        folder = recipe.output / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        write_report(folder, Experiment(scores, recipe.settings(), command_line(), notes=notes))
    head = ["test", "segments", "phone accuracy", "macro-F1 [95 %]", "phones"]
    return recipe.write_table([*markdown_table(head, rows), *_noted(notes)])


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, its first column to the left, the others to the right."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]]


def _noted(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def train_strategy(
    recipe: Recipe,
    base: BaseModel,
    splits: Mapping[str, Corpus],
    card: Mapping[str, Any],
    n_scored: int | None = None,
) -> tuple[MetaLearner, MetaLearner]:
    """Meta-train a strategy on phoneme tasks of "train" whose support and query are of different speakers; the round is chosen on
    tasks of "valid". Write it as the pack `english-strategy`, with history.json.

    `n_scored` is how many segments of the validation speakers the tasks are drawn from (None: all).

    Returns the closed-form start, and what meta-training made of it.
    """
    started, hparams, output, meta = time.perf_counter(), recipe.hparams, recipe.output, recipe.hparams["meta"]
    checkpoints = recipe.checkpoints({"training": [splits["train"]], "validation": [splits["valid"]]}, base.pack)
    phonemes = base.phonemes or sorted(splits["train"].phoneme_counts())
    train = recipe.drawn(base.hear([splits["train"]], phonemes), hparams["max_segments"])
    valid = recipe.drawn(base.hear([splits["valid"]], phonemes), n_scored)
    tasks = benchmark_tasks(valid, N_TASKS, N_DRAWS, hparams["seed"] + 1, by="speaker")
    learner = new_learner(base, phonemes, meta)
    prepare_learner(learner, train, meta)
    start = copy.deepcopy(learner)
    trainer = MetaTrainer(learner, train, meta, by="speaker")
    history = trainer.train(lambda current: summary(score_tasks(current, valid, tasks))["mean"], checkpoints)
    leave_to_main()
    scores = {kind: round(value, 4) for kind, value in summary(score_tasks(learner, valid, tasks)).items()}
    logger.info("validation speakers: %s", scores)
    inherited = {key: base.pack.value(key, str) for key in ("attribution", "licence")}
    about = {"name": SHIPPED_STRATEGY, "language": "en", **inherited, **card, "validation": scores}
    save_pack(strategy_pack(learner, base, meta, about), output / SHIPPED_STRATEGY)
    facts = {"rounds": history.rounds, "validations": history.validations, "scores": scores}
    atomic_write(output / "history.json", json.dumps(facts, indent=1))
    checkpoints.clear()
    logger.info("done in %.0f s", time.perf_counter() - started)
    return start, learner


def write_task_table(
    recipe: Recipe, learners: Mapping[str, MetaLearner], test: SegmentStore, notes: Sequence[str], n_scored: int
) -> str:
    """Score learners on tasks of speakers that none has heard; write table.json and table.md. Gives the table."""
    drawn, seed = recipe.drawn(test, n_scored), recipe.hparams["seed"]
    tasks = benchmark_tasks(drawn, N_TASKS, N_DRAWS, seed + 2, by="speaker")
    titles = {kind: title for kind, title in TITLES.items() if kind in tasks}
    rows = {
        name: {kind: mean_interval(values) for kind, values in score_tasks(learner, drawn, tasks).items()}
        for name, learner in learners.items()
    }
    cells = [[name, *("{:.3f} ± {:.3f}".format(*row[kind]) for kind in titles)] for name, row in rows.items()]
    n_tasks = ", ".join(f"{len(tasks[kind])} ({title})" for kind, title in titles.items())
    remark = f"Macro-F1, mean over tasks ± 95 % interval over tasks. Tasks: {n_tasks}."
    facts = {"command": command_line(), "seed": seed, "rows": rows, "notes": list(notes)}
    atomic_write(recipe.output / "table.json", json_text(plain(facts)))
    return recipe.write_table([*markdown_table(["system", *titles.values()], cells), "", remark, *_noted(notes)])


def ablate_over_shots(
    recipe: Recipe, start: Start, fold: Fold, lang: str, notes: Sequence[str], stamp: str = ""
) -> dict[int | None, Ablation]:
    """The ablation for each number of examples per phoneme in `hparams["shots"]` (None: all), each with a pack and a report in a
    folder of its own, such as k5.
    """
    tables: dict[int | None, Ablation] = {}
    for shots in recipe.hparams["shots"]:
        steps = 0 if shots == 1 else start.meta.meta_steps
        config = AdaptConfig(lang=lang, shots=shots, meta_steps=steps, seed=recipe.hparams["seed"])
        tables[shots] = found = ablate(start.base, start.learner, [few_shots(fold, config)], config, start.meta)
        final = list(found.systems.values())[-1][0]
        outcome = Outcome([final], final.learned, start.base, config, start.meta)
        said = [*notes, fold.how, *final.learned.notes, *mapping_lines(final.learned.model.zero_shot)]
        told = outcome.experiment(command_line())
        experiment = replace(told, ablation=found.rows, notes=said, stamp=stamp)
        write_results(recipe.output / f"k{shots or '-all'}", outcome, experiment)
        for row in found.rows:
            figures = f"macro-F1 {row.macro_f1:.4f}, micro-F1 {row.micro_f1:.4f}"
            logger.info("K = %s: %s: %s", shots or "all", row.name, figures)
    return tables


def shots_table(tables: Mapping[int | None, Ablation], remark: str) -> list[str]:
    """A row a system, a column a number of examples; then the paired gains. `remark` says what the figures are of."""
    rows, gains = [], []
    for each in zip(*(ablation.rows for ablation in tables.values()), strict=True):  # of one system
        figures = ("{:.3f} [{:.3f}, {:.3f}]".format(row.macro_f1, *row.macro_f1_ci95) for row in each)
        rows.append([each[0].name, *figures])
        paired = [row.difference_to_previous for row in each if row.difference_to_previous is not None]
        if paired:
            figures = ("{:+.3f} [{:+.3f}, {:+.3f}]".format(gain.mean, *gain.ci95) for gain in paired)
            gains.append([f"gain of {each[0].name} over the row before", *figures])
    n_scored = [len(next(iter(ablation.systems.values()))[0].scores.phonemes) for ablation in tables.values()]
    scored = ["phonemes scored (with K examples)", *map(str, n_scored)]
    head = ["system", *(f"K = {k or 'all'}" for k in tables)]
    return [*markdown_table(head, [*rows, *gains, scored]), "", f"Macro-F1 on {remark}."]
