"""Pretrain the English encoder on speechocean762, then a segmenter on its frames, and write both as a pack with its scores.

python recipes/speechocean762/train.py recipes/speechocean762/hparams/train.yaml --data_folder DIR/speechocean762
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

from prepare import prepare

from mtl_speech.base import base_pack
from mtl_speech.corpora import read_corpus
from mtl_speech.features import build_store
from mtl_speech.files import atomic_write
from mtl_speech.logs import progress_bar
from mtl_speech.pack import save_pack
from mtl_speech.pretrain import pretrain, segment_scores
from mtl_speech.recipe import begin_recipe, recipe_checkpoints
from mtl_speech.segmenter import train_segmenter
from mtl_speech.views import make_views

logger = logging.getLogger("mtl_speech")

ATTRIBUTION = (
    "Trained on speechocean762 (OpenSLR 101), Zhang, J. et al. (2021), speechocean762: An Open-Source Non-native English Speech "
    "Corpus For Pronunciation Assessment, Interspeech 2021, CC BY 4.0. Changes made: audio re-encoded, phone alignments added."
)


def main(arguments: list[str]) -> None:
    """Prepare, train, score, save."""
    started = time.perf_counter()
    hparams, output = begin_recipe(arguments)
    splits = prepare(Path(hparams["data_folder"]), progress_bar)
    parts = {"training": [splits["train"]], "validation": [splits["valid"]]}
    checkpoints = recipe_checkpoints(hparams, output, parts)
    phonemes = sorted(splits["train"].phoneme_counts())
    n_views, n_threads = 1 + hparams["n_augmented_views"], hparams["n_threads"]
    views = make_views(splits["train"], phonemes, n_views, n_threads, hparams["seed"], progress_bar)
    valid = build_store([splits["valid"]], phonemes, progress=progress_bar)
    logger.info("features ready after %.0f s", time.perf_counter() - started)
    model, history = pretrain(views, valid, hparams["encoder"], hparams["pretrain"], checkpoints=checkpoints)
    segmenter = train_segmenter(model.encoder, views[0], hparams["seed"], progress_bar)
    tests = {"speechocean762 test speakers": splits["test"]}
    if hparams["second_test_folder"]:
        tests[hparams["second_test_name"]] = read_corpus(Path(hparams["second_test_folder"]), "en", "arpabet")
    scores = {}
    for name, corpus in tests.items():
        accuracy, macro_f1 = segment_scores(model, build_store([corpus], phonemes))
        figures = {"accuracy": round(accuracy, 4), "macro_f1": round(macro_f1, 4)}
        scores[name] = {**figures, "n_phonemes": len(corpus.phoneme_counts())}
        logger.info("%s: phone accuracy %.4f, macro-F1 %.4f", name, accuracy, macro_f1)
    card = {
        "name": "english",
        "language": "en",
        "attribution": ATTRIBUTION,
        "licence": "Apache-2.0; training data CC BY 4.0",
        "recipe": "recipes/speechocean762",
        "scores": scores,
        "validation": {key: round(value, 4) for key, value in history[-1].items() if key.startswith("valid")},
    }
    save_pack(base_pack(model.encoder, model.segment_head, tuple(phonemes), card, segmenter), output / "english")
    atomic_write(output / "history.json", json.dumps({"epochs": history, "scores": scores}, indent=1))
    checkpoints.clear()
    logger.info("done in %.0f s: %s", time.perf_counter() - started, output / "english")


if __name__ == "__main__":
    main(sys.argv[1:])
