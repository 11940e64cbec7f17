"""Where corpora lie: URLs that fsspec knows and tar files; what is there, and in words why it cannot be had."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mtl_speech.core.errors import DataError, MtlSpeechError, UsageError
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.folder import LABEL_SUFFIXES, UNREADABLE_SUFFIXES
from mtl_speech.corpora.tar_members import MAX_MEMBERS, SUFFIXES, TooLargeError, unsafe

_WANTED = (*AUDIO_SUFFIXES, *LABEL_SUFFIXES, *UNREADABLE_SUFFIXES, ".ctm")
_MANIFEST = "manifest.json"  # tells that a corpus is synthetic
_URL = re.compile(r"(?:^|(?<=::))([A-Za-z][A-Za-z0-9+.-]+):/+")
_TELLS_CONTENT = frozenset(
    "size etag mtime created lastmodified last_modified last-modified updated generation md5hash content-md5 digest".split()
)
# What to install for a protocol.
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "sftp": "paramiko"}
_DRIVERS |= {"http": "aiohttp", "https": "aiohttp"}


@dataclass(frozen=True)
class Source:
    """What is to be fetched: a tar, of which only what is `below` a folder, or the files of a folder by plain name and size."""

    url: str
    fs: Any
    path: str
    below: str
    files: Mapping[str, tuple[str, int | None]] | None  # plain name -> (path there, bytes); None for a tar
    size: int | None  # bytes, where that is told
    key: str

    @property
    def name(self) -> str:
        """The name of the corpus."""
        last = PurePosixPath(self.below).name or PurePosixPath(shown(self.url).rstrip("/")).name
        stem = re.sub(r"(\.tar(\.\w+)?|\.tgz)$", "", last, flags=re.IGNORECASE)
        return re.sub(r"[^\w.-]+", "_", stem).strip(".")[:80] or "data"


def url_of(place: Path) -> str | None:
    """The URL that was given as a path, which has lost a slash; None for a path of this machine."""
    text = place.as_posix()
    return _URL.sub(lambda found: f"{found[1].lower()}://", text) if _URL.search(text) else None


def shown(url: str) -> str:
    """A URL without names, passwords and signatures of a user."""
    return re.sub(r"(?<=://)[^/@:]*(:[^/@]*)?@", "", url).partition("?")[0].removeprefix("file://")


def source_of(url: str) -> Source:
    """What a URL leads to. Raises whatever fsspec and its drivers do."""
    import fsspec

    below, at = "", url
    if url.startswith("tar://"):
        below, _, at = url.removeprefix("tar://").partition("::")
        below = below.strip("/")
        if not at or (below and unsafe(below)):
            raise UsageError(f"{shown(url)}: write tar://folder::URL, with the URL of a tar")
    protocol = at.partition(":")[0]
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}, "skip_instance_cache": True}
    fs, path = fsspec.url_to_fs(at, **options)
    fs.invalidate_cache()
    if below or url.startswith("tar://") or shown(at).lower().endswith(SUFFIXES):
        info = fs.info(path)
        size = info.get("size")
        return Source(url, fs, path, below, None, size, _key(url, [_stamp(info)]))
    found = _listing(fs, path)
    files = {name: (there, info.get("size")) for name, (there, info) in found.items()}
    stamps = [[name, _stamp(info)] for name, (_, info) in sorted(found.items())]
    size = sum(size or 0 for _, size in files.values())
    return Source(url, fs, path, "", files, size, _key(url, stamps))


def _listing(fs: Any, path: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The files below a path that are wanted, by plain name. Raises FileNotFoundError where there is none at all."""
    base = path.rstrip("/") + "/" if path.strip("/") else ""
    found = {}
    anything = fs.find(path, detail=True)
    if not anything:
        raise FileNotFoundError(path)
    if len(anything) > MAX_MEMBERS:
        raise DataError(f"{path}: holds more than {MAX_MEMBERS:,} files: name a part of it")
    for there, info in anything.items():
        name = there.removeprefix(base)
        if there.startswith(base) and wanted(name):
            known = info if info.get("size") is not None else fs.info(there)
            found[name] = (there, known)
    if not found:
        raise DataError(f"{path}: no audio file and no labels among its {len(anything)} files")
    return found


def wanted(name: str) -> bool:
    """Whether a file is a recording or labels, or would be but for its format; hidden ones are not."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    return not hidden and (path.suffix.lower() in _WANTED or name == _MANIFEST)


def _stamp(info: Mapping[str, Any]) -> dict[str, str]:
    return {key.lower(): str(value) for key, value in info.items() if key.lower() in _TELLS_CONTENT}


def _key(url: str, stamps: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps([url, stamps], sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def told(url: str) -> Iterator[None]:
    """Inside, what fsspec and its drivers raise becomes an error of ours that names the URL and what to do."""
    place = shown(url)
    protocol = url.removeprefix("tar://").rpartition("::")[2].partition(":")[0]
    try:
        yield
    except MtlSpeechError:
        raise
    except ImportError as error:
        driver = _DRIVERS.get(protocol)
        what = f"needs the package {driver}: pip install {driver}" if driver else f"needs another package: {error}"
        raise UsageError(f"{place}: {protocol}:// {what}") from error
    except TooLargeError as error:
        raise DataError(f"{place}: {error}: raise --data-gib") from error
    except tarfile.TarError as error:
        raise DataError(f"{place}: no tar that can be used: {error}: fetch or make it again") from error
    except Exception as error:
        raise _of_the_driver(place, protocol, error) from error


def _of_the_driver(place: str, protocol: str, error: Exception) -> Exception:
    """The error to raise for one of fsspec or of a driver."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error  # of this machine
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec says of every failure on the web that there is no such file
    status = getattr(error, "status", None)
    said = " ".join(f"{type(error).__name__} {error}".split())
    said = re.sub(r"(?<=\?)\S+", "…", said)[:300]  # a signature
    if isinstance(error, ValueError) and "Protocol not known" in said:
        return UsageError(f"{place}: {protocol}:// is no protocol that fsspec knows: s3, gs, https, tar and others are")
    if isinstance(error, FileNotFoundError) or status == 404 or "NoSuchBucket" in said:
        return DataError(f"{place}: there is no such file, folder or bucket: check the address")
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in said:
        return DataError(
            f"{place}: access is refused ({said}): check the credentials that the driver of {protocol}:// uses"
        )
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError)) or re.search(
        r"Connect|Payload|Timeout|resolve", said
    ):
        return DataError(f"{place}: the network failed ({said}): start again when it is there; what came whole is kept")
    return DataError(f"{place}: cannot be read ({said})")
