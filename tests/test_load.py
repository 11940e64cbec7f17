"""The corpus of the load bench: as many phonemes as it says, and nothing wrong in it; its command lines are right."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from mtl_speech.commands.cli import main
from mtl_speech.corpora.reading import validate
from tests.test_readme import ROOT


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("load")


def test_the_made_up_corpus_has_every_phoneme_and_no_problem(load: ModuleType, tmp_path: Path) -> None:
    load.make_corpus(tmp_path / "corpus", 210)
    corpus = validate(tmp_path / "corpus")
    assert all(problem.used and problem.reason.startswith("'y'") for problem in corpus.problems), (
        "of y alone it is asked whether it is j"
    )
    assert len(corpus.utterances) == 210 and {u.speaker for u in corpus.utterances} == {"s000", "s001"}
    assert set(corpus.phoneme_counts()) == set(load.inventory()) and len(load.inventory()) == load.N_PHONEMES
    assert sum(corpus.phoneme_counts().values()) == 210 * load.PER_FILE


def test_the_commands_are_those_of_the_program(load: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    for name, arguments in load.commands(tmp_path, tmp_path).items():
        command = main.commands[name.split()[0]]
        assert arguments[0] == command.name
        given = {word for word in arguments if word.startswith("-")}
        assert given <= {option for parameter in command.params for option in parameter.opts}, name


def test_growth_is_told_as_an_exponent(load: ModuleType) -> None:
    rows = [
        {"command": "validate", "files": files, "cpu_seconds": files / 10, "peak_mb": 500.0} for files in (100, 400)
    ]
    assert load.growth_table(rows).splitlines()[-1].split(" | ")[3:] == ["40", "1.00", "500", "0.00 |"]
