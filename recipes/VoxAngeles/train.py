"""Meta-train on some languages, choose on others, test on languages used for neither; the ablation table.

python recipes/VoxAngeles/train.py recipes/VoxAngeles/hparams/train.yaml --data_folder DIR/voxangeles
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import yaml
from prepare import prepare
from table import as_json, markdown, results, row_of

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.core.files import atomic_write
from mtl_speech.core.run import CHECKPOINTS
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.augment import WaveformAugment
from mtl_speech.features.store import build_store
from mtl_speech.model.pack import save_pack
from mtl_speech.model.strategy import strategy_pack
from mtl_speech.training.meta_test import (
    Setup,
    Trained,
    benchmark_tasks,
    train_baseline,
    train_meta_transfer,
)

logger = logging.getLogger("mtl_speech.recipes")


def read_languages(path: Path) -> dict[str, list[str]]:
    """The language split: lists under train, valid and test that share no language."""
    split: dict[str, list[str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    everything = [name for part in ("train", "valid", "test") for name in split[part]]
    if len(set(everything)) != len(everything):
        raise ValueError(f"{path}: a language stands in two parts")
    return split


def main(arguments: list[str]) -> None:
    """Train the rows of the ablation, then read the test languages and score."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    folder = Path(hparams["data_folder"])
    languages = read_languages(Path(hparams["languages_file"]))
    base = recipe.base()
    meta, seed = hparams["meta"], hparams["seed"]

    def corpora_of(part: str) -> list[Corpus]:
        return prepare(folder, languages[part], part)

    parts = {"training": corpora_of("train"), "validation": corpora_of("valid")}
    train, valid = (base.hear(corpora) for corpora in parts.values())
    views = [
        build_store(parts["training"], train.phonemes, WaveformAugment(number), front_end=base.front_end)
        for number in range(1, hparams["n_views"])
    ]
    transfer, curriculum = (recipe.checkpoints(parts, base.pack, name) for name in ("meta-transfer", "curriculum"))
    tasks = benchmark_tasks(valid, hparams["n_tasks"] // 2, hparams["n_seeds"] // 2, seed + 1)
    setup = Setup(base, train, valid, tasks, meta, views)
    plain = replace(setup, config=replace(meta, hard_ratio=0.0))
    systems: list[Trained] = [
        train_baseline("baseline", setup, whiten=False),
        train_baseline("baseline, whitened", setup, whiten=True),
        train_meta_transfer("+ meta-transfer", plain, transfer),
        train_meta_transfer("+ curriculum", setup, curriculum),
    ]
    card = {"name": "voxangeles", "licence": "training data CC BY-NC 4.0: not for commercial use"}
    save_pack(strategy_pack(systems[-1].learner, base, meta, card), output / "strategy")
    logger.info("training ended after %.0f s; the test languages are read now", time.perf_counter() - started)
    test = base.hear(corpora_of("test"))
    test_tasks = benchmark_tasks(test, hparams["n_tasks"], hparams["n_seeds"], seed + 2)
    rows = [row_of(system, test, test_tasks) for system in systems]
    names = [system.name for system in systems]
    pairs = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2]), (names[2], names[3])]
    facts = {"command": "python " + " ".join(sys.argv), "seed": seed, "languages": languages, "base": base.pack.name}
    data = results(rows, pairs, {**facts, "seconds": round(time.perf_counter() - started)})
    atomic_write(output / "table.json", as_json(data))
    atomic_write(output / "table.md", markdown(data))
    print(markdown(data))
    for checkpoints in (transfer, curriculum):
        checkpoints.clear()
    (output / CHECKPOINTS).rmdir()
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
