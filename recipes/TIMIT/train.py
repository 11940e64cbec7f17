"""Pretrain an encoder and its segmenter on TIMIT, and report its phones, folded to 39 labels, on the core test set.

python recipes/TIMIT/train.py recipes/TIMIT/hparams/train.yaml --data_folder DIR/TIMIT
"""

from __future__ import annotations

import sys
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe, train_encoder, write_phone_reports
from mtl_speech.phonology.phone_sets import IPA_48_TO_39

ATTRIBUTION = "Trained on TIMIT, Garofolo, J. et al. (1993), TIMIT Acoustic-Phonetic Continuous Speech Corpus, LDC93S1."
LICENCE = "training data under the licence of the Linguistic Data Consortium: use and pass on as that allows"


def main(arguments: list[str]) -> None:
    """Prepare, train, score, save."""
    recipe = begin_recipe(arguments, many=True)
    prepared = prepare(Path(recipe.hparams["data_folder"]), recipe.output)
    card = {"attribution": ATTRIBUTION, "licence": LICENCE, "recipe": "recipes/TIMIT"}
    tests = {"core test set": prepared.splits["test"]}
    found = train_encoder(recipe, prepared.splits, lambda: tests, card, IPA_48_TO_39)
    print(write_phone_reports(recipe, found, prepared.notes))


if __name__ == "__main__":
    main(sys.argv[1:])
