"""The tables of an experiment for the terminal, and how scores are put into words there and in the files of a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtl_speech.core.terminal import Kind, filled_table
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.metrics import RELIABLE_FROM, AblationRow, PhonemeScore, Scores

if TYPE_CHECKING:
    from rich.table import Table


def f1_table(scores: Scores, stamp: str = "") -> Table:
    """The F1 table: a row for each phoneme in articulatory order, also for those not scored, then macro and micro.

    The caption tells why phonemes were not scored and what the intervals are. `stamp` is a short warning for the
    title, such as "synthetic speech". Print the table with `show`.
    """
    columns: dict[str, Kind] = {"phoneme": "word"}
    columns |= dict.fromkeys(("n", "train", "precision", "recall", "F1"), "figure")
    rows: list[list[object]] = []
    for phoneme in ordered(scores):
        learned = "-" if phoneme.n_train is None else phoneme.n_train
        figures = [f"{value:.3f}" for value in (phoneme.precision, phoneme.recall, phoneme.f1)]
        remark = remark_on(phoneme.zero_shot, phoneme.reliable)
        rows.append([phoneme.phoneme, phoneme.n, learned, *figures, interval_text(phoneme.f1_ci95), remark])
    for missing in scores.not_scored:
        remark = "zero-shot; not scored" if missing.zero_shot else "not scored"
        rows.append([missing.phoneme, "-", missing.n_examples, "-", "-", "-", "-", remark])
    macro, micro = interval_text(scores.macro_f1_ci95), interval_text(scores.micro_f1_ci95)
    rows += [
        [],
        ["macro", scores.n, "", "", "", f"{scores.macro_f1:.3f}", macro],
        ["micro", scores.n, "", "", "", f"{scores.micro_f1:.3f}", micro],
    ]
    return filled_table(
        "Phoneme F1", {**columns, "95 % interval": "word", "remark": "text"}, rows, _caption(scores), stamp
    )


def ablation_table(rows: Sequence[AblationRow], stamp: str = "") -> Table:
    """The ablation: macro-F1 and micro-F1 of each system, its paired gain over the one above, its size and time."""
    columns: dict[str, Kind] = {"system": "text"}
    columns |= dict.fromkeys(("macro-F1", "micro-F1", "gain in macro-F1", "trainable", "time"), "figure")
    cells = [
        [
            row.name,
            f"{row.macro_f1:.3f}\n{interval_text(row.macro_f1_ci95)}",
            f"{row.micro_f1:.3f}\n{interval_text(row.micro_f1_ci95)}",
            _gain(row),
            f"{row.trainable_parameters:,}",
            f"{row.seconds:.0f} s",
        ]
        for row in rows
    ]
    caption = "In brackets: 95 % intervals. Gain: over the system above, paired."
    return filled_table("Ablation", columns, cells, caption, stamp)


def _gain(row: AblationRow) -> str:
    gain = row.difference_to_previous
    return f"{gain.mean:+.3f}\n{interval_text(gain.ci95, signed=True)}" if gain is not None else ""


def ordered(scores: Scores) -> list[PhonemeScore]:
    """The scored phonemes in articulatory order."""
    by_name = {phoneme.phoneme: phoneme for phoneme in scores.phonemes}
    return [by_name[name] for name in articulation_order(by_name)]


def remark_on(zero_shot: bool, reliable: bool) -> str:
    """What a reader must know of the F1 of a phoneme; empty where that is nothing."""
    return "; ".join(["zero-shot"] * zero_shot + [f"unreliable: n < {RELIABLE_FROM}"] * (not reliable))


def interval_method(scores: Scores) -> str:
    """How the intervals of the scores are made, in words."""
    over = f"{scores.n_groups} utterances" if scores.n_groups else f"{scores.n} tokens"
    return f"95 %, percentile bootstrap over {over}; per phoneme widened to Wilson's interval"


def _caption(scores: Scores) -> str:
    lines = [f"Intervals: {interval_method(scores)}."]
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for missing in scores.not_scored:
        reasons[missing.reason].append(f"{missing.phoneme} ({missing.n_examples})")
    lines += [f"Not scored ({reason}; examples in brackets): {', '.join(each)}." for reason, each in reasons.items()]
    extra = sorted(set(scores.labels) - {phoneme.phoneme for phoneme in scores.phonemes})
    if extra:
        lines.append(f"Predicted, but not among the test tokens: {', '.join(articulation_order(extra))}.")
    return "\n".join(lines)
