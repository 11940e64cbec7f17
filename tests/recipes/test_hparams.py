"""The files of settings of the recipes: each says what it needs, how it is run and how a setting is changed, and is right."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain import parse_arguments

from mtl_speech.commands import recipe
from tests.recipes.running import RECIPES, ROOT, command_of, loaded

ALL = sorted([*RECIPES.rglob("*.yaml"), *RECIPES.rglob("*.yml")])
HPARAMS = [path for path in ALL if path.parent.name == "hparams"]
DATA = [path for path in ALL if path not in HPARAMS]
MAINS = [path for path in sorted(RECIPES.rglob("*.py")) if "\ndef main(" in path.read_text(encoding="utf-8")]
BENCHES = [path for path in MAINS if "argparse" in path.read_text(encoding="utf-8")]  # these take options alone
SCRIPTS = [path for path in MAINS if path not in BENCHES]
READMES = sorted(RECIPES.rglob("README.md"))


def name(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


def leading_comment(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def load(hparams: Path, arguments: list[str]) -> dict[str, Any]:
    """The settings as the recipe's script reads them. Raises where an option is not one of them."""
    _, _, overrides = parse_arguments([str(hparams), *arguments])
    with open(hparams, encoding="utf-8") as file:
        found: dict[str, Any] = load_hyperpyyaml(file, overrides)
    return found


def example(hparams: Path) -> list[str]:
    """The option that a file gives as an example of an override: its name and its value."""
    found = re.search(r"^# Override: .*?(--\w+ \S+)", "\n".join(leading_comment(hparams)), re.MULTILINE)
    assert found is not None, f"{name(hparams)} shows no override"
    return shlex.split(found[1])


def test_there_are_recipes_with_settings_scripts_and_a_readme() -> None:
    """The tests below run once for each file found: without this one they would pass where none is found."""
    folders = {path.relative_to(RECIPES).parts[0] for path in RECIPES.rglob("*.py")}
    assert {
        "speechocean762",
        "English-Punjabi",
        "VoxAngeles",
        "LibriSpeech",
        "TIMIT",
        "own-data",
        "CommonVoice-pa",
        "Whisper",
    } <= folders
    assert {path.parent.name for path in READMES} == folders
    assert {path.parent.parent.name for path in HPARAMS} == {path.parent.name for path in SCRIPTS}
    assert {ROOT / command_of(path)[0] for path in HPARAMS} == set(SCRIPTS)


@pytest.mark.parametrize("path", HPARAMS, ids=name)
def test_settings_begin_with_needs_command_and_override(path: Path) -> None:
    comment = leading_comment(path)
    for start in ("# Needs: ", "# Command: python ", "# Override: "):
        assert [line for line in comment if line.startswith(start)], f"{name(path)}: no line begins with '{start}'"


@pytest.mark.parametrize("path", DATA, ids=name)
def test_other_files_begin_with_what_they_are_and_load(path: Path) -> None:
    assert leading_comment(path)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", HPARAMS, ids=name)
def test_command_gives_all_that_must_be_given_and_the_override_works(path: Path) -> None:
    script, given, *options = command_of(path)
    assert (ROOT / script).is_file() and (ROOT / given) == path
    before = load(path, options)
    option, value = example(path)
    after = load(path, [*options, option, value])
    key = option.removeprefix("--")
    assert str(after[key]) == value != str(before[key])


def with_what_it_calls(script: str) -> str:
    """The text of a script, and after it that of all that it calls, at whatever depth, of what the recipes share."""
    shared = dict(inspect.getmembers(recipe, inspect.isfunction)) | dict(
        inspect.getmembers(recipe.Recipe, inspect.isfunction)
    )
    text, added = script, {name for name in shared if name.startswith("__")}  # of a dataclass: nobody wrote them
    while called := {name for name in shared.keys() - added if re.search(rf"\b{name}\(", text)}:
        text += "".join(inspect.getsource(shared[name]) for name in sorted(called))
        added |= called
    return text


@pytest.mark.parametrize("path", HPARAMS, ids=name)
def test_nothing_is_set_that_the_script_does_not_read(path: Path) -> None:
    script = (ROOT / command_of(path)[0]).read_text(encoding="utf-8")
    text = with_what_it_calls(script)
    references = set(re.findall(r"!ref .*?<(\w+)>", path.read_text(encoding="utf-8")))
    for key in load(path, command_of(path)[2:]):
        assert f'hparams["{key}"]' in text or key in references, f"{name(path)}: nobody reads '{key}'"


@pytest.mark.parametrize("path", READMES, ids=name)
def test_commands_of_a_readme_are_right(path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    scripts = set()
    for line in lines:
        python, script, hparams, *options = shlex.split(line)
        if ROOT / script in BENCHES:
            with loaded(ROOT / script) as module:
                module.parse([hparams, *options])
            continue
        assert python == "python" and command_of(ROOT / hparams)[0] == script
        load(ROOT / hparams, options)
        scripts.add(ROOT / script)
    assert scripts == {script for script in SCRIPTS if script.parent == path.parent}
