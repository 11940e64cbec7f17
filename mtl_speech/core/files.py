"""Files that are written whole or not at all, by one run at a time, and values of all kinds as JSON in them."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mtl_speech.core.errors import DataError, printable

if TYPE_CHECKING:
    import numpy as np

SETTLED = 2.0  # seconds: two changes of a file within them may leave the same times
TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp")
LOCK, HOLDER = ".lock", ".lock.json"
ORPHANS = 15.0  # seconds that worker processes may live on, with the lock, after the run that started them was killed
# An absolute path in running text: two parts at least, so that a phoneme in slashes (/p/, /tʃ/) is none. A folder's name can have
# blanks in it, but neither quotes nor an option; the last part ends at a blank: what is left after it is of the file's own name.
_FOLDER = r"""(?:[\w.(](?:(?!\ -)[^/\\\n:'"<>|*?=])*(?<!\s)[/\\])"""
_ABSOLUTE = re.compile(
    rf"""(?<![\w/.~…])(?:file://)?(?:/(?!.[/\s]){_FOLDER}+[\w.(][^\s/:'"<>|]*/?|[A-Za-z]:[\\/]{_FOLDER}*[^\s"'*?<>|\\/]*|^/[\w.][\w.+@-]+$)"""
)


def temporary_sibling(path: Path) -> Path:
    """A free hidden name in the same folder (so on the same disk) as `path`; nothing is created."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to. At the end it takes the name of `path`; after an error it is removed. Raises OSError."""
    temporary = temporary_sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def mapped(stream: IO[bytes], kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """A file as an array of zeros that is written to, with room for all of it on the disk. Raises OSError on a full disk.

    Where a mapped file found no room only when it is written to, the process would end.
    """
    import numpy as np

    size = math.prod(shape) * np.dtype(kind).itemsize
    if size == 0:
        return np.zeros(shape, kind)
    if sys.platform == "linux":
        os.posix_fallocate(stream.fileno(), 0, size)
    return np.memmap(stream, kind, mode="r+" if sys.platform == "linux" else "w+", shape=shape)


def content_hash(path: Path) -> str:
    """SHA-256 of what is in a file. Raises OSError.

    A file that has lain unchanged for a while is read once in a process: a corpus is asked for its hashes several times in a run.
    """
    status = path.stat()
    if time.time() - status.st_ctime < SETTLED:
        return _digest(path)
    return _known_digest(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=1 << 16)
def _known_digest(path: Path, *_: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
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


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, which is not loaded; None where it is not installed."""
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


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
    raw = data.encode("utf-8") if isinstance(data, str) else data
    try:
        with replacing(path) as temporary:
            write_synced(temporary, raw, sync)
    except OSError as error:
        if error.errno is not None:  # without a number, the name would hide the message
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


@contextmanager
def only_run(folder: Path, command: str) -> Iterator[None]:
    """Inside, no other run writes to `folder`; what one that was killed left half-written there is removed.

    The system takes the lock off when the process ends, however it ends.

    Raises DataError that names the run that is there already, OSError where the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # loads slowly

    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    told = _holder(holder)
    try:
        lock.acquire(timeout=ORPHANS if _dead(told) else 0)
    except Timeout:
        told = _holder(holder)
        raise DataError(
            f"{folder}: another run writes to this folder: process {told.get('pid', '(unknown)')} on "
            f"{told.get('host', 'an unknown machine')}, since {told.get('start', 'an unknown time')} "
            f"({told.get('command', 'an unknown command')}): wait until it is done, or name another folder to write to"
        ) from None
    try:
        remove_leftovers(folder)
        start = datetime.now().astimezone().isoformat(" ", "seconds")
        atomic_write(
            holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": start, "command": command})
        )
        yield
    finally:
        with suppress(OSError):  # while it is still ours; a system that cannot leaves an empty file
            holder.unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> dict[str, object]:
    """Who has the lock; nothing where that is not told."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _dead(holder: dict[str, object]) -> bool:
    """Whether the process that had the lock is known to have ended."""
    pid = holder.get("pid")
    if os.name == "nt" or holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def plain(value: Any) -> Any:
    """A value as dictionaries, lists, strings and numbers: None for a number that is not finite, no absolute path.

    Dataclasses become dictionaries, sets sorted lists, arrays and tuples lists, and anything else its text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):  # of numpy, which takes long to load
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return printable(_without_folder(value) if isinstance(value, Path) else without_absolute_paths(str(value)))


def without_absolute_paths(text: str) -> str:
    """The text, paths below the working folder made relative to it, other absolute paths cut to their last part."""
    here = str(Path.cwd())
    if len(here) > 1:  # first, for its name may have anything in it
        text = re.sub(rf"(?<![\w/.~…])(?:file://)?{re.escape(here)}(?:/|(?=['\"\s:;,)]|$))(?=([\w.(])?)", _below, text)
    return _ABSOLUTE.sub(lambda match: "…/" + re.split(r"[\\/]", match.group().rstrip("\\/"))[-1], text)


def _below(match: re.Match[str]) -> str:
    """What the path of the working folder becomes: nothing before a name, else a point."""
    return "" if match[1] else "."


def _without_folder(path: Path) -> str:
    """A path below the working folder made relative to it, another absolute one cut to its last part."""
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return f"…/{path.name}" if path.is_absolute() else path.as_posix()


def json_text(data: Mapping[str, Any]) -> str:
    """JSON for people too: lists of plain values on one line. A line break is never inside a JSON string."""
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
    return re.sub(r"\[\n *([^\[\]{}]*)\n *\]", lambda found: "[" + re.sub(r",\n *", ", ", found[1]) + "]", text) + "\n"
