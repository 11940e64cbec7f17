"""English → Punjabi: the ablation over the number of examples per phoneme, on synthetic words.

python recipes/English-Punjabi/train.py recipes/English-Punjabi/hparams/train.yaml
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mtl_speech.ablate import Ablation, ablate
from mtl_speech.base import load_base, shipped
from mtl_speech.config import AdaptConfig
from mtl_speech.demo import CAVEAT, STAMP, punjabi_fold
from mtl_speech.files import atomic_write
from mtl_speech.logs import progress_bar
from mtl_speech.pack import load_pack
from mtl_speech.recipe import begin_recipe
from mtl_speech.results import write_results
from mtl_speech.start import few_shots
from mtl_speech.strategy import load_learner, settings_on_target

logger = logging.getLogger("mtl_speech.recipes")


def markdown(tables: Mapping[int, Ablation]) -> str:
    """A row a system, a column a number of examples; then the paired gains."""
    names = [row.name for row in next(iter(tables.values())).rows]
    head = "| system | " + " | ".join(f"K = {k}" for k in tables) + " |"
    lines = [head, "|---|" + "---:|" * len(tables)]
    for i, name in enumerate(names):
        rows = [ablation.rows[i] for ablation in tables.values()]
        cells = [f"{r.macro_f1:.3f} [{r.macro_f1_ci95[0]:.3f}, {r.macro_f1_ci95[1]:.3f}]" for r in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for i, name in enumerate(names[1:], start=1):
        gains = [ablation.rows[i].difference_to_previous for ablation in tables.values()]
        cells = [f"{g.mean:+.3f} [{g.ci95[0]:+.3f}, {g.ci95[1]:+.3f}]" for g in gains if g is not None]
        lines.append(f"| gain of {name} over the row before | " + " | ".join(cells) + " |")
    n_scored = [len(next(iter(ablation.systems.values()))[0].scores.phonemes) for ablation in tables.values()]
    lines.append("| phonemes scored (with K examples) | " + " | ".join(map(str, n_scored)) + " |")
    return "\n".join(
        [*lines, "", f"Macro-F1 on the test words with 95 % bootstrap intervals over recordings ({STAMP}).", ""]
    )


def main(arguments: list[str]) -> None:
    """Make the corpus, run the ablation for each number of examples, write the table."""
    started = time.perf_counter()
    hparams, output = begin_recipe(arguments)
    seed, meta = hparams["seed"], hparams["meta"]
    base = load_base(Path(hparams["base"]) if hparams["base"] else None)
    folder = Path(hparams["strategy"]) if hparams["strategy"] else shipped("english-strategy")
    strategy, start = load_learner(load_pack(folder, "strategy"), base)
    meta = settings_on_target(start, meta)
    fold = punjabi_fold(output / "corpus", seed, hparams["n_words"], progress_bar)
    logger.info("%s", fold.how)
    tables: dict[int, Ablation] = {}
    for shots in hparams["shots"]:
        config = AdaptConfig(lang="pa", shots=shots, meta_steps=meta.meta_steps if shots > 1 else 0, seed=seed)
        tables[shots] = ablate(base, strategy, [few_shots(fold, config)], config, meta, progress_bar)
        final = tables[shots].systems["+ curriculum"][0]
        write_results(
            output / f"k{shots}",
            [final],
            base,
            config,
            meta,
            command="python " + " ".join(sys.argv),
            final=final,
            ablation=tables[shots],
            notes=[CAVEAT, fold.how, *final.notes],
            stamp=STAMP,
        )
        for row in tables[shots].rows:
            logger.info("K = %d: %s: macro-F1 %.4f, micro-F1 %.4f", shots, row.name, row.macro_f1, row.micro_f1)
    table = markdown(tables)
    atomic_write(output / "table.md", table)
    print(CAVEAT)
    print(table)
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
