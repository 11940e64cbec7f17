"""Features on disk: the frames of a recording, once made, lie in a cache folder of bounded size.

An entry is one safetensors file, named by a hash of all that its content depends on, so none can be out of date. It appears
whole by one rename, so processes that make the same entry at once do no harm; it is checked when it is read, and made anew where
it is damaged. Once the folder is larger than its limit, the entries that were not used for the longest time go.

A `Spool` is a file without a name in the same folder. Labels are kept there in place of memory, so that a corpus of a thousand
hours needs little more of it than one of an hour.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, overload

from mtl_speech.core.files import atomic_write, write_at

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

# Variables of the environment, which processes hand on: the folder, how large its features may become, and the corpora of `remote`.
FOLDER, LIMIT, DATA_LIMIT = "MTL_SPEECH_CACHE", "MTL_SPEECH_CACHE_GIB", "MTL_SPEECH_DATA_GIB"
DEFAULT_GIB = 10.0  # an hour of speech takes 0.055 GiB
DEFAULT_DATA_GIB = 50.0
_SLACK = 16  # the limit is looked after each time that a sixteenth of it was written
_RECORD = struct.Struct("<iidd")  # of a spool: index of the label, number, start, end
_AT_ONCE = 4096  # records read together

T = TypeVar("T")
Fields = tuple[str, float, float, int]  # label, start and end in seconds, number


def cache_folder() -> Path:
    """The folder of the cache: $MTL_SPEECH_CACHE, else the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get(FOLDER)
    return Path(given) if given else user_cache_path("mtl_speech", appauthor=False) / "features"


def cache_gib(variable: str = LIMIT, default: float = DEFAULT_GIB) -> float:
    """How large the cache may become, in GiB: $MTL_SPEECH_CACHE_GIB, else DEFAULT_GIB. At 0 nothing is kept."""
    try:
        return max(0.0, float(os.environ.get(variable, default)))
    except ValueError:
        logger.warning("%s is no number: %r; %g GiB it is", variable, os.environ[variable], default)
        return default


def cache_fault(folder: Path) -> str | None:
    """Why nothing can be kept in a folder, with what to do, or None. Nothing is created."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return None
    return (
        f"features cannot be kept in {folder} ({there} {'cannot be written' if there.is_dir() else 'is not a folder'}): "
        f"they are computed anew each time; name another folder with --cache-dir or {FOLDER}"
    )


def key_of(parts: Mapping[str, object]) -> str:
    """The name of an entry, from all that it depends on, as plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """The entries in `folder` (by default `cache_folder`), which take at most `limit` bytes (by default `cache_gib`)."""

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = folder if folder is not None else cache_folder()
        self.limit = limit if limit is not None else int(cache_gib() * 2**30)
        self._written = 0  # bytes since the size of the folder was looked at
        self._told = False

    def path(self, key: str) -> Path:
        """Where an entry lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str, width: int, check: bool = True) -> tuple[Tensor, float] | None:
        """The frames (n_frames, width) float16, mapped from the disk, and the speed of an entry; None where there is none.

        With `check` the content is compared with its checksum and the entry counts as used now. A damaged one counts as none,
        with a warning.
        """
        import torch
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as entry:
                told, frames = entry.metadata(), entry.get_tensor("frames")
            if frames.dtype != torch.float16 or frames.ndim != 2 or frames.shape[1] != width:
                raise ValueError("it holds no frames of features")
            if check and _checksum(frames) != told["crc32"]:
                raise ValueError("its checksum is not right")
            speed = float(told["speed"])
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            # safe_open opens the file by its name twice, the second time with torch: it may be gone in between.
            if not isinstance(error, FileNotFoundError) and not str(error).endswith(f"({errno.ENOENT})"):
                logger.warning("%s: damaged (%s): made anew", path, error)
            return None
        if check:
            with suppress(OSError):  # a folder that cannot be written has no time of last use
                os.utime(path)
        return frames, speed

    def write(self, key: str, frames: Tensor, speed: float) -> None:
        """Keep an entry. Where the folder cannot be written, it is not kept; the first time there is a warning."""
        from safetensors.torch import save

        if self.limit <= 0:
            return
        data = save({"frames": frames.contiguous()}, {"crc32": _checksum(frames), "speed": repr(speed)})
        try:
            atomic_write(self.path(key), data, sync=False)
        except OSError as error:
            if not self._told:
                logger.warning("%s", cache_fault(self.folder) or f"features cannot be kept in {self.folder}: {error}")
            self._told = True
            return
        self._written += len(data)
        if self._written > self.limit // _SLACK:
            self.prune()

    def prune(self) -> None:
        """Remove the entries that were not used for the longest time, until the others are within the limit."""
        self._written = 0
        found = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):  # another process has removed it
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in found) - self.limit
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            excess -= size
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s: cannot be removed from the cache: %s", path, error)

    def scratch(self) -> IO[bytes]:
        """A file without a name for as long as it is open, in the cache folder, else where temporary files lie."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self.folder)
        except OSError:
            return tempfile.TemporaryFile()


def _checksum(frames: Tensor) -> str:
    return f"{zlib.crc32(frames.contiguous().numpy().data):08x}"


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How an item becomes a record, and is made of one."""

    fields: Callable[[T], Fields]
    make: Callable[[str, float, float, int], T]


class Spool:
    """A file of records; only their labels, each once, are in memory. Raises OSError where it cannot be written.

    What is kept in it looks like a tuple; its items are made anew each time that they are asked for. The file goes with the last
    of them.
    """

    def __init__(self) -> None:
        self._file = FeatureCache().scratch()
        weakref.finalize(self, self._file.close)
        self._labels: list[str] = []
        self._place: dict[str, int] = {}
        self._n = 0

    def keep(self, items: Sequence[T], kind: Kind[T]) -> Sequence[T]:
        """The same items, in the file."""
        if not items:
            return ()
        first, records = self._n, []
        for label, start, end, number in map(kind.fields, items):
            place = self._place.setdefault(label, len(self._labels))
            if place == len(self._labels):
                self._labels.append(label)
            records.append(_RECORD.pack(place, number, start, end))
        write_at(self._file, b"".join(records), _RECORD.size * first)
        self._n += len(items)
        return Kept(self, first, len(items), kind)

    def read(self, first: int, n: int) -> Iterator[Fields]:
        """The `n` records from number `first` on."""
        for begin in range(first, first + n, _AT_ONCE):
            size = _RECORD.size * min(_AT_ONCE, first + n - begin)
            # pread: processes that share the file do not move each other's place in it
            for place, number, start, end in _RECORD.iter_unpack(
                os.pread(self._file.fileno(), size, _RECORD.size * begin)
            ):
                yield self._labels[place], start, end, number


class Kept(Sequence[T]):
    """Items in a `Spool`. Equal to a tuple of equal items, as which a pickle holds them."""

    __slots__ = ("_first", "_kind", "_n", "_spool")

    def __init__(self, spool: Spool, first: int, n: int, kind: Kind[T]) -> None:
        self._spool, self._first, self._n, self._kind = spool, first, n, kind

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[T]:
        return (self._kind.make(*record) for record in self._spool.read(self._first, self._n))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Kept, tuple)) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, tuple[tuple[T, ...]]]:
        return tuple, (tuple(self),)
