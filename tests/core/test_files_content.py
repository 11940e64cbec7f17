"""Files by their content: hashes that are made once, and CSV."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mtl_speech.core import files
from mtl_speech.core.files import content_hash, csv_text


def test_a_file_that_has_not_changed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    digest = files._digest
    monkeypatch.setattr(files, "_digest", lambda path: read.append(path) or digest(path))  # type: ignore[func-returns-value]
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    assert [content_hash(path) for _ in range(2)] == [hashlib.sha256(b"one").hexdigest()] * 2
    assert len(read) == 2, "what has just been written may be written again"
    monkeypatch.setattr(files, "SETTLED", -60.0)
    assert content_hash(path) == content_hash(path) and len(read) == 3
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_hash(path) == hashlib.sha256(b"two").hexdigest(), "the same size and time do not hide a change"
    path.unlink()
    with pytest.raises(OSError, match=r"a\.wav"):
        content_hash(path)


def test_csv_text() -> None:
    assert csv_text(("a", "b"), [("t̪ʰ", 1), ("x,y", "")]) == '\ufeffa,b\nt̪ʰ,1\n"x,y",\n'
