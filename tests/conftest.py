"""What all tests share: one thread, and the corpora of real speech where they are at hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Read when torch and the BLAS libraries are loaded: one thread in this process and in every command that a test runs.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# The same examples every time, and no time limit for one example: a busy machine must not fail a test.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems() -> None:
    """Before hypothesis looks at the modules that the tests loaded."""
    _drop_redirects()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before hypothesis looks again: an earlier test may have loaded speechbrain."""
    _drop_redirects()


def _drop_redirects() -> None:
    """Unload speechbrain's stand-ins for its old module names.

    Hypothesis asks every loaded module for its file, and asking a stand-in warns, and imports what is not installed.
    """
    for name, module in list(sys.modules.items()):
        if type(module).__name__ == "DeprecatedModuleRedirect":
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The features that tests keep lie in a folder of the test run, for commands that a test starts too."""
    os.environ["MTL_SPEECH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the corpora of real speech: $MTL_SPEECH_CORPORA, or shared/corpora beside the repository."""
    folder = Path(os.environ.get("MTL_SPEECH_CORPORA", ROOT.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"no corpora of real speech at {folder}; set MTL_SPEECH_CORPORA to where they are")
    return folder
