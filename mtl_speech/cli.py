"""The command line: commands to typed calls, errors to exit codes. Nothing heavy is loaded before a command runs.

Exit codes: 0 done; 1 data, packs or the machine failed; 2 the command, an option or a setting is wrong; 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mtl_speech import __version__
from mtl_speech.errors import ConfigError, MtlSpeechError
from mtl_speech.options import (
    AdaptOptions,
    DemoOptions,
    EvaluateOptions,
    InfoOptions,
    MetaTrainOptions,
    PretrainOptions,
    RunOptions,
    ValidateOptions,
)
from mtl_speech.settings import Setting, load_config, settings

if TYPE_CHECKING:
    from mtl_speech.run import Run

O = TypeVar("O", bound=RunOptions)  # noqa: E741
PROGRAM = "mtl-speech"
ISSUES = "please report it with the command and the lines that -v adds"


class _Program(click.Group):
    """A group that remembers the command line and turns errors into messages and exit codes."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        """Run the command line `args` (by default that of the process)."""
        arguments = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # IPA on a terminal that cannot show it
        return super().main(arguments, PROGRAM, obj=shlex.join([PROGRAM, *arguments]), **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command of a context."""
        verbose = "-v" in ctx.args or "--verbose" in ctx.args or any(a.startswith("-vv") for a in ctx.args)
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            code, message = explain(error)
            if message is None:
                raise
            _fail(error, message, verbose)
            ctx.exit(code)


def explain(error: BaseException) -> tuple[int, str | None]:
    """The exit code and the message of an error; no message for those that click deals with."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, (click.ClickException, click.Abort)):
        return 2, None
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return error.exit_code, f"{len(error.problems)} settings are wrong:\n  " + "\n  ".join(error.problems)
    if isinstance(error, MtlSpeechError):
        return error.exit_code, str(error)
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:
            return 1, None
        return 1, ": ".join(filter(None, [str(error.filename or ""), error.strerror or str(error)]))
    return 1, f"unexpected {type(error).__name__}: {error}; {ISSUES}"
