"""What the tests of encoders of other makers share: tiny models, and recordings for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import labelled_folder
from tests.hub_models import save_model

WORDS = 15


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves a model of one of KINDS; gives what --encoder is to be. No hub is asked for anything."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return lambda kind, seed=0: save_model(kind, tmp_path / "models" / f"{kind}-{seed}", monkeypatch, seed)


@pytest.fixture(scope="module")
def words(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some words of Ladino."""
    folder = tmp_path_factory.mktemp("lad")
    for path in sorted((corpora / "voxangeles" / "lad").iterdir())[: 2 * WORDS]:  # each is a .flac and a .TextGrid
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def buzzes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("buzzes"), 8, 2)
