"""How the scripts of all recipes begin: settings from HyperPyYAML, an output folder with a log, and threads."""

from __future__ import annotations

import atexit
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain import parse_arguments

from mtl_speech.core.distributed import is_main, only_one_process, processes, wait_for_all
from mtl_speech.core.files import only_run
from mtl_speech.core.run import CHECKPOINTS, log_to
from mtl_speech.core.settings import Config, as_dict
from mtl_speech.core.terminal import show_bars
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.model.pack import Pack, pack_hash
from mtl_speech.training.checkpoint import Checkpoints, hashes_of

# Settings that may differ between a run that was stopped and the one that goes on; recordings and base are compared by content.
NO_MATTER = frozenset("data_folder output_folder base n_threads checkpoint_minutes fresh".split())


def begin_recipe(arguments: Sequence[str], many: bool = False) -> tuple[dict[str, Any], Path]:
    """The settings of a command line (a file, and options that override it) and the folder to write to.

    The folder is made, no other run can write to it until this process ends, the log begins in it (that of a run that was stopped
    goes on), and the number of threads is set. A file of settings is the user's own, for it can run code. With `many` the recipe
    can be run by several processes, of which only the main one writes and logs; any other refuses that (UsageError).
    """
    hparams_file, _, overrides = parse_arguments(list(arguments))
    with open(hparams_file, encoding="utf-8") as file:
        hparams: dict[str, Any] = load_hyperpyyaml(file, overrides)
    output = Path(hparams["output_folder"])
    output.mkdir(parents=True, exist_ok=True)
    held = ExitStack()
    held.enter_context(show_bars())
    atexit.register(held.close)
    if many:
        held.enter_context(processes(getattr(hparams.get("pretrain"), "device", "cpu")))
    only_one_process(sys.argv[0])
    if is_main():
        held.enter_context(only_run(output, "python " + shlex.join(sys.argv)))
        log_to(output / "log.txt", append=(output / CHECKPOINTS).is_dir())
    wait_for_all()
    torch.set_num_threads(hparams["n_threads"])
    return hparams, output


def recipe_checkpoints(
    hparams: Mapping[str, Any],
    output: Path,
    parts: Mapping[str, Sequence[Corpus]],
    base: Pack | None = None,
    name: str = "",
) -> Checkpoints:
    """The checkpoints of a recipe's training, or of the one that is called `name`; none with `fresh: True`.

    Raises DataError where they are those of another run.
    """
    settings = {
        key: as_dict(value) if isinstance(value, Config) else value
        for key, value in hparams.items()
        if key not in NO_MATTER
    }
    about: dict[str, Mapping[str, object]] = {
        "settings": settings,
        "recordings": hashes_of(parts),
        "base": {"hash": pack_hash(base) if base else ""},
    }
    found = Checkpoints(output / CHECKPOINTS / name, about, hparams["checkpoint_minutes"])
    if hparams["fresh"]:
        found.clear()
    found.check()
    return found
