"""English → Punjabi: the ablation over the number of examples per phoneme, on synthetic words.

python recipes/English-Punjabi/train.py recipes/English-Punjabi/hparams/train.yaml
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from mtl_speech.commands.demo import CAVEAT, STAMP, punjabi_fold
from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.commands.recipe_training import ablate_over_shots, shots_table
from mtl_speech.core.files import atomic_write
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base, load_learner, settings_on_target, shipped

logger = logging.getLogger("mtl_speech.recipes")


def main(arguments: list[str]) -> None:
    """Make the corpus, run the ablation for each number of examples, write the table."""
    started = time.perf_counter()
    hparams, output = begin_recipe(arguments)
    seed, meta = hparams["seed"], hparams["meta"]
    base = load_base(Path(hparams["base"]) if hparams["base"] else None)
    folder = Path(hparams["strategy"]) if hparams["strategy"] else shipped("english-strategy")
    strategy, start = load_learner(load_pack(folder, "strategy"), base)
    meta = settings_on_target(start, meta)
    fold = punjabi_fold(output / "corpus", seed, hparams["n_words"])
    logger.info("%s", fold.how)
    tables = ablate_over_shots(hparams, output, (base, strategy, meta), fold, "pa", [CAVEAT], STAMP)
    table = shots_table(tables, f"the test words with 95 % bootstrap intervals over recordings ({STAMP})")
    atomic_write(output / "table.md", table)
    print(CAVEAT)
    print(table)
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
