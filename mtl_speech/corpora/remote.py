"""Corpora in tar files, in object stores or on the web, as folders of this machine.

A place is a folder, a tar, or a URL that fsspec knows: `s3://bucket/corpus`, `https://host/words.tar`, `tar://below::s3://bucket/x.tar`.
What is needed of it is fetched once into a cache folder of bounded size, keyed by the URL and by what tells its content (checksums,
times, sizes). Each file gets its name by one rename when it is whole, and an entry its marker after its last file, so what was
interrupted is never taken for whole, and is gone on with. Of several processes one fetches, the others wait; what a
run uses is not removed under it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mtl_speech.core.cache import DATA_LIMIT, DEFAULT_DATA_GIB, cache_folder, cache_gib
from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import atomic_write, replacing, temporary_sibling
from mtl_speech.core.run import Run
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.places import (
    TAR_SUFFIXES,
    Member,
    Names,
    Source,
    members,
    shown,
    source_of,
    told,
    unsafe,
    url_of,
    wanted,
)

MARKER = ".fetched.json"
MAX_PROBLEMS = 1_000  # that are named; the others are counted
_CHUNK, _BATCH = 1 << 20, 64  # bytes, files


@dataclass(frozen=True)
class Local:
    """A place as a folder, and what could not be taken of it."""

    folder: Path
    problems: tuple[Problem, ...] = ()


def local_folder(place: Path, run: Run) -> Local:
    """A place as a folder of this machine; a folder is that already.

    What could not be taken is said, and returned. Raises UsageError for a URL that cannot be used, DataError where it cannot be
    read, or is larger than the cache may become.
    """
    url = url_of(place)
    if url is not None and url.startswith("file://"):
        place, url = Path("/" + url.removeprefix("file://")), None
    if url is None:
        if not (place.is_file() and place.name.lower().endswith(TAR_SUFFIXES)):
            return Local(place)
        url = f"file://{place.resolve().as_posix()}"
    with told(url):
        source = source_of(url)
    root, limit = cache_folder() / "data", int(cache_gib(DATA_LIMIT, DEFAULT_DATA_GIB) * 2**30)
    if (source.size or 0) > limit:
        raise _too_large(url, limit)
    root.mkdir(parents=True, exist_ok=True)
    entry = root / source.key
    with _alone(FileLock(root / f".{source.key}.lock"), run, url):
        about = _whole(entry)
        if about is None:
            _prune(root, limit - (source.size or 0))
            run.say(f"{shown(url)}: fetching it into {entry / source.name}")
            about = _fetch(source, entry, limit, run)
        os.utime(entry / MARKER)
        for use in root.glob(f".{source.key}.*.use"):  # of runs that have ended
            with suppress(Timeout), FileLock(use).acquire(timeout=0):
                use.unlink(missing_ok=True)
        run.hold(FileLock(root / f".{source.key}.{os.getpid()}-{os.urandom(4).hex()}.use"))
    _prune(root, limit)
    folder = entry / about["name"]
    problems = tuple(Problem(folder / name, reason) for name, reason in about["problems"])
    run.left_out(problems, folder)
    return Local(folder, problems)


def local_labels(place: Path | None, run: Run) -> Path | None:
    """The folder of labels that --labels names, as `local_folder` gives it; None for none.

    Raises DataError where there is no such folder, and as `local_folder`.
    """
    if place is None:
        return None
    folder = local_folder(place, run).folder
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}: give the folder of the label files as --labels")
    return folder


def _whole(entry: Path) -> dict[str, Any] | None:
    """What the marker of an entry says; None where there is none, or files have gone since."""
    try:
        about: dict[str, Any] = json.loads((entry / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if sum(path.is_file() for path in (entry / about["name"]).rglob("*")) == about["files"] else None


@contextmanager
def _alone(lock: FileLock, run: Run, url: str) -> Iterator[None]:
    """Inside, no other process fetches what this one does."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        run.say(f"{shown(url)}: another run fetches it: waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _too_large(url: str, limit: int) -> DataError:
    return DataError(
        f"{shown(url)}: larger than the {limit / 2**30:.3g} GiB that copies may take: raise --data-gib, or name a part of it"
    )


# Fetching


def _fetch(source: Source, entry: Path, limit: int, run: Run) -> dict[str, Any]:
    """Make an entry whole; gives what its marker says. Files that are there, each of which is whole, are kept."""
    folder = entry / source.name
    folder.mkdir(parents=True, exist_ok=True)
    (entry / MARKER).unlink(missing_ok=True)
    problems: list[tuple[str, str]] = []
    n_files = n_more = total = 0
    with told(source.url):
        get = _from_tar(source, folder, limit) if source.files is None else _from_folder(source, folder)
        for member in progress(get, f"Fetching {source.name}"):
            total, n_files = total + member.size, n_files + (not member.reason)
            if total > limit:
                raise _too_large(source.url, limit)
            if member.reason and len(problems) < MAX_PROBLEMS:
                problems.append((member.name, member.reason))
            elif member.reason:
                n_more += 1
    if n_more:
        problems.append((".", f"{n_more:,} more files were refused, for reasons as those named"))
    about = {"url": shown(source.url), "name": source.name, "files": n_files, "bytes": total, "problems": problems}
    atomic_write(entry / MARKER, json.dumps(about))
    return about


def _from_tar(source: Source, folder: Path, limit: int) -> Iterator[Member]:
    """Read a tar from its beginning to its end, and write what is wanted of it."""
    streamed = {"block_size": 0} if "https" in source.fs.protocol else {}  # in one request, not in ranges
    with source.fs.open(source.path, "rb", **streamed) as stream:
        for member in members(stream, wanted, limit, source.below):
            if member.content is not None:
                _write(folder / member.name, member.content, member.size)
            yield member


def _write(path: Path, content: IO[bytes], size: int) -> None:
    """Write a file whole or not at all."""
    if path.is_file() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "xb") as out:
        shutil.copyfileobj(content, out, _CHUNK)


def _from_folder(source: Source, folder: Path) -> Iterator[Member]:
    """Fetch the files of a folder, some at a time."""
    assert source.files is not None
    names, good = Names(), []
    for name, (there, size) in sorted(source.files.items()):
        reason = unsafe(name) or names.refuse(name)
        if reason:
            yield Member(name, reason=reason)
        elif not ((folder / name).is_file() and (folder / name).stat().st_size == size):
            good.append((name, there, size))
        else:
            yield Member(name, size or 0)
    for start in range(0, len(good), _BATCH):
        batch = [
            (name, there, size, temporary_sibling(folder / name)) for name, there, size in good[start : start + _BATCH]
        ]
        for *_, temporary in batch:
            temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.fs.get([there for _, there, _, _ in batch], [str(temporary) for *_, temporary in batch])
            for name, _, size, temporary in batch:
                got = temporary.stat().st_size
                if size is not None and got != size:
                    raise DataError(
                        f"{shown(source.url)}: {name}: {got:,} bytes of {size:,} came: start again to go on"
                    )
                os.replace(temporary, folder / name)
                yield Member(name, got)
        finally:
            for *_, temporary in batch:
                temporary.unlink(missing_ok=True)


# Room


def _prune(root: Path, limit: int) -> None:
    """Remove the entries that were not used for the longest time, and are not in use, until the others are within the limit."""
    found = []
    for path in root.iterdir():
        if re.fullmatch("[0-9a-f]{32}", path.name):
            try:
                size = json.loads((path / MARKER).read_text(encoding="utf-8"))["bytes"]
                last = (path / MARKER).stat().st_mtime_ns
            except (OSError, ValueError, KeyError):  # one that is not whole
                size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
                last = path.stat().st_mtime_ns
            found.append((last, size, path))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        if _remove(root, path):
            excess -= size


def _remove(root: Path, path: Path) -> bool:
    """Remove an entry; not one that is in use, or being fetched."""
    key = path.name
    with ExitStack() as held:
        try:
            for lock in (root / f".{key}.lock", *root.glob(f".{key}.*.use")):
                held.enter_context(FileLock(lock).acquire(timeout=0))
        except Timeout:
            return False
        gone = root / f".{key}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)
        for use in root.glob(f".{key}.*.use"):
            use.unlink(missing_ok=True)
    return True
