"""The results table of the recipe, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_speech.evaluate import Scored
from mtl_speech.metrics import mean_interval, paired_difference
from mtl_speech.plain import json_text, plain

TITLES = {
    "5w1s": "5-way 1-shot",
    "5w5s": "5-way 5-shot",
    "full_k1": "full inventory, K = 1",
    "full_k5": "full inventory, K = 5",
}


def language_of_tasks(scored: Scored, kind: str) -> list[str]:
    """The language of each task of a kind."""
    return [scored.languages[episode.language] for episode in scored.tasks[kind]]


def results(scored: Sequence[Scored], pairs: Sequence[tuple[str, str]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All figures: a method each with its means and 95 % intervals over tasks, and the paired differences of `pairs`."""
    by_name = {s.system.name: s for s in scored}
    methods = {name: _method(s) for name, s in by_name.items()}
    differences = [_difference(by_name[a], by_name[b], kind) for a, b in pairs for kind in by_name[a].macro_f1]
    return {**facts, "methods": methods, "differences": differences}


def _method(scored: Scored) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "seconds": round(scored.system.seconds, 1),
        "trainable_parameters": scored.system.trainable_parameters,
        "validation": scored.system.valid,
        "per_language": {},
    }
    for kind, values in scored.macro_f1.items():
        mean, half = mean_interval(values)
        entry[kind] = {"macro_f1": mean, "ci95": half, "n_tasks": len(values)}
        languages = np.asarray(language_of_tasks(scored, kind))
        for language in sorted(set(languages)):
            entry["per_language"].setdefault(language, {})[kind] = float(values[languages == language].mean())
    return entry


def _difference(a: Scored, b: Scored, kind: str) -> dict[str, Any]:
    """b minus a on the same tasks; the bootstrap draws languages, then tasks."""
    found = paired_difference(b.macro_f1[kind], a.macro_f1[kind], language_of_tasks(a, kind))
    return {"from": a.system.name, "to": b.system.name, "kind": kind, "macro_f1": found.mean, "ci95": list(found.ci95)}


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
    full = [kind for kind in kinds if kind.startswith("full")]
    lines.append("| language | " + " | ".join(f"{name}, {TITLES[k]}" for k in full for name in methods) + " |")
    lines.append("|---|" + "---:|" * (len(full) * len(methods)))
    for language in sorted({name for m in methods.values() for name in m["per_language"]}):
        values = [m["per_language"].get(language, {}).get(k) for k in full for m in methods.values()]
        lines.append(f"| {language} | " + " | ".join("–" if v is None else f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def as_json(data: Mapping[str, Any]) -> str:
    """The figures as JSON text without absolute paths."""
    return json_text(plain(data))
