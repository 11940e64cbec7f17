"""Meta-train a strategy on phoneme tasks of LibriSpeech, and score it on tasks of the test speakers.

python recipes/LibriSpeech/meta_train.py recipes/LibriSpeech/hparams/meta_train.yaml --data_folder DIR/LibriSpeech
"""

from __future__ import annotations

import sys
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe, train_strategy, write_task_table


def main(arguments: list[str]) -> None:
    """Prepare, train, score, save."""
    recipe = begin_recipe(arguments, many=True)
    hparams = recipe.hparams
    base = recipe.base()
    prepared = prepare(Path(hparams["data_folder"]), hparams["alignments"], hparams["parts"], recipe.output)
    card = {"recipe": "recipes/LibriSpeech"}
    n_scored = hparams["max_scored_segments"]
    start, learner = train_strategy(recipe, base, prepared.splits, card, n_scored)
    test = base.hear([prepared.splits["test"]], start.phonemes)
    learners = {"closed-form start": start, "+ meta-training": learner}
    print(write_task_table(recipe, learners, test, prepared.notes, n_scored))


if __name__ == "__main__":
    main(sys.argv[1:])
