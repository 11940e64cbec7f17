"""Small packs, and files that only claim to be part of one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import MetaLearner, extend
from mtl_speech.model.pack import CARD, Pack, load_pack, save_pack
from mtl_speech.model.strategy import BaseModel, new_learner
from tests.helpers import PHONEMES, meta_config, shake, toy_store


def make_pack(seed: int = 0, kind: str = "language", **card: object) -> Pack:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "head.weight": torch.randn(3, 4, generator=generator),
        "head.bias": torch.randn(3, generator=generator).to(torch.bfloat16),
        "steps": torch.tensor(7),
    }
    return Pack(kind, tensors, {"name": "pa", "phonemes": ["ə", "ɽ", "t̪ʰ"], **card})  # type: ignore[arg-type]


def weights_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[object], end: int, start: int = 0, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def edit_card(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    edit(card)
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


def saved(pack: Pack, folder: Path) -> Pack:
    """The pack as it comes back from the disk."""
    return load_pack(save_pack(pack, folder / "pack"), pack.kind)


def prepared(base: BaseModel, **settings: object) -> tuple[MetaLearner, MetaTrainConfig]:
    config = meta_config(**settings)
    learner = new_learner(base, PHONEMES, config)
    prepare_learner(learner, toy_store(), config)
    extend(learner, ("z",))
    shake(learner)
    return learner, config
