"""What a run says of problems: numbers by reason, a few by name, all in the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl_speech.core.errors import Problem
from mtl_speech.core.options import RunOptions
from mtl_speech.core.run import N_KINDS, Run, close_log
from mtl_speech.core.terminal import progress, show_bars


def test_problems_are_counted_named_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "corpus"
    problems = [Problem(folder / "s" / f"{i}.TextGrid", f"'a' ends at {i} s", "phones", i) for i in range(5)]
    problems += [Problem(folder / "s" / "x.wav", "cut", used=True)]
    run = Run()
    run.begin(RunOptions(output_dir=tmp_path / "out"), None)
    lines = run.left_out(problems, folder)
    close_log()
    assert lines == [
        "5 things left out (corpus):",
        "  5 × '…' ends at # s",
        *[f"  such as s/{i}.TextGrid, tier 'phones', interval {i}: 'a' ends at {i} s" for i in range(3)],
        "1 things used, but not as they stand (corpus):",
        "  1 × cut",
        "  such as s/x.wav: cut",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert all(f"{i}.TextGrid, tier 'phones', interval {i}" in log for i in range(5))


def test_many_kinds_of_problems_do_not_flood_the_terminal() -> None:
    problems = [Problem(Path("c/a.wav"), f"reason {chr(97 + i)}") for i in range(N_KINDS + 4)]
    assert "  and 4 other reasons; all are in log.txt" in Run(quiet=True).left_out(problems, Path("c"))


def test_no_problems_are_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert Run().left_out([], Path("c")) == [] and capsys.readouterr().out == ""


def test_a_quiet_run_has_no_bars() -> None:
    items = [1, 2]
    with show_bars(False):  # a recipe that another test ran shows its bars to the end of the process
        with Run() as shown:
            assert progress(items, "x") is not items
            with Run(quiet=True):
                assert progress(items, "x") is items
            assert not shown.quiet and progress(items, "x") is not items
        assert progress(items, "x") is items
