"""The files in a tar that a stranger may have made: one after the other, as it is read, none of them outside the folder they go to.

Only regular files are taken, under names that are plain; links, devices, sparse files and second members of a name are told with
the reason. A tar that ends before its end is an error: Python's `tarfile` would take it for a whole one.
"""

from __future__ import annotations

import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Self

from mtl_speech.core.errors import printable

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 2_000_000
MAX_HEADER_BYTES = 1 << 12  # of an extended header: longer ones take tarfile quadratic time
MAX_NAME_BYTES, MAX_PART_BYTES = 1_000, 200
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


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
    if not reason and path.is_relative_to(below):
        path = path.relative_to(below)
    elif not reason:
        return None
    name = str(path)
    if found.isdir() or not wanted(name):
        return None
    if not reason and (found.issparse() or not found.isreg() or found.size < 0):
        reason = "is a link, a device or a sparse file, not a plain one"
    reason = reason or names.refuse(name)
    return Member(name, reason=reason) if reason else Member(name, found.size, archive.extractfile(found))
