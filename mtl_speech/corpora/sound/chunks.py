"""Sound files that state how many bytes of samples they hold: WAV, RF64, AIFF, Wave64, CAF, AU and SPHERE."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.sound.parts import Part, begins_recording, next_recording, rest_of
from mtl_speech.corpora.sound.sphere import sphere_fields

# Bytes that a header claims when it was written to a pipe and the length was not known: SoX, and ffmpeg.
_UNKNOWN = (range(0x7FFFF000, 0x80000000), range(0xFFFFFF00, 0x100000000))
_WHOLE_SAMPLES = (1, 3, 6, 7, 0xFFFE)  # WAV formats whose blocks are single samples of all channels
_KNOWN_IDS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"JUNK", b"PAD ", b"fact", b"_PMX")


@dataclass(frozen=True)
class _Samples:
    """Where the samples lie: their first byte, how many the header claims (None: not known), the end of the container as far as it
    is sound, and bytes per second (0: not known); the place of the claim, and how it is written."""

    first: int
    claimed: int | None
    end: int
    per_second: float
    size_at: int
    size_form: str
    mend: bool = False  # whether the library needs the claim to be right


def chunked_part(file: IO[bytes], path: Path, first: int, size: int) -> tuple[Part, int] | None:
    """The recording that begins at byte `first` of a file of `size` bytes, and where the next one begins (or `size`).

    None where it is of another kind, or so damaged that only the audio library can tell how.

    Raises:
        DataError: bytes follow that are no part of it, or its samples lie in several places.
    """
    file.seek(first)
    head = file.read(16)
    walk = next((walk for magic, walk in _WALKS if head.startswith(magic)), None)
    try:
        found = walk(file, path, first, size) if walk is not None else None
    except struct.error:
        return None
    if found is None:
        return None
    return _part(file, path, (first, size), found)


def _part(file: IO[bytes], path: Path, within: tuple[int, int], found: _Samples) -> tuple[Part, int]:
    first, size = within
    if found.claimed is None:
        end = next_recording(file, found.first, size)
        mended = _mended(file, first, found, end - found.first) if found.mend or end < size else b""
        return _slice(first, found.first, end, mended), end
    there = min(found.claimed, size - found.first)
    per_second = found.per_second or 1.0
    lacking = (found.claimed - there) / per_second if found.per_second else 0.0
    mended = _mended(file, first, found, there) if found.mend and there < found.claimed else b""
    end = size
    if found.end < size:
        end = rest_of(file, path, found.end, size, per_second, there / per_second)
    part = _slice(first, found.first, end, mended)
    return replace(part, lacking=lacking) if lacking else part, end


def _slice(first: int, samples: int, end: int, head: bytes) -> Part:
    return Part(((samples, end),), head) if head else Part(((first, end),))


def _mended(file: IO[bytes], first: int, found: _Samples, n: int) -> bytes:
    """The header of a recording with the number of bytes that are there."""
    file.seek(first)
    head = bytearray(file.read(found.first - first))
    extra = {"<Q": 24, ">q": 4}.get(found.size_form, 0)  # bytes before the samples that count as well
    struct.pack_into(found.size_form, head, found.size_at - first, min(n + extra, 0xFFFFFFFF))
    return bytes(head)


def _is_chunk(file: IO[bytes], at: int, end: int, order: str) -> bool:
    """Whether a chunk of RIFF or AIFF begins at a byte, and ends within the file."""
    file.seek(at)
    head = file.read(8)
    if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
        return False
    return at + 8 + int(struct.unpack(f"{order}I", head[4:])[0]) <= end or head[:4] in _KNOWN_IDS


def _riff(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    """WAV, and its kin with sizes of 64 bits."""
    return _chunks(file, path, (first, size), ">" if _at(file, first, 4) == b"RIFX" else "<", (b"fmt ", b"data"))


def _aiff(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    return _chunks(file, path, (first, size), ">", (b"COMM", b"SSND"))


def _chunks(
    file: IO[bytes], path: Path, within: tuple[int, int], order: str, names: tuple[bytes, bytes]
) -> _Samples | None:
    """The samples of a file of chunks with sizes of 32 bits; `names` are those of the format and of the samples."""
    (first, size), form, long = within, b"", 0
    at, found = first + 12, None
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        name, n = head[:4], int(struct.unpack(f"{order}I", head[4:8])[0])
        if begins_recording(head) or not (name == names[1] or _is_chunk(file, at, size, order)):
            break
        if name == b"ds64":
            long = int(struct.unpack("<Q", _at(file, at + 16, 8))[0])
        elif name == names[0]:
            form = _at(file, at + 8, min(n, 64))
        elif name == names[1]:
            if found is not None and n:
                raise DataError(
                    f"{path}: its samples lie in two places, the second at byte {at:,}: convert it to WAV or FLAC"
                )
            n = long if n == 0xFFFFFFFF and long else n
            found = found or _data(file, at, n, size, order)
            if found.claimed is None:
                n = size
        at = _after(file, at + 8 + n, size, order)
    if found is None:
        return None
    per_second = _per_second(form, names[0], found.claimed)
    return _Samples(found.first, found.claimed, at, per_second, found.size_at, found.size_form, found.mend)


def _after(file: IO[bytes], at: int, size: int, order: str) -> int:
    """Where the chunk after one that ends at `at` begins: at an even byte, though some programs forget it."""
    if at % 2 == 0 or (at < size and _is_chunk(file, at, size, order) and not _is_chunk(file, at + 1, size, order)):
        return at
    return at + 1


def _data(file: IO[bytes], at: int, n: int, size: int, order: str) -> _Samples:
    """The samples in the chunk at a byte, which claims n bytes."""
    open_ended = any(n in unknown for unknown in _UNKNOWN)
    nothing = n == 0 and at + 8 < size and not _is_chunk(file, at + 8, size, order)
    return _Samples(at + 8, None if open_ended or nothing else n, size, 0.0, at + 4, f"{order}I", mend=nothing)


def _per_second(form: bytes, name: bytes, claimed: int | None) -> float:
    """Bytes per second by a format chunk; 0 where it does not tell."""
    if name == b"fmt " and len(form) >= 16:
        for order in "<>":
            kind, _, rate, average, block, _ = struct.unpack(f"{order}HHIIHH", form[:16])
            if 0 < rate < 1 << 20:
                return float(rate * block if kind in _WHOLE_SAMPLES else average)
    elif name == b"COMM" and len(form) >= 18:
        _, frames, _, exponent, mantissa = struct.unpack(">hIhHQ", form[:18])
        rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16446) if exponent & 0x7FFF < 16446 else 0.0
        if frames and rate and claimed:
            return float((claimed - 8) * rate / frames)
    return 0.0


def _wave64(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    at, per_second = first + 40, 0.0
    while at + 24 <= size:
        name, (n,) = _at(file, at, 4), struct.unpack("<Q", _at(file, at + 16, 8))
        if name == b"fmt ":
            per_second = _per_second(_at(file, at + 24, 16), b"fmt ", None)
        elif name == b"data":
            claimed = None if n <= 24 or n > 1 << 60 else n - 24
            end = size if claimed is None else at + (n + 7) // 8 * 8
            while end + 24 <= size and all(32 <= byte < 127 for byte in _at(file, end, 4)):
                (n,) = struct.unpack("<Q", _at(file, end + 16, 8))
                if not 24 <= n <= size - end or begins_recording(_at(file, end, 16)):
                    break
                end += (n + 7) // 8 * 8
            # The library takes all that follows for samples.
            return _Samples(at + 24, claimed, end, per_second, at + 16, "<Q", mend=claimed is None)
        if not 24 <= n <= size:
            return None
        at += (n + 7) // 8 * 8
    return None


def _caf(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    at, per_second, found = first + 8, 0.0, None
    while at + 12 <= size:
        head = _at(file, at, 16)
        name, (n,) = head[:4], struct.unpack(">q", head[4:12])
        if begins_recording(head) or not all(32 <= byte < 127 for byte in name):
            break
        if name == b"desc":
            rate, _, _, packet, frames = struct.unpack(">d4sIII", _at(file, at + 12, 24))
            per_second = rate * packet / frames if frames and 0 < rate < 1 << 20 else 0.0
        elif name == b"data":
            found = _Samples(at + 16, None if n < 4 else n - 4, size, per_second, at + 4, ">q", mend=True)
        n = size if n < 0 else n
        at += 12 + n
    return None if found is None else replace(found, end=at)


def _au(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    offset, claimed, kind, rate, channels = struct.unpack(">5I", _at(file, first + 4, 20))
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(kind, 0)
    if not 24 <= offset <= size - first:
        return None
    known = claimed not in (0, 0xFFFFFFFF)
    end = first + offset + claimed if known else size
    per_second = float(rate * channels * width)
    return _Samples(first + offset, claimed if known else None, end, per_second, first + 8, ">I", mend=claimed == 0)


def _sphere(file: IO[bytes], path: Path, first: int, size: int) -> _Samples | None:
    fields = sphere_fields(_at(file, first, 1 << 16)) or {}
    if "," in fields.get("sample_coding", ""):  # compressed
        return None
    length = _at(file, first + 8, 8).strip()
    wanted = [fields.get(name, "1" if name == "channel_count" else "") for name in _SPHERE]
    if not length.isdigit() or not all(text.isdecimal() and len(text) < 16 for text in wanted):
        return None
    samples, width, rate, channels = map(int, wanted)
    begin = first + int(length)
    claimed = samples * width * channels
    if not claimed or begin > size:
        return None
    return _Samples(begin, claimed, begin + claimed, float(rate * width * channels), 0, "")


_SPHERE = ("sample_count", "sample_n_bytes", "sample_rate", "channel_count")
_Walk = Callable[[IO[bytes], Path, int, int], "_Samples | None"]
_WALKS: tuple[tuple[bytes, _Walk], ...] = (
    (b"RIFF", _riff),
    (b"RIFX", _riff),
    (b"RF64", _riff),
    (b"BW64", _riff),
    (b"FORM", _aiff),
    (b"riff\x2e\x91\xcf\x11", _wave64),
    (b"caff", _caf),
    (b".snd", _au),
    (b"NIST_1A", _sphere),
)


def _at(file: IO[bytes], at: int, n: int) -> bytes:
    file.seek(at)
    return file.read(n)
