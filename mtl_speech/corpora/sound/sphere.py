"""NIST SPHERE files: what their header says. libsndfile reads the samples of those that are not compressed."""

from __future__ import annotations

import re
from pathlib import Path

MAGIC = b"NIST_1A\n"
_MAX_HEADER = 1 << 16  # bytes; the header of nearly all files has 1,024


def sphere_header(path: Path) -> dict[str, str] | None:
    """The fields of a SPHERE file's header by name, such as "sample_count"; None for a file that is none."""
    with open(path, "rb") as file:
        return sphere_fields(file.read(_MAX_HEADER))


def sphere_fields(head: bytes) -> dict[str, str] | None:
    """The fields of the header that bytes begin with, as `sphere_header` gives them; None where they begin with none."""
    if not head.startswith(MAGIC):
        return None
    text = head.partition(b"end_head")[0].decode("latin-1")
    return dict(re.findall(r"^(\w+) -(?:i|r|s\d+) (.*?)\s*$", text, re.MULTILINE))


def why_unreadable(path: Path) -> str | None:
    """Why a SPHERE file cannot be read, and what to do; None where its header does not tell, or for a file that is none."""
    try:
        header = sphere_header(path)
    except OSError:
        header = None
    if header is None:
        return None
    coding = header.get("sample_coding", "pcm")
    if "shorten" in coding:
        return (
            f"a SPHERE file whose samples are compressed ({coding}): convert it with `sph2pipe -f wav {path.name} OUT.wav` "
            "(SoX cannot read this compression)"
        )
    if coding != "pcm":
        return f"a SPHERE file with samples in {coding}: convert it with `sox -t sph {path.name} OUT.wav`"
    return None
