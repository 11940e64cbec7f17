"""How the tests run a recipe: in this process, as `python recipes/<recipe>/<script>.py` would, on recordings of buzzes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from mtl_speech.commands import recipe as shared
from mtl_speech.core.run import close_log
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.pack import save_pack
from tests.helpers import tiny_base, toy_recording

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = ROOT / "recipes"


@contextmanager
def loaded(script: Path) -> Iterator[ModuleType]:
    """The module of a recipe's script. Inside, the modules that lie beside it can be imported, as when Python runs it."""
    beside = {path.stem for path in script.parent.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in beside & set(sys.modules)}
    sys.path.insert(0, str(script.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"recipe_{script.stem}", script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where its dataclasses look
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(script.parent))
        for name in (*beside, f"recipe_{script.stem}"):
            sys.modules.pop(name, None)
        sys.modules.update(before)
        close_log()


def command_of(hparams: Path) -> list[str]:
    """The words of the command that stands in the comment of a YAML file of settings."""
    found = re.search(r"^# Command: python (.+)$", hparams.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{hparams} does not say its command"
    return shlex.split(found[1])


def run(
    hparams: Path, settings: Mapping[str, object], patches: Mapping[str, object] | None = None
) -> tuple[Path, ModuleType]:
    """Run the command of a YAML file from the repository's root; gives its output folder and the script's module.

    `settings` are added to the command, in place of its own where both name one. `patches` replaces names in the script, or in
    what the recipes share where the script does not have them.
    """
    script, yaml, *given = command_of(hparams)
    options = dict(zip(given[::2], given[1::2], strict=True)) | {f"--{k}": str(v) for k, v in settings.items()}
    arguments = [yaml, *(part for pair in options.items() for part in pair)]
    with loaded(ROOT / script) as module, pytest.MonkeyPatch.context() as patch:
        for name, value in (patches or {}).items():
            patch.setattr(module if hasattr(module, name) else shared, name, value)
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *arguments])
        module.main(arguments)
    return Path(str(settings["output_folder"])), module


def recording(path: Path, sounds: Sequence[str], labels: Sequence[str], seed: int = 0) -> None:
    """Write a recording of buzzes (`sounds` as in `toy_recording`) and its TextGrid with the tiers words and phones."""
    segments = toy_recording(path, sounds, seed)
    phones = [(s.start, s.end, label) for s, label in zip(segments, labels, strict=True)]
    words = [(segments[0].start, segments[-1].end, path.stem)]
    write_textgrid(path.with_suffix(".TextGrid"), segments[-1].end + 0.1, {"words": words, "phones": phones})


def write_base(folder: Path) -> Path:
    """A tiny encoder with random weights, as a pack."""
    return save_pack(tiny_base().pack, folder)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file as other programs read it: NaN, which Python would write and read, is none."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{path.name}: {name} is not JSON")

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return found


def log_lines(output: Path) -> list[str]:
    """The messages of a run's log, without the times."""
    return [line.split(" ", 3)[3] for line in (output / "log.txt").read_text(encoding="utf-8").splitlines()]


def place_of(lines: Sequence[str], start: str) -> int:
    """Where the one line that begins with `start` stands."""
    found = [number for number, line in enumerate(lines) if line.startswith(start)]
    assert len(found) == 1, f"{len(found)} lines begin with '{start}'"
    return found[0]


def markdown_tables(text: str) -> list[dict[str, list[str]]]:
    """The tables of a Markdown text: the first cell of each row to the others; the head of each under ''."""
    tables: list[dict[str, list[str]]] = []
    for block in text.split("\n\n"):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
        if rows:
            tables.append({"": rows[0]} | {row[0]: row[1:] for row in rows[2:]})
    return tables


def numbers(cell: str) -> list[float]:
    """The numbers in a cell, such as 0.512 and 0.034 in "0.512 ± 0.034" and in ".512 ± .034"."""
    return [float(number) for number in re.findall(r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)", cell.replace(",", ""))]
