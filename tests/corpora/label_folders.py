"""Folders of recordings and labels, made for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pympi import Elan

from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import read_corpus

Span = tuple[float, float, str]


PLAIN: list[Span] = [(0.1, 0.3, "p"), (0.3, 0.5, "a")]


def audio(path: Path, seconds: float = 1.0, rate: int = 16_000, peak: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = peak * np.sin(np.arange(round(rate * seconds)) / 7)
    soundfile.write(path, wave, rate)
    return path


def raw_textgrid(path: Path, spans: list[Span], tier: str = "phones", duration: float = 1.0) -> None:
    """A TextGrid with whatever intervals, sound or not."""
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{duration}", "<exists>", "1"]
    body = ['"IntervalTier"', f'"{tier}"', "0", f"{duration}", f"{len(spans)}"]
    body += [part for start, end, label in spans for part in (f"{start}", f"{end}", f'"{label}"')]
    path.write_text("\n".join([*head, *body]).replace("inf", "1e999"), encoding="utf-8")


def one(folder: Path, spans: list[Span], **options: Any) -> Corpus:
    """The corpus of a single recording of one second with these intervals."""
    audio(folder / "s1" / "a.wav")
    raw_textgrid(folder / "s1" / "a.TextGrid", spans)
    return read_corpus(folder, **options)


def reasons(corpus: Corpus) -> list[tuple[int | None, str, bool]]:
    return [(problem.interval, problem.reason, problem.used) for problem in corpus.problems]


def eaf(path: Path, tier: str = "phones", label: str = "t") -> Path:
    made = Elan.Eaf()
    made.add_tier(tier)
    made.add_annotation(tier, 100, 300, label)
    made.to_file(str(path))
    return path
