"""What the README says is so: its commands and Python lines run, its links lead somewhere, its table has every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mtl_speech.commands.cli import main
from mtl_speech.commands.target import SHIPPED_STRATEGY
from mtl_speech.core.options import AdaptConfig
from mtl_speech.corpora.label_files.textgrid import read_textgrid, write_textgrid
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import SHIPPED_ENCODER, load_base, load_learner, shipped
from mtl_speech.training.folds import MIN_RECORDINGS, MIN_SPEAKERS
from tests.helpers import PHONEMES, toy_recording

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "recipes").glob("*/README.md"))]
MAX_SHIPPED_BYTES = 12_000_000


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


MAKE = [line.split() for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")]
SHELL = [block for block in blocks("sh") if "make " not in block]
PYTHON = blocks("python")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a few recordings of two speakers, and others without labels."""
    for number in range(3):
        toy_recording(
            tmp_path / "new-recordings" / f"new{number}.wav", PHONEMES[number : number + 3], seed=100 + number
        )
    for number in range(8):
        path = tmp_path / "my-recordings" / f"speaker{number % 2}" / f"sentence{number}.wav"
        segments = toy_recording(path, PHONEMES[number % 3 : number % 3 + 4], seed=number)
        phones = [(s.start, s.end, s.phoneme) for s in segments]
        write_textgrid(path.with_suffix(".TextGrid"), segments[-1].end + 0.1, {"phones": phones})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """A stand-in for the virtual environment that `make` makes: its command runs the package that is tested."""
    program = folder / ".venv" / "bin" / "mtl-speech"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mtl_speech "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (program.parent / "activate").write_text(f'PATH="{program.parent}:$PATH"\nexport PATH\n', encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_package_ships_its_encoder_and_strategy() -> None:
    base = load_base()
    learner, _ = load_learner(load_pack(shipped(SHIPPED_STRATEGY), "strategy"), base)
    assert len(learner.phonemes) == 39 and base.segmenter is not None
    files = [path for path in shipped(SHIPPED_ENCODER).parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_SHIPPED_BYTES
    assert all(name in str(base.pack.card["attribution"]) for name in ("Whisper tiny.en", "speechocean762"))


# Commands


def test_readme_has_blocks_of_each_kind() -> None:
    """The tests below run what they find: without this one they would pass where they find nothing."""
    assert MAKE == [["make", "demo"], ["make", "test"]]
    assert [line.split()[:2] for block in SHELL for line in block.splitlines() if line.startswith("mtl-speech ")] == [
        ["mtl-speech", "validate"],
        ["mtl-speech", "adapt"],
        ["mtl-speech", "transcribe"],
        ["mtl-speech", "suggest"],
    ]
    assert len(PYTHON) == 1


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("demo", ["-m venv", "/pip install -c constraints.txt -e", "/mtl-speech demo"]),
        ("test", ["-m venv", "/pip install -c", "/ruff check", "/ruff format --check", "/mypy mtl_speech", "/pytest"]),
    ],
)
def test_make_does_what_the_readme_says(tmp_path: Path, target: str, steps: list[str]) -> None:
    """In a new clone: makes the virtual environment with the tested versions, then runs the main job, or linters and tests."""
    assert ["make", target] in MAKE
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target], cwd=tmp_path, env=clean, capture_output=True, text=True, check=True, timeout=60
    )
    places = [done.stdout.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), done.stdout
    assert steps[-1] in done.stdout.splitlines()[-1]


def test_continuous_integration_runs_the_second_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1].startswith("exec make test")


@pytest.mark.parametrize("block", SHELL)
def test_commands_run(folder: Path, block: str) -> None:
    done = subprocess.run(
        ["sh", "-e", "-c", block], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 speakers" in done.stdout and "macro" in done.stdout
    load_pack(folder / "results" / "adapt-pa" / "0" / "pack", "language")
    for name in ("report.html", "report.json", "report.csv", "confusion.png", "log.txt"):
        assert (folder / "results" / "adapt-pa" / "0" / name).stat().st_size > 0
    written = [read_textgrid(path) for path in sorted((folder / "transcribed").glob("*.TextGrid"))]
    assert [[tier.name for tier in grid.tiers] for grid in written] == [["phones-pred", "confidence"]] * 3
    assert list((folder / "results").glob("suggest-*/0/suggestions.csv"))


@pytest.mark.parametrize("block", PYTHON)
def test_python_lines_run(folder: Path, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "base" in names and "corpus" in names
    assert capsys.readouterr().out.strip().endswith("] 0")


# The table of commands


def table() -> dict[str, str]:
    """Each command of the table, and what stands behind its name."""
    return dict(re.findall(r"^\| `mtl-speech ([\w-]+)([^`]*)` \|", README, re.MULTILINE))


def test_table_has_every_command_and_no_other() -> None:
    assert set(table()) == set(main.commands)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_table_gives_arguments_and_options_that_the_command_has(name: str) -> None:
    command, written = main.commands[name], table()[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", written)) <= options
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    bare = re.sub(r"\[[^\]]*\]|--[\w-]+ \S+", "", written).split()
    assert len(bare) == len(arguments)
    assert {"--seed", "--output-dir", "--config", "-q", "-v"} <= options


# What it promises


def test_rule_of_what_is_held_out_is_the_one_in_force() -> None:
    rule = r"whole speakers where there are five, a fifth of the recordings where there are (\d+), otherwise all recordings take"
    found = re.search(rule, " ".join(README.split()))
    assert found is not None
    assert (MIN_SPEAKERS, MIN_RECORDINGS, AdaptConfig().test_share) == (5, int(found[1]), 0.2)


# Links


def links(page: Path) -> list[str]:
    """The targets of the links of a page that lead to files."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text) + re.findall(
        r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE
    )
    return [target for target in found if not re.match(r"[a-z][a-z+.-]*:|#", target)]


def test_there_are_pages_with_links() -> None:
    assert len(PAGES) >= 5
    assert {"docs/decisions.md", "NOTICE"} <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for target in links(page):
        path = (page.parent / target.split("#")[0]).resolve()
        assert path.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert path.exists(), f"{target} does not exist"
