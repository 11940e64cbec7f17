"""Features on disk: the frames of a recording, once made, lie in a cache folder of bounded size.

An entry is one safetensors file, named by a hash of all that its content depends on, so none can be out of date. It appears
whole by one rename, so processes that make the same entry at once do no harm; it is checked when it is read, and made anew where
it is damaged. Once the folder is larger than its limit, the entries that were not used for the longest time go.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mtl_speech.core.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

# Variables of the environment, which processes hand on: the folder, how large its features may become, and the corpora of `remote`.
FOLDER, LIMIT, DATA_LIMIT = "MTL_SPEECH_CACHE", "MTL_SPEECH_CACHE_GIB", "MTL_SPEECH_DATA_GIB"
DEFAULT_GIB = 10.0  # an hour of speech takes 0.055 GiB
DEFAULT_DATA_GIB = 50.0
_SLACK = 16  # the limit is looked after each time that a sixteenth of it was written


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
            _touch(path)
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
            try:
                status = path.stat()
            except OSError:  # another process has removed it
                continue
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


def _touch(path: Path) -> None:
    """Set the time of last use; a folder that cannot be written has none."""
    try:
        os.utime(path)
    except OSError:
        return
