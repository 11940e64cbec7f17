"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError

TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp")


def temporary_sibling(path: Path) -> Path:
    """A free hidden name in the same folder (so on the same disk) as `path`; nothing is created."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left half-written in `folder`. Nothing may be writing there. Raises OSError."""
    for path in [path for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """Inside, files are read that must stay as they are. Raises DataError at its end where one has changed or gone since."""

    def stamp(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    before = {path: stamp(path) for path in paths}
    yield
    for path, then in before.items():
        now = stamp(path)
        if now is None or now != then:
            raise DataError(
                f"{path}: {'has gone' if now is None else 'has changed'} while it was used: start again when the recordings "
                "stay as they are; nothing was written"
            )


def write_at(stream: IO[bytes], data: bytes, offset: int) -> None:
    """Write to a file at an offset, past its buffer. Raises OSError on a full disk, of which the system tells at the second try."""
    while data:
        n = os.pwrite(stream.fileno(), data, offset)
        data, offset = data[n:], offset + n


def content_hash(path: Path) -> str:
    """SHA-256 of what is in a file. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_limited(path: Path, max_bytes: int, what: str) -> bytes:
    """What is in a file that a person gives. A pipe or a device, which may never end, is not opened.

    Raises DataError: it cannot be read, is no file, or is larger than `max_bytes`, which is too large for `what`.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: cannot be read: it is no file: put {what} in its place")
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(f"{path}: {size >> 20} MB is too large for {what}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut. Does nothing where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a new file and, with `sync`, wait until it is on the disk. Raises FileExistsError when `path` exists, else OSError."""
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())


def atomic_write(path: Path, data: bytes | str, sync: bool = True) -> Path:
    """Write `data` (a str as UTF-8) to `path`, or leave what was there untouched.

    The data goes to a temporary sibling, is synced, and takes the name by one rename, so a reader sees the old file
    or the new one, never a part. Without `sync`, for what can be made again, a power cut can undo it. Missing parent
    folders are made. Raises OSError (disk full, no permission ...) after removing the temporary file. Returns `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        write_synced(temporary, data.encode("utf-8") if isinstance(data, str) else data, sync)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # without a number, the name would hide the message
            error.filename = str(path)  # the temporary name tells nobody anything
        raise
    if sync:
        sync_folder(path.parent)
    return path


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV below the names of their columns; it begins with a byte-order mark, without which spreadsheets garble IPA."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return "\ufeff" + stream.getvalue()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all. Raises OSError."""
    data, before = f"{line}\n".encode(), path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab", buffering=0) as stream:
            if stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        error.filename = str(path)
        raise
