"""Values of all kinds as plain JSON: no NaN, no path of this machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtl_speech.core.errors import printable

# An absolute path in running text: two parts at least, so that a phoneme in slashes (/p/, /tʃ/) is none. A folder's name can have
# blanks in it, but neither quotes nor an option; the last part ends at a blank: what is left after it is of the file's own name.
_FOLDER = r"""(?:[\w.(](?:(?!\ -)[^/\\\n:'"<>|*?=])*(?<!\s)[/\\])"""
_ABSOLUTE = re.compile(
    rf"""(?<![\w/.~…])(?:file://)?(?:/(?!.[/\s]){_FOLDER}+[\w.(][^\s/:'"<>|]*/?|[A-Za-z]:[\\/]{_FOLDER}*[^\s"'*?<>|\\/]*|^/[\w.][\w.+@-]+$)"""
)


def plain(value: Any) -> Any:
    """A value as dictionaries, lists, strings and numbers: None for a number that is not finite, no absolute path.

    Dataclasses become dictionaries, sets sorted lists, arrays and tuples lists, and anything else its text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return printable(without_absolute_paths(str(value))) if not isinstance(value, Path) else _without_folder(value)


def without_absolute_paths(text: str) -> str:
    """The text, paths below the working folder made relative to it, other absolute paths cut to their last part."""
    here = str(Path.cwd())
    if len(here) > 1:  # first, for its name may have anything in it
        text = re.sub(rf"(?<![\w/.~…])(?:file://)?{re.escape(here)}(?:/|(?=['\"\s:;,)]|$))(?=([\w.(])?)", _below, text)
    return _ABSOLUTE.sub(lambda match: "…/" + re.split(r"[\\/]", match.group().rstrip("\\/"))[-1], text)


def _below(match: re.Match[str]) -> str:
    """What the path of the working folder becomes: nothing before a name, else a point."""
    return "" if match[1] else "."


def _without_folder(path: Path) -> str:
    """A path below the working folder made relative to it, another absolute one cut to its last part."""
    if not path.is_absolute():
        return printable(path.as_posix())
    below = path.is_relative_to(Path.cwd())
    return printable(path.relative_to(Path.cwd()).as_posix() if below else f"…/{path.name}")


def json_text(data: Mapping[str, Any]) -> str:
    """JSON for people too: lists of plain values on one line. A line break is never inside a JSON string."""
    text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
    return re.sub(r"\[\n *([^\[\]{}]*)\n *\]", lambda found: "[" + re.sub(r",\n *", ", ", found[1]) + "]", text) + "\n"
