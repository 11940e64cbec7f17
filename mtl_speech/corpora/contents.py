"""What was found in a folder: recordings, their labels, and what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mtl_speech.core.cache import Kind, Spool
from mtl_speech.core.errors import Problem
from mtl_speech.corpora.labels import Interval, Labels

_INTERVAL = Kind[Interval](
    lambda each: (each.label, each.start, each.end, each.number),
    lambda label, start, end, number: Interval(start, end, label, number),
)


@dataclass
class Contents:
    """Recordings and labels by id (the path below the folder without suffix), and what was wrong. The intervals of `labels` are in
    the file of `spool`."""

    recordings: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spool: Spool = field(default_factory=Spool)

    def tell(self, file: Path, reason: str, tier: str | None = None, used: bool = False) -> None:
        """Add a problem."""
        self.problems.append(Problem(file, reason, tier, used=used))

    def take(self, key: str, labels: Labels) -> None:
        """Set the labels of a recording; those that it has already are left out, which is told."""
        other, name = self.labels.get(key), labels.file.name
        if other is not None and other.file.suffix.lower() == ".eaf":
            both = f"{other.file.name}, which has a tier '{other.tier}' too, is not: move away the one not wanted"
            self.tell(labels.file, f"is used; {both}", used=True)
        elif other is not None:
            self.tell(other.file, f"labels of '{key}' left out: {name} is used")
        first, *more = (self._kept(each) for each in (labels, *labels.more))
        self.labels[key] = replace(first, more=tuple(more))

    def _kept(self, labels: Labels) -> Labels:
        phones, words, machine = (self.spool.keep(t, _INTERVAL) for t in (labels.phones, labels.words, labels.machine))
        return replace(labels, phones=phones, words=words, machine=machine)

    def every_labels(self) -> Iterator[Labels]:
        """The labels of all recordings, and of each of their speakers."""
        for labels in self.labels.values():
            yield from (labels, *labels.more)

    @cached_property
    def key_of_name(self) -> dict[str, str]:
        """The ids of the recordings by what may name them: the id, or the file name alone where only one has it."""
        names = {key: key.rpartition("/")[2] for key in self.recordings}
        counts = Counter(names.values())
        alone = {name: key for key, name in names.items() if counts[name] == 1}
        return alone | {key: key for key in self.recordings}
