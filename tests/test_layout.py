"""The shape of the package: what may import what, what may never be called, what must be declared."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import mtl_speech

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mtl_speech"

# A wing imports only from itself and from those before it.
WINGS = "core phonology corpora features model transcription scoring training report commands".split()

# Modules that `mtl-speech --help` loads, and packages that take long to load.
LIGHT = [
    "__init__",
    "core.errors",
    "core.files",
    "core.settings",
    "core.options",
    "core.distributed",
    "core.terminal",
    "core.cache",
    "core.run",
    "phonology.languages",
    "phonology.phonemes",
    "corpora.corpus",
    "commands.cli",
    "__main__",
]
HEAVY = {
    *("torch", "torchaudio", "speechbrain", "librosa", "panphon", "pandas", "sklearn", "scipy", "matplotlib", "numba"),
    *("safetensors", "hyperpyyaml", "jiwer", "jinja2", "pympi", "transformers"),
}

FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in FILES.items()}


def imports(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import in a tree, at whatever depth; name is None for a plain `import`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The modules of the package that module `name` imports, by their names below the package."""
    found = set()
    for module, attribute in imports(TREES[name]):
        if module.split(".")[0] != "mtl_speech":
            continue
        below = module.removeprefix("mtl_speech").removeprefix(".")
        whole = f"{below}.{attribute}".removeprefix(".") if attribute else below
        if whole in FILES or f"{whole}.__init__" in FILES:
            found.add(whole if whole in FILES else f"{whole}.__init__")
        elif below:
            found.add(below if below in FILES else f"{below}.__init__")
        else:
            assert attribute == "__version__", f"{name} imports {attribute} from the package: name its module"
    return found


def wing(name: str) -> int:
    """The place of a module's wing in the order; the package's own modules come last."""
    first = name.split(".")[0]
    return WINGS.index(first) if first in WINGS else len(WINGS)


def test_every_module_lies_in_a_wing() -> None:
    assert {name.split(".")[0] for name in FILES} == {*WINGS, "__init__", "__main__"}


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"__init__"}))
def test_a_wing_imports_only_from_those_before_it(name: str) -> None:
    for other in own_imports(name):
        assert wing(other) <= wing(name), f"mtl_speech.{name} imports mtl_speech.{other}, whose wing is later"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: own_imports(name) for name in FILES if name != "__init__"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def calls(tree: ast.AST) -> set[str]:
    """The dotted names of everything that is called in a tree."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


RUNS_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "hyperpyyaml"}
LOADS_CODE = re.compile(
    r"(torch\.(load|jit\.load|hub\.\w+)|yaml\.(load|full_load|unsafe_load)(_all)?|(np|numpy)\.load|eval|exec|__import__"
    r"|load_hyperpyyaml|(\w+\.)?read_pickle)"
)
# Calls that read data alone as they stand there: tensors, and YAML by a loader that makes plain values.
SAFE = {
    "model.hub": {
        "torch.load": 'torch.load(weights, map_location="cpu", weights_only=True)',
        "yaml.load": "Loader=_Plain)",
    }
}


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"commands.recipe"}))
def test_nothing_that_is_loaded_can_run_code(name: str) -> None:
    modules = {module.split(".")[0] for module, _ in imports(TREES[name])}
    assert not modules & RUNS_CODE
    loaders = [call for call in calls(TREES[name]) if LOADS_CODE.fullmatch(call)]
    assert not set(loaders) - SAFE.get(name, {}).keys()
    for safe in SAFE.get(name, {}).values():
        assert FILES[name].read_text(encoding="utf-8").count(safe) == 1
    assert "allow_pickle" not in FILES[name].read_text(encoding="utf-8")


def test_only_scripts_of_recipes_read_settings_that_can_run_code() -> None:
    """HyperPyYAML runs what stands in a file: it is for a user's own recipes, and nothing of the package goes that way."""
    assert "hyperpyyaml" in {module for module, _ in imports(TREES["commands.recipe"])}
    assert not [name for name in FILES if "commands.recipe" in own_imports(name)]


def test_the_check_for_code_finds_what_it_looks_for() -> None:
    tree = ast.parse("def f():\n    import torch, pickle as p\n    torch.load('x'); yaml.load('y'); self.load('z')")
    assert {module for module, _ in imports(tree)} & RUNS_CODE == {"pickle"}
    assert {call for call in calls(tree) if LOADS_CODE.fullmatch(call)} == {"torch.load", "yaml.load"}


@pytest.mark.parametrize("name", [name for name in LIGHT if name in FILES])
def test_light_modules_load_nothing_heavy(name: str) -> None:
    module = f"mtl_speech.{name}".removesuffix(".__init__")
    code = f"import sys, importlib; importlib.import_module({module!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {module.split(".")[0] for module in done.stdout.split()}
    assert "mtl_speech" in loaded
    assert not loaded & HEAVY


# The public names


def test_every_public_name_is_there_and_typed() -> None:
    source = next(node for node in ast.walk(TREES["__init__"]) if isinstance(node, ast.If))
    typed = {name: module.removeprefix("mtl_speech.") for module, name in imports(source)}
    assert typed == mtl_speech._MODULES
    for name, module in mtl_speech._MODULES.items():
        assert getattr(mtl_speech, name) is getattr(importlib.import_module(f"mtl_speech.{module}"), name)
    assert {"__version__", *mtl_speech._MODULES} == set(mtl_speech.__all__) <= set(dir(mtl_speech))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mtl_speech.nonsense


# Names that the documents of version 0.1.0 import, from the modules that they name.
MOVED = """
    adapt.adapt_fold adapt.make_folds audio.MEL_BANDS audio.audio_duration config.AdaptConfig config.EncoderConfig
    corpora.intervals.Interval corpora.intervals.Labels corpora.intervals.find_segments encoder.ConvEncoder encoder.FrameConv
    scale_shift.attach scale_shift.phi_state start.load_start workflows.ablate workflows.adapt workflows.demo workflows.evaluate
""".split()


@pytest.mark.parametrize("name", MOVED)
def test_a_name_that_moved_is_found_under_its_old_module_with_a_warning(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    old = importlib.import_module(f"mtl_speech.{module}")
    with pytest.warns(
        DeprecationWarning, match=rf"mtl_speech\.{module}\.{attribute} is mtl_speech\.\w+\.\w+\.{attribute} now"
    ):
        found = getattr(old, attribute)
    assert found.__module__.split(".")[1] in WINGS if hasattr(found, "__module__") else found == 80
    with pytest.raises(AttributeError, match=f"module 'mtl_speech.{module}' has no attribute 'nonsense'"):
        _ = old.nonsense


def test_old_modules_are_all_tried() -> None:
    assert {name.rpartition(".")[0] for name in MOVED} == set(mtl_speech._MOVED)


# What is declared


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!\[;]", name.strip())[0]).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {normal(line) for line in PROJECT["dependencies"]}
DISTRIBUTIONS = packages_distributions()  # of each importable module
EXTRAS = {normal(line) for lines in PROJECT["optional-dependencies"].values() for line in lines}


def test_every_dependency_has_its_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {normal(name) for name in pins} >= DECLARED | EXTRAS
    assert (pins["torch"], pins["torchaudio"]) == ("2.11.0", "2.11.0")


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_package_that_is_imported_is_declared(name: str) -> None:
    for module in {module.split(".")[0] for module, _ in imports(TREES[name])}:
        if module not in sys.stdlib_module_names and module != "mtl_speech":
            names = {normal(distribution) for distribution in DISTRIBUTIONS.get(module, [module])}
            assert names & (DECLARED | EXTRAS), (
                f"mtl_speech.{name} imports {module}, which pyproject.toml does not name"
            )


def test_every_yaml_of_the_recipes_parses() -> None:
    paths = sorted([*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "recipes").rglob("*.yml")])
    if not paths:
        pytest.skip("there are no recipes yet")
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#"), f"{path} does not begin with a comment: what it needs, its command, one override"
        assert isinstance(yaml.compose(text, Loader=yaml.SafeLoader), yaml.MappingNode), f"{path} is not name: value"
