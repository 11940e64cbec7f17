"""Praat's backslash symbols: `\\vt` is ʌ on the screen and three characters of ASCII in an older TextGrid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from mtl_speech.core.errors import Problem
from mtl_speech.corpora.labels import Interval

Tier = tuple[str, tuple[Interval, ...]]


@lru_cache(maxsize=1)
def table() -> dict[str, str]:
    """The letter or mark of each symbol, by the two characters after the backslash."""
    text = (files("mtl_speech") / "data" / "praat_symbols.tsv").read_text(encoding="utf-8")
    pairs = (line.partition("\t") for line in text.splitlines() if not line.startswith("# "))
    return {symbol: letter for symbol, _, letter in pairs}


def shown(label: str) -> str | None:
    """A label as Praat shows it; None where a backslash in it begins none of Praat's symbols."""
    parts: list[str] = []
    position = 0
    while position < len(label):
        if label[position] != "\\":
            parts.append(label[position])
            position += 1
            continue
        letter = table().get(label[position + 1 : position + 3])
        if letter is None:
            return None
        parts.append(letter)
        position += 3
    return "".join(parts)


def readings(labels: Iterable[str]) -> dict[str, str]:
    """Labels with Praat's symbols, and what Praat shows for them, judged by all labels of a file together.

    X-SAMPA has backslashes too, but after a letter ("r\\", "J\\_<"): where a file has one that is none of Praat's, only labels
    that begin with a symbol of Praat's are read so.
    """
    with_backslash = dict.fromkeys(label for label in labels if "\\" in label)
    found = {label: shown(label) for label in with_backslash}
    all_are_praats = None not in found.values()
    return {
        label: text for label, text in found.items() if text is not None and (all_are_praats or label.startswith("\\"))
    }


def decode(path: Path, tiers: Sequence[Tier]) -> tuple[list[Tier], list[Problem]]:
    """The tiers (name, intervals) of a TextGrid as Praat shows them, and what was changed: each label once, with its number."""
    read = readings(each.label for _, intervals in tiers for each in intervals)
    if not read:
        return list(tiers), []
    problems: list[Problem] = []
    result: list[Tier] = []
    for name, intervals in tiers:
        first: dict[str, int] = {}
        counts: dict[str, int] = {}
        for each in intervals:
            if each.label in read:
                first.setdefault(each.label, each.number)
                counts[each.label] = counts.get(each.label, 0) + 1
        for label, number in first.items():
            reason = f"label '{label}' is read as '{read[label]}', as Praat shows it"
            problems.append(Problem(path, reason, name, number, True, counts[label]))
        result.append((name, tuple(replace(each, label=read.get(each.label, each.label)) for each in intervals)))
    return result, problems
