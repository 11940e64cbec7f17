"""The command line: help without weight, options from settings, and an exit code and a message for every error."""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
import torch
from click.testing import CliRunner

from mtl_speech import __version__
from mtl_speech.commands import inspect as inspect_command
from mtl_speech.commands import train
from mtl_speech.commands.cli import main
from mtl_speech.core import options
from mtl_speech.core.options import PHONE_SETS
from mtl_speech.core.settings import settings
from mtl_speech.model.pack import load_pack, save_pack
from mtl_speech.model.strategy import new_learner, strategy_pack
from tests.command_line import labelled_folder, report, run, save_base
from tests.helpers import meta_config, tiny_base

COMMANDS = [
    "validate",
    "pretrain",
    "meta-train",
    "adapt",
    "evaluate",
    "export",
    "transcribe",
    "suggest",
    "compare",
    "ablate",
    "demo",
    "info",
    "verify",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """few/ (6 recordings), base/, other/ (encoder packs), strategy/ (a pack on base/): only read by tests."""
    folder = tmp_path_factory.mktemp("shared")
    labelled_folder(folder / "few", 6, 2)
    save_base(folder / "base")
    save_base(folder / "other", seed=1)
    base = tiny_base()
    save_pack(
        strategy_pack(new_learner(base, "ab", meta_config()), base, meta_config(), {"name": "toy"}), folder / "strategy"
    )
    return folder


@pytest.fixture(autouse=True)
def work_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a working folder of its own."""
    monkeypatch.chdir(tmp_path)


# --- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_common_options(command: str) -> None:
    said = run(command, "--help").stdout
    assert all(option in said for option in ("--seed", "--output-dir", "--threads", "--config", "--quiet", "--verbose"))


def test_the_commands_are_these() -> None:
    assert sorted(main.commands) == sorted(COMMANDS)
    assert run("--version").stdout == f"mtl-speech, version {__version__}\n"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = """
import sys
from mtl_speech.commands.cli import main
for name in main.commands:
    main([name, "--help"], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count("Usage: mtl-speech ") == len(COMMANDS)
    assert not {"torch", "numpy", "speechbrain", "matplotlib", "rich"} & set(done.stderr.split())
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # seconds of the processor


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "mtl_speech", "adapt", "--help"]
    assert "Usage: mtl-speech adapt" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


CLASSES = [c for _, c in inspect.getmembers(options, inspect.isclass) if issubclass(c, options.RunOptions)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_has_its_option_and_help(cls: type[options.RunOptions]) -> None:
    group = type(main)(name="x")

    @group.of(cls, "commands.inspect.info")
    def command() -> None:
        """Print what was given."""

    said = command.get_help(click.Context(command, terminal_width=10_000))
    for setting in settings(cls):
        assert setting.help and f"{setting.option} " in said
        assert (
            setting.default in (None, "", False)
            or setting.default == 0
            or f"[default: {_shown(setting.default)}]" in said
        )
    assert "[default: 0]" in said  # the seed
    phone_sets = [s.choices for s in settings(cls) if s.name == "phone_set"]
    assert phone_sets in ([], [PHONE_SETS])


def _shown(default: Any) -> str:
    return (
        ",".join(map(str, default))
        if isinstance(default, tuple)
        else str(default).lower()
        if default is True
        else str(default)
    )


# --- settings ----------------------------------------------------------------------------------------------------------


def test_options_override_the_config_file_which_overrides_the_defaults(shared: Path) -> None:
    Path("my.yaml").write_text(
        f"lang: sw\nshots: 2\nmeta_steps: 0\nseed: 5\ndata: {shared / 'few'}\nbase: {shared / 'base'}\n"
    )
    run("adapt", "--config", "my.yaml", "--shots", 3, "-q")
    found = report(Path("results/adapt-sw/5"))["settings"]["adapt"]
    assert (found["shots"], found["meta_steps"], found["seed"], found["test_share"]) == (3, 0, 5, 0.2)


def test_all_wrong_settings_are_named_together() -> None:
    Path("my.yaml").write_text("shotz: 2\nseed: x\n")
    said = run("adapt", "--config", "my.yaml", "--meta-steps", "-1", "--test-share", "2", code=2).stderr
    assert "my.yaml: shotz: is not a setting; did you mean 'shots'?" in said
    assert "my.yaml: seed: must be a whole number, not 'x'" in said
    assert "option --meta-steps: must be at least 0" in said
    assert "option --test-share: must be below 1" in said


def test_switches_and_lists_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[options.MetaTrainOptions] = []
    monkeypatch.setattr(train, "meta_train", lambda folder, given, run: seen.append(given))

    arguments = ["place", "--first-order", "--no-whiten", "--n-way", "3,4", "--outer-lr", "1e-2", "--base", "b"]
    for given in (arguments, ["place"]):
        with pytest.raises(SystemExit) as caught:
            main(["meta-train", *given])
        assert caught.value.code == 0
    assert (seen[0].first_order, seen[0].whiten, seen[0].n_way, seen[0].outer_lr) == (True, False, (3, 4), 0.01)
    assert seen[0].base == Path("b") and seen[1] == options.MetaTrainOptions()


def test_threads_are_set(shared: Path) -> None:
    before = torch.get_num_threads()
    try:
        run("validate", shared / "few", "--threads", 2, "--output-dir", "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# --- errors ------------------------------------------------------------------------------------------------------------

ON_FEW = ["--lang", "sw", "--data", "{few}", "--base", "{base}"]
ERRORS: list[tuple[int, str, list[str]]] = [
    (1, "no such folder", ["validate", "nowhere"]),
    (1, "no such folder", ["adapt", "--lang", "sw", "--data", "nowhere", "--base", "{base}"]),
    (1, "no such folder", ["pretrain", "nowhere"]),
    (1, "no such folder", ["meta-train", "nowhere", "--base", "{base}"]),
    (1, "no audio files", ["adapt", "--lang", "sw", "--data", "empty", "--base", "{base}"]),
    (1, "no recording with phoneme segments", ["adapt", "--lang", "sw", "--data", "bare", "--base", "{base}"]),
    (1, "one recording cannot be both", ["adapt", "--lang", "sw", "--data", "single", "--base", "{base}"]),
    (1, "lies in the training and in the test folder", ["adapt", *ON_FEW, "--test", "{few}/s1"]),
    (1, "no phoneme has enough examples", ["adapt", *ON_FEW, "--shots", "99"]),
    (1, "no language has enough phonemes", ["adapt", *ON_FEW, "--shots", "1", "--meta-steps", "3"]),
    (1, "nowhere: does not exist", ["adapt", *ON_FEW, "--strategy", "nowhere"]),
    (1, "is of the kind 'encoder', and 'strategy' is needed", ["adapt", *ON_FEW, "--strategy", "{base}"]),
    (1, "it builds on 'tiny-0'", ["adapt", *ON_FEW[:-1], "{other}", "--strategy", "{strategy}"]),
    (1, "is of the kind 'strategy', and 'encoder' is needed", ["ablate", *ON_FEW[:-1], "{strategy}"]),
    (1, "is of the kind 'encoder', and 'language' is needed", ["evaluate", "{base}", "--data", "{few}"]),
    (1, "is of the kind 'encoder', and 'language' is needed", ["transcribe", "{base}", "{few}"]),
    (1, "nowhere: no such file or folder", ["transcribe", "{base}", "nowhere"]),
    (1, "it builds on 'tiny-0'", ["info", "{strategy}", "--base", "{other}"]),
    (1, "is not a pack: it has no card.json", ["info", "{few}"]),
    (1, "no language has enough examples for a task", ["meta-train", "{few}", "--base", "{base}", "--lang", "sw"]),
    (1, "file/x: Not a directory", ["adapt", *ON_FEW, "--output-dir", "file/x"]),
    (2, "unknown language 'xyzzyish'", ["adapt", "--lang", "xyzzyish", "--data", "{few}"]),
    (2, "unknown language 'xyzzyish'", ["validate", "{few}", "--lang", "xyzzyish"]),
    (2, "--data is needed for Swahili (sw)", ["adapt", "--lang", "sw"]),
    (2, "--data is needed for Western Panjabi (pnb)", ["ablate", "--lang", "pnb"]),
    (2, "lang: must be given with --data", ["adapt", "--data", "{few}"]),
    (2, "test: needs --data", ["adapt", "--test", "{few}"]),
    (2, "data: must be given", ["evaluate", "{base}"]),
    (2, "did you mean 'prototype'?", ["meta-train", "{few}", "--theta-init", "prototyp"]),
    (2, "kernel_size: must be odd, not 4", ["pretrain", "{few}", "--kernel-size", "4"]),
    (2, "must be one of auto, ipa, arpabet, timit", ["validate", "{few}", "--phone-set", "sampa"]),
    (2, "number of words 9999999 is not from", ["demo", "--base", "{base}", "--n-words", "9999999"]),
    (2, "cannot be read (No such file or directory)", ["demo", "--config", "nowhere.yaml"]),
    (2, "is not plain YAML", ["demo", "--config", "hostile.yaml"]),
    (2, "options -q and -v", ["info", "{base}", "-q", "-v"]),
    (2, "No such option '--shoots'", ["adapt", "--shoots", "3"]),
    (2, "No such command 'adpat'", ["adpat"]),
    (2, "Missing argument 'FOLDER'", ["validate"]),
    (2, "Missing argument 'AUDIO...'", ["transcribe", "{base}"]),
    (2, "must be one of textgrid, ctm, json, eaf", ["transcribe", "{base}", "{few}", "--format", "textgrid,txt"]),
]


@pytest.mark.parametrize(("code", "message", "arguments"), ERRORS, ids=lambda x: x[:40] if isinstance(x, str) else None)
def test_errors_are_said_in_a_line_with_their_exit_code(
    shared: Path, tmp_path: Path, code: int, message: str, arguments: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "hostile.yaml").write_text("seed: !!python/object/apply:os.getcwd []")
    labelled_folder(tmp_path / "single", 1, 1)
    labelled_folder(tmp_path / "bare", 1, 1)
    (tmp_path / "bare" / "s0" / "u00.TextGrid").unlink()
    places = {name: str(shared / name) for name in ("few", "base", "other", "strategy")}
    if "--n-words" in arguments:
        pytest.importorskip("espeakng_loader")
    result = run(*(argument.format(**places) for argument in arguments), code=code)
    assert message in result.stderr
    assert "F1" not in result.stdout


def test_a_changed_pack_is_refused_with_both_hashes(shared: Path) -> None:
    save_base(Path("mine"))
    data = bytearray(Path("mine/weights.safetensors").read_bytes())
    data[-1] ^= 1
    Path("mine/weights.safetensors").write_bytes(data)
    said = run("info", "mine", code=1).stderr
    assert "has the SHA-256" in said and str(load_pack(shared / "base").card["weights"]["sha256"]) in said  # type: ignore[index]


def raiser(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def test_a_read_only_folder_and_a_full_disk(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["adapt", "--lang", "sw", "--data", shared / "few", "--base", shared / "base"]
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS), "results")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/report.json")
    with monkeypatch.context() as patch:
        patch.setattr("mtl_speech.core.run.log_to", raiser(read_only))
        assert run(*arguments, code=1).stderr == "mtl-speech: results: Read-only file system\n"
    monkeypatch.setattr("mtl_speech.report.results.atomic_write", raiser(full))
    result = run(*arguments, code=1)
    assert result.stderr.endswith("mtl-speech: results/report.json: No space left on device\n")
    assert not Path("results/adapt-sw/0/report.json").exists()
    assert "No space left on device" in Path("results/adapt-sw/0/log.txt").read_text()


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda command: command.name)
def test_a_command_runs_a_function_that_takes_its_arguments(command: click.Command) -> None:
    """What a command runs is named as text, which no type checker reads."""
    assert command.callback is not None
    nonlocals = inspect.getclosurevars(command.callback).nonlocals
    module, _, name = nonlocals["runs"].rpartition(".")
    function = getattr(importlib.import_module(f"mtl_speech.{module}"), name)
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    assert [p.annotation for p in needed[-2:]] == [nonlocals["cls"].__name__, "Run"]
    assert len(needed) == len(nonlocals["folders"]) + 2


def test_unexpected_errors_ask_to_be_reported(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_command, "summary", raiser(RuntimeError("boom")))
    said = run("validate", shared / "few", "--output-dir", "out", code=1).stderr
    assert said == "mtl-speech: unexpected RuntimeError: boom (please report this; -v shows where)\n"
    assert "Traceback" in Path("out/log.txt").read_text()
    told = CliRunner().invoke(main, ["validate", str(shared / "few"), "-v"])
    assert told.exit_code == 1 and "Traceback" in told.stderr and "raise error" in told.stderr


# In the place of `validate`: it warns as other packages do, and then waits to be interrupted.
STUB = """
import logging, signal, sys, time, types, warnings
import mtl_speech

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs with the interrupt ignored

def validate(folder, options, run):
    warnings.warn("a warning of another package")
    logging.getLogger("another").warning("a log line of another package")
    logging.getLogger("mtl_speech.x").info("a line of the log")
    run.say("ready")
    time.sleep(30)

sys.modules["mtl_speech.commands.inspect"] = stub = types.ModuleType("mtl_speech.commands.inspect")
stub.validate = validate
from mtl_speech.commands.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_an_interrupt_ends_with_130_and_nobody_else_is_heard(verbose: bool) -> None:
    command = [sys.executable, "-c", STUB, "validate", "x", *(["-v"] if verbose else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(60, process.kill)
        timer.start()
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        timer.cancel()
    assert process.returncode == 130
    assert errors == ("INFO a line of the log\n" if verbose else "") + "mtl-speech: interrupted\n"


def test_a_quiet_run_prints_results_only_and_leaves_no_log_open(shared: Path) -> None:
    arguments = ["adapt", "--lang", "sw", "--data", shared / "few", "--base", shared / "base", "--meta-steps", 0]
    result = run(*arguments, "-q")
    lines = result.stdout.splitlines()
    assert lines[0] == "Phoneme F1" and lines[-1].startswith("written to results/adapt-sw/0: ")
    assert result.stderr == ""
    assert logging.getLogger("mtl_speech").handlers == []
