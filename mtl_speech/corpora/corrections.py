"""What a person corrected: labels against those of an earlier run, and against those that a transcription had made."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from mtl_speech.core.errors import DataError, printable
from mtl_speech.core.files import content_hash, csv_text, read_limited
from mtl_speech.corpora.corpus import Corpus, Segment

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES, CHANGES = "examples.json", "changes.csv"
FORMAT = "mtl_speech.examples/1"
MAX_BYTES = 512 << 20  # the examples of a thousand hours have about so much
SAME_TIME = 0.001 + 1e-9  # seconds: times that differ by no more are the same
SAME_LABEL_BONUS = 0.5  # what one label is worth beside the share of time in common, when phones are paired
N_NAMED = 5  # kinds of changes, or recordings, that are named in the table

Kind = Literal["same", "added", "removed", "relabelled", "moved"]
COLUMNS = (
    "against",
    "recording",
    "change",
    "before",
    "after",
    "before_start",
    "before_end",
    "start",
    "end",
    "moved_ms",
)


@dataclass(frozen=True)
class Recording:
    """What was learned from one recording: its phones, and the SHA-256 of its audio file, by which it is known again."""

    sha256: str
    phones: tuple[Segment, ...]


@dataclass(frozen=True)
class Change:
    """One phone before and after; None where there was, or is, none."""

    recording: str
    before: Segment | None
    after: Segment | None

    @property
    def shift(self) -> float:
        """By how many seconds the boundary that moved most did; 0 for a phone that was added or removed."""
        if self.before is None or self.after is None:
            return 0.0
        return max(abs(self.before.start - self.after.start), abs(self.before.end - self.after.end))

    @property
    def kind(self) -> Kind:
        """A phone that was relabelled and moved counts as relabelled."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if self.before.phoneme != self.after.phoneme:
            return "relabelled"
        return "moved" if self.shift > SAME_TIME else "same"


@dataclass(frozen=True)
class Changes:
    """How two sets of labels differ. `phones` has those of the recordings that are in both, unchanged ones too.

    `renamed` are pairs of names; `new_audio` are recordings with the same name and another content.
    """

    phones: tuple[Change, ...]
    n_recordings: int = 0  # in both
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    new_audio: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> Counter[Kind]:
        """Phones by what became of them."""
        return Counter(change.kind for change in self.phones)

    @property
    def any(self) -> bool:
        """Whether there is a difference."""
        return bool(self.added or self.removed or self.renamed or self.new_audio or self.counts.keys() - {"same"})


def examples_of(corpus: Corpus) -> dict[str, Recording]:
    """The recordings of a corpus, by id. Raises OSError where audio cannot be read."""
    return {u.id: Recording(content_hash(u.audio), tuple(u.segments)) for u in corpus.utterances}


def examples_json(recordings: Mapping[str, Recording]) -> str:
    """The content of examples.json: of each recording the SHA-256 of its audio and its phones, (phoneme, start, end) in seconds."""
    entries = {
        name: {"sha256": each.sha256, "phones": [astuple(phone) for phone in each.phones]}
        for name, each in recordings.items()
    }
    to_json = partial(json.dumps, ensure_ascii=False)
    lines = ",\n".join(f"{to_json(name)}: {to_json(entry)}" for name, entry in entries.items())
    return f'{{"format": "{FORMAT}", "recordings": {{\n{lines}\n}}}}\n'


def read_examples(path: Path) -> dict[str, Recording]:
    """What `examples_json` wrote. Raises DataError when the file is no such, or cannot be read."""
    raw = read_limited(path, MAX_BYTES, "a list of examples")
    try:
        data = json.loads(raw)
        if data["format"] != FORMAT:
            raise ValueError("it has another format")
        return {
            _text(name): Recording(_text(each["sha256"]), _phones(each["phones"]))
            for name, each in data["recordings"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path}: not a list of examples that a run of mtl-speech wrote ({error}); remove it"
        ) from error


def _text(value: object) -> str:
    """The value, which must be text that can be written again. Raises ValueError."""
    if not isinstance(value, str) or printable(value) != value:
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value


def _phones(found: Sequence[Sequence[Any]]) -> tuple[Segment, ...]:
    """The phones of one recording, which follow one another in time. Raises ValueError, TypeError."""
    phones = tuple(Segment(_text(label), float(start), float(end)) for label, start, end in found)
    at = 0.0
    for phone in phones:
        if not at - SAME_TIME <= phone.start < phone.end < math.inf:
            raise ValueError(f"the times of '{phone.phoneme}', {phone.start} to {phone.end}, are not in order")
        at = phone.end
    return phones


def compare(before: Mapping[str, Recording], after: Mapping[str, Recording]) -> Changes:
    """What became of the recordings of an earlier run and their phones.

    A recording is known again by name and content, else by its content alone (it was renamed), else by its name.
    """
    pairs = {name: name for name in after if name in before and before[name].sha256 == after[name].sha256}
    of_content = {each.sha256: name for name, each in before.items() if name not in pairs}
    for name, each in after.items():
        if name not in pairs and each.sha256 in of_content:
            pairs[name] = of_content.pop(each.sha256)
    taken = set(pairs.values())
    pairs |= {name: name for name in after if name not in pairs and name in before and name not in taken}
    phones = [c for name in after if name in pairs for c in align(name, before[pairs[name]].phones, after[name].phones)]
    return Changes(
        phones=tuple(phones),
        n_recordings=len(pairs),
        added=tuple(sorted(after.keys() - pairs.keys())),
        removed=tuple(sorted(before.keys() - set(pairs.values()))),
        renamed=tuple(sorted((old, new) for new, old in pairs.items() if old != new)),
        new_audio=tuple(sorted(new for new, old in pairs.items() if before[old].sha256 != after[new].sha256)),
    )


def against_machine(corpus: Corpus) -> Changes | None:
    """What a person made of a transcription, in the recordings that have its tier beside the corrected one; None for none."""
    corrected = [u for u in corpus.utterances if u.machine]
    phones = [change for u in corrected for change in align(u.id, u.machine, u.segments)]
    return Changes(tuple(phones), len(corrected)) if corrected else None


def align(recording: str, before: Sequence[Segment], after: Sequence[Segment]) -> list[Change]:
    """Pair the phones of one recording, in order of time; each phone is in one change.

    Phones can be a pair where they overlap. Of all pairings that one is taken in which the shares of time in common, and the
    equal labels, add up to most. Neither sequence overlaps itself, so pairs never cross and a single pass finds it.
    """
    pairs, weights = _candidates(before, after)
    firsts, seconds = [i for i, _ in pairs], [j for _, j in pairs]
    best, last = [0.0], [-1]  # of the first k pairs: the highest sum, and the last pair in it
    for k, (i, j) in enumerate(pairs):
        compatible = min(bisect_left(firsts, i, 0, k), bisect_left(seconds, j, 0, k))
        taken = best[compatible] + weights[k]
        best.append(max(best[k], taken))
        last.append(k if taken > best[k] else last[k])
    chosen: dict[int, int] = {}
    k = last[-1]
    while k >= 0:
        i, j = pairs[k]
        chosen[i] = j
        k = last[min(bisect_left(firsts, i, 0, k), bisect_left(seconds, j, 0, k))]
    kept = set(chosen.values())
    changes = [Change(recording, each, after[chosen[i]] if i in chosen else None) for i, each in enumerate(before)]
    changes += [Change(recording, None, each) for j, each in enumerate(after) if j not in kept]
    return sorted(changes, key=lambda change: (change.after or change.before or Segment("", 0, 0)).start)


def _candidates(before: Sequence[Segment], after: Sequence[Segment]) -> tuple[list[tuple[int, int]], list[float]]:
    """The pairs of phones that overlap, in order, and what each is worth."""
    pairs, weights = [], []
    first = 0
    for i, old in enumerate(before):
        while first < len(after) and after[first].end <= old.start:
            first += 1
        j = first
        while j < len(after) and after[j].start < old.end:
            new = after[j]
            common = min(old.end, new.end) - max(old.start, new.start)
            whole = max(old.end, new.end) - min(old.start, new.start)
            pairs.append((i, j))
            weights.append(common / whole + SAME_LABEL_BONUS * (old.phoneme == new.phoneme))
            j += 1
    return pairs, weights


def summary(changes: Changes) -> list[tuple[str, int, str]]:
    """What changed: what, how many, and which. Recordings are named here and not in `sentence`."""
    rows = [
        ("recordings added", len(changes.added), _named(changes.added)),
        ("recordings removed", len(changes.removed), _named(changes.removed)),
        ("recordings renamed", len(changes.renamed), _named([f"{old} → {new}" for old, new in changes.renamed])),
        ("recordings with other audio", len(changes.new_audio), _named(changes.new_audio)),
    ]
    rows += [(f"phones {kind}", n, which) for kind, n, which in _phone_rows(changes)]
    return [("recordings in both", changes.n_recordings, ""), *(row for row in rows if row[1])]


def _phone_rows(changes: Changes) -> list[tuple[str, int, str]]:
    of: dict[Kind, list[Change]] = {kind: [] for kind in ("same", "added", "removed", "relabelled", "moved")}
    for change in changes.phones:
        of[change.kind].append(change)
    moves = [1000 * change.shift for change in (*of["moved"], *of["relabelled"]) if change.shift > SAME_TIME]
    which = {
        "same": "",
        "added": _counted(c.after.phoneme for c in of["added"] if c.after),
        "removed": _counted(c.before.phoneme for c in of["removed"] if c.before),
        "relabelled": _counted(
            f"{c.before.phoneme} → {c.after.phoneme}" for c in of["relabelled"] if c.before and c.after
        ),
        "moved": f"by {median(moves):.0f} ms (median), at most {max(moves):.0f} ms" if moves else "",
    }
    return [(kind, len(those), which[kind]) for kind, those in of.items()]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:N_NAMED]) + (f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else "")


def _counted(labels: Iterable[str]) -> str:
    return _named([f"{label} {n}" for label, n in Counter(labels).most_common()])


def sentence(changes: Changes) -> str:
    """What changed, in one line that names no recording."""
    if not changes.any:
        return "nothing changed"
    parts = [f"{what} {n}" for what, n, _ in summary(changes) if what.startswith("recordings") and n]
    parts += [f"phones {kind} {n}{f' ({which})' if which else ''}" for kind, n, which in _phone_rows(changes) if n]
    return ", ".join(parts)


def machine_sentence(changes: Changes) -> str:
    """How much of a transcription a person kept."""
    counts = changes.counts
    n = sum(counts.values()) - counts["added"]
    parts = [f"{counts[kind]} {kind}" for kind in ("relabelled", "moved", "removed", "added") if counts[kind]]
    return (
        f"labels of the machine in {changes.n_recordings} corrected recordings: {counts['same']} of {n} kept "
        f"({counts['same'] / n:.0%}){'; ' + ', '.join(parts) if parts else ''}"
    )


def changes_table(changes: Changes) -> Table:
    """The table of what changed since an earlier run."""
    from rich.table import Table
    from rich.text import Text

    title = Text("Labels against the earlier run\n", style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("what", "n", "which"):
        table.add_column(name, justify="right" if name == "n" else "left", no_wrap=name != "which")
    for what, n, which in summary(changes):
        table.add_row(what, str(n), Text(which))
    return table


def changes_csv(found: Mapping[str, Changes]) -> str:
    """All differences as CSV, a line each, times in seconds; keys of `found` say against what.

    It begins with a byte-order mark, without which spreadsheets garble IPA.
    """
    rows = (
        {"against": against, **row}
        for against, changes in found.items()
        for row in (*_recording_rows(changes), *map(_phone_row, changes.phones))
        if row["change"] != "same"
    )
    return csv_text(COLUMNS, [[row.get(column, "") for column in COLUMNS] for row in rows])


def _recording_rows(changes: Changes) -> list[dict[str, object]]:
    """What became of whole recordings."""
    rows: list[dict[str, object]] = [{"recording": name, "change": "recording added"} for name in changes.added]
    rows += [{"recording": name, "change": "recording removed"} for name in changes.removed]
    rows += [
        {"recording": new, "change": "recording renamed", "before": old, "after": new} for old, new in changes.renamed
    ]
    return rows + [{"recording": name, "change": "other audio"} for name in changes.new_audio]


def _phone_row(change: Change) -> dict[str, object]:
    """What became of a phone."""
    row: dict[str, object] = {"recording": change.recording, "change": change.kind}
    if change.before is not None:
        row |= zip(("before", "before_start", "before_end"), astuple(change.before), strict=True)
    if change.after is not None:
        row |= zip(("after", "start", "end"), astuple(change.after), strict=True)
    return row | ({"moved_ms": round(1000 * change.shift)} if change.shift > SAME_TIME else {})
