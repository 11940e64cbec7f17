"""The files of a pack, read as hostile data: every size and number is checked before it is believed.

A safetensors file is an 8-byte little-endian header length, a JSON header (tensor name -> dtype, shape, byte range)
and the bytes of the tensors. Here the length must fit the file, the byte ranges must cover the data once, without
gap or overlap, and each range must be as long as its dtype and shape say. So nothing larger than the file itself is
ever allocated, whatever the header claims.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mtl_speech.core.errors import PackError

MAX_FOLDER_ENTRIES = 64
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
ITEM_BYTES = {name: dtype.itemsize for dtype, name in DTYPE_NAMES.items()}
TENSOR_NAME = re.compile(r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*")
MAX_NAME_LENGTH = 200  # characters
CODE_SUFFIXES = frozenset(".bin .ckpt .joblib .npy .npz .pickle .pkl .pt .pth .py .pyc .so .zip".split())
MAX_DIGITS = 18  # of a whole number in JSON
MAX_DEPTH = 32  # of lists and objects in JSON
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # could steer a terminal, or break its output
FETCH_AGAIN = "the file is damaged or foreign: fetch the pack again from where it came"


@dataclass(frozen=True)
class Entry:
    """One tensor as the header declares it. `start` and `end` are bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def refuse(path: Path, what: str, remedy: str = FETCH_AGAIN) -> NoReturn:
    """Raise the PackError that says which file, what is wrong with it, and what to do."""
    raise PackError(f"{path}: {what}; {remedy}")


def check_folder(folder: Path, names: Sequence[str], remedy: str) -> None:
    """Check that `folder` holds the files `names`, no links, and nothing that could be code. Raises PackError.

    `remedy` is what to do when there is no such folder.
    """
    if folder.is_symlink():
        refuse(folder, "is a symbolic link", "give the path of the pack itself")
    if not folder.is_dir():
        refuse(folder, "is not a folder" if folder.exists() else "does not exist", remedy)
    try:
        entries = list(islice(folder.iterdir(), MAX_FOLDER_ENTRIES + 1))
    except OSError as error:
        refuse(folder, f"cannot be read ({error.strerror or error})", "check its permissions")
    if len(entries) > MAX_FOLDER_ENTRIES:
        refuse(folder, f"holds more than {MAX_FOLDER_ENTRIES} files", "a pack is a folder of its own: check the path")
    for entry in entries:
        if entry.is_symlink():
            refuse(entry, "is a symbolic link", "a pack holds its own files: remove the link")
        if entry.suffix.lower() in CODE_SUFFIXES:
            refuse(entry, "is of a type that can hold code", "a pack is safetensors and JSON: remove the file")
    for name in names:
        if name not in {entry.name for entry in entries}:
            refuse(folder, f"is not a pack: it has no {name}", "check the path, or fetch the pack again")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes`; links, pipes and devices are refused, never opened.

    Raises PackError.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            refuse(path, "is a symbolic link", "a pack holds its own files: replace the link by the file itself")
        with os.fdopen(os.open(path, flags), "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                refuse(path, "is not a regular file")
            if status.st_size > max_bytes:
                refuse(path, f"has {status.st_size:,} bytes, more than the {max_bytes:,} allowed")
            data = stream.read(status.st_size + 1)
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror or error})", "check the path and its permissions")
    if len(data) != status.st_size:
        refuse(path, "changed while it was read", "wait until it is complete")
    return data


def parse_json(data: bytes, path: Path, what: str) -> dict[str, object]:
    """A JSON object, strictly: UTF-8, no key twice, finite numbers, no deep nesting. Raises PackError."""

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"the number {text[:20]} is not finite")
        return number

    def bounded(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise ValueError(f"the number {text[:20]}… is too large")
        return int(text)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=finite,
            parse_float=finite,
            parse_int=bounded,
            object_pairs_hook=unique,
        )
        if any(CONTROL.search(text) for text in _texts(value, MAX_DEPTH)):
            raise ValueError("it holds control characters")
    except (ValueError, RecursionError) as error:
        refuse(path, f"{what} is not the JSON that is allowed ({error})")
    if not isinstance(value, dict):
        refuse(path, f"{what} is not a JSON object")
    return value


def _texts(value: object, depth: int) -> Iterator[str]:
    """Every string in a JSON value. Raises ValueError when it is nested deeper than `depth`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        if depth == 0:
            raise ValueError("it is nested too deeply")
        for item in value if isinstance(value, list) else (*value, *value.values()):
            yield from _texts(item, depth - 1)


def header_entries(data: bytes, path: Path) -> list[Entry]:
    """The tensors that the safetensors bytes `data` declare, in the order of their bytes. Raises PackError."""
    if data[:4] == b"PK\x03\x04" or (data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        refuse(path, "holds a pickle, which can run code when it is loaded", "packs are safetensors: do not use it")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 10 or length > len(data) - 8:
        refuse(path, f"is cut short: its header claims {length:,} bytes and the file has {len(data):,} in all")
    if length > MAX_HEADER_BYTES:
        refuse(path, f"has a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed")
    header = parse_json(data[8 : 8 + length], path, "the header")
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= MAX_TENSORS:
        refuse(path, f"declares {len(header):,} tensors, where 1 to {MAX_TENSORS:,} are allowed")
    entries = [_entry(name, value, path) for name, value in header.items()]
    entries.sort(key=lambda entry: entry.start)
    position = 0
    for entry in entries:
        if entry.start != position:
            refuse(path, f"tensor '{entry.name}' starts at byte {entry.start:,} where {position:,} is due")
        position = entry.end
    if position != len(data) - 8 - length:
        refuse(path, f"declares {position:,} bytes of tensors and holds {len(data) - 8 - length:,}")
    return entries


def _entry(name: str, value: object, path: Path) -> Entry:
    """One header entry, checked on its own."""
    if len(name) > MAX_NAME_LENGTH or not TENSOR_NAME.fullmatch(name):
        refuse(path, f"has a tensor with the name {name[:40]!r}, where letters, digits and . _ - are allowed")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"tensor '{name}' is not declared by dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(path, f"tensor '{name}' has the unknown type {str(dtype)[:20]!r}; known are {', '.join(ITEM_BYTES)}")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS or 0 in shape:
        refuse(path, f"tensor '{name}' has the impossible shape {str(shape)[:80]}")
    if not _counts(offsets) or len(offsets) != 2:
        refuse(path, f"tensor '{name}' has the impossible byte range {str(offsets)[:80]}")
    start, end = offsets
    size = math.prod(shape) * ITEM_BYTES[dtype]
    if end - start != size:
        refuse(path, f"tensor '{name}' of shape {shape} needs {size:,} bytes, and its range has {end - start:,}")
    return Entry(name, dtype, tuple(shape), start, end)


def _counts(value: object) -> bool:
    """Whether `value` is a list of integers from 0 to 2^40."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= 1 << 40 for item in value)


def decode(data: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of safetensors bytes that `header_entries` accepted. Raises PackError when one is not finite."""
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        refuse(path, f"is not a safetensors file ({error})")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            refuse(path, f"tensor '{name}' holds values that are not finite (NaN or infinity)", "do not use this pack")
    return tensors


def encode(tensors: dict[str, torch.Tensor], path: Path, max_bytes: int) -> bytes:
    """Tensors as safetensors bytes, the same bytes for the same tensors whatever their order. Raises PackError.

    What `header_entries` and `decode` would refuse is refused here, under the name `path` that is to be written.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            refuse(path, f"tensor '{name}' has the type {tensor.dtype}", f"use one of {', '.join(ITEM_BYTES)}")
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    data: bytes = save(plain)
    if len(data) > max_bytes:
        refuse(path, f"would have {len(data):,} bytes, more than the {max_bytes:,} allowed", "save fewer weights")
    header_entries(data, path)
    decode(data, path)
    return data
