"""Tables and files of a report: complete, the same numbers everywhere, and written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mtl_speech.core.terminal import plain_text, show
from mtl_speech.report.results import Experiment, report_data, write_report
from mtl_speech.report.tables import ablation_table, f1_table
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import AblationRow, NotScored, Scores, score

NAN = float("nan")
ROWS = [
    AblationRow("baseline", 0.412, (0.385, 0.441), 0.53, (0.51, 0.55), None, 12_345, 31.2),
    AblationRow("+ [bold] Φ", 0.571, (0.54, 0.6), 0.66, (NAN, NAN), Difference(0.159, (0.13, 0.19), 9), 1_000, 310.0),
]


@pytest.fixture(scope="module")
def scores() -> Scores:
    rng = np.random.default_rng(0)
    true = [*rng.choice(["p", "t̪ʰ", "d͡ʒ", "ɑ̃", "s"], size=95), "ɳ", "ɳ"]
    predicted = [t if rng.random() < 0.7 else str(rng.choice(["p", "s", "x"])) for t in true]
    missing = [NotScored("ɽ", 2, "fewer than K + 1 = 6 examples"), NotScored("ɢ", 1, "fewer than K + 1 = 6 examples")]
    groups = [f"u{i // 5}" for i in range(97)]
    return score([str(t) for t in true], predicted, groups, dict.fromkeys(true, 10), missing, n_bootstrap=100)


def write(folder: Path, scores: Scores, **changes: Any) -> list[Path]:
    options: dict[str, Any] = {"settings": {"n_way": 5, "inner_lr": 1e-7}, "command": "mtl-speech demo"}
    return write_report(folder, Experiment(scores, **(options | changes)))


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, which Python would read otherwise."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def lines_of(table: Any) -> dict[str, list[str]]:
    """The lines of a table in plain text, by their first word, as words."""
    return {line.split()[0]: line.split() for line in plain_text(table).splitlines() if line.strip()}


def test_the_f1_table_has_every_phoneme_and_both_averages(scores: Scores) -> None:
    lines = lines_of(f1_table(scores))
    for phoneme in scores.phonemes:
        figures = [f"{value:.3f}" for value in (phoneme.precision, phoneme.recall, phoneme.f1)]
        low, high = (f"{bound:.3f}" for bound in phoneme.f1_ci95)
        expected = [phoneme.phoneme, str(phoneme.n), "10", *figures, f"[{low},", f"{high}]"]
        assert lines[phoneme.phoneme][:8] == expected
        assert (lines[phoneme.phoneme][8:] == []) is phoneme.reliable
    assert lines["ɳ"][8:] == ["unreliable:", "n", "<", "5"]
    assert lines["ɽ"] == ["ɽ", "-", "2", "-", "-", "-", "-", "not", "scored"]
    low, high = scores.macro_f1_ci95
    assert lines["macro"] == ["macro", "97", f"{scores.macro_f1:.3f}", f"[{low:.3f},", f"{high:.3f}]"]
    low, high = scores.micro_f1_ci95
    assert lines["micro"] == ["micro", "97", f"{scores.micro_f1:.3f}", f"[{low:.3f},", f"{high:.3f}]"]


def test_the_f1_table_explains_itself(scores: Scores) -> None:
    text = " ".join(plain_text(f1_table(scores, "synthetic speech")).split())
    assert text.startswith("Phoneme F1 (synthetic speech)")
    assert "percentile bootstrap over 20 utterances" in text
    assert "Not scored (fewer than K + 1 = 6 examples; examples in brackets): ɽ (2), ɢ (1)." in text
    assert "Predicted, but not among the test tokens: x." in text
    unknown = score(["p"], ["p"])
    assert lines_of(f1_table(unknown))["p"][:3] == ["p", "1", "-"]
    assert "bootstrap over 1 tokens" in plain_text(f1_table(unknown))


def test_tables_are_in_articulatory_order(scores: Scores) -> None:
    order = [line.split()[0] for line in plain_text(f1_table(scores)).splitlines()[3:9]]
    assert order == ["p", "t̪ʰ", "s", "d͡ʒ", "ɳ", "ɑ̃"]
    assert [p["phoneme"] for p in report_data(Experiment(scores, {}, ""))["scores"]["phonemes"]] == order


def test_the_ablation_table() -> None:
    lines = plain_text(ablation_table(ROWS)).splitlines()
    assert [line.split() for line in lines[3:7]] == [
        ["baseline", "0.412", "0.530", "12,345", "31", "s"],
        ["[0.385,", "0.441]", "[0.510,", "0.550]"],
        ["+", "[bold]", "Φ", "0.571", "0.660", "+0.159", "1,000", "310", "s"],
        ["[0.540,", "0.600]", "[-]", "[+0.130,", "+0.190]"],
    ]


def test_tables_fit_a_terminal_of_80_columns(scores: Scores) -> None:
    for table in (f1_table(scores), ablation_table(ROWS)):
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        console.print(table)
        assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_show_writes_plain_text_where_there_is_no_terminal(scores: Scores) -> None:
    stream = io.StringIO()
    show(f1_table(scores), stream)
    assert stream.getvalue() == plain_text(f1_table(scores)) + "\n"
    assert "\x1b" not in stream.getvalue()
    assert all(line == line.rstrip() for line in stream.getvalue().splitlines())


def test_the_json_holds_every_number(tmp_path: Path, scores: Scores) -> None:
    options = {"settings": {"rate": NAN}, "notes": ["The voice is synthetic."], "extra": {"curve": np.eye(2)}}
    paths = write(tmp_path / "a" / "b", scores, ablation=ROWS, stamp="synthetic", **options)
    assert [p.name for p in paths] == ["report.json", "report.csv", "report.html", "confusion.png", "ablation.png"]
    data = strict(paths[0].read_text(encoding="utf-8"))
    assert data == report_data(
        Experiment(scores, command="mtl-speech demo", ablation=ROWS, stamp="synthetic", **options)
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
    *_, confusion, ablation = write(tmp_path, scores, ablation=ROWS)
    for path in (confusion, ablation):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert 500 < min(image.size) < max(image.size) < 2500
            assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_a_report_without_ablation_leaves_no_picture_of_an_earlier_one(tmp_path: Path, scores: Scores) -> None:
    write(tmp_path, scores, ablation=ROWS)
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
