"""What a file is that has an audio suffix and is none, or is of a kind that the audio library does not read."""

from __future__ import annotations

import re

_FETCH = "the recording itself was not fetched: run"
_CONVERT = "convert it to WAV or FLAC"
_AGAIN = "copy the recording again"
_HTML = rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body|script)\b"
_PRAAT = rb"File type = \"oo|ooBinaryFile|ooTextFile|\"Praat chron"
# What the first bytes of a file match, what it then is, and what to do.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs", "a pointer of Git LFS", f"{_FETCH} `git lfs pull`"),
    (rb"(?:\.\./)*(?:\.git|/annex)[/\w.]*annex/objects/|/annex/objects/", "a pointer of git-annex", f"{_FETCH} `git annex get`"),
    (_HTML, "a web page", f"what was downloaded is no recording: {_AGAIN}"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?<ANNOTATION_DOCUMENT", "an ELAN file", f"rename it to .eaf, or {_AGAIN}"),
    (rb"\s*<(?:\?xml|[A-Za-z]+[ >])", "an XML file", _AGAIN),
    (_PRAAT, "a Praat file, such as a TextGrid", f"rename it to .TextGrid, or {_AGAIN}"),
    (rb"\s*[{\[]\s*[\"{\[]", "a JSON file", _AGAIN),
    (rb"%PDF", "a PDF", _AGAIN),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive, or a document of an office program", "unpack it"),
    (rb"\x1f\x8b", "a gzip archive", "unpack it"),
    (rb"Rar!\x1a", "a RAR archive", "unpack it"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"BZh[1-9]1AY", "a bzip2 archive", "unpack it"),
    (rb"\xfd7zXZ", "an xz archive", "unpack it"),
    (rb".{257}ustar", "a tar archive", "unpack it"),
    (rb"\x89PNG\r\n", "a picture (PNG)", _AGAIN),
    (rb"\xff\xd8\xff[\xc0-\xfe]", "a picture (JPEG)", _AGAIN),
    (rb"GIF8[79]a", "a picture (GIF)", _AGAIN),
    (rb"RIFF.{4}AVI ", "a video (AVI)", _CONVERT),
    (rb"RIFF.{4}WEBP", "a picture (WebP)", _AGAIN),
    (rb"....ftyp(?:M4A|M4B)", "M4A audio (AAC or ALAC)", _CONVERT),
    (rb"....ftyp(?:3g)", "3GP audio or video", _CONVERT),
    (rb"....(?:ftyp|moov|mdat|wide)", "MP4 or QuickTime audio or video", _CONVERT),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (WMA or WMV)", _CONVERT),
    (rb"\x1aE\xdf\xa3", "WebM or Matroska", _CONVERT),
    (rb"#!AMR", "AMR audio", _CONVERT),
    (rb"#!SILK|\x02#!SILK", "SILK audio", _CONVERT),
    (rb"\xff[\xf0\xf1\xf8\xf9]|ADIF", "AAC audio", _CONVERT),
    (rb"wvpk", "WavPack audio", _CONVERT),
    (rb"MAC [\x80-\xff]", "Monkey's Audio", _CONVERT),
    (rb"MPCK|MP\+", "Musepack audio", _CONVERT),
    (rb"TTA[12]", "True Audio", _CONVERT),
    (rb"DSD \x1c|FRM8", "DSD audio", _CONVERT),
    (rb"\.ra\xfd|\.RMF", "RealAudio", _CONVERT),
    (rb"FLV\x01", "a Flash video", _CONVERT),
    (rb"\x00\x00\x01[\xba\xb3]", "an MPEG video", _CONVERT),
    (rb"G.{187}G.{187}G", "an MPEG transport stream", _CONVERT),
    (rb"\x00\x05\x16\x07", "what macOS keeps beside a file, not the file", _AGAIN),
    (rb"SQLite format 3", "a database", _AGAIN),
    (rb"\x7fELF|MZ\x90\x00", "a program", _AGAIN),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern, re.DOTALL | re.IGNORECASE), what, advice) for pattern, what, advice in _KINDS)
_UTF_16 = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_MIN_TEXT = 16  # bytes


def what_it_is(head: bytes) -> str | None:
    """What a file is that begins with `head`, and what to do; None where it may be audio."""
    plain = head.removeprefix(b"\xef\xbb\xbf")
    for mark, coding in _UTF_16:
        if head.startswith(mark):
            text = head[2:].decode(coding, "replace")
            if text.isascii() and text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
                plain = text.encode()
    for pattern, what, advice in _PATTERNS:
        if pattern.match(plain):
            return f"is {what}, not a recording that can be read: {advice}"
    if _is_text(plain):
        return f"is a text file, not a recording: {_AGAIN}"
    return None


def _is_text(head: bytes) -> bool:
    """Whether bytes are letters of a text throughout. The magic words of audio stand before other bytes."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return len(head) >= _MIN_TEXT and all(c.isprintable() or c in "\n\r\t\f" for c in text)
