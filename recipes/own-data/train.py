"""Validate a folder of your own recordings, adapt to its language, and report: the ablation and the learning curve.

python recipes/own-data/train.py recipes/own-data/hparams/train.yaml --data_folder DIR/my-recordings --lang pa
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mtl_speech.commands.inspect import validate
from mtl_speech.commands.recipe import begin_recipe, markdown_table
from mtl_speech.commands.workflows import ablate, adapt, evaluate
from mtl_speech.core.errors import DataError
from mtl_speech.core.options import AdaptOptions, EvaluateOptions, ValidateOptions
from mtl_speech.core.run import Run


def main(arguments: list[str]) -> None:
    """Check each folder, learn, score on other recordings, write the table."""
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    data, test, other = (
        _folder(hparams["data_folder"]),
        _folder(hparams["test_folder"]),
        _folder(hparams["other_folder"]),
    )
    shared = {"phone_set": hparams["phone_set"], "tier": hparams["tier"]}
    shared |= {"seed": hparams["seed"], "threads": hparams["n_threads"]}
    base = _folder(hparams["base"])
    with Run("python " + shlex.join(sys.argv)) as run:
        for name, folder in {"data": data, "test": test, "other": other}.items():
            if folder is None:
                continue
            checked = ValidateOptions(lang=hparams["lang"], output_dir=output / f"validate-{name}", **shared)
            try:
                validate(folder, checked, run)
            except DataError as error:
                if not hparams["accept_problems"]:
                    raise DataError(
                        f"{error}: correct them, or go on without them by --accept_problems True"
                    ) from error
        options = AdaptOptions(
            lang=hparams["lang"],
            data=data,
            test=test,
            inventory=hparams["inventory"],
            shots=hparams["shots"],
            meta_steps=hparams["meta_steps"],
            base=base,
            strategy=_folder(hparams["strategy"]),
            output_dir=output / "adapt",
            **shared,
        )
        rows = {}
        if hparams["ablation"]:
            rows = {row.name: row for row in ablate(options, run).rows}
        else:
            rows["adapted"] = adapt(options, run)
        if other is not None:
            scored = EvaluateOptions(data=other, base=base, output_dir=output / "other", **shared)
            rows["the pack on other_folder"] = evaluate(output / "adapt" / "pack", scored, run)
        figures = {
            name: [(row.macro_f1, *row.macro_f1_ci95), (row.micro_f1, *row.micro_f1_ci95)] for name, row in rows.items()
        }
        cells = [[name, *("{:.3f} [{:.3f}, {:.3f}]".format(*f) for f in each)] for name, each in figures.items()]
        run.result(recipe.write_table(markdown_table(["system", "macro-F1 [95 %]", "micro-F1 [95 %]"], cells)))


def _folder(name: str) -> Path | None:
    return Path(name) if name else None


if __name__ == "__main__":
    main(sys.argv[1:])
