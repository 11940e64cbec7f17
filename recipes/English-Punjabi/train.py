"""English → Punjabi: the ablation over the number of examples per phoneme, on synthetic words.

python recipes/English-Punjabi/train.py recipes/English-Punjabi/hparams/train.yaml
"""

from __future__ import annotations

import logging
import sys
import time

from mtl_speech.commands.recipe import ablate_over_shots, begin_recipe, shots_table
from mtl_speech.commands.target import CAVEAT, STAMP, punjabi_fold

logger = logging.getLogger("mtl_speech.recipes")


def main(arguments: list[str]) -> None:
    """Make the corpus, run the ablation for each number of examples, write the table."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    start = recipe.start()
    fold = punjabi_fold(recipe.output / "corpus", recipe.hparams["seed"], recipe.hparams["n_words"], start.base)
    logger.info("%s", fold.how)
    tables = ablate_over_shots(recipe, start, fold, "pa", [CAVEAT], STAMP)
    table = shots_table(tables, f"the test words with 95 % bootstrap intervals over recordings ({STAMP})")
    print(CAVEAT)
    print(recipe.write_table(table))
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
