"""The report of an experiment: tables for the terminal; a page, its numbers as JSON and CSV, and pictures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtl_speech.core.terminal import new_table
from mtl_speech.phonology.phonemes import articulation_order
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.metrics import RELIABLE_FROM, AblationRow, PhonemeScore, Scores

if TYPE_CHECKING:
    from rich.table import Table


def f1_table(scores: Scores, stamp: str = "") -> Table:
    """The F1 table: a row for each phoneme in articulatory order, also for those not scored, then macro and micro.

    The caption tells why phonemes were not scored and what the intervals are. `stamp` is a short warning for the
    title, such as "synthetic speech". Print the table with `show`.
    """
    from rich.text import Text

    table = new_table("Phoneme F1", stamp)
    table.add_column("phoneme", no_wrap=True)
    for name in ("n", "train", "precision", "recall", "F1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    table.add_column("remark")
    for phoneme in ordered(scores):
        learned = "-" if phoneme.n_train is None else str(phoneme.n_train)
        figures = [f"{value:.3f}" for value in (phoneme.precision, phoneme.recall, phoneme.f1)]
        figures.append(interval_text(phoneme.f1_ci95))
        table.add_row(
            Text(phoneme.phoneme), str(phoneme.n), learned, *figures, remark_on(phoneme.zero_shot, phoneme.reliable)
        )
    for missing in scores.not_scored:
        remark = "zero-shot; not scored" if missing.zero_shot else "not scored"
        table.add_row(Text(missing.phoneme), "-", str(missing.n_examples), "-", "-", "-", "-", remark)
    table.add_row()
    for name, value, ci95 in (
        ("macro", scores.macro_f1, scores.macro_f1_ci95),
        ("micro", scores.micro_f1, scores.micro_f1_ci95),
    ):
        table.add_row(name, str(scores.n), "", "", "", f"{value:.3f}", interval_text(ci95), "")
    table.caption = Text(_caption(scores))
    return table


def ablation_table(rows: Sequence[AblationRow], stamp: str = "") -> Table:
    """The ablation: macro-F1 and micro-F1 of each system, its paired gain over the one above, its size and time."""
    from rich.text import Text

    table = new_table("Ablation", stamp)
    table.add_column("system")
    for name in ("macro-F1", "micro-F1", "gain in macro-F1", "trainable", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.caption = "\nIn brackets: 95 % intervals. Gain: over the system above, paired."
    for row in rows:
        gain = row.difference_to_previous
        table.add_row(
            Text(row.name),
            f"{row.macro_f1:.3f}\n{interval_text(row.macro_f1_ci95)}",
            f"{row.micro_f1:.3f}\n{interval_text(row.micro_f1_ci95)}",
            f"{gain.mean:+.3f}\n{interval_text(gain.ci95, signed=True)}" if gain else "",
            f"{row.trainable_parameters:,}",
            f"{row.seconds:.0f} s",
        )
    return table


def ordered(scores: Scores) -> list[PhonemeScore]:
    by_name = {phoneme.phoneme: phoneme for phoneme in scores.phonemes}
    return [by_name[name] for name in articulation_order(by_name)]


def remark_on(zero_shot: bool, reliable: bool) -> str:
    remarks = ["zero-shot"] * zero_shot + [f"unreliable: n < {RELIABLE_FROM}"] * (not reliable)
    return "; ".join(remarks)


def interval_method(scores: Scores) -> str:
    over = f"{scores.n_groups} utterances" if scores.n_groups else f"{scores.n} tokens"
    return f"95 %, percentile bootstrap over {over}; per phoneme widened to Wilson's interval"


def _caption(scores: Scores) -> str:
    lines = ["", f"Intervals: {interval_method(scores)}."]
    reasons: dict[str, list[str]] = {missing.reason: [] for missing in scores.not_scored}
    for missing in scores.not_scored:
        reasons[missing.reason].append(f"{missing.phoneme} ({missing.n_examples})")
    lines += [f"Not scored ({reason}; examples in brackets): {', '.join(each)}." for reason, each in reasons.items()]
    extra = sorted(set(scores.labels) - {phoneme.phoneme for phoneme in scores.phonemes})
    if extra:
        lines.append(f"Predicted, but not among the test tokens: {', '.join(articulation_order(extra))}.")
    return "\n".join(lines)
