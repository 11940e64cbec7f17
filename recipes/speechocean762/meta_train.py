"""Meta-train the strategy that the package ships on English phoneme tasks, support and query of different speakers.

python recipes/speechocean762/meta_train.py recipes/speechocean762/hparams/meta_train.yaml --data_folder DIR/speechocean762
"""

from __future__ import annotations

import sys
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe, train_strategy


def main(arguments: list[str]) -> None:
    """Prepare, train, score on the validation speakers, save."""
    recipe = begin_recipe(arguments, many=True)
    hparams = recipe.hparams
    splits = prepare(Path(hparams["data_folder"]))
    card = {"attribution": hparams["attribution"], "licence": hparams["licence"]}
    train_strategy(recipe, recipe.base(), splits, {"recipe": "recipes/speechocean762", **card})


if __name__ == "__main__":
    main(sys.argv[1:])
