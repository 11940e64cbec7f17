"""The recordings in a sound file of any kind; see `parts`."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.sound.chunks import chunked_part
from mtl_speech.corpora.sound.flac_frames import flac_samples
from mtl_speech.corpora.sound.mpeg_frames import after_tags, mpeg_layout
from mtl_speech.corpora.sound.not_audio import what_it_is
from mtl_speech.corpora.sound.ogg_pages import ogg_layout
from mtl_speech.corpora.sound.parts import Layout, Part, begins_recording, next_recording

_HEAD = 4096  # bytes that tell what a file is
_FLAC_TOTAL = 18  # byte after "fLaC" in whose lower half the number of samples begins


def layout_of(file: IO[bytes], path: Path) -> Layout:
    """The recordings in an open file.

    Raises:
        DataError: not a recording at all, or one that is damaged in its structure.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise DataError(f"{path}: empty file: record it again or leave it out")
    head = file.read(_HEAD)
    layout = _layout(file, path, (head, size))
    alone = layout.parts[0] if len(layout.parts) == 1 else None
    if alone is not None and not alone.head and not alone.seeming_size and alone.spans == ((0, size),):
        return replace(layout, parts=(replace(alone, whole=True),))
    return layout


def _layout(file: IO[bytes], path: Path, known: tuple[bytes, int]) -> Layout:
    """`layout_of` of a file whose first bytes and size are known."""
    head, size = known
    told = None if begins_recording(head) else what_it_is(head)
    if told is not None:
        raise DataError(f"{path}: {told}")
    first = 0 if begins_recording(head) else after_tags(file, 0, size)
    if first == size:
        what = "nothing but zeros" if not head.strip(b"\0") else "tags, and no frame of audio is found"
        raise DataError(f"{path}: holds {what}: copy it again, or leave it out")
    head = head[first : first + 64] if first + 64 <= len(head) else _at(file, first, 64)
    if head.startswith(b"OggS"):
        return ogg_layout(file, path, (first, size))
    if head.startswith(b"fLaC"):
        return _told(_flac(file, path, (first, size)))
    if begins_recording(head):
        return _told(_chunked(file, path, (first, size)))
    return mpeg_layout(file, path, size) or Layout((Part(((0, size),)),))


def _told(parts: list[Part]) -> Layout:
    notes = [f"{len(parts)} recordings, one after another: all are read"] if len(parts) > 1 else []
    return Layout(tuple(parts), tuple(notes))


def _chunked(file: IO[bytes], path: Path, within: tuple[int, int]) -> list[Part]:
    at, size = within
    parts: list[Part] = []
    while at < size:
        found = chunked_part(file, path, at, size)
        if found is None and parts:
            raise DataError(
                f"{path}: at byte {at:,} a second recording begins, of another kind: convert both to WAV, each to a file"
            )
        part, at = found or (Part(((at, size),)), size)
        parts.append(part)
    return parts


def _flac(file: IO[bytes], path: Path, within: tuple[int, int]) -> list[Part]:
    at, size = within
    parts = []
    while at < size:
        end = next_recording(file, at + 16, size, (b"fLaC",))
        head = bytearray(_at(file, at, 26))
        if not head.startswith(b"fLaC"):
            raise DataError(
                f"{path}: at byte {at:,} a second recording begins, of another kind: convert both to WAV, each to a file"
            )
        (total,) = struct.unpack(">Q", head[_FLAC_TOTAL:]) if len(head) == 26 else (1,)
        if total & (1 << 36) - 1:
            parts.append(Part(((at, end),)))
        else:  # written to a pipe: the library reads it once the header tells its length
            found = flac_samples(file, at, end)
            if found is None:
                raise DataError(
                    f"{path}: cut short: its last frame is not whole, and its header tells no length: copy it again"
                )
            head[_FLAC_TOTAL:] = struct.pack(">Q", total | found & (1 << 36) - 1)
            parts.append(Part(((at + 26, end),), bytes(head)))
        at = end
    return parts


def _at(file: IO[bytes], at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)
