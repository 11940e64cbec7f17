"""MP3 and its kin: frames are walked one by one, since the file itself does not tell how long it is.

The audio library estimates the length from the first frame and the size of the file, with titles and pictures in it, and reads no
further. Each recording is therefore given to it as its frames alone, with their number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.sound.parts import TAIL, Layout, Part, is_tag

_MAX_LEADING = 1 << 16  # bytes before the first frame: recordings of a broadcast begin amid one
_SEARCH = 1 << 20  # bytes that are searched for a frame
_SURE = 3  # frames in a row that are no accident
_HEAD = 44  # bytes of a frame that hold its header and the mark of an Info frame
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[2, 3] = _KBITS[2, 2]


@dataclass(frozen=True)
class _Frame:
    """What a header says: bytes, samples, Hz, where an Info frame has its mark, and what may not change within a recording."""

    size: int
    samples: int
    rate: int
    mark: int
    kind: tuple[int, int, int, bool]  # version, layer, Hz, whether there is one channel


@dataclass
class _Run:
    """Frames one after another that make one recording."""

    frame: _Frame
    header: bytes
    info: bytes = b""
    spans: list[list[int]] = field(default_factory=list)
    n: int = 0

    @property
    def seconds(self) -> float:
        """How long the frames last."""
        return self.n * self.frame.samples / self.frame.rate

    def add(self, at: int, size: int) -> None:
        """Take the frame at a byte."""
        if self.spans and self.spans[-1][1] == at:
            self.spans[-1][1] = at + size
        else:
            self.spans.append([at, at + size])
        self.n += 1


def mpeg_layout(file: IO[bytes], path: Path, size: int) -> Layout | None:
    """The recordings in an MPEG file of `size` bytes; None where it begins with no frame.

    Raises:
        DataError: bytes among the frames that are none, or fewer frames than the file itself says.
    """
    end = _before_tags(file, size)
    first = _first_frame(file, end)
    if first is None:
        return None
    walk = _Walk(file, path, end)
    walk.leading(first)
    walk.go(first)
    parts = tuple(_part(run, path, size) for run in walk.runs if run.n)
    if len(parts) > 1:
        walk.notes.append(f"{len(parts)} recordings, one after another: all are read")
    return Layout(parts, tuple(walk.notes)) if parts else None


@dataclass
class _Walk:
    file: IO[bytes]
    path: Path
    end: int
    runs: list[_Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(run.seconds for run in self.runs)

    def leading(self, first: int) -> None:
        """Tell of what stands before the first frame, but for tags and zeros."""
        n = first - after_tags(self.file, 0, self.end)
        if n > 0:
            self.notes.append(f"its first {n:,} bytes are no whole frame of audio; passed over")

    def go(self, at: int) -> None:
        """Take all frames from a byte on."""
        run: _Run | None = None
        read, seek = self.file.read, self.file.seek
        while at + 4 <= self.end:
            seek(at)
            head = read(_HEAD)
            frame = _frame(head[:4])
            if frame is None or (
                run is not None and frame.kind != run.frame.kind and not _sure(self.file, at, self.end)
            ):
                at, tag = self._between(at)
                run = None if tag else run
                continue
            if at + frame.size > self.end:
                break
            info = _is_info(frame, head)
            if run is None or info or frame.kind != run.frame.kind:
                run = _Run(frame, head[:4])
                self.runs.append(run)
            if info:
                seek(at)
                run.info = read(frame.size)
            else:
                run.add(at, frame.size)
            at += frame.size
        if at < self.end:
            self.notes.append(
                f"its last frame is not whole: the file ends {self.end - at:,} bytes into it; passed over"
            )

    def _between(self, at: int) -> tuple[int, bool]:
        """Where the frames go on after bytes that are none, and whether a tag stood there; the end where there are none."""
        after = after_tags(self.file, at, self.end)
        if after > at:
            self.file.seek(at)
            return after, is_tag(self.file.read(16))
        found = _find(self.file, at, self.end)
        n_bytes = sum(last - first for run in self.runs for first, last in run.spans)
        rate = n_bytes / self.seconds if self.seconds else 0.0
        if found is None and self.end - at <= TAIL * rate:
            self.notes.append(f"its last {self.end - at:,} bytes are no frame of audio; passed over")
            return self.end, False
        n = (self.end if found is None else found) - at
        raise DataError(
            f"{self.path}: at {self.seconds:.2f} s, byte {at:,}, {n:,} bytes are no frame of audio: it is damaged there, or "
            "not MP3 throughout: copy it again, or convert it with "
            f"`ffmpeg -i {self.path.name} OUT.wav` and listen to it at that place"
        )


def _part(run: _Run, path: Path, size: int) -> Part:
    """A recording for the audio library: the file as it is where that counts its frames rightly."""
    claimed, lacking = _claimed(run), 0.0
    if claimed is not None and claimed > run.n:
        lacking = (claimed - run.n) * run.frame.samples / run.frame.rate
    spans = tuple((first, end) for first, end in run.spans)
    n_bytes = sum(end - first for first, end in spans)
    if claimed is None:  # the library estimates: by the size of the first frame, it seems
        seeming = max(n_bytes, (run.n + 16) * (run.frame.size + 1))
        return Part(spans, samples=run.n * run.frame.samples, seeming_size=seeming, talkative=True)
    head, mark = bytearray(run.info), run.frame.mark
    (flags,) = struct.unpack(">I", head[mark + 4 : mark + 8])
    struct.pack_into(">I", head, mark + 8, run.n)
    if flags & 2:
        struct.pack_into(">I", head, mark + 12, n_bytes + len(head))
    if claimed != run.n:
        _drop_padding(head, mark, flags)
    return Part(spans, bytes(head), lacking, talkative=True)


def _claimed(run: _Run) -> int | None:
    """How many frames the Info frame counts; None where there is none, or it does not count."""
    mark = run.frame.mark
    if run.info[mark : mark + 4] not in (b"Xing", b"Info") or len(run.info) < mark + 12:
        return None
    flags, n = struct.unpack(">II", run.info[mark + 4 : mark + 12])
    return int(n) if flags & 1 and n and len(run.info) >= mark + 16 else None


def _drop_padding(head: bytearray, mark: int, flags: int) -> None:
    """Let no samples be cut at the end of a recording that ends elsewhere than its encoder said."""
    at = mark + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1) + 22
    if at + 2 <= len(head):
        head[at] &= 0xF0
        head[at + 1] = 0


def _is_info(frame: _Frame, head: bytes) -> bool:
    """Whether a frame holds no sound but numbers."""
    return frame.kind[1] == 3 and (head[frame.mark : frame.mark + 4] in (b"Xing", b"Info") or head[36:40] == b"VBRI")


@lru_cache(maxsize=1 << 12)
def _frame(header: bytes) -> _Frame | None:
    """What the four bytes of a header say; None where they are none, or tell no size."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version = (header[1] >> 3) & 3  # 0: 2.5, 2: 2, 3: 1
    layer, index, rate_index = 4 - ((header[1] >> 1) & 3), header[2] >> 4, (header[2] >> 2) & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3 or header[3] & 3 == 2:
        return None
    rate = (44_100, 48_000, 32_000)[rate_index] // {3: 1, 2: 2, 0: 4}[version]
    bits = _KBITS[1 if version == 3 else 2, layer][index - 1] * 1000
    padding, mono = (header[2] >> 1) & 1, header[3] >> 6 == 3
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    size = (12 * bits // rate + padding) * 4 if layer == 1 else samples // 8 * bits // rate + padding
    mark = 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))
    return _Frame(size, samples, rate, mark, (version, layer, rate, mono))


def _sure(file: IO[bytes], at: int, end: int) -> bool:
    """Whether frames of one kind follow one another from a byte on, or to the end."""
    kind = None
    for n in range(_SURE):
        file.seek(at)
        frame = _frame(file.read(4))
        if frame is None or kind not in (None, frame.kind) or (n == 0 and at + frame.size > end):
            file.seek(at)
            return n > 0 and (end - at < 4 or is_tag(file.read(16)))
        kind, at = frame.kind, at + frame.size
    return True


def _find(file: IO[bytes], first: int, end: int) -> int | None:
    """The first byte of a frame that is no accident."""
    file.seek(first)
    for match in _SYNC.finditer(file.read(min(_SEARCH, end - first))):
        if _sure(file, first + match.start(), end):
            return first + match.start()
    return None


def _first_frame(file: IO[bytes], end: int) -> int | None:
    """Where the first frame begins: after tags, at once or almost."""
    first = after_tags(file, 0, end)
    file.seek(first)
    head = file.read(_HEAD)
    frame = _frame(head[:4])
    if frame is not None and first + frame.size <= end and (_is_info(frame, head) or _sure(file, first, end)):
        return first
    return _find(file, first, min(end, first + _MAX_LEADING))


def after_tags(file: IO[bytes], at: int, end: int) -> int:
    """The first byte from `at` on that belongs to no tag and is not zero."""
    while at < end:
        file.seek(at)
        head = file.read(32)
        n = _tag_size(file, at, head)
        if n == 0 and head[:1] == b"\0":
            file.seek(at)
            zeros = file.read(_SEARCH)
            n = len(zeros) - len(zeros.lstrip(b"\0"))
        if n == 0:
            break
        at += n
    return min(at, end)


def _tag_size(file: IO[bytes], at: int, head: bytes) -> int:
    """Bytes of the tag that begins at a byte; 0 where none does."""
    if head.startswith(b"ID3") and len(head) >= 10 and all(byte < 128 for byte in head[6:10]):
        body = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + body + (10 if head[5] & 0x10 else 0)
    if head.startswith(b"TAG+"):
        return 227
    if head.startswith(b"TAG"):
        return 128
    if head.startswith(b"APETAGEX") and len(head) >= 24:
        return 32 + int(struct.unpack("<I", head[12:16])[0])
    if head.startswith(b"LYRICSBEGIN"):
        file.seek(at)
        found = re.search(rb"LYRICSEND|LYRICS200", file.read(_SEARCH))
        return found.end() if found else 0
    return 0


def _before_tags(file: IO[bytes], size: int) -> int:
    """Where the tags at the end of a file begin."""
    end = size
    while end > 0:
        n = next(_ending(file, end), 0)
        if not 0 < n <= end:
            break
        end -= n
    return end


def _ending(file: IO[bytes], end: int) -> Iterator[int]:
    """Bytes of the tag that ends at a byte."""
    file.seek(max(0, end - 128))
    last = file.read(min(128, end))
    if last.startswith(b"TAG") and len(last) == 128:
        yield 128
    if last[-32:].startswith(b"APETAGEX"):
        n, _, flags = struct.unpack("<III", last[-20:-8])
        yield n + (32 if flags >> 31 else 0)
    if last.endswith(b"LYRICS200") and last[-15:-9].isdigit():
        yield int(last[-15:-9]) + 15
    if last[-10:].startswith(b"3DI") and all(byte < 128 for byte in last[-4:]):
        yield 20 + (last[-4] << 21 | last[-3] << 14 | last[-2] << 7 | last[-1])
