"""Packs that are damaged, foreign or hostile are refused, and nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core import tensor_files
from mtl_speech.core.errors import PackError
from mtl_speech.model.pack import CARD, WEIGHTS, Pack, load_pack, pack_hash, save_pack
from tests.pack_files import edit_card, entry, make_pack, weights_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pack(make_pack(), tmp_path / "pa")


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
