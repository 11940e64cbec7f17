"""The binary file of a CTranslate2 model (`model.bin`, version 6), read as hostile: every size is checked before it is believed.

All numbers are little-endian, and a text is its length (uint16, the closing zero counted) and its bytes. The file is:

- the version (uint32), the name of the kind of model (text) and its revision (uint32);
- the number of variables (uint32), and of each its name (text), its rank (uint8), its sizes (uint32 each), its type (uint8), the
  number of its bytes (uint32) and the bytes;
- the number of aliases (uint32), and of each its name and that of the variable it stands for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from mtl_speech.core.errors import DataError

VERSION, KIND, REVISION = 6, "WhisperSpec", 3
MAX_VARIABLES, MAX_NAME_BYTES, MAX_RANK = 4096, 200, 4
NAME = re.compile(r"\w+(/\w+)*", re.ASCII)
TYPES = (
    torch.float32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.bfloat16,
)  # by their number in the file


@dataclass
class _Reader:
    """Takes one thing after the other from the bytes of a file, and never more than there is."""

    path: Path
    data: memoryview
    position: int = 0

    def refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self.path}: is no model of CTranslate2 that can be read: {what}")

    def take(self, n: int, what: str) -> memoryview:
        """The next `n` bytes."""
        if n > len(self.data) - self.position:
            left = len(self.data) - self.position
            self.refuse(
                f"it is cut short: {what} needs {n:,} bytes and {left:,} are left at byte {self.position:,}; fetch it again, and "
                "give all parts of a file that was divided, in order"
            )
        self.position += n
        return self.data[self.position - n : self.position]

    def number(self, size: int, what: str) -> int:
        """The next whole number, of `size` bytes."""
        return int.from_bytes(self.take(size, what), "little")

    def text(self, what: str) -> str:
        """The next text, which must be a name."""
        n = self.number(2, what)
        if n > MAX_NAME_BYTES:
            self.refuse(f"{what} would have {n:,} bytes, more than the {MAX_NAME_BYTES} allowed")
        raw = bytes(self.take(n, what))
        text = raw[:-1].decode("ascii", "replace")
        if raw[-1:] != b"\0" or not NAME.fullmatch(text):
            self.refuse(f"{what} is {raw[:40]!r}, which is no name")
        return text

    def count(self, what: str) -> int:
        """The next number of things."""
        n = self.number(4, f"the number of {what}")
        if n > MAX_VARIABLES:
            self.refuse(f"it would have {n:,} {what}, more than the {MAX_VARIABLES:,} allowed")
        return n

    def variable(self) -> tuple[str, Tensor]:
        """The next variable: its name and what it holds."""
        name = self.text("the name of a variable")
        rank = self.number(1, f"the rank of '{name}'")
        if rank > MAX_RANK:
            self.refuse(f"'{name}' would have {rank} dimensions, more than the {MAX_RANK} allowed")
        shape = [self.number(4, f"the shape of '{name}'") for _ in range(rank)]
        kind = self.number(1, f"the type of '{name}'")
        if kind >= len(TYPES):
            self.refuse(f"'{name}' is of the unknown type {kind}")
        n_bytes = self.number(4, f"the size of '{name}'")
        needed = math.prod(shape) * TYPES[kind].itemsize
        if needed != n_bytes or not needed:
            self.refuse(f"'{name}' of the shape {shape} has {n_bytes:,} bytes, where {needed:,} are due")
        data = bytearray(self.take(n_bytes, f"'{name}'"))
        return name, torch.frombuffer(data, dtype=TYPES[kind]).view(shape)


def read_variables(data: bytes, path: Path) -> dict[str, Tensor]:
    """The variables of a Whisper model by name. `path` is for messages.

    Raises DataError: the file is cut or damaged, of another version, or of another kind of model.
    """
    reader = _Reader(path, memoryview(data))
    version = reader.number(4, "the version")
    if version != VERSION:
        reader.refuse(
            f"it is of the version {version}, and {VERSION} is read; convert it with a CTranslate2 that writes that"
        )
    kind, revision = reader.text("the kind of model"), reader.number(4, "the revision")
    if (kind, revision) != (KIND, REVISION):
        reader.refuse(f"it is of the kind {kind}, revision {revision}, and {KIND}, revision {REVISION}, is read")
    found: dict[str, Tensor] = {}
    for _ in range(reader.count("variables")):
        name, value = reader.variable()
        if name in found:
            reader.refuse(f"it has '{name}' twice")
        found[name] = value
    for _ in range(reader.count("aliases")):
        alias, name = reader.text("an alias"), reader.text("what an alias stands for")
        if name not in found or alias in found:
            reader.refuse(f"its alias '{alias}' stands for '{name}', which cannot be")
    if reader.position != len(data):
        reader.refuse(f"{len(data) - reader.position:,} bytes are left after its end")
    return found
