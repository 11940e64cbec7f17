"""All methods on the same few-shot tasks: meta-trained on the languages of one folder, tested on those of another.

python recipes/VoxAngeles/benchmark.py --meta-dir DIR --test-dir DIR --output-dir OUT

Each folder holds one folder a language (audio + TextGrid). A part of the languages of --meta-dir is held out and chooses the settings
of every method; the folder --test-dir is read after all methods have been trained, by the scorer alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peers import GRIDS, fit_peer
from table import as_json, markdown, results

from mtl_speech.base import BaseModel, load_base
from mtl_speech.config import MetaTrainConfig
from mtl_speech.corpora import language_folders, read_corpus
from mtl_speech.corpus import Corpus
from mtl_speech.errors import DataError, MtlSpeechError, UsageError
from mtl_speech.evaluate import System, Tasks, benchmark_tasks, meta_test, train_baseline, train_meta_transfer
from mtl_speech.features import SegmentStore, build_store
from mtl_speech.files import atomic_write
from mtl_speech.logs import log_to, progress_bar

logger = logging.getLogger("mtl_speech.recipes")

ABLATION = ("baseline", "whitened", "meta-transfer", "meta-transfer+curriculum")
METHODS = (
    *("centroid", "prototype", "baseline", "whitened", "finetune", "lora", "ia3", "protonet", "anil", "maml"),
    *("meta-transfer", "meta-transfer+curriculum", "meta-transfer, kernel", "meta-transfer, first order"),
)
N_VALID_TASKS, N_VALID_DRAWS = (
    60,
    4,
)  # tasks of each kind, and draws of each full inventory, that settings are chosen on


def main(arguments: Sequence[str]) -> int:
    """Read, train, choose, then read the test languages and score. Returns the exit code."""
    given = parse(arguments)
    started = time.perf_counter()
    given.output_dir.mkdir(parents=True, exist_ok=True)
    log_to(given.output_dir / "log.txt")
    torch.set_num_threads(given.threads)
    try:
        train, valid, held = meta_stores(given.meta_dir, given.valid_languages, given.seed)
        tasks = benchmark_tasks(valid, N_VALID_TASKS, N_VALID_DRAWS, given.seed + 1)
        base = load_base(given.base)
        config = MetaTrainConfig(meta_steps=given.meta_steps, seed=given.seed)
        systems = [fit(name, base, train, valid, tasks, config) for name in given.methods]
        logger.info("training ended after %.0f s; the test languages are read now", time.perf_counter() - started)
        test = build_store(corpora(language_folders(given.test_dir)), progress=progress_bar)
        test_tasks = benchmark_tasks(test, given.tasks, given.seeds, given.seed + 2)
        scored = [meta_test(system, test, test_tasks) for system in progress_bar(systems, "meta-test")]
    except MtlSpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    rows = [name for name in ABLATION if name in given.methods]
    pairs = [(rows[i], rows[j]) for j in range(len(rows)) for i in range(j)]
    facts = {
        "command": "python recipes/VoxAngeles/benchmark.py " + " ".join(arguments),
        "seed": given.seed,
        "languages": {"train": list(train.languages), "valid": held, "test": list(test.languages)},
        "base": base.pack.name,
        "seconds": round(time.perf_counter() - started),
    }
    data = results(scored, pairs, facts)
    atomic_write(given.output_dir / "table.json", as_json(data))
    atomic_write(given.output_dir / "table.md", markdown(data))
    print(markdown(data))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--meta-dir", type=Path, required=True, help="language folders to train and to choose on")
    parser.add_argument("--test-dir", type=Path, required=True, help="language folders to test on")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="all by default")
    parser.add_argument("--seeds", type=int, default=20, help="draws of the support set of each full inventory")
    parser.add_argument("--tasks", type=int, default=600, help="5-way tasks of each kind")
    parser.add_argument(
        "--meta-steps", type=int, default=400, help="rounds of meta-training, for every method that has any"
    )
    parser.add_argument(
        "--valid-languages", nargs="*", help="folders of --meta-dir to choose on; drawn by the seed otherwise"
    )
    parser.add_argument("--base", type=Path, help="an encoder pack; the English one that ships by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    return parser.parse_args(arguments)


def corpora(folders: Sequence[Path]) -> list[Corpus]:
    """The corpus of each language folder; what cannot be used of them goes to the log."""
    found = [read_corpus(folder, folder.name, "ipa") for folder in progress_bar(folders, "reading languages")]
    for problem in (problem for corpus in found for problem in corpus.problems):
        logger.warning("%s", problem)
    return found


def meta_stores(
    folder: Path, valid_names: Sequence[str] | None, seed: int
) -> tuple[SegmentStore, SegmentStore, list[str]]:
    """The languages of `folder` to train on, those to choose on, and the names of these: a fifth of all, at least one.

    Raises DataError where nothing would be left to train on, UsageError for a name that is no folder.
    """
    folders = language_folders(folder)
    names = [path.name for path in folders]
    strangers = sorted(set(valid_names or ()) - set(names))
    if strangers:
        raise UsageError(f"--valid-languages {strangers[0]}: {folder} has no such folder")
    n = max(1, len(names) // 5)
    drawn = list(valid_names or np.random.default_rng(seed).permutation(names)[:n])
    if len(drawn) >= len(names):
        raise DataError(f"{folder}: {len(names)} languages are too few: some are to train on and others to choose on")
    parts = [[path for path in folders if (path.name in drawn) == held] for held in (False, True)]
    train, valid = (build_store(corpora(part), progress=progress_bar) for part in parts)
    return train, valid, sorted(map(str, drawn))


def fit(
    name: str, base: BaseModel, train: SegmentStore, valid: SegmentStore, tasks: Tasks, config: MetaTrainConfig
) -> System:
    """One method, its settings chosen on the validation tasks."""
    given = (base, train, valid, tasks)
    if name in GRIDS:
        return fit_peer(name, *given, config, progress_bar)
    if name in ("baseline", "whitened"):
        return train_baseline(name, *given, config, whiten=name == "whitened")
    changed = {
        "meta-transfer": {"hard_ratio": 0.0},
        "meta-transfer+curriculum": {},
        "meta-transfer, kernel": {"hard_ratio": 0.0, "granularity": "kernel"},
        "meta-transfer, first order": {"hard_ratio": 0.0, "first_order": True},
    }[name]
    return train_meta_transfer(name, *given, replace(config, **changed), progress_bar)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
