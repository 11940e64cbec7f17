"""The results tables of the recipe and of its bench, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mtl_speech.core.files import json_text, plain
from mtl_speech.features.store import SegmentStore
from mtl_speech.scoring.bootstrap import mean_interval, paired_difference
from mtl_speech.training.meta_test import TITLES, Tasks, Trained


@dataclass(frozen=True)
class Row:
    """A system with its score and language of each task, by kind of task, what training it took, and what else is to be told."""

    name: str
    seconds: float
    trainable_parameters: int
    validation: Mapping[str, float]
    macro_f1: Mapping[str, Sequence[float]]
    languages: Mapping[str, Sequence[str]]
    costs: Mapping[str, Any] = field(default_factory=dict)


def row_of(system: Trained, store: SegmentStore, tasks: Tasks, costs: Mapping[str, Any] | None = None) -> Row:
    """The row of a system whose strategy no longer moves, scored on tasks of a store."""
    macro_f1 = system.score(store, tasks)
    languages = {kind: [store.languages[e.language] for e in tasks[kind]] for kind in macro_f1}
    seconds, n = system.seconds, system.trainable_parameters
    return Row(system.name, seconds, n, system.valid, plain(macro_f1), languages, costs or {})


def results(rows: Sequence[Row], pairs: Sequence[tuple[str, str]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All figures: a method each with its means and 95 % intervals over tasks, and the paired differences of `pairs`."""
    by_name = {row.name: row for row in rows}
    methods = {name: _method(row) for name, row in by_name.items()}
    differences = [_difference(by_name[a], by_name[b], kind) for a, b in pairs for kind in by_name[a].macro_f1]
    return {**facts, "methods": methods, "differences": differences}


def _method(row: Row) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "seconds": round(row.seconds, 1),
        "trainable_parameters": row.trainable_parameters,
        "validation": row.validation,
        "per_language": {},
        **row.costs,
    }
    for kind, found in row.macro_f1.items():
        values, languages = np.asarray(found), np.asarray(row.languages[kind])
        mean, half = mean_interval(values)
        entry[kind] = {"macro_f1": mean, "ci95": half, "n_tasks": len(values)}
        for language in sorted(set(row.languages[kind])):
            entry["per_language"].setdefault(language, {})[kind] = float(values[languages == language].mean())
    return entry


def _difference(a: Row, b: Row, kind: str) -> dict[str, Any]:
    """b minus a on the same tasks; the bootstrap draws languages, then tasks."""
    found = paired_difference(np.asarray(b.macro_f1[kind]), np.asarray(a.macro_f1[kind]), list(a.languages[kind]))
    return {"from": a.name, "to": b.name, "kind": kind, "macro_f1": found.mean, "ci95": list(found.ci95)}


def markdown(data: Mapping[str, Any]) -> str:
    """The tables of the README: methods, paired differences, and languages."""
    methods, kinds = data["methods"], [kind for kind in TITLES if kind in next(iter(data["methods"].values()))]
    lines = ["| system | " + " | ".join(TITLES[k] for k in kinds) + " | trainable | training |"]
    lines.append("|---|" + "---:|" * (len(kinds) + 2))
    for name, entry in methods.items():
        cells = [f"{entry[k]['macro_f1']:.3f} ± {entry[k]['ci95']:.3f}" for k in kinds]
        lines.append(f"| {name} | {' | '.join(cells)} | {entry['trainable_parameters']:,} | {entry['seconds']:.0f} s |")
    n_tasks = ", ".join(f"{next(iter(methods.values()))[k]['n_tasks']} ({TITLES[k]})" for k in kinds)
    lines += ["", f"Macro-F1, mean over tasks ± 95 % interval over tasks. Tasks: {n_tasks}.", ""]
    lines += ["| difference, paired | " + " | ".join(TITLES[k] for k in kinds) + " |", "|---|" + "---:|" * len(kinds)]
    for a, b in dict.fromkeys((d["from"], d["to"]) for d in data["differences"]):
        found = {d["kind"]: d for d in data["differences"] if (d["from"], d["to"]) == (a, b)}
        cells = [f"{found[k]['macro_f1']:+.3f} [{found[k]['ci95'][0]:+.3f}, {found[k]['ci95'][1]:+.3f}]" for k in kinds]
        lines.append(f"| {b} − {a} | {' | '.join(cells)} |")
    lines += ["", "In brackets: 95 % intervals, bootstrap over languages and over tasks within them.", ""]
    languages = sorted({name for m in methods.values() for name in m["per_language"]})
    for kind in (kind for kind in kinds if kind.startswith("full")):
        lines += [f"| {TITLES[kind]} | " + " | ".join(languages) + " |", "|---|" + "---:|" * len(languages)]
        for name, entry in methods.items():
            values = [entry["per_language"].get(language, {}).get(kind) for language in languages]
            lines.append(f"| {name} | " + " | ".join("–" if v is None else f"{v:.3f}" for v in values) + " |")
        lines.append("")
    return "\n".join(lines)


def costs(data: Mapping[str, Any]) -> str:
    """The table of what each method costs: seconds to adapt, numbers set for each example, and the base's own language."""
    lines = ["| system | adaptation, 5-way 5-shot | numbers set per example | trained | own language, Φ off | Φ on |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, entry in data["methods"].items():
        own = entry.get("own_language") or {}
        scores = [own.get(key) for key in ("off", "on")]
        cells = [f"{1000 * entry['adaptation_seconds']:.0f} ms", f"{entry['parameters_per_example']:,.0f}"]
        cells += [f"{entry['trainable_parameters']:,}", *("–" if v is None else f"{v:.4f}" for v in scores)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_json(data: Mapping[str, Any]) -> str:
    """The figures as JSON text without absolute paths."""
    return json_text(plain(data))
