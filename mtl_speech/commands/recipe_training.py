"""What the recipes that train an encoder of their own share: pretraining, meta-training on its phonemes, and their tables."""

from __future__ import annotations

import copy
import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl_speech.commands.recipe import recipe_checkpoints
from mtl_speech.core.distributed import leave_to_main
from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.core.settings import Config, as_dict
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.augment import make_views
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.learner import MetaLearner
from mtl_speech.model.pack import save_pack
from mtl_speech.model.segmenter import train_segmenter
from mtl_speech.model.strategy import BaseModel, base_pack, new_learner, prepare_learner, strategy_pack
from mtl_speech.report.results import write_results
from mtl_speech.report.tables import write_report
from mtl_speech.scoring.bootstrap import mean_interval
from mtl_speech.scoring.metrics import Scores, score
from mtl_speech.training.adapt import Ablation, ablate
from mtl_speech.training.folds import Fold, few_shots
from mtl_speech.training.meta_test import benchmark_tasks, score_tasks, summary
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.training.pretrain import PretrainModel, predict_segments, pretrain
from mtl_speech.training.zero_shot import mapping_lines

logger = logging.getLogger(__name__)
N_TASKS, N_DRAWS = 200, 5  # few-shot tasks of a kind, and draws of a full inventory
TASK_TITLES = {
    "5w1s": "5-way 1-shot",
    "5w5s": "5-way 5-shot",
    "full_k1": "full inventory, K = 1",
    "full_k5": "full inventory, K = 5",
}


def train_encoder(
    hparams: Mapping[str, Any],
    output: Path,
    splits: Mapping[str, Corpus],
    tests: Callable[[], Mapping[str, Corpus]],
    card: Mapping[str, Any],
    fold: Mapping[str, str] | None = None,
) -> dict[str, Scores]:
    """Pretrain Θ on the split "train", watched on "valid", then a segmenter; write both as the pack `english`, with history.json.

    `tests` is called once training has ended: the corpora to score on, by name. `fold` names phonemes that count as others there.
    """
    started = time.perf_counter()
    parts = {"training": [splits["train"]], "validation": [splits["valid"]]}
    checkpoints = recipe_checkpoints(hparams, output, parts)
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
    return score(true, predicted, [store.utterance_ids[i] for i in store.utterance.tolist()], n_train)


def write_phone_reports(
    hparams: Mapping[str, Any], output: Path, found: Mapping[str, Scores], notes: Sequence[str]
) -> str:
    """Write table.md, a row a test, and a phone report for each test in a folder of its name. Gives the table."""
    lines = ["| test | segments | phone accuracy | macro-F1 [95 %] | phones |", "|---|---:|---:|---:|---:|"]
    for name, scores in found.items():
        interval = "[{:.3f}, {:.3f}]".format(*scores.macro_f1_ci95)
        figures = f"{scores.n:,} | {scores.accuracy:.3f} | {scores.macro_f1:.3f} {interval} | {len(scores.phonemes)}"
        lines.append(f"| {name} | {figures} |")
        folder = output / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        settings = {key: as_dict(value) if isinstance(value, Config) else value for key, value in hparams.items()}
        write_report(folder, scores, settings=settings, command=_command(), notes=notes)
    table = "\n".join([*lines, *_noted(notes)]) + "\n"
    atomic_write(output / "table.md", table)
    return table


def _noted(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _command() -> str:
    return "python " + shlex.join(sys.argv)


def train_strategy(
    hparams: Mapping[str, Any],
    output: Path,
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
    started = time.perf_counter()
    parts = {"training": [splits["train"]], "validation": [splits["valid"]]}
    checkpoints = recipe_checkpoints(hparams, output, parts, base.pack)
    train = _drawn(build_store([splits["train"]], base.phonemes), hparams, hparams["max_segments"])
    valid = _drawn(build_store([splits["valid"]], base.phonemes), hparams, n_scored)
    tasks = benchmark_tasks(valid, N_TASKS, N_DRAWS, hparams["seed"] + 1, by="speaker")
    learner = new_learner(base, base.phonemes, hparams["meta"])
    prepare_learner(learner, train, hparams["meta"])
    start = copy.deepcopy(learner)
    trainer = MetaTrainer(learner, train, hparams["meta"], by="speaker")
    history = trainer.train(lambda current: summary(score_tasks(current, valid, tasks))["mean"], checkpoints)
    leave_to_main()
    scores = {kind: round(value, 4) for kind, value in summary(score_tasks(learner, valid, tasks)).items()}
    logger.info("validation speakers: %s", scores)
    inherited = {key: base.pack.value(key, str) for key in ("attribution", "licence")}
    about = {"name": "english-strategy", "language": "en", **inherited, **card, "validation": scores}
    save_pack(strategy_pack(learner, base, hparams["meta"], about), output / "english-strategy")
    facts = {"rounds": history.rounds, "validations": history.validations, "scores": scores}
    atomic_write(output / "history.json", json.dumps(facts, indent=1))
    checkpoints.clear()
    logger.info("done in %.0f s", time.perf_counter() - started)
    return start, learner


def _drawn(store: SegmentStore, hparams: Mapping[str, Any], n: int | None) -> SegmentStore:
    """At most `n` of the segments, drawn by the seed."""
    order = np.random.default_rng(hparams["seed"]).permutation(len(store))[:n]
    return store.select(torch.from_numpy(np.sort(order)))


def write_task_table(
    hparams: Mapping[str, Any],
    output: Path,
    learners: Mapping[str, MetaLearner],
    test: SegmentStore,
    notes: Sequence[str],
    n_scored: int,
) -> str:
    """Score learners on tasks of speakers that none has heard; write table.json and table.md. Gives the table."""
    drawn = _drawn(test, hparams, n_scored)
    tasks = benchmark_tasks(drawn, N_TASKS, N_DRAWS, hparams["seed"] + 2, by="speaker")
    kinds = [kind for kind in TASK_TITLES if kind in tasks]
    rows = {
        name: {kind: mean_interval(values) for kind, values in score_tasks(learner, drawn, tasks).items()}
        for name, learner in learners.items()
    }
    lines = ["| system | " + " | ".join(TASK_TITLES[kind] for kind in kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join("{:.3f} ± {:.3f}".format(*row[kind]) for kind in kinds) + " |")
    n_tasks = ", ".join(f"{len(tasks[kind])} ({TASK_TITLES[kind]})" for kind in kinds)
    lines += ["", f"Macro-F1, mean over tasks ± 95 % interval over tasks. Tasks: {n_tasks}.", *_noted(notes)]
    table = "\n".join(lines) + "\n"
    facts = {"command": _command(), "seed": hparams["seed"], "rows": rows, "notes": list(notes)}
    atomic_write(output / "table.json", json_text(plain(facts)))
    atomic_write(output / "table.md", table)
    return table


def ablate_over_shots(
    hparams: Mapping[str, Any],
    output: Path,
    start: tuple[BaseModel, MetaLearner, MetaTrainConfig],
    fold: Fold,
    lang: str,
    notes: Sequence[str],
    stamp: str = "",
) -> dict[int | None, Ablation]:
    """The ablation for each number of examples per phoneme in `hparams["shots"]` (None: all), each with a pack and a report in a
    folder of its own, such as k5.
    """
    base, strategy, meta = start
    tables: dict[int | None, Ablation] = {}
    for shots in hparams["shots"]:
        config = AdaptConfig(
            lang=lang, shots=shots, meta_steps=0 if shots == 1 else meta.meta_steps, seed=hparams["seed"]
        )
        tables[shots] = ablate(base, strategy, [few_shots(fold, config)], config, meta)
        final = list(tables[shots].systems.values())[-1][0]
        write_results(
            output / f"k{shots or '-all'}",
            [final],
            base,
            config,
            meta,
            command=_command(),
            final=final.learned,
            ablation=tables[shots],
            notes=[*notes, fold.how, *final.learned.notes, *mapping_lines(final.learned.model.zero_shot)],
            stamp=stamp,
        )
        for row in tables[shots].rows:
            figures = f"macro-F1 {row.macro_f1:.4f}, micro-F1 {row.micro_f1:.4f}"
            logger.info("K = %s: %s: %s", shots or "all", row.name, figures)
    return tables


def shots_table(tables: Mapping[int | None, Ablation], remark: str) -> str:
    """A row a system, a column a number of examples; then the paired gains. `remark` says what the figures are of."""
    names = [row.name for row in next(iter(tables.values())).rows]
    lines = ["| system | " + " | ".join(f"K = {k or 'all'}" for k in tables) + " |", "|---|" + "---:|" * len(tables)]
    for i, name in enumerate(names):
        rows = [ablation.rows[i] for ablation in tables.values()]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(row.macro_f1, *row.macro_f1_ci95) for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for i, name in enumerate(names[1:], start=1):
        gains = [ablation.rows[i].difference_to_previous for ablation in tables.values()]
        cells = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(gain.mean, *gain.ci95) for gain in gains if gain is not None]
        lines.append(f"| gain of {name} over the row before | " + " | ".join(cells) + " |")
    n_scored = [len(next(iter(ablation.systems.values()))[0].scores.phonemes) for ablation in tables.values()]
    lines.append("| phonemes scored (with K examples) | " + " | ".join(map(str, n_scored)) + " |")
    return "\n".join([*lines, "", f"Macro-F1 on {remark}.", ""])
