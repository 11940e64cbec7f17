"""Files of a report: complete, the same numbers everywhere, and written whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtl_speech.report.results import Experiment, report_data, write_report
from mtl_speech.scoring.metrics import Scores, score
from tests.report_pages import NAN, ODD_ROWS


def write(folder: Path, scores: Scores, **changes: Any) -> list[Path]:
    options: dict[str, Any] = {"settings": {"n_way": 5, "inner_lr": 1e-7}, "command": "mtl-speech demo"}
    return write_report(folder, Experiment(scores, **(options | changes)))


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, which Python would read otherwise."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_json_holds_every_number(tmp_path: Path, scores: Scores) -> None:
    options = {"settings": {"rate": NAN}, "notes": ["The voice is synthetic."], "extra": {"curve": np.eye(2)}}
    paths = write(tmp_path / "a" / "b", scores, ablation=ODD_ROWS, stamp="synthetic", **options)
    assert [p.name for p in paths] == ["report.json", "report.csv", "report.html", "confusion.png", "ablation.png"]
    data = strict(paths[0].read_text(encoding="utf-8"))
    assert data == report_data(
        Experiment(scores, command="mtl-speech demo", ablation=ODD_ROWS, stamp="synthetic", **options)
    )  # type: ignore[arg-type]
    found = data["scores"]
    for name in ("n", "accuracy", "macro_f1", "micro_f1"):
        assert found[name] == getattr(scores, name)
    assert tuple(found["macro_f1_ci95"]) == scores.macro_f1_ci95
    by_name = {p["phoneme"]: p for p in found["phonemes"]}
    for phoneme in scores.phonemes:
        assert by_name[phoneme.phoneme] == {**vars(phoneme), "f1_ci95": list(phoneme.f1_ci95)}
    assert found["not_scored"][0] == {**vars(scores.not_scored[0])}
    np.testing.assert_array_equal(found["confusion"]["counts"], scores.confusion)
    assert tuple(found["confusion"]["labels"]) == scores.labels
    assert data["ablation"][1]["difference_to_previous"] == {"mean": 0.159, "ci95": [0.13, 0.19], "n": 9}
    assert data["ablation"][1]["micro_f1_ci95"] == [None, None]
    assert (data["settings"], data["extra"]) == ({"rate": None}, {"curve": [[1.0, 0.0], [0.0, 1.0]]})
    assert (data["notes"], data["stamp"], data["command"]) == (options["notes"], "synthetic", "mtl-speech demo")


def test_the_csv_holds_the_numbers_of_the_json(tmp_path: Path, scores: Scores) -> None:
    json_path, csv_path, *_ = write(tmp_path, scores, stamp="synthetic")
    found = strict(json_path.read_text(encoding="utf-8"))["scores"]
    assert csv_path.read_bytes().startswith("\ufeff".encode())  # for spreadsheets
    with csv_path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["kind"] for line in lines] == ["phoneme"] * 6 + ["not scored"] * 2 + ["macro", "micro"]
    assert {line["stamp"] for line in lines} == {"synthetic"}
    for line, expected in zip(lines, found["phonemes"], strict=False):
        assert line["phoneme"] == expected["phoneme"]
        for name in ("n", "n_train", "precision", "recall", "f1"):
            assert float(line[name]) == expected[name]
        assert [float(line["f1_low"]), float(line["f1_high"])] == expected["f1_ci95"]
        assert line["remark"] == ("" if expected["reliable"] else "unreliable: n < 5")
    assert lines[6]["remark"] == "not scored: fewer than K + 1 = 6 examples"
    assert (lines[6]["phoneme"], lines[6]["n"], lines[6]["n_train"], lines[6]["f1"]) == ("ɽ", "", "2", "")
    for line in lines[-2:]:
        assert float(line["f1"]) == found[f"{line['kind']}_f1"]
        assert [float(line["f1_low"]), float(line["f1_high"])] == found[f"{line['kind']}_f1_ci95"]


def test_nothing_that_is_written_names_this_machine(tmp_path: Path, scores: Scores) -> None:
    secret = "/home/somebody/secret"
    changes = {"settings": {"data": Path(secret, "pa"), "n": {"deep": [f"{secret}/x"]}}, "extra": {secret: secret}}
    written = write(
        tmp_path, scores, command=f"mtl-speech adapt --data {secret}/pa", notes=[f"In {secret}/a."], **changes
    )
    for path in written:
        content = path.read_bytes()
        assert b"somebody" not in content
        assert str(tmp_path).encode() not in content
    assert strict(written[0].read_text(encoding="utf-8"))["command"] == "mtl-speech adapt --data …/pa"


def test_the_pictures_are_there(tmp_path: Path, scores: Scores) -> None:
    *_, confusion, ablation = write(tmp_path, scores, ablation=ODD_ROWS)
    for path in (confusion, ablation):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 500 < min(image.size) < max(image.size) < 2500
            assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_a_report_without_ablation_leaves_no_picture_of_an_earlier_one(tmp_path: Path, scores: Scores) -> None:
    write(tmp_path, scores, ablation=ODD_ROWS)
    write(tmp_path, scores)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confusion.png", "report.csv", "report.html", "report.json"]
    assert strict((tmp_path / "report.json").read_text(encoding="utf-8"))["ablation"] is None


def test_a_failed_write_leaves_the_earlier_report(
    tmp_path: Path, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, scores)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mtl_speech.core.files.os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, score(["p"], ["p"]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
