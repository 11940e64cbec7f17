"""What a corpus is: utterances of one language with phoneme segments, and the problems found while reading it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, UsageError


@dataclass(frozen=True, slots=True)
class Segment:
    """One phoneme token: an IPA label and its time span in seconds."""

    phoneme: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording with its phoneme segments.

    `id` is the path below the corpus root without suffix, with `/` between its parts: unique in a corpus.
    `duration` is in seconds, `language` a tag as `languages.canonical` gives it, or "und".
    `words` holds (text, start, end) triples of the `words` tier, empty where there is none. `machine` are the segments of the tier
    that a transcription wrote, where it stands beside the one that was corrected. `unknown` are the stretches (start, end) in
    seconds, sorted and apart, in which something sounds that no segment tells of: neither a phoneme nor silence.
    """

    id: str
    audio: Path
    language: str
    speaker: str
    duration: float
    segments: Sequence[Segment]
    words: Sequence[tuple[str, float, float]] = ()
    machine: Sequence[Segment] = ()
    unknown: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Corpus:
    """Utterances, and what was found wrong while they were read (nothing is skipped in silence).

    `notation` says which phone set the labels were read in and how it was chosen; empty where none were read.
    """

    name: str
    utterances: tuple[Utterance, ...]
    problems: tuple[Problem, ...] = ()
    notation: str = ""

    def phoneme_counts(self) -> Counter[str]:
        """Tokens per phoneme."""
        return Counter(s.phoneme for u in self.utterances for s in u.segments)

    def filter(self, keep: Callable[[Utterance], bool]) -> Corpus:
        """The corpus with only the utterances for which `keep` is true; the problems stay."""
        return replace(self, utterances=tuple(u for u in self.utterances if keep(u)))

    @property
    def seconds(self) -> float:
        """Seconds of audio; a recording of several speakers counts once."""
        return sum({u.audio: u.duration for u in self.utterances}.values())


def split_by(
    corpus: Corpus, key: str | Callable[[Utterance], str], fractions: Sequence[float], seed: int
) -> tuple[Corpus, ...]:
    """Split a corpus into parts that share no group, such as no speaker.

    The groups are shuffled by their names and the seed: the order of the utterances does not matter.

    Args:
        key: "utterance", "speaker", or a function that gives an utterance's group (its word, say).
        fractions: of the groups for each part; they add up to 1. Each part gets at least one group.

    Raises:
        UsageError: unknown key, or fractions that are not positive or do not add up to 1.
        DataError: fewer groups than parts.
    """
    if isinstance(key, str) and key not in ("utterance", "speaker"):
        raise UsageError(f"cannot split by '{key}': use 'utterance' or 'speaker'")
    if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(f"fractions {list(fractions)}: each must be above 0 and their sum 1")
    groups = [_group(utterance, key) for utterance in corpus.utterances]
    names = sorted(set(groups), key=lambda name: (_draw(name, seed), name))
    n_parts = len(fractions)
    if len(names) < n_parts:
        kind = key if isinstance(key, str) else "group"
        raise DataError(f"corpus '{corpus.name}' has {len(names)} of '{kind}': too few for {n_parts} parts")
    parts: list[Corpus] = []
    begin = 0
    for part in range(n_parts):
        wanted = round(sum(fractions[: part + 1]) * len(names))
        end = min(max(wanted, begin + 1), len(names) - (n_parts - part - 1))
        held = set(names[begin:end])
        utterances = tuple(u for u, group in zip(corpus.utterances, groups, strict=True) if group in held)
        parts.append(replace(corpus, utterances=utterances))
        begin = end
    return tuple(parts)


def _group(utterance: Utterance, key: str | Callable[[Utterance], str]) -> str:
    if callable(key):
        return key(utterance)
    return utterance.id if key == "utterance" else utterance.speaker


def _draw(name: str, seed: int) -> bytes:
    """A number that looks random and is the same on every machine."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
