"""TextGrids that are read to be written again: every tier as it stands, times digit for digit, or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.textgrid import Malformed, Tokens, header, read_text

INTERVALS, POINTS = "IntervalTier", "TextTier"


@dataclass(frozen=True)
class KeptTier:
    """A tier of intervals or of points. Times are numerals; an entry is (start, end, label), or (time, label) of a point."""

    kind: str
    name: str
    start: str
    end: str
    entries: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class KeptTextGrid:
    """A whole TextGrid; `start` and `end` are numerals, in seconds."""

    start: str
    end: str
    tiers: tuple[KeptTier, ...] = ()


def read_whole(path: Path) -> KeptTextGrid:
    """A TextGrid with all its tiers in their order, of intervals and of points, labels and numerals as they stand.

    Raises:
        DataError: no TextGrid, or one that breaks off, goes wrong or goes on after its last tier, so that it cannot be kept whole.
    """
    text = read_text(path)
    if "\ufffd" in text or re.search("[\x80-\x9f]", text):
        raise DataError(f"{path}: is neither UTF-8, UTF-16 nor Latin-1 throughout: save it again from Praat, as UTF-8")
    tokens = Tokens(text)
    try:
        start, end, n_tiers = header(tokens)
        tiers: list[KeptTier] = []
        while len(tiers) < n_tiers:
            tiers.append(_tier(tokens))
        tokens.end()
    except Malformed as error:
        raise DataError(
            f"{path}: cannot be kept whole (line {tokens.line}: {error}): save it again from Praat, or move it away"
        ) from None
    return KeptTextGrid(start, end, tuple(tiers))


def long_form(grid: KeptTextGrid) -> str:
    """The text of a TextGrid in Praat's long form."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += [f"xmin = {grid.start} ", f"xmax = {grid.end} "]
    lines += ["tiers? <exists> ", f"size = {len(grid.tiers)} ", "item []: "]
    for number, tier in enumerate(grid.tiers, 1):
        entry, names = (
            ("intervals", ("xmin", "xmax", "text")) if tier.kind == INTERVALS else ("points", ("number", "mark"))
        )
        lines += [f"    item [{number}]:", f'        class = "{tier.kind}" ', f"        name = {_quoted(tier.name)} "]
        lines += [f"        xmin = {tier.start} ", f"        xmax = {tier.end} "]
        lines += [f"        {entry}: size = {len(tier.entries)} "]
        for place, (*times, label) in enumerate(tier.entries, 1):
            values = (*times, _quoted(label))
            lines += [f"        {entry} [{place}]:"]
            lines += [f"            {name} = {value} " for name, value in zip(names, values, strict=True)]
    return "\n".join(lines) + "\n"


def _tier(tokens: Tokens) -> KeptTier:
    kind, name = tokens.string(), tokens.string()
    if kind not in (INTERVALS, POINTS):
        raise Malformed(f"a tier is expected, not {kind[:40]!r}")
    start, end, claimed = tokens.numeral(), tokens.numeral(), tokens.number()
    entries: list[tuple[str, ...]] = []
    while len(entries) < claimed:
        times = [tokens.numeral() for _ in range(2 if kind == INTERVALS else 1)]
        entries.append((*times, tokens.string()))
    return KeptTier(kind, name, start, end, tuple(entries))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
