"""Packs: what goes in comes out, nothing is lost, and nothing hostile comes in."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech import __version__
from mtl_speech.core import tensor_files
from mtl_speech.core.errors import PackError
from mtl_speech.model.pack import CARD, WEIGHTS, Pack, base_entry, load_pack, pack_hash, require_base, save_pack


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pack(make_pack(), tmp_path / "pa")


def edit_card(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    edit(card)
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


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


# Nothing is let in


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name_is_refused_and_does_not_run(folder: Path, tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(target), protocol=protocol))
    with pytest.raises(PackError, match="holds a pickle, which can run code"):
        load_pack(folder)
    assert not target.exists()


def test_what_torch_save_writes_is_refused(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / WEIGHTS)
    with pytest.raises(PackError, match="holds a pickle"):
        load_pack(folder)


@pytest.mark.parametrize("name", ["model.pkl", "weights.PT", "setup.py", "x.npy"])
def test_files_that_can_hold_code_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(PackError, match=re.escape(name)):
        load_pack(folder)


HOSTILE = {
    "empty": (b"", "is cut short"),
    "shorter than a header length": (b"\x01\x02", "is cut short"),
    "header of 4 GB": (struct.pack("<Q", 4 << 30) + b"{}", r"claims 4,294,967,296 bytes and the file has 10"),
    "header of 2^64 - 1": (b"\xff" * 8 + b"{}", "is cut short"),
    "header over the limit": (weights_file(b" " * (2 << 20)), "header of 2,097,152 bytes, more than the 1,048,576"),
    "header that is not JSON": (weights_file(b"{nonsense"), "the header is not the JSON that is allowed"),
    "header that is not UTF-8": (weights_file(b'{"\xff": 1}'), "the header is not the JSON that is allowed"),
    "header that is a list": (weights_file([1]), "not a JSON object"),
    "header nested deeply": (weights_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "the header is not"),
    "header nested less deeply": (weights_file(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), "nested too deeply"),
    "a name twice": (weights_file(b'{"a": 1, "a": 2}'), "a key stands twice"),
    "no tensors": (weights_file({}), "declares 0 tensors"),
    "too many tensors": (weights_file({f"t{i}": 0 for i in range(5000)}), "declares 5,000 tensors"),
    "path in a name": (weights_file({"../../etc/passwd": entry([1], 4)}, b"1234"), "name '../../etc/passwd'"),
    "two dots in a name": (weights_file({"a..b": entry([1], 4)}, b"1234"), r"name 'a\.\.b'"),
    "absurd shape": (weights_file({"a": entry([1 << 40, 1 << 40], 4)}, b"1234"), "needs 4,835,703,278,458,516,698"),
    "shape that wraps 64 bits": (weights_file({"a": entry([1 << 32, 1 << 32], 0)}), "and its range has 0"),
    "negative shape": (weights_file({"a": entry([-1, -1], 4)}, b"1234"), "impossible shape"),
    "fractional shape": (weights_file({"a": entry([1.0], 4)}, b"1234"), "impossible shape"),
    "true as shape": (weights_file({"a": entry([True], 4)}, b"1234"), "impossible shape"),
    "many dimensions": (weights_file({"a": entry([1] * 9, 4)}, b"1234"), "impossible shape"),
    "empty tensor": (weights_file({"a": entry([0, 1 << 40], 0)}), "impossible shape"),
    "negative range": (weights_file({"a": entry([1], 4, -4)}, b"1234"), "impossible byte range"),
    "range backwards": (weights_file({"a": entry([1], 0, 4)}, b"1234"), "range has -4"),
    "range past the end": (weights_file({"a": entry([2], 8)}, b"1234"), "declares 8 bytes of tensors and holds 4"),
    "bytes left over": (weights_file({"a": entry([1], 4)}, b"12345"), "declares 4 bytes of tensors and holds 5"),
    "overlap": (weights_file({"a": entry([1], 4), "b": entry([1], 4)}, b"1234"), "starts at byte 0 where 4 is due"),
    "gap": (weights_file({"a": entry([1], 8, 4)}, b"12345678"), "starts at byte 4 where 0 is due"),
    "unknown type": (weights_file({"a": entry([1], 4, dtype="F8_E4M3")}, b"1234"), "unknown type 'F8_E4M3'"),
    "entry with more keys": (weights_file({"a": {**entry([1], 4), "x": 1}}, b"1234"), "by dtype, shape and"),
    "entry that is no object": (weights_file({"a": 3}), "by dtype, shape and"),
    "bad metadata": (
        weights_file({"__metadata__": {"a": [1]}, "a": entry([1], 4)}, b"\0\0\0\0"),
        "is not a safetensors file|SHA-256",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_weights_are_refused(folder: Path, case: str) -> None:
    data, message = HOSTILE[case]
    (folder / WEIGHTS).write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(PackError, match=message) as caught:
            load_pack(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(folder / WEIGHTS) in str(caught.value)
    assert peak < 20 * len(data) + 4_000_000  # bytes: nothing is allocated on the word of a header


def test_values_that_are_not_finite_are_refused_though_the_hash_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack()
    tensors = {**pack.tensors, "head.weight": torch.full((3, 4), float("nan"))}
    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "decode", lambda data, path: {})
        save_pack(Pack("language", tensors, {}), folder)
    with pytest.raises(PackError, match="'head.weight' holds values that are not finite"):
        load_pack(folder)


@pytest.mark.parametrize("size", [0, 4, 8, 60, -1])
def test_weights_cut_short_are_refused(folder: Path, size: int) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:size])
    with pytest.raises(PackError, match="cut short|not the JSON|of tensors and holds"):
        load_pack(folder)


def test_one_bit_changed_is_refused_with_both_hashes(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    expected = json.loads((folder / CARD).read_text())["weights"]["sha256"]
    with pytest.raises(PackError) as caught:
        load_pack(folder)
    found = re.findall(r"\b[0-9a-f]{64}\b", str(caught.value))
    assert len(found) == 2 and expected in found and found[0] != found[1]


def test_weights_over_the_limit_are_refused(folder: Path) -> None:
    with pytest.raises(PackError, match="more than the 100 allowed"):
        load_pack(folder, max_bytes=100)


CARDS: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "version unknown": (lambda card: card.update(format_version=2), "unknown format version 2"),
    "version missing": (lambda card: card.pop("format_version"), "unknown format version None"),
    "version true": (lambda card: card.update(format_version=True), "unknown format version True"),
    "kind unknown": (lambda card: card.update(kind="code"), "unknown kind 'code'"),
    "kind list": (lambda card: card.update(kind=["language"]), "unknown kind"),
    "weights missing": (lambda card: card.pop("weights"), "'weights' does not hold"),
    "other hash": (lambda card: card.update(sha256="0" * 64), f"SHA-256 {'0' * 64}, and they have [0-9a-f]{{64}}"),
    "hash too short": (lambda card: card.update(sha256="abc"), "'sha256' is not a SHA-256"),
    "hash a number": (lambda card: card["weights"].update(sha256=1), "'weights.sha256' is not a SHA-256"),  # type: ignore[attr-defined]
    "other shapes": (
        lambda card: card["weights"]["tensors"][1].update(shape=[4, 3]),  # type: ignore[index]
        "holds other tensors than card.json lists",
    ),
    "base without hash": (lambda card: card.update(base={"name": "en"}), "'base' does not hold"),
    "base with a bad hash": (lambda card: card.update(base={"name": "en", "sha256": "x"}), "'base.sha256' is not"),
    "control characters": (lambda card: card.update(name="\x1b]0;x\x07"), "control characters"),
    "half a character": (lambda card: card.update(name="\ud800"), "control characters"),
}


@pytest.mark.parametrize("case", CARDS)
def test_hostile_cards_are_refused(folder: Path, case: str) -> None:
    edit, message = CARDS[case]
    edit_card(folder, edit)
    with pytest.raises(PackError, match=message) as caught:
        load_pack(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b" " * ((1 << 20) + 1), "more than the 1,048,576 allowed"),
        (b"[]", "not a JSON object"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not the JSON that is allowed"),
        (b"\xef\xbb\xbf{}", "not the JSON that is allowed"),
        (b"\x80\x04K\x01.", "not the JSON that is allowed"),
    ],
)
def test_cards_that_are_no_plain_json_are_refused(folder: Path, data: bytes, message: str) -> None:
    (folder / CARD).write_bytes(data)
    with pytest.raises(PackError, match=message):
        load_pack(folder)


def test_a_pack_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(PackError, match="is of the kind 'language', and 'encoder' is needed here"):
        load_pack(folder, "encoder")


@pytest.mark.parametrize("name", [CARD, WEIGHTS, "extra.txt"])
def test_links_inside_a_pack_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(PackError, match=f"{re.escape(name)}: is a symbolic link"):
        load_pack(folder)


def test_a_link_to_a_pack_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(PackError, match="is a symbolic link"):
        load_pack(tmp_path / "link")
    with pytest.raises(PackError, match="exists and is not a pack"):
        save_pack(make_pack(), tmp_path / "link")


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_pipe_is_refused_and_does_not_hang(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(PackError, match="is not a regular file"):
        load_pack(folder)


def test_missing_files_and_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="nowhere: does not exist; check the path"):
        load_pack(tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    with pytest.raises(PackError, match=f"it has no {WEIGHTS}"):
        load_pack(folder)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
def test_damage_anywhere_raises_nothing_but_a_pack_error(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, start: int, stop: int
) -> None:
    folder = save_pack(make_pack(), tmp_path_factory.getbasetemp() / "fuzz" / "pa")
    for name in (WEIGHTS, CARD):
        data = (folder / name).read_bytes()
        damaged = data[:start] + junk + data[stop:]
        (folder / name).write_bytes(damaged)
        if damaged != data:
            try:
                loaded = load_pack(folder)
            except PackError:
                pass
            else:  # only the free text of the card can have changed
                assert name == CARD
                assert pack_hash(loaded) == pack_hash(make_pack())
        (folder / name).write_bytes(data)
