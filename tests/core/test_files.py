"""Files are written whole or not at all, by one run at a time, and what a person gives is read within bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import (
    append_line,
    atomic_write,
    content_hash,
    mapped,
    only_run,
    package_folder,
    read_limited,
    remove_leftovers,
    temporary_sibling,
    unchanged,
)


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


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    append_line(path, "ɽ one")
    append_line(path, "two")
    assert path.read_text(encoding="utf-8") == "ɽ one\ntwo\n"


def test_what_a_killed_process_left_goes_and_the_rest_stays(tmp_path: Path) -> None:
    kept = atomic_write(tmp_path / "a.json", "{}")
    temporary_sibling(kept).write_text("half", encoding="utf-8")
    temporary_sibling(tmp_path / "pack").mkdir()
    (tmp_path / ".hidden.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.tmp", "a.json"]


@pytest.mark.parametrize("what", ["has changed", "has gone"])
def test_files_that_do_not_stay_as_they_are_are_told(tmp_path: Path, what: str) -> None:
    path = atomic_write(tmp_path / "a.wav", "one")
    with unchanged([path]):
        assert content_hash(path).startswith("7692c3ad")
    with pytest.raises(DataError, match=f"a.wav: {what} while it was used"), unchanged([path]):
        path.write_text("three", encoding="utf-8") if what == "has changed" else path.unlink()


def test_files_are_read_within_bounds(tmp_path: Path) -> None:
    path = atomic_write(tmp_path / "words.txt", b"x" * (2 << 20))
    assert len(read_limited(path, 2 << 20, "a list")) == 2 << 20
    with pytest.raises(DataError, match="2 MB is too large for a list"):
        read_limited(path, 1 << 20, "a list")
    with pytest.raises(DataError, match="it is no file: put a list in its place"):
        read_limited(tmp_path, 1 << 20, "a list")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_limited(tmp_path / "none", 1 << 20, "a list")


def test_one_run_writes_to_a_folder_and_the_other_is_told_who_does(tmp_path: Path) -> None:
    code = "import sys, pathlib; from mtl_speech.core.files import only_run\nwith only_run(pathlib.Path(sys.argv[1]), 'two'): pass"
    with only_run(tmp_path, "mtl-speech one"):
        assert json.loads((tmp_path / ".lock.json").read_text(encoding="utf-8"))["pid"] == os.getpid()
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode and f"process {os.getpid()} on" in done.stderr and "(mtl-speech one)" in done.stderr
    assert not (tmp_path / ".lock.json").exists()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_package_is_found_without_loading_it() -> None:
    found = package_folder("pytest")
    assert found is not None and (found / "__init__.py").is_file()
    assert package_folder("no_such_package") is None


def test_a_mapped_file_has_room_on_the_disk_or_is_refused(tmp_path: Path) -> None:
    """Where room were sought when it is written to, the system would end the process."""
    with (tmp_path / "a").open("w+b") as stream:
        found = mapped(stream, np.float16, (300, 20))
        assert os.fstat(stream.fileno()).st_blocks * 512 >= 12_000 and not found.any()
        found[:] = 1.5
        found.flush()  # type: ignore[attr-defined]
    assert (np.fromfile(tmp_path / "a", np.float16) == 1.5).sum() == 6_000
    with (tmp_path / "b").open("w+b") as stream:
        assert mapped(stream, np.float32, (2, 0, 5)).shape == (2, 0, 5)
        with pytest.raises(OSError, match="File too large|No space"):
            mapped(stream, np.uint8, (1 << 50,))
