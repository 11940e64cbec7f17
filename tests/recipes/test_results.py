"""The figures that the recipes' READMEs and the shipped packs show are those of the logs beside the recipes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mtl_speech.commands.target import SHIPPED_STRATEGY
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import SHIPPED_ENCODER, shipped
from tests.recipes.running import RECIPES, ROOT, loaded, markdown_tables, numbers, read_json

SPEECHOCEAN = RECIPES / "speechocean762"
VOXANGELES = RECIPES / "VoxAngeles"


def log(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(SPEECHOCEAN / "logs" / name)
    return found


def rounded(score: float) -> str:
    """As the tables write a score: .684."""
    return f"{score:.3f}".removeprefix("0")


def test_readme_of_speechocean762_has_the_scores_of_its_log() -> None:
    history, counts = log("train.json"), (SPEECHOCEAN / "logs" / "meta_train.txt").read_text(encoding="utf-8")
    n_phones = {
        part: int(n) for part, n in re.findall(r"INFO (\w+): \d+ speakers, \d+ recordings, (\d+) phones", counts)
    }
    last = history["epochs"][-1]
    wanted = {
        "speechocean762, 25 test speakers": history["scores"]["speechocean762 test speakers"],
        "asterisk_en": history["scores"]["asterisk_en"],
        "speechocean762, 12 validation speakers": {k: last[f"valid_{k}"] for k in ("accuracy", "macro_f1")},
    }
    table = markdown_tables((SPEECHOCEAN / "README.md").read_text(encoding="utf-8"))[0]
    rows = {start: cells for start in wanted for name, cells in table.items() if name.startswith(start)}
    for start, scores in wanted.items():
        _, accuracy, macro_f1 = rows[start]
        assert (accuracy, macro_f1.split()[0]) == (rounded(scores["accuracy"]), rounded(scores["macro_f1"]))
    for start, part in zip(wanted, ("test", None, "valid"), strict=True):
        assert part is None or rows[start][0] == f"{n_phones[part]:,}"


def test_cards_of_the_shipped_packs_have_the_scores_of_the_logs() -> None:
    strategy, segmenter = log("meta_train.json"), log("segmenter.json")
    encoder = load_pack(shipped(SHIPPED_ENCODER), "encoder")
    assert encoder.value("segmenter", dict)["validation"] == segmenter["validation"]
    assert load_pack(shipped(SHIPPED_STRATEGY), "strategy").card["validation"] == strategy["scores"]


def test_readme_of_voxangeles_has_the_table_of_its_log() -> None:
    table = read_json(VOXANGELES / "logs" / "table.json")
    with loaded(VOXANGELES / "table.py") as module:
        text: str = module.markdown(table)
    readme = (VOXANGELES / "README.md").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        assert block in readme, "the README has other figures than logs/table.json"
    with loaded(VOXANGELES / "train.py") as module:
        assert table["languages"] == module.read_languages(VOXANGELES / "languages.yaml")


def test_readme_of_voxangeles_has_the_tables_of_its_bench() -> None:
    data = read_json(VOXANGELES / "logs" / "benchmark.json")
    with loaded(VOXANGELES / "table.py") as module:
        text = f"{module.markdown(data).strip()}\n\n{module.costs(data).strip()}"
    readme = (VOXANGELES / "README.md").read_text(encoding="utf-8")
    for block in text.split("\n\n"):
        assert block in readme, "the README has other figures than logs/benchmark.json"
    with loaded(VOXANGELES / "benchmark.py") as module:
        assert tuple(data["methods"]) == module.METHODS
    with loaded(VOXANGELES / "train.py") as module:
        languages = module.read_languages(VOXANGELES / "languages.yaml")
    assert (data["train"], data["valid"]) == (sorted(languages["train"]), sorted(languages["valid"]))


def test_readme_of_voxangeles_has_the_tables_of_phonemes_held_back() -> None:
    found = read_json(VOXANGELES / "logs" / "zero_shot.json")
    with loaded(VOXANGELES / "zero_shot.py") as module:
        text: str = module.markdown(found)
        assert found["held_back"] == {size: read_back(module.summary(rows)) for size, rows in found["phonemes"].items()}
    readme = (VOXANGELES / "README.md").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        assert block in readme, "the README has other figures than logs/zero_shot.json"
    with loaded(VOXANGELES / "train.py") as module:
        assert found["languages"] == module.read_languages(VOXANGELES / "languages.yaml")["valid"]


def read_back(data: Any) -> Any:
    """Values as they come back from JSON."""
    return json.loads(json.dumps(data))


def test_readme_of_voxangeles_has_the_tables_of_the_closed_form() -> None:
    folder = RECIPES / "VoxAngeles"
    data = read_json(folder / "logs" / "closed_form.json")
    with loaded(folder / "closed_form.py") as script:
        blocks = script.markdown(data).strip().split("\n\n")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for block in blocks:
        assert block in readme, "the README has other figures than logs/closed_form.json"


def test_readme_of_the_project_has_figures_of_voxangeles() -> None:
    methods = read_json(VOXANGELES / "logs" / "table.json")["methods"]
    tables = markdown_tables((ROOT / "README.md").read_text(encoding="utf-8"))
    (table,) = [table for table in tables if table[""][:2] == ["system", "5-way 1-shot"]]
    rows = {name.split(":")[0].split(",")[0]: cells for name, cells in table.items() if name}
    assert {"baseline", "+ meta-transfer", "+ curriculum"} <= set(rows) <= set(methods)
    for name, cells in rows.items():
        for cell, kind in zip(cells, ("5w1s", "5w5s", "full_k1", "full_k5"), strict=True):
            found = methods[name][kind]
            assert numbers(cell) == pytest.approx([found["macro_f1"], found["ci95"]], abs=5.1e-4)


WITHOUT_RESULTS = {"Whisper"}  # it converts what others have trained


@pytest.mark.parametrize(
    "page",
    [page for page in sorted(RECIPES.glob("*/README.md")) if page.parent.name not in WITHOUT_RESULTS],
    ids=lambda page: page.parent.name,
)
def test_results_stand_where_they_belong(page: Any) -> None:
    """No README says 'Results' and shows none."""
    results = page.read_text(encoding="utf-8").split("## Results")[1]
    assert markdown_tables(results), f"{page.parent.name}: no table under its results"


@pytest.mark.parametrize("part", ["valid", "test"])
def test_readme_of_voxangeles_has_the_transcription_tables_of_their_logs(part: str) -> None:
    table = read_json(VOXANGELES / "logs" / f"transcribe_{part}.json")
    with loaded(VOXANGELES / "transcribe.py") as module:
        assert module.markdown(table["rows"]).strip() in (VOXANGELES / "README.md").read_text(encoding="utf-8")
    with loaded(VOXANGELES / "train.py") as module:
        languages = module.read_languages(VOXANGELES / "languages.yaml")[part]
    assert table["part"] == part and set(table["rows"]) == {*languages, "all"}


def test_readme_of_speechocean762_has_the_scores_of_the_segmenter() -> None:
    scores = log("segmenter.json")["validation"]
    text = " ".join((SPEECHOCEAN / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"(\.\d{3}) of the frames are told right .* F1 (\.\d{3})\.", text)
    assert found is not None and list(found.groups()) == [
        rounded(scores["speech_accuracy"]),
        rounded(scores["boundary_f1"]),
    ]


def test_pages_quote_the_transcription_of_the_test_languages() -> None:
    row = read_json(VOXANGELES / "logs" / "transcribe_test.json")["rows"]["all"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"phone error rate {rounded(row['phone_error_rate']['value'])} [" in readme
    assert f"F1 {rounded(row['boundary_f1']['value'])} [" in readme
    assert f"confidences {rounded(row['calibration_error']['value'])}" in readme
    assert f"features {rounded(row['feature_error_rate']['value'])}," in readme
    page = " ".join((ROOT / "docs" / "linguist.md").read_text(encoding="utf-8").split())
    assert f"there were {100 * row['phone_error_rate']['value']:.0f} errors" in page
    assert f"had an F1 of {row['boundary_f1']['value']:.2f}".replace(" 0.", " .") in page
