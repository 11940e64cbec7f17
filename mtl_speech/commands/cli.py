"""The command line: its commands, each with what it runs, and how they meet a terminal.

Options are made from settings, errors become exit codes, warnings and logs go to their places. Nothing heavy is loaded before a
command runs.

Exit codes: 0 done; 1 data, a pack or the machine failed; 2 the command, an option or a setting is wrong; 130 interrupted,
143 ended by SIGTERM.
"""

from __future__ import annotations

import errno
import inspect
import logging
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from mtl_speech import __version__
from mtl_speech.core.errors import ConfigError, MtlSpeechError, first_line
from mtl_speech.core.options import (
    AdaptOptions,
    CompareOptions,
    DemoOptions,
    EvaluateOptions,
    ExportOptions,
    InfoOptions,
    MetaTrainOptions,
    PretrainOptions,
    RunOptions,
    SuggestOptions,
    TranscribeOptions,
    ValidateOptions,
    VerifyOptions,
)
from mtl_speech.core.settings import Setting, load_config, settings

PROGRAM = "mtl-speech"
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)  # as torch says it
DEAD_WORKER = re.compile(r"DataLoader (worker .*(exited unexpectedly|is killed by signal)|timed out)")
_SHORT = {"output_dir": "-o", "number": "-n"}
PATH = click.Path(path_type=Path)
# The options of every command that are no settings.
COMMON = (
    click.Option(["--config"], type=PATH, help="YAML file of settings; options override it."),
    click.Option(["-q", "--quiet"], is_flag=True, help="Print the results only."),
    click.Option(["-v", "--verbose"], is_flag=True, help="Print the log too, and where unexpected errors arose."),
)
_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


class Program(click.Group):
    """A group of commands that are made from settings. Its name does not depend on how it was started."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of a command line, which is kept as typed in `obj`."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # IPA on a terminal that cannot show it
        return super().make_context(PROGRAM, args, parent, obj=shlex.join([PROGRAM, *args]), **extra)

    def of(self, cls: type[RunOptions], runs: str, *folders: str) -> Callable[[Callable[[], None]], click.Command]:
        """Add a command with the positional arguments `folders` and an option for each setting of `cls`.

        `runs` is the function that does the work, named by its module below the package, such as "commands.train.pretrain". It gets
        the folders as paths, the options as a `cls`, and the run. An argument with a name such as "files..." is given once or more:
        a tuple of paths. The decorated function is never called: its name and docstring become those of the command.
        """

        def decorate(function: Callable[[], None]) -> click.Command:
            name = function.__name__.replace("_", "-")
            made = click.Command(name, callback=_callback(runs, cls, folders), help=function.__doc__)
            for folder in folders:
                n_paths = -1 if folder.endswith("...") else 1
                made.params.append(
                    click.Argument([folder.removesuffix("...")], type=PATH, nargs=n_paths, required=True)
                )
            made.params += [*map(_option, _in_order(cls)), *COMMON]
            self.add_command(made)
            return made

        return decorate


def _callback(runs: str, cls: type[RunOptions], folders: tuple[str, ...]) -> Callable[..., None]:
    """What click calls: it gets the parameters by name."""

    def callback(config: Path | None, quiet: bool, verbose: bool, **given: Any) -> None:
        from mtl_speech.core.run import Run

        with _messages(verbose), Run(click.get_current_context().obj, quiet) as run, _failures(verbose, cls):
            if quiet and verbose:
                raise ConfigError(["options -q and -v: one of them at most"])
            places = [given.pop(name.removesuffix("...")) for name in folders]
            options = load_config(cls, config, given)
            module, _, name = runs.rpartition(".")
            getattr(import_module(f"mtl_speech.{module}"), name)(*places, options, run)

    return callback


def _in_order(cls: type[RunOptions]) -> list[Setting]:
    """The settings of a class: its own first, those that every command has last."""
    common = {setting.name for setting in settings(RunOptions)}
    place = {name: i for i, base in enumerate(reversed(cls.__mro__)) for name in inspect.get_annotations(base)}
    return sorted(settings(cls), key=lambda setting: (setting.name in common, -place[setting.name]))


def _option(setting: Setting) -> click.Option:
    """The option of a setting. Its value stays text here: `load_config` reads it, and names all problems together."""
    help_text = setting.help[:1].upper() + setting.help[1:]
    if setting.default is not None and setting.default is not False and setting.default != "":
        shown = ",".join(map(str, setting.default)) if isinstance(setting.default, tuple) else setting.default
        help_text += f"  [default: {str(shown).lower() if setting.type is bool else shown}]"
    if setting.type is bool:
        return click.Option([f"{setting.option}/--no-{setting.option[2:]}"], default=None, help=help_text)
    metavar = "|".join(setting.choices) if setting.choices else _METAVARS[setting.type]
    names = [*([_SHORT[setting.name]] if setting.name in _SHORT else []), setting.option]
    return click.Option(names, metavar=metavar + ",..." * setting.many, help=help_text)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM: it cleans up as after an interrupt."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`."""

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _resources(error: BaseException, cls: type[RunOptions]) -> str | None:
    """What to do about an error that says that memory ran out, or that a worker process died; None for any other."""
    said = first_line(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(said)):
        lower = " or ".join("--" + name.replace("_", "-") for name in cls.MEMORY)
        hint = f"lower {lower}" if lower else "give it fewer or shorter recordings at a time"
        return f"out of memory ({said}): {hint}, or close other programs"
    if isinstance(error, BrokenExecutor) or (isinstance(error, RuntimeError) and DEAD_WORKER.search(said)):
        lower = " or ".join(s.option for s in settings(cls) if s.name in ("workers", "threads"))
        remedy = f"close other programs or lower {lower}, and start again"
        return f"a worker process died or hung, most often because memory ran out ({said}): {remedy}"
    return None


@contextmanager
def _failures(verbose: bool, cls: type[RunOptions]) -> Iterator[None]:
    """Turns errors into a message on standard error and an exit code."""
    try:
        with _terminable():
            yield
    except click.ClickException:
        raise
    except MtlSpeechError as error:
        many = isinstance(error, ConfigError) and len(error.problems) > 1
        _fail(error, error.exit_code, "these settings are wrong:\n" + str(error) if many else str(error))
    except Terminated as error:
        _fail(error, 143, "terminated")
    except KeyboardInterrupt as error:
        _fail(error, 130, "interrupted")
    except OSError as error:
        if error.errno == errno.EPIPE:  # who read the output has gone: click ends without a word
            raise
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        place = f"{error.filename}: " if error.filename is not None else "a temporary file: " if full else ""
        _fail(error, 1, place + (error.strerror or str(error)), verbose)
    except Exception as error:
        known = _resources(error, cls)
        if known is not None:
            _fail(error, 1, known, verbose)
        hint = "" if verbose else "; -v shows where"
        _fail(error, 1, f"unexpected {type(error).__name__}: {error} (please report this{hint})", verbose)


def _fail(error: BaseException, code: int, message: str, trace: bool = False) -> NoReturn:
    unexpected = not isinstance(error, (MtlSpeechError, OSError, KeyboardInterrupt))
    with suppress(OSError):  # the log may be what cannot be written
        logging.getLogger("mtl_speech").error(
            "%s", message, exc_info=error if unexpected else None, extra={"said": True}
        )
    if trace:
        click.echo("".join(traceback.format_exception(error)), err=True)
    click.echo(f"{PROGRAM}: {message}", err=True)
    click.get_current_context().exit(code)


@contextmanager
def _messages(verbose: bool) -> Iterator[None]:
    """No warning of another package reaches the user; those in the log go to standard error, with `verbose` all of it."""
    from mtl_speech.core.run import LOGGER, close_log

    root, level = logging.getLogger(), LOGGER.level
    silent, stream = logging.NullHandler(), logging.StreamHandler()
    stream.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    stream.addFilter(lambda record: not hasattr(record, "said"))  # those lines stand on the terminal already
    root.addHandler(silent)
    stream.setLevel(logging.NOTSET if verbose else logging.WARNING)
    LOGGER.addHandler(stream)
    if verbose:
        LOGGER.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        LOGGER.removeHandler(stream)
        LOGGER.setLevel(level)
        close_log()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Few-shot phoneme recognition by meta-transfer learning: from an English acoustic model to a new language."""


@main.of(ValidateOptions, "commands.inspect.validate", "folder")
def validate() -> None:
    """Check a FOLDER of labelled recordings; name every problem.

    Says what it holds, and what is wrong by file, tier and interval. The exit code is 1 when something cannot be used.
    """


@main.of(PretrainOptions, "commands.train.pretrain", "folder")
def pretrain() -> None:
    """Pretrain an encoder on a FOLDER of labelled recordings.

    Writes a pack of the kind 'encoder', for --base. A run that was stopped or killed goes on when the same command is
    started again.
    """


@main.of(MetaTrainOptions, "commands.train.meta_train", "folder")
def meta_train() -> None:
    """Meta-train a strategy on a FOLDER of languages, or of one.

    Several languages lie in subfolders that are named by their codes. Writes a pack of the kind 'strategy'. A run
    that was stopped or killed goes on when the same command is started again.
    """


@main.of(AdaptOptions, "commands.workflows.adapt")
def adapt() -> None:
    """Learn the phonemes of a language; report F1 on held-out speech.

    --data is a folder of audio files with a TextGrid beside each, the folders in it being speakers. Test examples are those of
    --test, else of speakers or recordings held out; of few recordings each is tested on in turn. Writes a language pack.
    """


@main.of(EvaluateOptions, "commands.workflows.evaluate", "pack")
def evaluate() -> None:
    """Score a language PACK on a folder of labelled recordings."""


@main.of(TranscribeOptions, "commands.transcribe.transcribe", "pack", "audio...")
def transcribe() -> None:
    """Transcribe AUDIO, files and folders, by a language PACK.

    Writes the phones with their times as tiers of TextGrid or ELAN files, beside the tiers that a file of the same name next to the
    recording has, or as CTM or JSON. Files that a person made or changed are never replaced. --score compares with labels.
    """


@main.of(SuggestOptions, "commands.suggest.suggest", "pack")
def suggest() -> None:
    """Suggest what to label or to record next for a language PACK.

    Ranks the recordings of --pool that are not labelled yet, or the words of --words, by what they promise for macro-F1: examples
    of phonemes that have few or are hard, and sounds that the model is unsure of. Writes suggestions.csv with the reasons.
    """


@main.of(AdaptOptions, "commands.workflows.ablate")
def ablate() -> None:
    """Show what each step brings: meta-transfer, and curriculum.

    Learns as `adapt` does: frozen encoder and a head from scratch; with meta-transfer; with curriculum too. All on the same
    examples and tests, with paired differences.
    """


@main.of(CompareOptions, "report.compare.compare", "a", "b")
def compare() -> None:
    """Compare two reports that were tested on the same tokens.

    A and B are folders that `adapt`, `ablate` or `evaluate` wrote to. Prints both scores, the paired difference in macro-F1 with
    its interval, and the phonemes that differ most. The exit code is 1 when the test tokens are not the same.
    """


@main.of(DemoOptions, "commands.workflows.demo")
def demo() -> None:
    """From English to Punjabi, offline, on synthetic speech.

    Makes a few-shot corpus of Punjabi words with espeak-ng, learns from it, and prints the F1 table and the ablation.
    """


@main.of(ExportOptions, "commands.inspect.export", "pack")
def export() -> None:
    """Export a language PACK with its base as one plain model.

    Writes model.onnx or model.pt2 (torch.export): samples and spans of segments in, probabilities of the phonemes out, without
    this package. Each is compared with the pack before it is written.
    """


@main.of(InfoOptions, "commands.inspect.info", "pack")
def info() -> None:
    """Say what a PACK is, after checking its hashes."""


@main.of(VerifyOptions, "commands.inspect.verify", "packs...")
def verify() -> None:
    """Check PACKS: each is data only, whole, and fits its base.

    Names every check. The exit code is 1 when a pack is damaged or foreign, or builds on another base than the one given by --base,
    or else the one that ships; both hashes are shown.
    """
