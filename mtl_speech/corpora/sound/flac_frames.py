"""The length of a FLAC file that was written to a pipe, from its last frame: its header does not tell it."""

from __future__ import annotations

from functools import cache
from typing import IO

_MAX_FRAME = 1 << 20  # bytes
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608, **{8 + i: 256 << i for i in range(8)}}


def flac_samples(file: IO[bytes], first: int, end: int) -> int | None:
    """The samples in a FLAC file of the bytes [first, end); None where its last frame is not whole."""
    file.seek(first)
    block = int.from_bytes(file.read(12)[10:], "big")  # samples of each frame but the last, where all are alike
    begin = max(first + 42, end - _MAX_FRAME)
    file.seek(begin)
    data = file.read(max(0, end - begin))
    at = len(data)
    while (at := data.rfind(b"\xff", 0, at)) >= 0:
        found = _frame_end(data[at : at + 16], block)
        if found is not None and _crc(data[at:], 16, 0x8005) == 0:
            return found
    return None


def _frame_end(head: bytes, block: int) -> int | None:
    """The samples up to the end of the frame that begins with `head`; None where none does."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    ones = 8 - (~head[4] & 0xFF).bit_length()
    n = ones or 1  # bytes of the number, coded as in UTF-8
    if ones in (1, 8) or 4 + n > len(head) or any(byte & 0xC0 != 0x80 for byte in head[5 : 4 + n]):
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 4 + n]:
        number = number << 6 | byte & 0x3F
    at, code = 4 + n, head[2] >> 4
    wide = {6: 1, 7: 2}.get(code, 0)
    size = _SIZES.get(code, int.from_bytes(head[at : at + wide], "big") + 1 if wide else 0)
    at += wide + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not size or at >= len(head) or _crc(head[: at + 1], 8, 0x07):
        return None
    return size + (number if head[1] & 1 else number * block)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    """The checksum of bytes, 0 where they end with their own."""
    table, found, mask, shift = _table(bits, polynomial), 0, (1 << bits) - 1, bits - 8
    for byte in data:
        found = (found << 8 & mask) ^ table[found >> shift ^ byte]
    return found


@cache
def _table(bits: int, polynomial: int) -> tuple[int, ...]:
    def entry(value: int) -> int:
        value <<= bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial * (value >> bits - 1)) & (1 << bits) - 1
        return value

    return tuple(map(entry, range(256)))
