"""English → human Punjabi: the ablation over the number of examples per phoneme, on speakers that nothing has heard.

python recipes/CommonVoice-pa/train.py recipes/CommonVoice-pa/hparams/train.yaml --data_folder DIR/pa-IN --alignments DIR/textgrids
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.commands.recipe_training import ablate_over_shots, shots_table
from mtl_speech.core.files import atomic_write
from mtl_speech.corpora.manifest import speakers_of
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base, load_learner, settings_on_target, shipped
from mtl_speech.phonology.inventories import Phonemes, find_inventory
from mtl_speech.training.folds import fold_of_parts

logger = logging.getLogger("mtl_speech.recipes")


def main(arguments: list[str]) -> None:
    """Prepare, run the ablation for each number of examples, write the table."""
    hparams, output = begin_recipe(arguments)
    lang, seed = hparams["lang"], hparams["seed"]
    given = find_inventory(hparams["inventory"]) if hparams["inventory"] else Phonemes(())
    base = load_base(Path(hparams["base"]) if hparams["base"] else None)
    folder = Path(hparams["strategy"]) if hparams["strategy"] else shipped("english-strategy")
    strategy, start = load_learner(load_pack(folder, "strategy"), base)
    meta = settings_on_target(start, hparams["meta"])
    prepared = prepare(Path(hparams["data_folder"]), hparams["alignments"], lang, hparams["split"], seed, output)
    counts = [len(speakers_of(prepared.splits[name])) for name in ("train", "valid", "test")]
    how = "speakers: {} to learn from, {} to choose by, {} to test on, none twice".format(*counts)
    fold = replace(fold_of_parts(prepared.splits, how), inventory=given.phonemes)
    notes = [*prepared.notes, *given.notes, *map(str, fold.train.problems)]
    for note in notes[len(prepared.notes) :]:
        logger.warning("%s", note)
    tables = ablate_over_shots(hparams, output, (base, strategy, meta), fold, lang, notes)
    table = shots_table(tables, f"{counts[2]} test speakers with 95 % bootstrap intervals over recordings")
    table += "".join(f"\n- {note}" for note in prepared.notes) + "\n"
    atomic_write(output / "table.md", table)
    print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
