"""The report of an experiment: tables for the terminal; a page, its numbers as JSON and CSV, and pictures in a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.terminal import new_table, progress
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.report.figures import ablation_figure, confusion_figure, png
from mtl_speech.report.findings import Details, findings
from mtl_speech.report.page import render
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.metrics import RELIABLE_FROM, AblationRow, PhonemeScore, Scores
from mtl_speech.scoring.tokens import TOKENS, tokens_csv

if TYPE_CHECKING:
    from rich.table import Table

CSV_COLUMNS = (
    "kind",
    "phoneme",
    "n",
    "n_train",
    "precision",
    "recall",
    "f1",
    "f1_low",
    "f1_high",
    "remark",
    "stamp",
)
NO_DETAILS = Details()


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
    for phoneme in _ordered(scores):
        learned = "-" if phoneme.n_train is None else str(phoneme.n_train)
        figures = [f"{value:.3f}" for value in (phoneme.precision, phoneme.recall, phoneme.f1)]
        figures.append(interval_text(phoneme.f1_ci95))
        table.add_row(
            Text(phoneme.phoneme), str(phoneme.n), learned, *figures, _remark(phoneme.zero_shot, phoneme.reliable)
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


def report_data(
    scores: Scores,
    ablation: Sequence[AblationRow] | None = None,
    *,
    settings: Mapping[str, Any],
    command: str,
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    stamp: str = "",
    details: Details = NO_DETAILS,
) -> dict[str, Any]:
    """What report.json holds, as plain dictionaries, lists, strings and numbers: no NaN (None), no absolute path.

    Arguments are those of `write_report`. Phonemes are in articulatory order; the confusion matrix, rows true and
    columns predicted, is in the order of its `labels`.
    """
    data = {
        "format": "mtl_speech.report/1",
        "stamp": stamp,
        "command": command,
        "notes": list(notes),
        "scores": {
            "n": scores.n,
            "accuracy": scores.accuracy,
            "macro_f1": scores.macro_f1,
            "macro_f1_ci95": scores.macro_f1_ci95,
            "micro_f1": scores.micro_f1,
            "micro_f1_ci95": scores.micro_f1_ci95,
            "intervals": _intervals(scores),
            "phonemes": _ordered(scores),
            "not_scored": scores.not_scored,
            "confusion": {"labels": scores.labels, "counts": scores.confusion},
        },
        "ablation": ablation,
        **findings(scores, details),
        "settings": settings,
        "extra": extra or {},
    }
    result: dict[str, Any] = plain(data)
    return result


def write_report(
    folder: Path,
    scores: Scores,
    ablation: Sequence[AblationRow] | None = None,
    *,
    settings: Mapping[str, Any],
    command: str,
    notes: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    stamp: str = "",
    details: Details = NO_DETAILS,
) -> list[Path]:
    """Write report.html, report.json, report.csv, confusion.png, with an `ablation` ablation.png, and tokens.csv into `folder`.

    Each file is written whole or not at all; what an earlier report had and this one has not goes.
    `notes` are sentences a reader must see, `extra` whatever else belongs to the experiment, and `stamp` a short
    warning ("synthetic speech") that stands on every picture and on every line of the CSV. `details` is what the page shows
    beside the scores.

    Returns the paths written. Raises OSError.
    """
    data = report_data(
        scores, ablation, settings=settings, command=command, notes=notes, extra=extra, stamp=stamp, details=details
    )
    makers: dict[str, Callable[[], bytes | str]] = {
        "report.json": lambda: json_text(data),
        "report.csv": lambda: _csv(data),
        "report.html": lambda: render(data, details.clips.clips if details.clips else ()),
        "confusion.png": lambda: png(confusion_figure(scores, stamp)),
    }
    if ablation:
        makers["ablation.png"] = lambda: png(ablation_figure(ablation, stamp))
    if details.tokens:
        makers[TOKENS] = lambda: tokens_csv(details.tokens)
    names: Iterable[str] = list(makers)
    contents = {name: makers[name]() for name in progress(names, "report")}
    for name in {"ablation.png", TOKENS} - set(makers):
        (folder / name).unlink(missing_ok=True)
    return [atomic_write(folder / name, content) for name, content in contents.items()]


def _ordered(scores: Scores) -> list[PhonemeScore]:
    by_name = {phoneme.phoneme: phoneme for phoneme in scores.phonemes}
    return [by_name[name] for name in articulation_order(by_name)]


def _remark(zero_shot: bool, reliable: bool) -> str:
    remarks = ["zero-shot"] * zero_shot + [f"unreliable: n < {RELIABLE_FROM}"] * (not reliable)
    return "; ".join(remarks)


def _intervals(scores: Scores) -> str:
    over = f"{scores.n_groups} utterances" if scores.n_groups else f"{scores.n} tokens"
    return f"95 %, percentile bootstrap over {over}; per phoneme widened to Wilson's interval"


def _caption(scores: Scores) -> str:
    lines = ["", f"Intervals: {_intervals(scores)}."]
    reasons: dict[str, list[str]] = {missing.reason: [] for missing in scores.not_scored}
    for missing in scores.not_scored:
        reasons[missing.reason].append(f"{missing.phoneme} ({missing.n_examples})")
    lines += [f"Not scored ({reason}; examples in brackets): {', '.join(each)}." for reason, each in reasons.items()]
    extra = sorted(set(scores.labels) - {phoneme.phoneme for phoneme in scores.phonemes})
    if extra:
        lines.append(f"Predicted, but not among the test tokens: {', '.join(articulation_order(extra))}.")
    return "\n".join(lines)


def _csv(data: Mapping[str, Any]) -> str:
    """The CSV of report data; it begins with a byte-order mark, without which spreadsheets garble IPA."""
    scores = data["scores"]
    lines: list[dict[str, Any]] = []
    for phoneme in scores["phonemes"]:
        low, high = phoneme["f1_ci95"]
        remark = _remark(phoneme["zero_shot"], phoneme["reliable"])
        lines.append({**phoneme, "kind": "phoneme", "f1_low": low, "f1_high": high, "remark": remark})
    for missing in scores["not_scored"]:
        remark = f"not scored: {missing['reason']}"
        lines.append({**missing, "kind": "not scored", "n_train": missing["n_examples"], "remark": remark})
    for kind in ("macro", "micro"):
        low, high = scores[f"{kind}_f1_ci95"]
        lines.append({"kind": kind, "n": scores["n"], "f1": scores[f"{kind}_f1"], "f1_low": low, "f1_high": high})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**line, "stamp": data["stamp"]} for line in lines)
    return "\ufeff" + stream.getvalue()
