"""What a corpus is: utterances of one language with phoneme segments, and the problems found while reading it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Segment:
    """One phoneme token: an IPA label and its time span in seconds."""

    phoneme: str
    start: float
    end: float


@dataclass(frozen=True)
class Utterance:
    """One recording with its phoneme segments.

    `id` is the path below the corpus root without suffix, with `/` between its parts: unique in a corpus.
    `duration` is in seconds, `language` a tag as `languages.canonical` gives it, or "und".
    `words` holds (text, start, end) triples of the `words` tier, empty where there is none.
    """

    id: str
    audio: Path
    language: str
    speaker: str
    duration: float
    segments: tuple[Segment, ...]
    words: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something found wrong in an input: where, and why. `used` tells whether the thing was used all the same."""

    file: Path
    reason: str
    tier: str | None = None
    interval: int | None = None  # 1-based, as Praat counts
    used: bool = False

    def __str__(self) -> str:
        place = str(self.file)
        if self.tier is not None:
            place += f", tier '{self.tier}'"
        if self.interval is not None:
            place += f", interval {self.interval}"
        return f"{place}: {self.reason}"


@dataclass(frozen=True)
class Corpus:
    """Utterances, and what was found wrong while they were read (nothing is skipped in silence)."""

    name: str
    utterances: tuple[Utterance, ...]
    problems: tuple[Problem, ...] = ()

    def phoneme_counts(self) -> Counter[str]:
        """Tokens per phoneme."""
        return Counter(s.phoneme for u in self.utterances for s in u.segments)

    def filter(self, keep: Callable[[Utterance], bool]) -> Corpus:
        """The corpus with only the utterances for which `keep` is true; the problems stay."""
        return replace(self, utterances=tuple(u for u in self.utterances if keep(u)))

    @property
    def seconds(self) -> float:
        """Seconds of audio."""
        return sum(u.duration for u in self.utterances)
