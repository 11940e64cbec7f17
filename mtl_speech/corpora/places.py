"""Where corpora lie: URLs that fsspec knows and tar files; what is there, and in words why it cannot be had.

A tar may be a stranger's. It is read one file after the other; none of them may lie outside the folder that they go to. Only
regular files are taken, under names that are plain; links, devices, sparse files and second members of a name are told with the
reason. A tar that ends before its end is an error: Python's `tarfile` would take it for a whole one.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from mtl_speech.core.errors import DataError, MtlSpeechError, UsageError, printable
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.folder import LABEL_SUFFIXES, UNREADABLE_SUFFIXES

_WANTED = (*AUDIO_SUFFIXES, *LABEL_SUFFIXES, *UNREADABLE_SUFFIXES, ".ctm")
_MANIFEST = "manifest.json"  # tells that a corpus is synthetic
_URL = re.compile(r"(?:^|(?<=::))([A-Za-z][A-Za-z0-9+.-]+):/+")
_TELLS_CONTENT = frozenset(
    "size etag mtime created lastmodified last_modified last-modified updated generation md5hash content-md5 digest".split()
)
# What to install for a protocol.
_DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "sftp": "paramiko",
    "http": "aiohttp",
    "https": "aiohttp",
}
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 2_000_000
MAX_HEADER_BYTES = 1 << 12  # of an extended header: longer ones take tarfile quadratic time
MAX_NAME_BYTES, MAX_PART_BYTES = 1_000, 200
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


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
    if below or url.startswith("tar://") or shown(at).lower().endswith(TAR_SUFFIXES):
        info = fs.info(path)
        return Source(url, fs, path, below, None, info.get("size"), _key(url, [_stamp(info)]))
    found = _listing(fs, path)
    files = {name: (there, info.get("size")) for name, (there, info) in found.items()}
    stamps = [[name, _stamp(info)] for name, (_, info) in sorted(found.items())]
    return Source(url, fs, path, "", files, sum(size or 0 for _, size in files.values()), _key(url, stamps))


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


class TooLargeError(tarfile.ReadError):
    """An archive holds more than is allowed."""


@dataclass(frozen=True)
class Member:
    """A file that is wanted: its plain name and its size in bytes, and its content; or why it is not taken."""

    name: str
    size: int = 0
    content: IO[bytes] | None = None
    reason: str = ""


@dataclass
class Names:
    """Names of files that go to one folder. `refuse` tells why one cannot, and remembers it otherwise."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def refuse(self, name: str) -> str:
        """Why a plain name cannot stand beside those before it; empty, if it can."""
        path = PurePosixPath(unicodedata.normalize("NFC", name).casefold())
        parents = {str(parent) for parent in path.parents}
        if str(path) in self.files:
            return "a second file of this name: the first is used"
        if str(path) in self.folders or parents & self.files:
            return "has the name of a folder, or lies in what is a file"
        self.files.add(str(path))
        self.folders |= parents
        return ""


def unsafe(name: str) -> str:
    """Why a name of a stranger's cannot be that of a file below a folder; empty, if it can."""
    parts = PurePosixPath(name).parts
    if not parts or printable(name) != name or "\n" in name:
        return "its name has a control character, or is not UTF-8"
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        return "its name leads out of the folder"
    if len(name.encode()) > MAX_NAME_BYTES or max(len(part.encode()) for part in parts) > MAX_PART_BYTES:
        return "its name is too long"
    return ""


class _Header(tarfile.TarInfo):
    """Headers that `tarfile` would take for the end of the archive, or hold in memory whole, are errors."""

    ended = False  # whether the block that ends an archive was read; in a class of its own for each archive

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            cls.ended = True
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is cut short or damaged: {error}") from error
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError("it has a header of an absurd size")
        return header


def members(stream: IO[bytes], wanted: Callable[[str], bool], max_bytes: int, below: str = "") -> Iterator[Member]:
    """The files in the tar `stream`, compressed or not, whose plain names below the folder `below` are wanted.

    A content must be read before the next member is asked for. Raises tarfile.ReadError that says what is wrong: no tar, damaged or
    cut short; TooLargeError where it holds more than `max_bytes` or MAX_MEMBERS.
    """
    header: type[_Header] = type("_HeaderOfOne", (_Header,), {})
    names, total, count = Names(), 0, 0
    try:
        with tarfile.open(fileobj=stream, mode="r|*", tarinfo=header) as archive:
            while (found := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # which would keep every header
                total, count = total + max(found.size, 0), count + 1
                if total > max_bytes or count > MAX_MEMBERS:
                    raise TooLargeError(f"it holds more than {max_bytes / 2**30:.3g} GiB or {MAX_MEMBERS:,} files")
                member = _member(found, archive, wanted, names, PurePosixPath(below))
                if member is not None:
                    yield member
        if not header.ended:
            raise tarfile.ReadError("it is cut short: its end is missing")
    except tarfile.ReadError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise tarfile.ReadError(f"it is cut short or damaged: {error}") from error


def _member(
    found: tarfile.TarInfo,
    archive: tarfile.TarFile,
    wanted: Callable[[str], bool],
    names: Names,
    below: PurePosixPath,
) -> Member | None:
    """A member of an archive, with its content or the reason; None where it is not wanted."""
    reason = unsafe(found.name)
    path = PurePosixPath(found.name)
    if not reason and not path.is_relative_to(below):
        return None
    name = str(path if reason else path.relative_to(below))
    if found.isdir() or not wanted(name):
        return None
    if not reason and (found.issparse() or not found.isreg() or found.size < 0):
        reason = "is a link, a device or a sparse file, not a plain one"
    reason = reason or names.refuse(name)
    return Member(name, reason=reason) if reason else Member(name, found.size, archive.extractfile(found))
