"""Small folders of labelled recordings, and how the tests of the commands run them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result

from mtl_speech.commands.cli import main
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.language_pack import LanguageModel, language_pack
from mtl_speech.model.learner import Head
from mtl_speech.model.pack import save_pack
from mtl_speech.model.segmenter import Timing, new_segmenter
from mtl_speech.model.strategy import base_pack, new_learner
from tests.helpers import PHONEMES, meta_config, tiny_base, toy_recording

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


def save_recogniser(folder: Path, cards: Mapping[str, Mapping[str, object]]) -> None:
    """base/, of random weights with a segmenter, and on it a language pack ("sw") of random weights for each card, by name."""
    base = tiny_base()
    learner = new_learner(base, INVENTORY, meta_config())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segmenter = new_segmenter(base.encoder)
        head = Head(torch.randn(1, len(INVENTORY), learner.theta.shape[1]), torch.zeros(1, len(INVENTORY)))
    pack = base_pack(base.encoder, base.head, base.phonemes, {"name": "tiny"}, segmenter)
    save_pack(pack, folder / "base")
    model = LanguageModel(learner, head, INVENTORY, timing=Timing(segmenter, torch.full((len(INVENTORY),), 2.0), 0.5))
    for name, card in cards.items():
        made = language_pack(model, replace(base, pack=pack), meta_config(), "sw", {"name": "sw-0", **card})
        save_pack(made, folder / name)
