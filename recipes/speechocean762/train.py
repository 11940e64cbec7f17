"""Pretrain the English encoder on speechocean762, then a segmenter on its frames, and write both as a pack with its scores.

python recipes/speechocean762/train.py recipes/speechocean762/hparams/train.yaml --data_folder DIR/speechocean762
"""

from __future__ import annotations

import sys
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe, train_encoder
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import read_corpus

ATTRIBUTION = (
    "Trained on speechocean762 (OpenSLR 101), Zhang, J. et al. (2021), speechocean762: An Open-Source Non-native English Speech "
    "Corpus For Pronunciation Assessment, Interspeech 2021, CC BY 4.0. Changes made: audio re-encoded, phone alignments added."
)


def main(arguments: list[str]) -> None:
    """Prepare, train, score, save."""
    recipe = begin_recipe(arguments, many=True)
    hparams = recipe.hparams
    splits = prepare(Path(hparams["data_folder"]))

    def tests() -> dict[str, Corpus]:
        found = {"speechocean762 test speakers": splits["test"]}
        if hparams["second_test_folder"]:
            found[hparams["second_test_name"]] = read_corpus(Path(hparams["second_test_folder"]), "en", "arpabet")
        return found

    licence = "Apache-2.0; training data CC BY 4.0"
    card = {"attribution": ATTRIBUTION, "licence": licence, "recipe": "recipes/speechocean762"}
    train_encoder(recipe, splits, tests, card)


if __name__ == "__main__":
    main(sys.argv[1:])
