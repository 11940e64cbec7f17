"""The log of a run, in a file without paths of this machine."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from mtl_speech.core.json_values import without_absolute_paths

LOGGER = logging.getLogger("mtl_speech")


class _Formatter(logging.Formatter):
    """Lines without absolute paths: the home folder is `~`."""

    def format(self, record: logging.LogRecord) -> str:
        home = str(Path.home())
        text = super().format(record)
        return without_absolute_paths(text.replace(home, "~") if len(home) > 1 else text)


class _LogFile(logging.FileHandler):
    """A log that cannot be written ends the run, as any other file does."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that `emit` met."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self.baseFilename
        raise


def log_to(path: Path, level: int = logging.INFO, append: bool = False) -> None:
    """Write the package's log to the file `path`, from its start or with `append` from its end. Raises OSError.

    So does every line that is logged then and cannot be written.
    """
    handler = _LogFile(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    close_log()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)


def close_log() -> None:
    """Close the log file, if there is one."""
    for handler in [h for h in LOGGER.handlers if isinstance(h, logging.FileHandler)]:
        LOGGER.removeHandler(handler)
        with suppress(OSError):  # of a full disk: the lines that did not fit are told already
            handler.close()
