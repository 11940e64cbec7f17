"""Small files of each kind, made by hand, that a fuzzer begins with."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile

import numpy as np
import soundfile

_SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.5
<exists>
3
"IntervalTier"
"phones"
0
0.5
3
0
0.1
""
0.1
0.25
"t̪ʰ"
0.25
0.5
"ə"
"TextTier"
"clicks"
0
0.5
1
0.2
"say ""ah"" again"
"IntervalTier"
"words"
0
0.5
1
0
0.5
"ਠ"
"""
_LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.5
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 2.5e-1
            text = "AH0"
        intervals [2]:
            xmin = 0.25
            xmax = 0.5
            text = "K"
"""
_CHRONOLOGICAL = """"Praat chronological TextGrid text file"
0 0.5   ! Time domain.
3   ! Number of tiers.
"IntervalTier" "anna - phones" 0 0.5
"IntervalTier" "bea - phones" 0 0.5
"TextTier" "clicks" 0 0.5
1 0 0.25
"t"
2 0.2 0.5
"ə"
3 0.3 "x"
1 0.25 0.5
""
"""
TEXTGRIDS = (
    _CHRONOLOGICAL.encode(),
    _SHORT.replace('"clicks"', '"phones@a"').replace("0.5", "13").replace("\n0\n", "\n12.5\n").encode(),
    _LONG.replace('"AH0"', '"AH0"x').replace("xmin = 0.25", "xmin = 0,25").encode(),
    _SHORT.encode(),
    _LONG.encode(),
    _SHORT.encode("utf-16"),
    _SHORT.replace("\n", "\r\n").encode("utf-8-sig"),
    _SHORT.replace("t̪ʰ", "ø").encode("latin-1", "ignore"),
    _LONG.replace("size = 2", "size = 1000000000").encode(),
    b'File type = "ooTextFile"\nObject class = "TextGrid"\n0 1 <absent>',
    b"ooBinaryFile\x08TextGrid",
)
TIER_NAMES = (
    b"ph*\nphones\nphones@anna\nanna - phones\nph@B\nMAU\nORT-MAU\nsegment - x\n",
    b"?*[a]*?\nPhonAlign\nTokensAlign\n - phones\nphones@\n\n@\n",
    b"*\nphones-pred\nconfidence\n",
)
PHN = (
    b"0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 8000 iy\n",
    b"\xef\xbb\xbf0 1600 a\r\n1600 3200 \xc9\x99\r\n\r\n0.1 0.2 b\r\n",
    "0 1600 a\r1600 3200 ə\r".encode("utf-16"),
    b"-5 99999999999999999999 a b c\nnan inf x\n1_000 0x10 y\n",
)
CTM = (
    b";; a comment\na 1 0.00 0.10 t 0.9\na 1 0.10 0.15 k\nb A 0.3 0.2 s <NA>\n",
    b"a 1 * * <ALT_BEGIN>\na 1 0.0 0.1 t\na 1 * * <ALT>\na 1 0.0 0.1 d\na 1 * * <ALT_END>\n",
    b"a 1 0,10 0,20 t\na 1 nan inf t\na 1 -1e400 1e308 t\n",
)
_EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2024-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///b.wav" MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./a.wav"/>
<PROPERTY NAME="lastUsedAnnotationId">3</PROPERTY></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="100"/><TIME_SLOT TIME_SLOT_ID="ts2"/>
<TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="400"/></TIME_ORDER>
<TIER LINGUISTIC_TYPE_REF="t" TIER_ID="phones">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>t̪ʰ</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
<ANNOTATION_VALUE>ə</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER LINGUISTIC_TYPE_REF="r" PARENT_REF="phones" TIER_ID="words">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1"><ANNOTATION_VALUE>x</ANNOTATION_VALUE>
</REF_ANNOTATION></ANNOTATION></TIER>
<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="t" TIME_ALIGNABLE="true"/>
<LINGUISTIC_TYPE CONSTRAINTS="Symbolic_Association" LINGUISTIC_TYPE_ID="r" TIME_ALIGNABLE="false"/>
</ANNOTATION_DOCUMENT>
"""
_PARTS = _EAF.replace('ANNOTATION_ID="a3"', 'ANNOTATION_ID="a3" PREVIOUS_ANNOTATION="a4"').replace(
    "</REF_ANNOTATION></ANNOTATION></TIER>",
    '</REF_ANNOTATION></ANNOTATION><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1">'
    "<ANNOTATION_VALUE>y</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>",
)
EAF = (
    _PARTS.replace('TIER_ID="phones"', 'TIER_ID="wd@A"').replace('TIER_ID="words"', 'TIER_ID="ph@A"').encode(),
    _PARTS.replace('TIER_ID="phones"', 'TIER_ID="ph@B"').replace('TIER_ID="words"', 'TIER_ID="ph@A"').encode(),
    _EAF.encode(),
    _EAF.replace("UTF-8", "UTF-16").encode("utf-16"),
    _EAF.replace("UTF-8", "latin-1").encode("latin-1", "ignore"),
    _EAF.replace("?>", '?><!DOCTYPE a [<!ENTITY b "c">]>').encode(),
    _EAF.replace('TIER_ID="words"', 'TIER_ID="phones-pred"').encode(),
    b'<ANNOTATION_DOCUMENT xmlns:xsi="x"><TIME_ORDER/><TIER TIER_ID="phones"/></ANNOTATION_DOCUMENT>',
)
LABELS = tuple(text.encode() for text in ("t̪ʰ", "AH0", "kː ʰ", "t͡ʃ", "ⁿd", "aɪ̯", "<eps>", "ax-h", "e˥˩", "ᵑɡ͡b"))
MANIFESTS = (b'{"generator": "espeak-ng", "seed": 0, "n_words": 60}', b"[]", b"[[[[{}]]]]", b'{"seed": NaN}')
EXAMPLES = (
    json.dumps(
        {
            "format": "mtl_speech.examples/1",
            "recordings": {"s/a": {"sha256": "0" * 64, "phones": [["t", 0.0, 0.1], ["ə", 0.1, 0.25]]}},
        }
    ).encode(),
    b'{"format": "mtl_speech.examples/1", "recordings": {"a": {"sha256": "", "phones": [["\\ud800", 1e999, NaN]]}}}',
)
TOKENS = (
    "\ufeffrecording,start,end,true,predicted,confidence\na,0.1000,0.2000,t,d,0.9000\na,0.2,0.3,ə,ə,\n".encode(),
    b'recording,start,end,true,predicted,confidence\n"a\nb",nan,inf,t,,1e999\n',
)
INVENTORIES = ("t̪ʰ aː, k\nɡ\n".encode(), b"\xef\xbb\xbfa b c\r\n", b"AH0 \xff")
WORDS = ("ਘਰ\tkəɾ\nਪਾਣੀ\t0.5\tp aː ɳ iː\n\nx\n".encode(), b"a\t\r\na\tt s\r\n", b"\tk\t\n")
LEDGERS = (b"0" * 64 + b"  a.json\n" + b"0" * 64 + b"  s/b.TextGrid\n", b"  a.json", b"\xff\xfe\n")
CONFIGS = (
    b"lang: pa\nshots: 5\nseed: 1\ndata: recordings\nn_way: [5, 10]\ninner_lr: 1e-3\nclips: yes\n",
    b"a: &a [1]\nb: *a\n",
    b"seed: !!python/object/apply:os.system ['true']\n",
    b"outer_lr: !apply:os.system [x]\nname: !new:a.B {}\n",
    b'data: "a\\0b"\nname: "\\ud800"\nseed: 1:1:1\n',
    b"{seed: 0x10, lang: ~, format: [ctm, json], threads: 2001-12-14t21:59:43.10-05:00}",
    "lang: pa\n".encode("utf-16"),
)
CARDS = (
    b'{"format_version": 1, "kind": "strategy", "sha256": "' + b"0" * 64 + b'", "weights": {"sha256": "' + b"0" * 64
    + b'", "tensors": [{"name": "a", "dtype": "F32", "shape": [1]}]}, "base": {"name": "b", "sha256": "' + b"0" * 64 + b'"}}',
    b'{"format_version": 1, "kind": "language", "a": [[[[{"b": 1e999}]]]]}',
)  # fmt: skip
CARD_VALUES = (
    b'{"kind": "encoder", "encoder": {"channels": 8, "blocks": 1, "embedding_size": 12}, "phonemes": ["a", "b"]}',
    b'{"kind": "encoder", "encoder": {"channels": 4096, "kernel_size": 31, "blocks": 64}}',
    b'{"kind": "strategy", "phonemes": ["a", "a", "\\u0294"], "meta_train": {"inner_steps": 3, "granularity": "kernel"}}',
    b'{"kind": "language", "inventory": ["a", "b"], "temperature": 1.5, "zero_shot": {"a": {"b": 0.5}}, "examples": {"a": 3}}',
    b'{"kind": "language", "notes": ["x", {"y": [1]}], "scores": {"z": null}, "licence": {"q": 1}, "name": "\\n"}',
    b'{"kind": "language", "meta_train": {"theta_init": "articulatory", "inner_steps": 2}, "examples": {"a": 1e300}}',
    b'{"base": {"name": "", "sha256": "' + b"a" * 64 + b'"}, "meta_train": {"theta_init": "posterior"}}',
)


def _weights(header: str, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + body


WEIGHTS = (
    _weights('{"a.b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0\0\x80\x3f"),
    _weights('{"__metadata__":{"x":"y"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}', b"\0\0\x80\x3f"),
    _weights('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"\0"),
    _weights('{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}', b"1234"),
    struct.pack("<Q", 1 << 62) + b"{}",
    b"PK\x03\x04" + b"\0" * 30,
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
)  # fmt: skip


def wav(
    data: bytes, form: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, size: int | None = None
) -> bytes:
    """A WAV file with one data chunk, which claims `size` bytes."""
    block = channels * bits // 8
    chunks = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    chunks += struct.pack("<4sI", b"data", len(data) if size is None else size) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) if size is None else size, b"WAVE") + chunks


AUDIO = (
    wav(b"\0\1" * 500),
    wav(b"\x80\x90" * 400, bits=8),
    wav(b"\0\0\0\x3f" * 400, form=3, bits=32, channels=2),
    wav(b"\0\1" * 500, size=0xFFFFFFFF),
    wav(b"\0\1" * 500, rate=768_000),
    wav(b"\0" * 512, form=0x11, bits=4),
    b"fLaC\0\0\0\x22" + b"\x10\0\x10\0" + b"\0" * 6 + bytes.fromhex("03e800f0") + b"\0" * 24,
    b"FORM\0\0\0\x30AIFFCOMM\0\0\0\x12\0\1\0\0\0\4\0\x10\x40\x0c\xfa\0\0\0\0\0\0\0SSND\0\0\0\x0c\0\0\0\0\0\0\0\0\0\1\0\1",
    b"OggS\0\2" + b"\0" * 20 + b"\1\x1e\1vorbis" + b"\0" * 23,
    b"ID3\4\0\0\0\0\0\x0a" + b"\0" * 10 + b"\xff\xfb\x90\x00" + b"\0" * 413,
)


def _written(kind: str, subtype: str, n: int = 2_000, **options: object) -> bytes:
    """A recording of n samples at 16 kHz."""
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(n).normal(size=n).cumsum().clip(-3, 3)
    soundfile.write(stream, samples, 16_000, format=kind, subtype=subtype, **options)
    return stream.getvalue()


_ID3 = b"ID3\4\0\0\0\0\0\x0a" + b"\0" * 10
_APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8)
_LYRICS = b"LYRICSBEGININD0000200000023LYRICS200"
_MP3 = _written("MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.9)
MPEG = (
    _MP3,
    _MP3[_MP3.index(b"\xff", 300) :],
    _ID3 + _MP3 + _LYRICS + b"TAG".ljust(128, b"\0"),
    _MP3 + _APE,
    _MP3 + _ID3 + _MP3,
    _MP3.replace(b"Xing", b"VBRI").replace(b"Info", b"VBRI"),
)
_VORBIS, _OPUS = _written("OGG", "VORBIS", 500), _written("OGG", "OPUS")
OGG = (_OPUS, _OPUS * 2, _VORBIS, _VORBIS[:-100], _OPUS + _ID3)
_CHUNKED = (
    ("WAV", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("W64", "PCM_U8"),
    ("CAF", "PCM_16"),
    ("AU", "ULAW"),
    ("FLAC", "PCM_16"),
)
JOINED = tuple(_written(kind, subtype, 300) * n for kind, subtype in (*_CHUNKED, ("RF64", "FLOAT")) for n in (1, 2))
JOINED += (_written("NIST", "PCM_16", 300), wav(b"\0\1" * 500, size=0), wav(b"\0\1" * 500, size=20))
JOINED += (_written("FLAC", "PCM_16", 300).replace(b"\0\0\1\x2c", bytes(4), 1),)
OTHER_FILES = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
    b"\xef\xbb\xbf <!-- x --> <!DOCTYPE html><html>",
    b"\xff\xfe" + 'File type = "ooTextFile"'.encode("utf-16-le"),
    b"\0\0\0\x20ftypM4A ",
    "ਇਹ ਇੱਕ".encode() * 9,
)


def _tar(form: int, name: str, kind: bytes = tarfile.REGTYPE, **headers: str) -> bytes:
    """An archive of one member of two bytes, without the padding at its end."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname, info.pax_headers = 2 * (kind != tarfile.SYMTYPE), kind, "u", headers
        archive.addfile(info, io.BytesIO(b"ab"))
    return stream.getvalue().rstrip(b"\0").ljust(512, b"\0")[:3000] + bytes(1024)


_SPARSE = {"GNU.sparse.size": "9", "GNU.sparse.map": "0,2", "hdrcharset": "BINARY"}
TARS = (
    _tar(tarfile.USTAR_FORMAT, "s0/u.wav"),
    _tar(tarfile.GNU_FORMAT, "s" * 120 + ".wav"),
    _tar(tarfile.PAX_FORMAT, "\u0a20/u.wav", size="2", path="../u.wav"),
    _tar(tarfile.PAX_FORMAT, "u.wav", **_SPARSE),
    _tar(tarfile.GNU_FORMAT, "u.wav", tarfile.GNUTYPE_SPARSE),
    _tar(tarfile.USTAR_FORMAT, "u.wav", tarfile.SYMTYPE),
    gzip.compress(_tar(tarfile.USTAR_FORMAT, "u.wav"), mtime=0),
)

LINKS = tuple(
    f'<?xml version="1.0" encoding="{encoding}"?><ANNOTATION_DOCUMENT><HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">'
    f'<MEDIA_DESCRIPTOR MEDIA_URL="{url}" MIME_TYPE="audio/*" RELATIVE_MEDIA_URL="{near}" TIME_ORIGIN="20"/>'
    "</HEADER><TIME_ORDER/></ANNOTATION_DOCUMENT>".encode(encoding)
    for encoding, url, near in (
        ("UTF-8", "file:///C:/Users/field/a.wav", "./a.wav"),
        ("UTF-8", "file://server/b%20c.wav", "../s/b c.wav"),
        ("UTF-16", "C:\\field\\a.wav", "../../a.wav"),
    )
)
NAMES = (
    b"list 2.1 (retake)\nlist_2_1__retake_\ns/a\ns/a (2)\nVC1-Tr1\nVC1-ELAN",
    "e\u0301te\u0301\nÉTÉ\nword\nphones@word - Copy (2)_aligned\na-b/c\nx/c".encode(),
)
