"""The closed form by turns: languages recognised by what is learned, without a step of descent, from the other languages.

python recipes/VoxAngeles/closed_form.py --data_folder DIR/voxangeles --output OUT --base built-in= --base other=PACK

The languages of "train" and "valid" are divided into groups by the seed. Tasks of each group are scored with whitening, cut and
rows of θ from the languages of the other groups. The recordings pass once through each base.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from prepare import prepare

from mtl_speech.commands.recipe import markdown_table
from mtl_speech.core.errors import MtlSpeechError, UsageError
from mtl_speech.core.files import atomic_write, json_text, only_run, plain
from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.core.run import log_to
from mtl_speech.core.settings import as_dict, load_config
from mtl_speech.core.terminal import show_bars
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.pack import pack_hash
from mtl_speech.model.strategy import BaseModel, load_base, new_learner
from mtl_speech.scoring.bootstrap import interval_text, pair, percentile
from mtl_speech.training.meta_test import TITLES, benchmark_tasks, score_tasks

logger = logging.getLogger("mtl_speech.recipes")

HERE = Path(__file__).resolve().parent
KINDS = tuple(TITLES)
N_GROUPS, N_BOOTSTRAP = 5, 2_000
SHIPPED = "built-in"  # what the base that ships is called
Scores = NDArray[np.float64]  # (n_task_seeds, n_languages, n_kinds), nan where a language has no task of a kind


@dataclass(frozen=True)
class System:
    """A base by its name, the folder of its pack (None: the one that ships), and the settings of its closed form."""

    name: str
    pack: Path | None
    config: MetaTrainConfig


def main(arguments: Sequence[str]) -> int:
    """Score every base on the same tasks; write closed_form.md and closed_form.json. Returns the exit code."""
    given = parse(arguments)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
        with only_run(given.output, "python " + shlex.join(sys.argv)), show_bars():
            log_to(given.output / "log.txt")
            torch.set_num_threads(given.threads)
            data = run(given, "python recipes/VoxAngeles/closed_form.py " + shlex.join(arguments))
    except MtlSpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    atomic_write(given.output / "closed_form.json", json_text(plain(data)))
    atomic_write(given.output / "closed_form.md", markdown(data))
    print(markdown(data))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--data_folder", type=Path, required=True, help="VoxAngeles: one folder a language, audio and TextGrids")
    add("--output", type=Path, default=Path("results/VoxAngeles-closed-form"), help="folder to write to")
    add("--languages_file", type=Path, default=HERE / "languages.yaml", help="those of train and valid are taken")
    add("--base", action="append", metavar="NAME=PACK", help=f"an encoder pack; without PACK, and by default as '{SHIPPED}=', "
        "the one that ships; the others are compared with the first")  # fmt: skip
    add("--settings", action="append", default=[], metavar="NAME=KEY:VALUE,...", help="settings of the closed form of a base, such "
        "as shrinkage:0.3,dimensions:256,prior:2.7,prior_unmet:0.8; the others are the defaults")  # fmt: skip
    add("--tasks", type=int, default=300, help="5-way tasks of each kind in a group of languages")
    add("--draws", type=int, default=20, help="draws of the support set of each full inventory")
    add("--task_seeds", type=int, default=2, help="how often all tasks are drawn")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--threads", type=int, default=1, help="processor threads")
    return parser.parse_args(arguments)


def systems_of(bases: Sequence[str], settings: Sequence[str]) -> list[System]:
    """The bases of a command line with their settings. Raises UsageError, ConfigError."""
    named = dict(_named(each, "--base") for each in bases)
    own = dict(_named(each, "--settings") for each in settings)
    for name in own:
        if name not in named:
            raise UsageError(f"--settings {name}: no --base has this name; there are {', '.join(named)}")
    found = []
    for name, pack in named.items():
        pairs = [item.partition(":") for item in own.get(name, "").split(",") if item]
        values = {key: yaml.safe_load(value) for key, _, value in pairs}
        found.append(
            System(name, Path(pack) if pack else None, load_config(MetaTrainConfig, None, {**values, "inner_steps": 0}))
        )
    return found


def _named(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageError(f"{option} {text}: must be NAME=...")
    return name, value


def run(given: argparse.Namespace, command: str) -> dict[str, Any]:
    """All figures."""
    systems = systems_of(given.base or [f"{SHIPPED}="], given.settings)
    split = yaml.safe_load(given.languages_file.read_text(encoding="utf-8"))
    names = sorted([*split["train"], *split["valid"]])
    corpora = prepare(given.data_folder, names, "train and valid")
    order = np.random.default_rng(given.seed).permutation(len(corpora))
    groups = [sorted(part.tolist()) for part in np.array_split(order, N_GROUPS) if len(part)]
    scores, facts = {}, {}
    for system in systems:
        started, base = time.perf_counter(), load_base(system.pack)
        scores[system.name] = scores_of(base, system.config, corpora, groups, given)
        kept = {
            key: getattr(system.config, key) for key in ("shrinkage", "dimensions", "scale", "prior", "prior_unmet")
        }
        facts[system.name] = {"base": base.pack.name, "base_sha256": pack_hash(base.pack), "settings": kept}
        facts[system.name] |= summary(scores[system.name]) | {"seconds": round(time.perf_counter() - started)}
        logger.info("%s: %.4f after %d s", system.name, facts[system.name]["mean"], facts[system.name]["seconds"])
    first = systems[0].name
    return {
        "command": command,
        **{key: getattr(given, key) for key in ("tasks", "draws", "task_seeds", "seed")},
        "groups": [[corpora[i].name for i in group] for group in groups],
        "systems": facts,
        "differences": {s.name: difference(scores[s.name], scores[first], given.seed) for s in systems[1:]},
        "scores": {name: by_language(each, names) for name, each in scores.items()},
        "defaults": as_dict(MetaTrainConfig()),
    }


def scores_of(
    base: BaseModel,
    config: MetaTrainConfig,
    corpora: Sequence[Corpus],
    groups: Sequence[Sequence[int]],
    given: argparse.Namespace,
) -> Scores:
    """Mean macro-F1 of the tasks of each language and kind, for each seed of the tasks."""
    store = base.hear(corpora)
    owner = owners(store, corpora)
    found = np.full((given.task_seeds, len(corpora), len(KINDS)), np.nan)
    for group in groups:
        tested = torch.isin(owner, torch.tensor(group))
        learned = only_met(store.select(~tested))
        learner = new_learner(base, learned.phonemes, config)
        prepare_learner(learner, learned, config)
        test = store.select(tested)
        corpus_of = {int(language): int(corpus) for language, corpus in zip(test.language, owner[tested], strict=True)}
        for number in range(given.task_seeds):
            tasks = benchmark_tasks(test, given.tasks, given.draws, given.seed + number)
            for kind, values in score_tasks(learner, test, tasks).items():
                corpus = np.array([corpus_of[episode.language] for episode in tasks[kind]])
                for each in np.unique(corpus):
                    found[number, each, KINDS.index(kind)] = values[corpus == each].mean()
    return found


def owners(store: SegmentStore, corpora: Sequence[Corpus]) -> torch.Tensor:
    """The corpus of each segment: (n_segments,)."""
    place = {corpus.name: number for number, corpus in enumerate(corpora)}
    return torch.tensor([place[name.split("/", 1)[0]] for name in store.utterance_ids])[store.utterance]


def only_met(store: SegmentStore) -> SegmentStore:
    """The store with the phonemes alone that occur in it, so that the others are guessed from articulation."""
    present, label = store.label.unique(return_inverse=True)
    return replace(store, label=label, phonemes=tuple(store.phonemes[int(i)] for i in present))


def summary(scores: Scores) -> dict[str, Any]:
    """The mean of each kind that there are tasks of, and the mean of these as "mean"."""
    *each, mean = _with_mean(scores)
    of_kinds = {kind: float(value) for kind, value in zip(KINDS, each, strict=True) if np.isfinite(value)}
    return {"kinds": of_kinds, "mean": float(mean)}


def difference(scores: Scores, first: Scores, seed: int) -> dict[str, Any]:
    """How much better a base is than the first, on the same tasks: by kind and in the mean, each with a 95 % interval.

    The bootstrap draws languages and, apart from them, seeds of the tasks; tasks within a language are not drawn.
    """
    gain, rng = scores - first, np.random.default_rng(seed)
    n_seeds, n_languages = gain.shape[:2]
    drawn = []
    for _ in range(N_BOOTSTRAP):
        some = gain[rng.integers(n_seeds, size=n_seeds)][:, rng.integers(n_languages, size=n_languages)]
        drawn.append(_with_mean(some))
    mean, bounds = _with_mean(gain), percentile(np.array(drawn))
    rows = zip((*KINDS, "mean"), mean, bounds.T, strict=True)
    return {kind: {"mean": float(value), "ci95": pair(ci95)} for kind, value, ci95 in rows if np.isfinite(value)}


def _with_mean(scores: Scores) -> NDArray[np.float64]:
    """The means over the seeds of the tasks, then over languages, of each kind (nan: no task), and their mean: (n_kinds + 1,)."""
    has_tasks = np.isfinite(scores).any((0, 1))
    of_kinds = np.full(len(KINDS), np.nan)
    of_kinds[has_tasks] = np.nanmean(scores[:, :, has_tasks].mean(0), 0)
    return np.append(of_kinds, of_kinds[has_tasks].mean())


def by_language(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """The means over the seeds of the tasks, by language and kind."""
    rows = zip(names, scores.mean(0), strict=True)
    return {name: {k: float(v) for k, v in zip(KINDS, row, strict=True) if np.isfinite(v)} for name, row in rows}


def markdown(data: Mapping[str, Any]) -> str:
    """The tables of the README."""
    kinds = {kind: title for kind, title in TITLES.items() if all(kind in s["kinds"] for s in data["systems"].values())}
    rows = []
    for name, found in data["systems"].items():
        used = found["settings"]
        cells = [f"{found['kinds'][kind]:.3f}" for kind in kinds]
        chosen = [f"{used['shrinkage']:g}", str(used["dimensions"]), f"{used['prior']:g} / {used['prior_unmet']:g}"]
        rows.append([name, *chosen, *cells, f"{found['mean']:.3f}"])
    head = ["base", "shrinkage", "dimensions", "prior, met / not met", *kinds.values(), "mean"]
    lines = markdown_table(head, rows)
    n = sum(len(group) for group in data["groups"])
    told = f"Macro-F1, mean inside a language, then over {n} languages, then over the kinds of tasks; {data['task_seeds']} draws of"
    lines += ["", f"{told} {data['tasks']} tasks a group and {data['draws']} full inventories a language."]
    first = next(iter(data["systems"]))
    if data["differences"]:
        rows = [
            [f"{name} − {first}", *(_cell(found[kind]) for kind in (*kinds, "mean"))]
            for name, found in data["differences"].items()
        ]
        lines += ["", *markdown_table(["difference, paired", *kinds.values(), "mean"], rows), ""]
        lines += ["In brackets: 95 % intervals, bootstrap over languages and seeds of the tasks together."]
    return "\n".join(lines) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:+.3f} {interval_text(tuple(found['ci95']), signed=True)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
