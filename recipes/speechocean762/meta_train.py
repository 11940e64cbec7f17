"""Meta-train the strategy that the package ships on English phoneme tasks, support and query of different speakers.

python recipes/speechocean762/meta_train.py recipes/speechocean762/hparams/meta_train.yaml --data_folder DIR/speechocean762
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from prepare import prepare

from mtl_speech.base import load_base
from mtl_speech.evaluate import benchmark_tasks, score_tasks, summary
from mtl_speech.features import build_store
from mtl_speech.files import atomic_write
from mtl_speech.logs import progress_bar
from mtl_speech.meta_train import MetaTrainer
from mtl_speech.pack import save_pack
from mtl_speech.recipe import begin_recipe, recipe_checkpoints
from mtl_speech.strategy import new_learner, prepare_learner, strategy_pack

logger = logging.getLogger("mtl_speech.recipes")


def main(arguments: list[str]) -> None:
    """Prepare, meta-train, score on the validation speakers, save."""
    started = time.perf_counter()
    hparams, output = begin_recipe(arguments)
    base = load_base(Path(hparams["base"]) if hparams["base"] else None)
    splits = prepare(Path(hparams["data_folder"]), progress_bar)
    parts = {"training": [splits["train"]], "validation": [splits["valid"]]}
    checkpoints = recipe_checkpoints(hparams, output, parts, base.pack)
    train = build_store([splits["train"]], base.phonemes, progress=progress_bar)
    drawn = np.random.default_rng(hparams["seed"]).permutation(len(train))[: hparams["max_segments"]]
    train = train.select(torch.from_numpy(np.sort(drawn)))
    valid = build_store([splits["valid"]], base.phonemes, progress=progress_bar)
    tasks = benchmark_tasks(valid, 200, 5, hparams["seed"] + 1, by="speaker")
    learner = new_learner(base, base.phonemes, hparams["meta"])
    prepare_learner(learner, train, hparams["meta"])
    trainer = MetaTrainer(learner, train, hparams["meta"], by="speaker")
    history = trainer.train(
        lambda current: summary(score_tasks(current, valid, tasks))["mean"], progress_bar, checkpoints
    )
    scores = {kind: round(value, 4) for kind, value in summary(score_tasks(learner, valid, tasks)).items()}
    logger.info("validation speakers: %s", scores)
    card = {
        "name": "english-strategy",
        "language": "en",
        "attribution": base.pack.value("attribution", str),
        "licence": base.pack.value("licence", str),
        "recipe": "recipes/speechocean762",
        "validation": scores,
    }
    save_pack(strategy_pack(learner, base, hparams["meta"], card), output / "english-strategy")
    facts = {"rounds": history.rounds, "validations": history.validations, "scores": scores}
    atomic_write(output / "history.json", json.dumps(facts, indent=1))
    checkpoints.clear()
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
