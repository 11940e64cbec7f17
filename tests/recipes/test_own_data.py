"""Own data on a small folder of Praat files: validated, adapted to, scored on another session, and told where it is odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError
from tests.corpora_like import own_data
from tests.recipes.running import RECIPES, markdown_tables, read_json, run, write_base

RECIPE = RECIPES / "own-data"
HPARAMS = RECIPE / "hparams" / "train.yaml"
README = (RECIPE / "README.md").read_text(encoding="utf-8")
SMALL = {"n_threads": 1, "meta_steps": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    data = own_data.make(folder)
    settings = {"data_folder": data, "other_folder": folder / "another-session", "base": write_base(folder / "base")}
    output, _ = run(HPARAMS, {**SMALL, **settings, "output_folder": folder / "out", "inventory": "ɖ a k"})
    return output


def test_the_folders_are_validated_first(finished: Path) -> None:
    assert "tier 'Phones' is taken" in (finished / "validate-data" / "problems.csv").read_text(encoding="utf-8-sig")
    assert (finished / "validate-other" / "problems.csv").is_file()


def test_the_table_has_the_ablation_and_the_other_session(finished: Path) -> None:
    text = (finished / "table.md").read_text(encoding="utf-8")
    (table,) = markdown_tables(text)
    assert list(table) == ["", "baseline", "+ meta-transfer", "+ curriculum", "the pack on other_folder"]
    assert text.splitlines()[0] in README
    adapted, other = (read_json(finished / name / "report.json") for name in ("adapt", "other"))
    for row, found in (("+ curriculum", adapted), ("the pack on other_folder", other)):
        assert table[row][0].startswith(f"{found['scores']['macro_f1']:.3f} [")
    assert float(table["+ curriculum"][0].split()[0]) > 0.3  # it is learnable, of 9 phones
    assert {item["phoneme"] for item in adapted["scores"]["phonemes"]} == own_data.PHONEMES
    assert any("ɖ ←" in note for note in adapted["notes"]) and "learning_curve" in adapted


def test_the_pack_alone_is_the_row_of_a_shorter_run(finished: Path, tmp_path: Path) -> None:
    data = finished.parent / "my-recordings"
    settings = {
        "data_folder": data,
        "test_folder": finished.parent / "another-session",
        "base": finished.parent / "base",
    }
    run(HPARAMS, {**SMALL, **settings, "output_folder": tmp_path, "ablation": False, "shots": 2})
    (table,) = markdown_tables((tmp_path / "table.md").read_text(encoding="utf-8"))
    assert list(table) == ["", "adapted"]
    assert max(item["n_train"] for item in read_json(tmp_path / "adapt" / "report.json")["scores"]["phonemes"]) == 2


def test_what_cannot_be_used_stops_the_run_until_it_is_accepted(tmp_path: Path) -> None:
    data = own_data.make(tmp_path, problems=True)
    settings = {**SMALL, "data_folder": data, "base": write_base(tmp_path / "base"), "output_folder": tmp_path / "out"}
    with pytest.raises(DataError, match="3 things in it cannot be used.*--accept_problems True"):
        run(HPARAMS, settings)
    assert not (tmp_path / "out" / "adapt").exists()
    problems = (tmp_path / "out" / "validate-data" / "problems.csv").read_text(encoding="utf-8-sig")
    assert "Q (U+0051 LATIN CAPITAL LETTER Q)" in problems and "labels without a recording" in problems
    run(HPARAMS, {**settings, "accept_problems": True, "ablation": False, "output_folder": tmp_path / "again"})
    assert (tmp_path / "again" / "adapt" / "pack").is_dir()
