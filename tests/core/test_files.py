"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtl_speech.core.files import atomic_write


def test_atomic_write_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic_write(tmp_path / "new" / "report.json", "ɽ\n")
    assert path.read_bytes() == "ɽ\n".encode()
    atomic_write(path, b"second")
    assert path.read_bytes() == b"second"

    def failing(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"third")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]
