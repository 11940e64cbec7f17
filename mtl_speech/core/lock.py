"""One run at a time in a folder: a lock that the system takes off when its process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import atomic_write, remove_leftovers

LOCK, HOLDER = ".lock", ".lock.json"
ORPHANS = 15.0  # seconds that worker processes may live on, with the lock, after the run that started them was killed


@contextmanager
def only_run(folder: Path, command: str) -> Iterator[None]:
    """Inside, no other run writes to `folder`; what one that was killed left half-written there is removed.

    Raises DataError that names the run that is there already, OSError where the folder cannot be written.
    """
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
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
