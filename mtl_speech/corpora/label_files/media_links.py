"""The recordings that an ELAN file (.eaf) names in its header. They are names to look up in a folder: no path of them is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote
from xml.parsers import expat

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import read_limited

MAX_BYTES = 64 << 20  # as `elan.MAX_BYTES`
MAX_LINKS = 64  # of a file; ELAN shows four videos at most
_CHUNK = 1 << 16  # bytes; the header stands at the begin


@dataclass(frozen=True)
class MediaLink:
    """A recording that an .eaf names: its paths (parts between `/`, the relative one first), and whether its times are shifted."""

    paths: tuple[str, ...]
    shifted: bool


class _Enough(Exception):
    """The header is read."""


def media_links(path: Path) -> Sequence[MediaLink]:
    """The links in the header of an .eaf file; none where it cannot be read as one, or has a document type."""
    found: list[MediaLink] = []
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "MEDIA_DESCRIPTOR":
            urls = [attributes.get(each, "").strip() for each in ("RELATIVE_MEDIA_URL", "MEDIA_URL")]
            paths = tuple(dict.fromkeys(form for url in urls if url for form in _forms(url)))
            found.append(MediaLink(paths, attributes.get("TIME_ORIGIN", "0").strip() not in ("", "0")))
        if name == "TIME_ORDER" or len(found) >= MAX_LINKS:
            raise _Enough

    def refuse(*_: object) -> None:
        found.clear()
        raise _Enough

    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    try:
        raw = read_limited(path, MAX_BYTES, "the annotations of one recording")
        for begin in range(0, len(raw), _CHUNK):
            parser.Parse(raw[begin : begin + _CHUNK], False)
    except _Enough:
        pass
    except (expat.ExpatError, LookupError, ValueError, DataError, OSError):
        return ()
    return tuple(found)


def _forms(url: str) -> tuple[str, str]:
    """The path of a URL as it stands and without %-escapes; ELAN has written both."""
    path = re.sub(r"^file:/*(?=/|[A-Za-z]:)", "", url.replace("\\", "/"), flags=re.IGNORECASE)
    return path, unquote(path)
