"""Makes the files of this folder anew: `python tests/data/odd/make.py`. Each is an oddity of real archives, as small as can be.

As far as their oddity lets them, all label files say the same of half a second of audio: t from 0.1 to 0.25 s, ə to 0.4 s.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
PHONES = (("0", "0.1", ""), ("0.1", "0.25", "t"), ("0.25", "0.4", "ə"), ("0.4", "0.5", ""))
Interval = tuple[str, str, str]


def short(*tiers: tuple[str, tuple[Interval, ...]], end: str = "0.5") -> str:
    """A TextGrid in Praat's short form; an interval without an end is a point."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", end, "<exists>", str(len(tiers))]
    for name, intervals in tiers:
        kind = "TextTier" if intervals and not intervals[0][1] else "IntervalTier"
        lines += [f'"{kind}"', f'"{name}"', "0", end, str(len(intervals))]
        for first, last, label in intervals:
            lines += [first, last, f'"{label}"'] if last else [first, f'"{label}"']
    return "\n".join(lines) + "\n"


PLAIN = short(("phones", PHONES))
CHRONOLOGICAL = """"Praat chronological TextGrid text file"
0 0.5   ! Time domain.
1   ! Number of tiers.
"IntervalTier" "phones" 0 0.5
1 0 0.1
""
1 0.1 0.25
"t"
"""


def changed(place: int, *interval: str) -> str:
    """The plain TextGrid with another interval at a place."""
    phones = list(PHONES)
    phones[place] = interval  # type: ignore[call-overload]
    return short(("phones", tuple(phones)))


def textgrids() -> dict[str, bytes]:
    """TextGrids by name."""
    windows = PLAIN.replace("\n", "\r\n")
    texts = {
        "short.TextGrid": PLAIN,
        "chronological.TextGrid": CHRONOLOGICAL,
        "cr-line-ends.TextGrid": PLAIN.replace("\n", "\r").replace("0.5\r<e", "0.5 ! a comment\r<e"),
        "mixed-line-ends.TextGrid": PLAIN.replace("\n", "\r\n", 5).replace('"phones"\n', '"phones"\r'),
        "quotes-doubled.TextGrid": short(("phones", PHONES), ("words", (("0", "0.5", 'say ""ah""'),))),
        "tier-name-in-capitals.TextGrid": short(("PHONES", PHONES)),
        "tier-name-with-blanks.TextGrid": short((" phones ", PHONES)),
        "empty-tier.TextGrid": short(("phones", ()), ("words", (("0", "0.5", "x"),))),
        "no-tiers.TextGrid": PLAIN.split("<exists>", maxsplit=1)[0] + "<absent>\n",
        "point-tier-first.TextGrid": short(("bursts", (("0.12", "", "b"), ("0.13", "", ""))), ("phones", PHONES)),
        "phones-are-points.TextGrid": short(("phones", (("0.1", "", "t"), ("0.25", "", "ə")))),
        "two-tiers-of-one-name.TextGrid": short(("phones", PHONES), ("phones", (("0", "0.5", "s"),))),
        "overlap.TextGrid": changed(2, "0.15", "0.4", "ə"),
        "gap.TextGrid": short(("phones", (PHONES[1], PHONES[2]))),
        "end-before-start.TextGrid": changed(2, "0.4", "0.25", "ə"),
        "past-the-end.TextGrid": changed(3, "0.4", "0.9", "s"),
        "negative-time.TextGrid": changed(0, "-0.2", "0.1", "s"),
        "comma-decimals.TextGrid": PLAIN.replace("0.", "0,"),
        "exponents.TextGrid": PLAIN.replace("0.25", "2.5e-1").replace("0.1\n", "1E-01\n"),
        "many-digits.TextGrid": PLAIN.replace("0.25", "0.25000000000000000000000000000000000000001"),
        "a-milliard-of-intervals.TextGrid": PLAIN.replace('0\n0.5\n4\n0\n', "0\n0.5\n1000000000\n0\n"),
        "nul-in-a-label.TextGrid": changed(1, "0.1", "0.25", "t\0"),
        "line-break-in-a-label.TextGrid": changed(1, "0.1", "0.25", "t\n"),
        "escape-sequence-in-a-label.TextGrid": changed(1, "0.1", "0.25", "\x1b]0;owned\x07"),
        "arpabet.TextGrid": PLAIN.replace('"t"', '"T"').replace('"ə"', '"AH0"'),
        "binary.TextGrid": "ooBinaryFile\x08TextGrid\0\0",
        "empty.TextGrid": "",
        "html-error-page.TextGrid": "<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    }  # fmt: skip
    return {name: text.encode() for name, text in texts.items()} | {
        "utf-16-le-with-bom.TextGrid": b"\xff\xfe" + windows.encode("utf-16-le"),
        "utf-16-be-with-bom.TextGrid": b"\xfe\xff" + windows.encode("utf-16-be"),
        "utf-16-le-without-bom.TextGrid": windows.encode("utf-16-le"),
        "utf-16-be-without-bom.TextGrid": windows.encode("utf-16-be"),
        "utf-8-with-bom-and-crlf.TextGrid": b"\xef\xbb\xbf" + windows.encode(),
        "latin-1.TextGrid": PLAIN.replace("ə", "ø").encode("latin-1"),
        "mac-roman.TextGrid": PLAIN.replace("ə", "ø").encode("mac-roman"),
        "cut-within-utf-16.TextGrid": (b"\xff\xfe" + windows.encode("utf-16-le"))[:-77],
    }


def eaf(order: str, tiers: str, header: str = "", version: str = "3.0") -> bytes:
    """An ELAN file."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2009-02-13T23:31:30+00:00" FORMAT="{version}" VERSION="{version}">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">{header}</HEADER>
<TIME_ORDER>{order}</TIME_ORDER>
{tiers}<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="t" TIME_ALIGNABLE="true"/>
</ANNOTATION_DOCUMENT>
""".encode()


def slots(*times: int | None) -> str:
    return "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{i}"{"" if time is None else f" TIME_VALUE={chr(34)}{time}{chr(34)}"}/>'
        for i, time in enumerate(times, 1)
    )


def aligned(name: str, *labels: str, first: int = 1) -> str:
    """A tier whose annotations lie between one time slot and the next."""
    parts = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}{i}" TIME_SLOT_REF1="ts{i}" TIME_SLOT_REF2="ts{i + 1}">'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for i, label in enumerate(labels, first)
    )
    return f'<TIER LINGUISTIC_TYPE_REF="t" TIER_ID="{name}">{parts}</TIER>\n'


def referring(name: str, parent: str, *labels: str) -> str:
    """A tier whose annotations refer to one annotation."""
    parts = "".join(
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{name}{i}" ANNOTATION_REF="{parent}">'
        f"<ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
        for i, label in enumerate(labels, 1)
    )
    return f'<TIER LINGUISTIC_TYPE_REF="t" PARENT_REF="{parent[:-1]}" TIER_ID="{name}">{parts}</TIER>\n'


def elans() -> dict[str, bytes]:
    """ELAN files by name."""
    times, phones = slots(100, 250, 400), aligned("phones", "t", "ə")
    media = '<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/Users/ana/a.wav" MIME_TYPE="audio/x-wav"/>'
    bomb = b'?>\n<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
    return {
        "reference-tiers.eaf": eaf(slots(100, 400), aligned("words", "x") + referring("phones", "words1", "t", "ə")),
        "without-time-values.eaf": eaf(slots(100, None, 400), phones),
        "without-any-time.eaf": eaf(slots(None, None, None), phones),
        "version-2.8.eaf": eaf(times, phones, version="2.8"),
        "media-elsewhere.eaf": eaf(times, phones, media),
        "entity-bomb.eaf": eaf(times, phones).replace(b"?>\n", bomb, 1).replace("ə".encode(), b"&b;"),
        "external-entity.eaf": eaf(times, phones).replace(
            b"?>\n", b'?>\n<!DOCTYPE a SYSTEM "file:///etc/hostname">\n', 1
        ),
        "unbound-prefix.eaf": eaf(times, phones).replace(b"<HEADER", b"<x:y/><HEADER", 1),
        "times-in-reverse.eaf": eaf(slots(400, 250, 100), phones),
        "utf-16.eaf": eaf(times, phones).decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        "many-attributes.eaf": eaf(times, phones).replace(b"<TIME_ORDER", b"<TIME_ORDER " + attributes(70), 1),
    }


def attributes(n: int) -> bytes:
    return b" ".join(b'a%d="%d"' % (i, i) for i in range(n))


def lists() -> dict[str, bytes]:
    """`.PHN` and CTM files by name."""
    phn = "0 1600 h#\n1600 4000 t\n4000 6400 ə\n6400 8000 h#\n"
    ctm = "a 1 0.1 0.15 t\na 1 0.25 0.15 ə\n"
    return {
        "crlf.PHN": phn.replace("\n", "\r\n").encode(),
        "cr.PHN": phn.replace("\n", "\r").encode(),
        "utf-16.PHN": phn.encode("utf-16"),
        "seconds.PHN": b"0.0 0.1 h#\n0.1 0.25 t\n0.25 0.4 a\n",
        "huge-samples.PHN": phn.replace("8000", "9" * 400).encode(),
        "comments.ctm": f";; made by hand\n{ctm};; the end\n".encode(),
        "alternatives.ctm": f"a 1 * * <ALT_BEGIN>\n{ctm}a 1 * * <ALT>\na 1 0.45 0.04 s\na 1 * * <ALT_END>\n".encode(),
        "confidences.ctm": ctm.replace("\n", " 0.93\n").encode(),
        "comma-decimals.ctm": ctm.replace(".", ",").encode(),
        "nan-and-negative.ctm": f"{ctm}a 1 nan 0.1 s\na 1 -1 0.1 s\na 1 0.45 -0.1 s\na 1 1e999 1 s\n".encode(),
    }


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, form: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if size is None else size) + body


def audio() -> dict[str, bytes]:
    """Recordings by name: 50 ms of a tone at 16 kHz."""
    wave = (0.3 * np.sin(2 * np.pi * 440 * np.arange(800) / 16_000)).astype(np.float32)
    pcm = (wave * 32767).astype("<i2").tobytes()
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16))
    data = chunk(b"data", pcm)

    def written(form: str, subtype: str, rate: int = 16_000, samples: np.ndarray = wave) -> bytes:
        stream = io.BytesIO()
        soundfile.write(stream, samples, rate, format=form, subtype=subtype)
        return stream.getvalue()

    sizes = struct.pack("<QQQI", 36 + 36 + len(pcm), len(pcm), len(pcm) // 2, 0)
    fact = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4)
    fact += b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    seconds = np.repeat(wave, 40)
    mp3 = written("MP3", "MPEG_LAYER_III", 16_000, seconds)
    return {
        "extensible.wav": riff(chunk(b"fmt ", fact), data),
        "float.wav": written("WAV", "FLOAT"),
        "24-bit.wav": written("WAV", "PCM_24"),
        "8-bit.wav": written("WAV", "PCM_U8"),
        "a-law.wav": written("WAV", "ALAW"),
        "odd-chunk.wav": riff(fmt, chunk(b"LIST", b"INFOx"), data),
        "chunk-after-data.wav": riff(fmt, data, chunk(b"cue ", b"\0\0\0\0")),
        "rf64.wav": riff(chunk(b"ds64", sizes), fmt, chunk(b"data", pcm, 0xFFFFFFFF), form=b"RF64", size=0xFFFFFFFF),
        "size-unknown.wav": riff(fmt, chunk(b"data", pcm, 0xFFFFFFFF), size=0xFFFFFFFF),
        "claims-4-gb.wav": riff(fmt, chunk(b"data", pcm, 0xF0000000), size=0xF0000024),
        "truncated.wav": riff(fmt, data)[:900],
        "no-data-chunk.wav": riff(fmt),
        "mp3-named.wav": mp3[:600],
        "flac-named.wav": written("FLAC", "PCM_16"),
        "text-named.wav": b"This is not a recording.\n",
        "id3-and-no-frames.mp3": b"ID3\4\0\0\0\0\0\x14" + b"TIT2\0\0\0\x0a\0\0\0field 01\0",
        "id3-first.mp3": b"ID3\4\0\0\0\0\0\x14" + b"TIT2\0\0\0\x0a\0\0\0field 01\0" + mp3,
        "opus.opus": written("OGG", "OPUS", 48_000, seconds),
        "vorbis.ogg": written("OGG", "VORBIS", 16_000, seconds),
    }


if __name__ == "__main__":
    for name, content in {**textgrids(), **elans(), **lists(), **audio()}.items():
        (HERE / name).write_bytes(content)
