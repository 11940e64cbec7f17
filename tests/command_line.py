"""Small folders of labelled recordings, and how the tests of the commands run them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from mtl_speech.commands.cli import main
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.pack import save_pack
from tests.helpers import PHONEMES, tiny_base, toy_recording

INVENTORY = PHONEMES[:6]


def labelled_folder(
    folder: Path, n_recordings: int, n_speakers: int, inventory: Sequence[str] = INVENTORY, seed: int = 0
) -> Path:
    """Recordings with a TextGrid beside each, the speaker being the folder; each holds every phoneme of `inventory` once."""
    for number in range(n_recordings):
        draw = seed * 1000 + number
        order = np.random.default_rng(draw).permutation(len(inventory))
        path = folder / f"s{number % n_speakers}" / f"u{number:02}.wav"
        segments = toy_recording(path, [inventory[i] for i in order], seed=draw)
        phones = [(s.start, s.end, s.phoneme) for s in segments]
        write_textgrid(path.with_suffix(".TextGrid"), 0.2 + 0.1 * len(phones), {"phones": phones})
    return folder


def save_base(folder: Path, seed: int = 0) -> Path:
    """A tiny random encoder as a pack."""
    return save_pack(tiny_base(seed).pack, folder)


def run(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process; the exit code must be `code`, and no traceback may be seen."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"exit code {result.exit_code}\n{result.output}\n{result.exc_info}"
    assert "Traceback" not in result.output
    return result


def report(folder: Path) -> dict[str, Any]:
    """What report.json in a folder says."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found
