"""English → human Punjabi: the ablation over the number of examples per phoneme, on speakers that nothing has heard.

python recipes/CommonVoice-pa/train.py recipes/CommonVoice-pa/hparams/train.yaml --data_folder DIR/pa-IN --alignments DIR/textgrids
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import ablate_over_shots, begin_recipe, shots_table
from mtl_speech.corpora.manifest import speakers_of
from mtl_speech.phonology.inventories import Phonemes, find_inventory
from mtl_speech.training.folds import fold_of_parts

logger = logging.getLogger("mtl_speech.recipes")


def main(arguments: list[str]) -> None:
    """Prepare, run the ablation for each number of examples, write the table."""
    recipe = begin_recipe(arguments)
    hparams = recipe.hparams
    lang, seed = hparams["lang"], hparams["seed"]
    given = find_inventory(hparams["inventory"]) if hparams["inventory"] else Phonemes(())
    start = recipe.start()
    prepared = prepare(Path(hparams["data_folder"]), hparams["alignments"], lang, hparams["split"], seed, recipe.output)
    counts = [len(speakers_of(prepared.splits[name])) for name in ("train", "valid", "test")]
    how = "speakers: {} to learn from, {} to choose by, {} to test on, none twice".format(*counts)
    fold = replace(fold_of_parts(prepared.splits, how, start.base), inventory=given.phonemes)
    notes = [*prepared.notes, *given.notes, *map(str, fold.train.problems)]
    for note in notes[len(prepared.notes) :]:
        logger.warning("%s", note)
    tables = ablate_over_shots(recipe, start, fold, lang, notes)
    table = shots_table(tables, f"{counts[2]} test speakers with 95 % bootstrap intervals over recordings")
    print(recipe.write_table([*table, "", *(f"- {note}" for note in prepared.notes)]))


if __name__ == "__main__":
    main(sys.argv[1:])
