"""All methods on the same few-shot tasks: meta-trained on the languages of one folder, tested on those of another.

python recipes/VoxAngeles/benchmark.py --meta-dir DIR --test-dir DIR --output-dir OUT

Each folder holds one folder a language (audio + TextGrid). A part of the languages of --meta-dir is held out and chooses the
settings of every method; --test-dir is read after all methods have been trained, by the scorer alone. What each method scored is
kept in OUT/methods: a later run with the same settings takes it from there and adds the methods that are not there yet.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_training import GRIDS, fit_peer
from peers import Fitted, Tuned
from sklearn.metrics import f1_score
from table import Row, as_json, costs, markdown, results, row_of
from torch import nn
from tuned_phi import NAME as PHI_TUNED
from tuned_phi import tune_phi

from mtl_speech.core.errors import DataError, MtlSpeechError, UsageError
from mtl_speech.core.files import atomic_write, json_text, only_run, plain
from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.core.run import log_to
from mtl_speech.core.terminal import progress, show_bars
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import language_folders, read_corpus
from mtl_speech.features.augment import WaveformAugment
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.pack import pack_hash
from mtl_speech.model.strategy import BaseModel, load_base
from mtl_speech.training.episodes import EpisodeSampler, tokens_of
from mtl_speech.training.meta_test import (
    N_WAY,
    SHOTS,
    Setup,
    Tasks,
    benchmark_tasks,
    train_baseline,
    train_meta_transfer,
)

logger = logging.getLogger("mtl_speech.recipes")

# What a row changes in the settings of meta-transfer.
OURS: dict[str, dict[str, Any]] = {
    "meta-transfer": {"hard_ratio": 0.0},
    "meta-transfer+curriculum": {},
    "meta-transfer, kernel": {"hard_ratio": 0.0, "granularity": "kernel"},
    "meta-transfer, first order": {"hard_ratio": 0.0, "first_order": True},
    PHI_TUNED: {"hard_ratio": 0.0},
}
BEST = "meta-transfer"  # what the methods outside the ablation are compared with
ABLATION = ("baseline", "whitened", "meta-transfer", "meta-transfer+curriculum")
METHODS = (
    "centroid",
    "prototype",
    "baseline",
    "whitened",
    *OURS,
    *(m for m in GRIDS if m not in ("centroid", "prototype")),
)
N_VALID_TASKS, N_VALID_DRAWS = 60, 4  # tasks of a kind, and draws of a full inventory, that settings are chosen on
N_COST_TASKS, N_OWN = (
    3,
    5_000,
)  # 5-way 5-shot tasks, and segments of the base's own language, that costs are measured on


def main(arguments: Sequence[str]) -> int:
    """Read, train, choose, then read the test languages and score. Returns the exit code."""
    given = parse(arguments)
    try:
        given.output_dir.mkdir(parents=True, exist_ok=True)
        with only_run(given.output_dir, "python " + shlex.join(sys.argv)), show_bars():
            log_to(given.output_dir / "log.txt", append=True)
            torch.set_num_threads(given.threads)
            data = run(given, "python recipes/VoxAngeles/benchmark.py " + shlex.join(arguments))
    except MtlSpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    atomic_write(given.output_dir / "table.json", as_json(data))
    atomic_write(given.output_dir / "table.md", markdown(data) + "\n" + costs(data))
    print(markdown(data) + "\n" + costs(data))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("--meta-dir", type=Path, required=True, help="language folders to train and to choose on")
    add("--test-dir", type=Path, required=True, help="language folders to test on")
    add("--output-dir", type=Path, required=True, help="folder to write to")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="all by default")
    add("--seeds", type=int, default=20, help="draws of the support set of each full inventory")
    add("--tasks", type=int, default=600, help="5-way tasks of each kind")
    add("--meta-steps", type=int, default=400, help="rounds of meta-training, for every method that has any")
    add("--views", type=int, default=4, help="versions of the recordings to meta-train on: as they are, and augmented")
    add("--valid-languages", nargs="*", help="folders of --meta-dir to choose on; drawn by the seed otherwise")
    add("--base", type=Path, help="an encoder pack; the English one that ships by default")
    add("--base-dir", type=Path, help="labelled recordings of the base's own language: what adaptation costs it")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--threads", type=int, default=1, help="processor threads")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace, command: str) -> dict[str, Any]:
    """Train what no earlier run has scored, then score. Gives the figures of table.json."""
    base = load_base(given.base)
    if given.base_dir and base.head is None:
        raise UsageError(
            f"--base-dir: the encoder '{base.pack.name}' tells no phonemes by itself: leave the option out"
        )
    train, held = divided(given.meta_dir, given.valid_languages, given.seed)
    settings = {name: getattr(given, name) for name in ("seeds", "tasks", "meta_steps", "views", "seed")}
    settings |= {"train": [path.name for path in train], "valid": [path.name for path in held]}
    settings = plain({**settings, "base": pack_hash(base.pack)})
    kept = given.output_dir / "methods"
    missing = [name for name in given.methods if read_row(kept, name, settings) is None]
    if missing:
        check_tasks(given.test_dir)
        known = stores(given, base, train, held)
        systems = [fit(name, known) for name in missing]
        logger.info("training has ended; the test languages are read now")
        test = base.hear(corpora(language_folders(given.test_dir)))
        tasks = benchmark_tasks(test, given.tasks, given.seeds, given.seed + 2)
        own = own_store(given.base_dir, base) if given.base_dir else None
        for system in progress(systems, "meta-test"):
            row = row_of(system, test, tasks, costs_of(system, test, tasks, base, own))
            atomic_write(kept / f"{row.name}.json", json_text(plain({"settings": settings, "row": row})))
    rows = [row for name in METHODS if (row := read_row(kept, name, settings)) is not None]
    names = [row.name for row in rows]
    ablation = [name for name in ABLATION if name in names]
    pairs = [(a, b) for j, b in enumerate(ablation) for a in ablation[:j]]
    if BEST in names:
        pairs += [(name, BEST) for name in names if name not in ABLATION]
    return results(rows, pairs, {"command": command, **settings})


def check_tasks(folder: Path) -> None:
    """Say which languages cannot be tested on, by their labels alone, before anything is trained.

    Raises DataError where no language allows a task.
    """
    sampler = EpisodeSampler(tokens_of(corpora(language_folders(folder))))
    for shot in SHOTS:
        told = sampler.left_out([(N_WAY, shot)])
        if told is not None:
            logger.warning("%s", told)
            print(f"{folder}: {told}", file=sys.stderr)
    if not any(sampler.feasible(N_WAY, shot) for shot in SHOTS):
        raise DataError(f"{folder}: no language has enough labelled phonemes for a {N_WAY}-way task to test on")


def read_row(folder: Path, name: str, settings: Mapping[str, Any]) -> Row | None:
    """What an earlier run with the same settings has scored of a method."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Row(**found["row"]) if found["settings"] == settings else None


def divided(folder: Path, valid_names: Sequence[str] | None, seed: int) -> tuple[list[Path], list[Path]]:
    """The language folders of `folder` to train on, and those to choose on: a fifth of all, at least one.

    Raises DataError where nothing would be left to train on, UsageError for a name that is no folder.
    """
    folders = language_folders(folder)
    names = [path.name for path in folders]
    strangers = sorted(set(valid_names or ()) - set(names))
    if strangers:
        raise UsageError(f"--valid-languages {strangers[0]}: {folder} has no such folder")
    drawn = valid_names or np.random.default_rng(seed).permutation(names)[: max(1, len(names) // 5)].tolist()
    if len(drawn) >= len(names):
        raise DataError(f"{folder}: {len(names)} languages are too few: some are to train on and others to choose on")
    return [path for path in folders if path.name not in drawn], [path for path in folders if path.name in drawn]


def stores(given: argparse.Namespace, base: BaseModel, train: Sequence[Path], held: Sequence[Path]) -> Setup:
    """What the methods learn from and are chosen on."""
    learned, chosen = corpora(train), corpora(held)
    store, valid = (base.hear(found) for found in (learned, chosen))
    views = [
        build_store(learned, store.phonemes, WaveformAugment(number), front_end=base.front_end)
        for number in range(1, given.views)
    ]
    tasks = benchmark_tasks(valid, N_VALID_TASKS, N_VALID_DRAWS, given.seed + 1)
    config = MetaTrainConfig(meta_steps=given.meta_steps, seed=given.seed)
    return Setup(base, store, valid, tasks, config, views)


def corpora(folders: Sequence[Path]) -> list[Corpus]:
    """The corpus of each language folder; what cannot be used of them goes to the log."""
    found = [read_corpus(folder, folder.name, "ipa") for folder in progress(folders, "reading languages")]
    for problem in (problem for corpus in found for problem in corpus.problems):
        logger.warning("%s", problem)
    return found


def own_store(folder: Path, base: BaseModel) -> SegmentStore:
    """Recordings of the base's own language; segments of phonemes that it does not know are left out."""
    language = str(base.pack.card.get("language", "und"))
    corpus = read_corpus(folder, language)
    known = [replace(u, segments=tuple(s for s in u.segments if s.phoneme in base.phonemes)) for u in corpus.utterances]
    return base.hear([replace(corpus, utterances=tuple(known))], base.phonemes)


def fit(name: str, given: Setup) -> Fitted:
    """One method, its settings chosen on the validation tasks."""
    logger.info("%s", name)
    if name in GRIDS:
        return fit_peer(name, given)
    if name in OURS:
        found = train_meta_transfer(name, replace(given, config=replace(given.config, **OURS[name])))
        if name == PHI_TUNED:
            return tune_phi(found, given.valid, given.tasks)
    else:
        found = train_baseline(name, given, whiten=name == "whitened")
    return Fitted(found.name, found.learner, found.trainable_parameters, found.seconds, found.valid)


def costs_of(
    system: Fitted, store: SegmentStore, tasks: Tasks, base: BaseModel, own: SegmentStore | None
) -> dict[str, Any]:
    """The settings chosen, the median seconds of adaptation to a 5-way 5-shot task, how many numbers it sets for each example, and
    macro-F1 of the base on its own language, by the adapted encoder with Φ (or adapters) and without: means over the tasks."""
    adapted = [system.adapt(store, episode) for episode in tasks["5w5s"][:: max(1, len(tasks["5w5s"]) // N_COST_TASKS)]]
    found: dict[str, Any] = {
        "settings": system.settings,
        "adaptation_seconds": float(np.median([seconds for _, seconds in adapted])),
        "parameters_per_example": system.parameters_per_example,
        "own_language": None,
    }
    if own is not None and system.name != "centroid":
        encoders = [encoder for encoder, _ in adapted] if isinstance(system, Tuned) else [adapted[0][0]]
        plains = [system.plain(encoder) for encoder in encoders]
        found["own_language"] = {
            "before": own_score(base, base.encoder, own),
            "on": float(np.mean([own_score(base, encoder, own) for encoder in encoders])),
            "off": None if plains[0] is None else float(np.mean([own_score(base, p, own) for p in plains if p])),
        }
    return found


def own_score(base: BaseModel, encoder: nn.Module, store: SegmentStore) -> float:
    """Macro-F1 of the base's own head on the embeddings of an encoder."""
    assert base.head is not None
    index = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))[:N_OWN]
    with torch.inference_mode():
        predicted = torch.cat([base.head(encoder(*store.windows(part))).argmax(1) for part in index.split(500)])
    return float(f1_score(store.label[index], predicted, average="macro"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
