"""The log of a run, in a file and on standard error, and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from mtl_speech.plain import without_absolute_paths

T = TypeVar("T")
LOGGER = logging.getLogger("mtl_speech")


class _Formatter(logging.Formatter):
    """Lines without absolute paths: the home folder is `~`."""

    def format(self, record: logging.LogRecord) -> str:
        home = str(Path.home())
        text = super().format(record)
        return without_absolute_paths(text.replace(home, "~") if len(home) > 1 else text)


def log_to(path: Path, level: int = logging.INFO) -> None:
    """Write the package's log to the file `path`, from its start. Raises OSError."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    close_log()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)


def close_log() -> None:
    """Close the log file, if there is one."""
    for handler in [h for h in LOGGER.handlers if isinstance(h, logging.FileHandler)]:
        LOGGER.removeHandler(handler)
        handler.close()


def progress_bar(items: Iterable[T], description: str) -> Iterable[T]:
    """A bar on standard error for a step that takes more than two seconds; it leaves a line behind."""
    from tqdm import tqdm

    return tqdm(items, desc=description, delay=2.0, dynamic_ncols=True)
