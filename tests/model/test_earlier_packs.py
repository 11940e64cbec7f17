"""Packs that an earlier version wrote: they load, answer as they did, and `verify` passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.command_line import run
from tests.data.packs.answers import answers

PACKS = Path(__file__).resolve().parent.parent / "data" / "packs"


def test_packs_of_earlier_versions_answer_as_they_did() -> None:
    expected = json.loads((PACKS / "answers.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(answers(PACKS)))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, list) and isinstance(value[0], list):
            np.testing.assert_allclose(found[key], value, atol=2e-4, err_msg=key)
        else:
            assert found[key] == value, key


def test_packs_of_earlier_versions_are_verified() -> None:
    names = ("encoder", "strategy", "language")
    said = run("verify", *(PACKS / name for name in names), "--base", PACKS / "encoder").stdout
    assert "FAILED" not in said and [said.count(f"/{name}: data only") for name in names] == [1, 1, 1]
