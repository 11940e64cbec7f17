"""Which bytes of a sound file are recordings: a file may hold several, one after another, and tags between and around them.

The audio library reads the first recording of a file, up to the length that its header claims or that it estimates, and does not
look at what follows. Here the containers are walked to the last byte, by their headers alone. `sound_chunks`, `mpeg_frames` and
`ogg_pages` do so for each kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError

TAIL = 0.1  # seconds that a recording may lack at its end and be used
_SCAN = 1 << 20  # bytes read at once
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_MAGICS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"fLaC", b"OggS", b".snd", b"caff", b"riff", b"NIST_1A")
_BEGINS = re.compile(
    rb"(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|fLaC[\0\x80]\0\0\x22|OggS\0\x02|\.snd\0\0..|"
    rb"caff\0\x01\0\0desc|riff\x2e\x91\xcf\x11\xa5\xd6|NIST_1A\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """One recording in a file, such that the audio library can read it: `head`, then the spans [first, end) of the file's bytes.

    lacking: seconds that its header claims and the file does not hold. samples: how many there are, of one channel (None: as many
    as the library says); `seeming_size` is then a number of bytes that lets the library expect no fewer. whole: it is the file as
    it stands. talkative: its decoder writes to the standard error.
    """

    spans: tuple[tuple[int, int], ...]
    head: bytes = b""
    lacking: float = 0.0
    samples: int | None = None
    seeming_size: int = 0
    whole: bool = False
    talkative: bool = False


@dataclass(frozen=True)
class Layout:
    """The recordings of a file in their order, and what is odd about them though they can be used."""

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


class Spliced:
    """A part as a file of its own, to be read alone; what `soundfile` asks of a file."""

    def __init__(self, file: IO[bytes], part: Part) -> None:
        self._file, self._head, self._at = file, part.head, 0
        self._places: list[tuple[int, int, int]] = []  # first byte here, its place in the file, and how many follow
        self._size = len(part.head)
        for first, end in part.spans:
            self._places.append((self._size, first, end - first))
            self._size += end - first
        self._seeming = max(self._size, part.seeming_size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a byte, as files do."""
        self._at = max(0, (0, self._at, self._seeming)[whence] + offset)
        return self._at

    def tell(self) -> int:
        """The byte to be read next."""
        return self._at

    def read(self, n: int = -1) -> bytes:
        """At most n bytes; all that is left where n is negative. Zeros beyond the true end, where a tag is looked for."""
        if self._at > self._size:
            n = max(0, self._seeming - self._at) if n < 0 else min(n, max(0, self._seeming - self._at))
            self._at += n
            return bytes(n)
        n = max(0, self._size - self._at) if n < 0 else n
        found = self._head[self._at : self._at + n]
        for begin, place, size in self._places:
            at = self._at + len(found)
            if len(found) < n and begin <= at < begin + size:
                self._file.seek(place + at - begin)
                found += self._file.read(min(n - len(found), begin + size - at))
        self._at += len(found)
        return found


def begins_recording(head: bytes) -> bool:
    """Whether the first 16 bytes of something are those of a sound file."""
    return _BEGINS.match(head) is not None


def next_recording(file: IO[bytes], first: int, end: int, magics: tuple[bytes, ...] = _MAGICS) -> int:
    """The first byte of [first, end) at which a sound file of a known kind begins, by its `magics`; or `end`."""
    held, at = b"", first
    for block in blocks(file, first, end):
        data = held + block
        found = [
            place for magic in magics for place in _places(data, magic) if begins_recording(data[place : place + 16])
        ]
        if found:
            return at - len(held) + min(found)
        held, at = data[-15:], at + len(block)
    return end


def _places(data: bytes, magic: bytes) -> Iterator[int]:
    """Where a word stands in bytes."""
    place = data.find(magic)
    while place >= 0:
        yield place
        place = data.find(magic, place + 1)


def blocks(file: IO[bytes], first: int, end: int) -> Iterator[bytes]:
    """The bytes [first, end) of a file, a block at a time."""
    file.seek(first)
    while first < end and (block := file.read(min(_SCAN, end - first))):
        first += len(block)
        yield block


def only_zeros(file: IO[bytes], first: int, end: int) -> bool:
    """Whether the bytes [first, end) of a file are all zero."""
    return not any(block.strip(b"\0") for block in blocks(file, first, end))


def is_tag(head: bytes) -> bool:
    """Whether bytes are the first of a tag with a title, an artist or a picture."""
    return head.startswith(_TAGS)


def rest_of(file: IO[bytes], path: Path, first: int, end: int, per_second: float, seconds: float) -> int:
    """Where the next recording begins among the bytes [first, end) that follow one of `seconds`; `end` where there is none.

    Tags, zeros and what would be less than TAIL at `per_second` bytes are passed over.

    Raises:
        DataError: the bytes are none of these: the header counts too few samples, or the file is damaged.
    """
    file.seek(first)
    head = file.read(16)
    if begins_recording(head):
        return first
    if is_tag(head) or end - first <= TAIL * per_second or only_zeros(file, first, end):
        return end
    raise DataError(
        f"{path}: its header counts {seconds:.2f} s, up to byte {first:,}, but {end - first:,} bytes follow that are no part of "
        "it: a wrong length in the header, or damage: convert it, as with "
        f"`ffmpeg -ignore_length 1 -i {path.name} OUT.wav`, and listen to its end"
    )
