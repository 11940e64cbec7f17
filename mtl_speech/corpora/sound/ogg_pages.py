"""Ogg files (Vorbis, Opus, FLAC): their pages are walked and checked, since the audio library reads the first of several streams
alone and passes over pages that are damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.sound.parts import Layout, Part, is_tag, only_zeros

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_SOUNDS = (b"\1vorbis", b"OpusHead", b"\x7fFLAC", b"fLaC", b"Speex   ")
_FIRST, _LAST = 2, 4  # flags of a page: of the first and the last of a stream


@dataclass(frozen=True)
class _Page:
    """A page: its first byte and the one after it, its flags, the time in samples at its end, its stream and number, and what its
    stream is, of the first of one."""

    first: int
    end: int
    flags: int
    granule: int
    stream: int
    number: int
    sound: bytes


def ogg_layout(file: IO[bytes], path: Path, within: tuple[int, int]) -> Layout:
    """The recordings in the bytes [first, end) of an Ogg file, one for each stream of sound that follows another.

    Raises:
        DataError: a page is damaged or missing, the file ends within one, or there are two streams of sound at once.
    """
    begins: list[int] = []
    open_streams: dict[int, int] = {}  # stream, and the number of its last page
    sounds, heads, ended, notes = 0, False, True, []
    for page in _pages(file, path, *within):
        if page.flags & _FIRST:
            if not heads:
                begins.append(page.first)
                open_streams, sounds, heads = {}, 0, True
            sounds += page.sound in _SOUNDS
            if sounds > 1:
                raise DataError(
                    f"{path}: at byte {page.first:,}, a second stream of sound plays at the same time: convert them to two files"
                )
            open_streams[page.stream] = page.number - 1
        else:
            heads = False
        _in_order(page, open_streams, path)
        open_streams[page.stream] = page.number
        ended = bool(page.flags & _LAST)
    if not begins:
        raise DataError(f"{path}: its first page begins no stream: the beginning of the file is missing: copy it again")
    if not ended:
        notes.append("its last page is not marked as the last: perhaps the recording went on; what is there is used")
    if len(begins) > 1:
        notes.append(f"{len(begins)} recordings, one after another: all are read")
    parts = tuple(Part(((first, end),)) for first, end in zip(begins, [*begins[1:], within[1]], strict=True))
    return Layout(parts, tuple(notes))


def _in_order(page: _Page, streams: dict[int, int], path: Path) -> None:
    last = streams.get(page.stream)
    if last is not None and page.number == last + 1 & 0xFFFFFFFF:
        return
    what = "pages are missing" if last is not None else "a page belongs to no stream that was begun"
    raise DataError(f"{path}: before byte {page.first:,}, {what}: it is damaged: copy it again")


def _pages(file: IO[bytes], path: Path, at: int, size: int) -> Iterator[_Page]:
    """All pages from a byte on, each with a right checksum."""
    while at < size:
        file.seek(at)
        head = file.read(27)
        if not head.startswith(b"OggS"):
            if is_tag(head) or only_zeros(file, at, size):
                return
            raise DataError(
                f"{path}: at byte {at:,} of {size:,}, where a page should begin, there is none: it is damaged: copy it again"
            )
        lengths = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(lengths))
        end = at + 27 + len(lengths) + len(body)
        if len(head) < 27 or len(lengths) < head[26] or len(body) < sum(lengths):
            raise DataError(
                f"{path}: cut short: it ends at byte {size:,}, within a page that begins at byte {at:,}: copy it again"
            )
        claimed, blank = struct.unpack("<I", head[22:26])[0], head[:22] + b"\0\0\0\0" + head[26:]
        if _checksum(blank + lengths + body) != claimed:
            raise DataError(f"{path}: the page of bytes {at:,} to {end:,} is damaged: copy the file again")
        granule, stream, number = struct.unpack("<qII", head[6:22])
        sound = next((name for name in _SOUNDS if body.startswith(name)), b"")
        yield _Page(at, end, head[5], granule, stream, number, sound)
        at = end


def _checksum(page: bytes) -> int:
    """Ogg's checksum: that of zlib with the bits of all bytes and of the result in reverse, from 0 and not inverted."""
    found = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(found.to_bytes(4, "little").translate(_REVERSED), "big")
