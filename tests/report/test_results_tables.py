"""Tables of a report: complete, in order, and legible on any terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from mtl_speech.core.terminal import plain_text, show
from mtl_speech.report.results import Experiment, ablation_table, f1_table, report_data
from mtl_speech.scoring.metrics import Scores, score
from tests.report_pages import ODD_ROWS


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
    lines = plain_text(ablation_table(ODD_ROWS)).splitlines()
    assert [line.split() for line in lines[3:7]] == [
        ["baseline", "0.412", "0.530", "12,345", "31", "s"],
        ["[0.385,", "0.441]", "[0.510,", "0.550]"],
        ["+", "[bold]", "Φ", "0.571", "0.660", "+0.159", "1,000", "310", "s"],
        ["[0.540,", "0.600]", "[-]", "[+0.130,", "+0.190]"],
    ]


def test_tables_fit_a_terminal_of_80_columns(scores: Scores) -> None:
    for table in (f1_table(scores), ablation_table(ODD_ROWS)):
        console = Console(file=io.StringIO(), width=80, force_terminal=True)
        console.print(table)
        assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_show_writes_plain_text_where_there_is_no_terminal(scores: Scores) -> None:
    stream = io.StringIO()
    show(f1_table(scores), stream)
    assert stream.getvalue() == plain_text(f1_table(scores)) + "\n"
    assert "\x1b" not in stream.getvalue()
    assert all(line == line.rstrip() for line in stream.getvalue().splitlines())
