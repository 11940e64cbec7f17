"""`mtl-speech verify`: whole packs pass check by check; every attack on one is named, runs nothing, and is seen by `info` too."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mtl_speech.commands.target import SHIPPED_STRATEGY
from mtl_speech.model.pack import CARD, WEIGHTS, load_pack, pack_hash, save_pack
from mtl_speech.model.strategy import SHIPPED_ENCODER, new_learner, shipped, strategy_pack
from tests.command_line import run
from tests.helpers import meta_config, tiny_base

RAN = "ran"  # the file that code in a pack would make


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base/, other/ (encoders) and strategy/ (on base/) in a working folder of their own."""
    base = tiny_base()
    save_pack(base.pack, tmp_path / "base")
    save_pack(tiny_base(1).pack, tmp_path / "other")
    save_pack(strategy_pack(new_learner(base, "ab", meta_config()), base, meta_config(), {}), tmp_path / "strategy")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_packs_that_ship_are_whole() -> None:
    said = run("verify", shipped(SHIPPED_ENCODER), shipped(SHIPPED_STRATEGY)).stdout
    assert "FAILED" not in said and said.count("data only") == 2
    assert (
        said.count(pack_hash(load_pack(shipped(SHIPPED_ENCODER)))) == 2
    )  # of the encoder, and as the base of the strategy
    assert "the one that ships" in said


def test_every_check_of_whole_packs_is_named(packs: Path) -> None:
    lines = run("verify", "base", "strategy", "--base", "base").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["base"] * 4 + ["strategy"] * 5
    assert "the one given" in lines[-2] and lines[-1] == "strategy: it loads on its base as a strategy"


def test_another_base_is_refused_with_both_hashes(packs: Path) -> None:
    for arguments, actual in ((("--base", "other"), packs / "other"), ((), shipped(SHIPPED_ENCODER))):
        result = run("verify", "strategy", "base", *arguments, code=1)
        (failed,) = [line for line in result.stdout.splitlines() if "FAILED" in line]
        assert pack_hash(load_pack(packs / "base")) in failed and pack_hash(load_pack(actual)) in failed
        assert "base: it loads as an encoder" in result.stdout, "the others are checked all the same"
        assert "1 of 2 packs" in result.stderr
    said = run("info", "strategy", "--base", "other", code=1).stderr
    assert pack_hash(load_pack(packs / "base")) in said and pack_hash(load_pack(packs / "other")) in said


class Bomb:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(RAN),))


def edit(key: str, value: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        (folder / CARD).write_text(json.dumps({**card, key: value}), encoding="utf-8")

    return change


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def pickled_array(folder: Path) -> None:
    with open(folder / CARD, "wb") as file:
        np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)


def zip_bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b"\0" * (64 << 20))


def link(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(Path("..") / "elsewhere")


def flipped(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def tensor(name: str, shape: list[int], value: float = 0.0) -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


ATTACKS: dict[str, Callable[[Path], object]] = {
    **{f"pickle {p} as the card": put(CARD, pickle.dumps(Bomb(), protocol=p)) for p in range(6)},
    **{f"pickle {p} as the weights": put(WEIGHTS, pickle.dumps(Bomb(), protocol=p)) for p in range(6)},
    **{
        f"pickle beside them as {name}": put(name, pickle.dumps(Bomb()))
        for name in ("model.pkl", "model.bin", "weights.PT", "data.npy", "hooks.py", "x.so", "y.joblib", "z.ckpt")
    },
    "torch.save as the weights": lambda folder: torch.save({"a": Bomb()}, folder / WEIGHTS),
    "pickled array as the card": pickled_array,
    "zip bomb as the weights": zip_bomb,
    "YAML that runs code as the card": put(
        CARD, f"name: !apply:pathlib.Path.touch [!new:pathlib.Path [{RAN}]]".encode()
    ),
    "YAML that makes objects as the card": put(CARD, b"!!python/object/apply:pathlib.Path.touch [ran]"),
    "a path with .. as a tensor": put(WEIGHTS, tensor("../../ran", [1])),
    "an absurd shape": put(WEIGHTS, tensor("a", [1 << 40, 1 << 40])),
    "a value that is no number": put(WEIGHTS, tensor("a", [1], float("nan"))),
    "an infinite value": put(WEIGHTS, tensor("a", [1], float("inf"))),
    "a card of more than a megabyte": edit("notes", ["x" * (1 << 20)]),
    "a card nested deeply": put(CARD, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "one bit": flipped,
    "a link": link,
    "a base whose hash is a path": edit("base", {"name": "../base", "sha256": "../" * 20 + "base"}),
    "a kind that is code": edit("kind", "os.system"),
    "phonemes that are none": edit("phonemes", ["a", "<script>"]),
    "phonemes without number": edit("phonemes", [f"{i}" for i in range(50_000)]),
    "settings that are none": edit("meta_train", {"inner_steps": "__import__('os')"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_named_and_runs_nothing(packs: Path, attack: str) -> None:
    ATTACKS[attack](packs / "strategy")
    result = run("verify", "strategy", "--base", "base", code=1)
    assert result.stdout.splitlines()[-1].startswith("strategy: FAILED: ")
    assert "unexpected" not in result.output and not (packs / RAN).exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if not name.startswith(("phonemes", "settings"))])
def test_info_refuses_what_verify_refuses(packs: Path, attack: str) -> None:
    """But what only loading the pack shows: `info` tells what is in it."""
    ATTACKS[attack](packs / "strategy")
    run("info", "strategy", "--base", "base", code=1)
    assert not (packs / RAN).exists()


@pytest.mark.parametrize(
    "text", ["lang: !apply:pathlib.Path.touch [ran]", "lang: !new:pathlib.Path [ran]", "a: !!python/name:a.b"]
)
def test_a_config_that_runs_code_is_refused(packs: Path, text: str) -> None:
    (packs / "config.yaml").write_text(text, encoding="utf-8")
    assert "is not plain YAML" in run("validate", packs, "--config", "config.yaml", code=2).stderr
    assert not (packs / RAN).exists()


def test_a_name_in_a_card_leads_nowhere(packs: Path) -> None:
    """The folder of results is named by the card: never outside of the one for results."""
    edit("name", "../../../escaped\nFAKE: line")(packs / "strategy")
    said = run("info", "strategy", "--base", "base").stdout
    assert "\nFAKE" not in said and "pack:" in said


def test_verify_has_a_log_where_one_is_asked_for(packs: Path) -> None:
    run("verify", "base", "-o", "out", "--base", "base")
    assert {path.name for path in (packs / "out").iterdir()} == {"log.txt"}
    assert "base: it loads as an encoder" in (packs / "out" / "log.txt").read_text(encoding="utf-8")
    assert "does not exist" in run("verify", "nothing", "--base", "base", code=1).stdout
