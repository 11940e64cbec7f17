"""One run of a command: what it says on the terminal, what goes to its log, and the folder that it writes to."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_speech.core.cache import DATA_LIMIT, FOLDER, LIMIT
from mtl_speech.core.distributed import is_main, only_one_process
from mtl_speech.core.errors import Problem, kind_of, relative
from mtl_speech.core.files import only_run, without_absolute_paths
from mtl_speech.core.options import RunOptions
from mtl_speech.core.settings import as_dict
from mtl_speech.core.terminal import plain_text, show, show_bars

if TYPE_CHECKING:
    from rich.table import Table

LOGGER = logging.getLogger("mtl_speech")  # of the whole package: its lines go to the log file
logger = logging.getLogger(__name__)
SAID = {"said": True}  # marks lines of the log that stand on the terminal already
CHECKPOINTS = "checkpoints"  # the folder of a training that was stopped
N_KINDS, N_NAMED = 10, 3  # reasons that are counted, and problems that are named, on the terminal


@dataclass(frozen=True)
class Run:
    """`command` is the command line as typed. A quiet run prints its results only: tables, and where they were written.

    Of several processes that work together only the main one prints and writes.
    """

    command: str = "mtl-speech"
    quiet: bool = False
    _open: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    def __enter__(self) -> Run:
        self._open.enter_context(show_bars(not self.quiet))
        return self

    def __exit__(self, *error: object) -> None:
        """Give the folder free for other runs, and show no more bars."""
        self._open.close()

    def begin(self, options: RunOptions, experiment: str | None) -> Path:
        """Make the folder to write to, start the log there, and set the number of threads and the place of the cache.

        The folder is `options.output_dir`, else results/<experiment>/<seed>; no other run can write to it until this one has
        ended. The log of a run that was stopped goes on. Raises OSError where the folder cannot be written, DataError where
        another run writes to it.
        """
        import torch

        only_one_process(self.command)
        self._open.enter_context(show_bars(not self.quiet))
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        use_caches(options)
        named = re.sub(r"[^\w.-]+", "_", experiment or "run")
        folder = options.output_dir or Path("results", named, str(options.seed))
        folder.mkdir(parents=True, exist_ok=True)
        if not is_main():
            return folder
        self.hold(only_run(folder, self.command))
        log_to(folder / "log.txt", append=(folder / CHECKPOINTS).is_dir())
        logger.info("%s", self.command)
        logger.info("options: %s", json.dumps(as_dict(options), ensure_ascii=False))
        logger.info("%d threads", torch.get_num_threads())
        return folder

    def hold(self, lock: AbstractContextManager[object]) -> None:
        """Take a lock, for as long as the run lasts."""
        self._open.enter_context(lock)

    def say(self, text: str) -> None:
        """A line on what happens."""
        logger.info("%s", text, extra=SAID)
        if not self.quiet and is_main():
            print(text, flush=True)

    def result(self, text: str) -> None:
        """A line that a quiet run prints too."""
        logger.info("%s", text, extra=SAID)
        print(text, flush=True)

    def table(self, table: Table) -> None:
        """A table, which is a result."""
        logger.info("\n%s", plain_text(table), extra=SAID)
        show(table)
        print(flush=True)

    def wrote(self, folder: Path, paths: Sequence[Path]) -> None:
        """Where the results are."""
        names = ", ".join(sorted({p.relative_to(folder).as_posix() for p in paths} | {"log.txt"}))
        self.result(f"written to {folder}: {names}")

    def left_out(self, problems: Sequence[Problem], folder: Path) -> list[str]:
        """Say what in `folder` was left out or changed: numbers by reason, the first few by name, all in the log.

        Returns the lines, for a report; none when there is no problem.
        """
        for problem in problems:
            logger.warning("%s%s", "used: " if problem.used else "left out: ", problem, extra=SAID)
        lines = []
        for used, what in ((False, "left out"), (True, "used, but not as they stand")):
            those = [problem for problem in problems if problem.used == used]
            if those:
                lines += [f"{sum(p.count for p in those)} things {what} ({folder.resolve().name}):"]
                counts: Counter[str] = Counter()
                for problem in those:
                    counts[kind_of(problem.reason)] += problem.count
                kinds = counts.most_common()
                lines += [f"  {n} × {kind}" for kind, n in kinds[:N_KINDS]]
                if len(kinds) > N_KINDS:
                    lines += [f"  and {len(kinds) - N_KINDS} other reasons; all are in log.txt"]
                lines += [f"  such as {relative(p, folder)}" for p in those[:N_NAMED]]
        for line in lines:
            self.say(line)
        return lines


def use_caches(options: RunOptions) -> None:
    """Set the places of the caches and their sizes, for this process and those that it starts."""
    for variable, value in ((FOLDER, options.cache_dir), (LIMIT, options.cache_gib), (DATA_LIMIT, options.data_gib)):
        if value is not None:
            os.environ[variable] = str(value)


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


def log_to(path: Path, append: bool = False) -> None:
    """Write the package's log to the file `path`, from its start or with `append` from its end. Raises OSError.

    So does every line that is logged then and cannot be written.
    """
    handler = _LogFile(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    close_log()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)


def close_log() -> None:
    """Close the log file, if there is one."""
    for handler in [h for h in LOGGER.handlers if isinstance(h, logging.FileHandler)]:
        LOGGER.removeHandler(handler)
        with suppress(OSError):  # of a full disk: the lines that did not fit are told already
            handler.close()
