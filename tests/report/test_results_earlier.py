"""An earlier pack is never lost: at every instant a whole pack lies in the folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_speech.core.errors import PackError
from mtl_speech.core.files import atomic_write
from mtl_speech.model.pack import Pack, load_pack, pack_hash, save_pack
from mtl_speech.report.results import earlier_kept, keep_earlier


def pack(number: int) -> Pack:
    return Pack("encoder", {"w": torch.full((3,), float(number))}, {"name": f"pack-{number}"})


def write(folder: Path, number: int) -> list[str]:
    """What a run does at its end; gives what it says."""
    said: list[str] = []
    with earlier_kept(folder, said.append):
        save_pack(pack(number), folder / "pack")
        atomic_write(folder / "report.json", f"report {number}")
        atomic_write(folder / "examples.json", f"examples {number}")
    return said


def whole_packs(folder: Path) -> set[str]:
    """The names of all packs below a folder that can be loaded."""
    found = set()
    for card in folder.rglob("card.json"):
        try:
            found.add(load_pack(card.parent).name)
        except PackError:
            continue
    return found


def test_a_first_run_keeps_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, 1) == []
    assert {path.name for path in tmp_path.iterdir()} == {"pack", "report.json", "examples.json"}


def test_the_same_again_is_kept_once(tmp_path: Path) -> None:
    """As after a run that was killed when its pack stood already; another report beside the same pack is kept."""
    save_pack(pack(1), tmp_path / "pack")
    assert write(tmp_path, 1) == write(tmp_path, 1) == []
    assert {path.name for path in tmp_path.iterdir()} == {"pack", "report.json", "examples.json"}
    atomic_write(tmp_path / "report.json", "report of other recordings")
    assert len(write(tmp_path, 1)) == 1
    assert (tmp_path / "earlier" / "1" / "report.json").read_text() == "report of other recordings"


def test_every_earlier_run_is_kept_with_its_report(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for number in (1, 2, 3):
        atomic_write(tmp_path / "log.txt", "log")
        said = write(tmp_path, number)
        assert said == (
            [f"the earlier pack and report are kept in {tmp_path / 'earlier' / str(number - 1)}"] if number > 1 else []
        )
    assert load_pack(tmp_path / "pack").name == "pack-3"
    for number in (1, 2):
        kept = tmp_path / "earlier" / str(number)
        assert {path.name for path in kept.iterdir()} == {"pack", "report.json", "examples.json"}
        assert pack_hash(load_pack(kept / "pack")) == pack_hash(pack(number))
        assert (kept / "report.json").read_text() == f"report {number}"
    assert {p.name for p in tmp_path.iterdir()} == {
        "pack",
        "report.json",
        "examples.json",
        "earlier",
        "corpus",
        "log.txt",
    }


def test_what_save_pack_keeps_is_not_there_twice(tmp_path: Path) -> None:
    save_pack(pack(1), tmp_path / "pack")
    write(tmp_path, 2)
    assert not (tmp_path / "pack.previous").exists() and whole_packs(tmp_path) == {"pack-1", "pack-2"}


@pytest.mark.parametrize("function", ["rename", "replace", "fsync", "mkdir"])
def test_whatever_step_fails_a_whole_pack_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Every call of one function of the system in turn fails, as if the power went at that instant."""
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        write(folder, 1)
        write(folder, 2)
        calls = 0
        real = getattr(os, function)

        def failing(*arguments: Any, _step: int = step, _folder: Path = folder, _real: Any = real, **given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > _step:
                assert {"pack-1", "pack-2"} <= whole_packs(_folder)
                raise KeyboardInterrupt
            return _real(*arguments, **given)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing)
            try:
                write(folder, 3)
                finished = True
            except KeyboardInterrupt:
                finished = False
        assert {"pack-1", "pack-2"} <= whole_packs(folder), f"{function}, call {step + 1}"
        if finished:
            assert step > 0 and load_pack(folder / "pack").name == "pack-3"
            return
        write(folder, 4)  # and the next run goes on
        assert {"pack-1", "pack-2", "pack-4"} <= whole_packs(folder)
        assert load_pack(folder / "pack").name == "pack-4"
        assert not list(folder.rglob("*.tmp"))
    raise AssertionError(f"os.{function} was called a hundred times")


def test_a_run_that_was_interrupted_leaves_one_copy(tmp_path: Path) -> None:
    write(tmp_path, 1)
    first = keep_earlier(tmp_path)
    assert first == keep_earlier(tmp_path) == tmp_path / "earlier" / "1"
    assert load_pack(tmp_path / "pack").name == "pack-1", "it is still under its old name"
    write(tmp_path, 2)
    assert [p.name for p in (tmp_path / "earlier").iterdir()] == ["1"]


def test_nothing_is_replaced_when_it_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, 2)
    assert load_pack(tmp_path / "pack").name == "pack-1" and (tmp_path / "report.json").read_text() == "report 1"
