"""Packs: what goes in comes out, nothing is lost, and nothing hostile comes in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtl_speech import __version__
from mtl_speech.core.errors import PackError
from mtl_speech.model.pack import CARD, WEIGHTS, Pack, base_entry, load_pack, pack_hash, require_base, save_pack
from tests.pack_files import make_pack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pack(make_pack(), tmp_path / "pa")


# What comes out is what went in


def test_round_trip_is_exact_to_the_bit(folder: Path) -> None:
    pack, loaded = make_pack(), load_pack(folder, "language")
    assert loaded.kind == "language"
    assert loaded.tensors.keys() == pack.tensors.keys()
    for name, tensor in pack.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert loaded.tensors[name].shape == tensor.shape
        assert torch.equal(loaded.tensors[name], tensor)
    assert {key: loaded.card[key] for key in pack.card} == pack.card
    assert loaded.card["format_version"] == 1
    assert loaded.card["package_version"] == __version__
    assert loaded.card["sha256"] == pack_hash(pack) == pack_hash(loaded)
    assert {"name": "head.weight", "dtype": "F32", "shape": [3, 4]} in loaded.card["weights"]["tensors"]  # type: ignore[index]


def test_saving_a_loaded_pack_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = save_pack(load_pack(folder), tmp_path / "again")
    for name in (CARD, WEIGHTS):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_views_and_gradients_are_saved_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    pack = Pack("encoder", {"a": whole.T, "b": whole[:2], "c": whole}, {})
    loaded = load_pack(save_pack(pack, tmp_path / "p"))
    assert torch.equal(loaded.tensors["a"], whole.T)
    assert torch.equal(loaded.tensors["b"], whole[:2])
    assert torch.equal(loaded.tensors["c"], whole)


def test_hash_is_of_names_shapes_types_and_bytes_in_any_order() -> None:
    pack = make_pack()
    tensors = dict(reversed(list(pack.tensors.items())))
    assert pack_hash(Pack("encoder", tensors, {})) == pack_hash(pack)
    weight = tensors["head.weight"]
    changes = [
        {**tensors, "head.weight": weight + 1e-6},
        {**tensors, "head.weight": weight.reshape(4, 3)},
        {**tensors, "head.weight": weight.view(torch.int32)},
        {**{name: tensor for name, tensor in tensors.items() if name != "steps"}, "step": tensors["steps"]},
    ]
    assert len({pack_hash(Pack("language", change, {})) for change in [tensors, *changes]}) == 5


def test_base_is_required_by_its_hash(tmp_path: Path) -> None:
    base, other = make_pack(1, "encoder", name="english"), make_pack(2, "encoder", name="english")
    pack = load_pack(save_pack(make_pack(base=base_entry(base)), tmp_path / "p"))
    require_base(pack, base)
    with pytest.raises(PackError) as caught:
        require_base(pack, other)
    assert pack_hash(base) in str(caught.value)
    assert pack_hash(other) in str(caught.value)
    with pytest.raises(PackError, match="'base' is missing"):
        require_base(make_pack(), base)


def test_values_of_the_card_are_checked_when_asked_for() -> None:
    pack = make_pack(score=1, ok=True, mixed=["a", 1])
    assert pack.value("score", float) == 1.0
    assert pack.value("ok", bool) is True
    assert pack.strings("phonemes") == ("ə", "ɽ", "t̪ʰ")
    for key, type_ in (("ok", int), ("score", str), ("absent", str)):
        with pytest.raises(PackError, match=f"pack 'pa': '{key}'"):
            pack.value(key, type_)
    with pytest.raises(PackError, match="'mixed' is not a list of strings"):
        pack.strings("mixed")


# Nothing is lost


def test_the_earlier_pack_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pa"
    for seed in range(3):
        save_pack(make_pack(seed), folder)
    assert pack_hash(load_pack(folder)) == pack_hash(make_pack(2))
    assert pack_hash(load_pack(tmp_path / "pa.previous")) == pack_hash(make_pack(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pa", "pa.previous"]


@pytest.mark.parametrize(
    ("step", "call"),
    [("mkdir", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("rename", 1), ("rename", 2), ("rename", 3)],
)
def test_a_save_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    folder = tmp_path / "pa"
    save_pack(make_pack(0), folder)
    save_pack(make_pack(1), folder)
    real, calls = getattr(os, step), 0

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, failing)
        with pytest.raises(PackError, match="No space left on device"):
            save_pack(make_pack(2), folder)
    assert pack_hash(load_pack(folder)) == pack_hash(make_pack(1))
    assert pack_hash(load_pack(tmp_path / "pa.previous")) == pack_hash(make_pack(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pa", "pa.previous"]


ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, sys
from pathlib import Path
import torch
from mtl_speech.model.pack import Pack, save_pack
step, call, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
real, calls = getattr(os, step), 0
def killing(*args, **kwargs):
    global calls
    calls += 1
    if calls == call:
        os._exit(9)
    return real(*args, **kwargs)
setattr(os, step, killing)
save_pack(Pack("language", {"a": torch.ones(3)}, {}), folder)
"""


@pytest.mark.parametrize(("step", "call"), [("fsync", 1), ("fsync", 2), ("rename", 1), ("rename", 2)])
def test_a_save_that_is_killed_loses_nothing(folder: Path, step: str, call: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, step, str(call), str(folder)], check=False, cwd=ROOT)
    assert done.returncode == 9
    if (step, call) == ("rename", 2):  # between the two renames: the message says how to get it back
        with pytest.raises(PackError, match=r"a save was cut short: rename .*pa\.previous to pa"):
            load_pack(folder)
        (folder.parent / "pa.previous").rename(folder)
    assert pack_hash(load_pack(folder)) == pack_hash(make_pack())


def test_only_packs_are_replaced(tmp_path: Path, folder: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "field.txt").write_text("cannot be made again")
    with pytest.raises(PackError, match=r"holds other things than a pack \(field.txt\)"):
        save_pack(make_pack(), notes)
    (tmp_path / "pa.previous").mkdir()
    (tmp_path / "pa.previous" / "mine.wav").write_bytes(b"RIFF")
    with pytest.raises(PackError, match="mine.wav"):
        save_pack(make_pack(1), folder)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(PackError, match="exists and is not a pack"):
        save_pack(make_pack(), tmp_path / "file")
    assert (notes / "field.txt").read_text() == "cannot be made again"
    assert (tmp_path / "pa.previous" / "mine.wav").exists()
    assert pack_hash(load_pack(folder)) == pack_hash(make_pack())


@pytest.mark.parametrize(
    ("tensors", "card", "message"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, {}, "not finite"),
        ({"a": torch.tensor([float("inf")])}, {}, "not finite"),
        ({"../a": torch.ones(2)}, {}, "name '../a'"),
        ({"__metadata__": torch.ones(2)}, {}, "metadata|tensors"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, {}, "complex64"),
        ({"a": torch.ones(0)}, {}, "impossible shape"),
        ({}, {}, "declares 0 tensors"),
        ({"a": torch.ones(2)}, {"score": float("nan")}, "not plain JSON"),
        ({"a": torch.ones(2)}, {"path": Path("x")}, "not plain JSON"),
        ({"a": torch.ones(2)}, {"name": "\x1b[2J"}, "control characters"),
        ({"a": torch.ones(2)}, {"text": "x" * (1 << 20)}, "more than the 1,048,576 allowed"),
        ({"a": torch.ones(2)}, {"base": {"name": "en"}}, "'base' does not hold"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path: Path, tensors: dict[str, torch.Tensor], card: dict[str, object], message: str
) -> None:
    with pytest.raises(PackError, match=message):
        save_pack(Pack("language", tensors, card), tmp_path / "pa")
    assert list(tmp_path.iterdir()) == []
