"""The log file of a run, and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def log_to(path: Path, level: int = logging.INFO) -> None:
    """Write the package's log to the file `path`, from its start."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("mtl_speech")
    for old in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(level)


def progress_bar(items: Iterable[T], description: str) -> Iterable[T]:
    """A bar on standard error for a step that takes more than two seconds; it leaves a line behind."""
    from tqdm import tqdm

    return tqdm(items, desc=description, delay=2.0, dynamic_ncols=True)
