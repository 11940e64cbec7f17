"""How the scripts of all recipes begin: settings from HyperPyYAML, an output folder with a log, and threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import parse_arguments

from mtl_speech.logs import log_to


def begin_recipe(arguments: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The settings of a command line (a file, and options that override it) and the folder to write to.

    The folder is made, the log begins in it, and the number of threads is set. A file of settings is the user's own, for it can run
    code.
    """
    hparams_file, _, overrides = parse_arguments(list(arguments))
    with open(hparams_file, encoding="utf-8") as file:
        hparams: dict[str, Any] = load_hyperpyyaml(file, overrides)
    output = Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    log_to(output / "log.txt")
    torch.set_num_threads(hparams["n_threads"])
    return hparams, output
