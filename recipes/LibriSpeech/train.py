"""Pretrain an English encoder and its segmenter on LibriSpeech, and report its phones on the test part.

python recipes/LibriSpeech/train.py recipes/LibriSpeech/hparams/train.yaml --data_folder DIR/LibriSpeech --alignments DIR/alignments
"""

from __future__ import annotations

import sys
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe, train_encoder, write_phone_reports

ATTRIBUTION = (
    "Trained on LibriSpeech (OpenSLR 12), Panayotov, V. et al. (2015), Librispeech: an ASR corpus based on public domain audio "
    "books, ICASSP 2015, CC BY 4.0, with phone alignments of the Montreal Forced Aligner."
)


def main(arguments: list[str]) -> None:
    """Prepare, train, score, save."""
    recipe = begin_recipe(arguments, many=True)
    hparams = recipe.hparams
    prepared = prepare(Path(hparams["data_folder"]), hparams["alignments"], hparams["parts"], recipe.output)
    licence = "Apache-2.0; training data CC BY 4.0"
    card = {"attribution": ATTRIBUTION, "licence": licence, "recipe": "recipes/LibriSpeech"}
    name = " + ".join(hparams["parts"]["test"])
    found = train_encoder(recipe, prepared.splits, lambda: {name: prepared.splits["test"]}, card)
    print(write_phone_reports(recipe, found, prepared.notes))


if __name__ == "__main__":
    main(sys.argv[1:])
