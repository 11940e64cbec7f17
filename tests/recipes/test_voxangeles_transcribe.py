"""The transcription recipe, made small: no recording is transcribed by a model that learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mtl_speech.training.adapt import adapt_fold
from mtl_speech.training.folds import Fold
from tests.helpers import PHONEMES
from tests.recipes.running import RECIPES, markdown_tables, numbers, read_json, recording, run

RECIPE = RECIPES / "VoxAngeles"
FIGURES = ("phone_error_rate", "feature_error_rate", "boundary_f1", "r_value", "calibration_error")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run on two languages of six words each."""
    folder = tmp_path_factory.mktemp("vox")
    for number, language in enumerate(("bem", "ibo")):
        for word in range(6):
            order = np.random.default_rng((number, word)).permutation(4)
            labels = [PHONEMES[2 * number + i] for i in order]
            recording(folder / "data" / language / f"{language}-{word}.wav", labels, labels, 100 * number + word)
    languages = folder / "languages.yaml"
    languages.write_text(yaml.safe_dump({"valid": ["bem", "ibo"]}), encoding="utf-8")
    learned: list[set[str]] = []

    def watched(learner: Any, fold: Fold, *args: Any) -> Any:
        own, tested = (set(np.take(part.utterance_ids, part.utterance.unique())) for part in (fold.train, fold.test))
        assert not own & tested
        learned.append(tested)
        return adapt_fold(learner, fold, *args)

    settings = {"data_folder": folder / "data", "languages_file": languages, "output_folder": folder / "out"}
    run(RECIPE / "hparams" / "transcribe.yaml", settings, {"adapt_fold": watched})
    assert sorted(name for names in learned for name in names) == sorted(
        f"{language}/{language}-{word}" for language in ("bem", "ibo") for word in range(6)
    )
    return folder / "out"


def test_rows_have_all_phones_and_figures(output: Path) -> None:
    rows: dict[str, Any] = read_json(output / "table.json")["rows"]
    assert list(rows) == ["bem", "ibo", "all"]
    assert [rows[name]["n_phones"] for name in rows] == [24, 24, 48]
    assert [rows[name]["n_recordings"] for name in rows] == [6, 6, 12]
    for row in rows.values():
        for system in (row, row["untuned"]):
            for name in FIGURES:
                low, high = system[name]["ci95"]
                assert low <= system[name]["value"] <= high or np.isclose(low, high)
    assert rows["all"]["label_error_given_spans"] <= 0.25  # buzzes are easy
    assert rows["all"]["phone_error_rate"]["value"] <= 0.5


def test_the_table_shows_them(output: Path) -> None:
    rows = read_json(output / "table.json")["rows"]
    (table,) = markdown_tables((output / "table.md").read_text(encoding="utf-8"))
    assert set(table) == {"", *rows, "all, segmenter not tuned"}
    for name, row in rows.items():
        shown: Sequence[float] = [numbers(cell)[0] for cell in table[name][2:]]
        wanted = [row["label_error_given_spans"], *(row[figure]["value"] for figure in FIGURES)]
        assert shown == pytest.approx(wanted, abs=5.1e-4)
