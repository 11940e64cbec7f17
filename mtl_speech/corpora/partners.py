"""Labels whose name is not that of their recording: read where the match is unique, and told as a question where it is not."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem, problem_of
from mtl_speech.corpora.contents import Contents
from mtl_speech.corpora.labels import Labels, MissingPhones
from mtl_speech.corpora.pairing import Match, Names, find_matches, likely
from mtl_speech.phonology.phonemes import is_silence

N_NAMED = 3  # files of one side that a question names
_ADVICE = "give the labels the name of their recording, or their folder as --labels"


class EmptyPhones(MissingPhones):
    """Labels of nothing but silence."""


@dataclass
class Partners:
    """Reads such labels into `contents`. `asked` are the recordings of which it was asked whether labels belong to them."""

    contents: Contents
    readers: Mapping[str, Callable[[Path], Labels]]
    names: Names
    asked: set[str] = field(default_factory=set)
    _doubts: list[Match] = field(default_factory=list)

    def find(self, labels: Sequence[tuple[str, Path]]) -> tuple[list[tuple[str, Path]], list[Match]]:
        """Label files, each with its own id, that belong to no recording; and those that do.

        Those of a folder apart that may belong to several recordings count to the former.
        """
        matches = list(find_matches(self.names, labels)) if labels else []
        if self.names.anywhere:
            matches = [match for match in matches if len(match.recordings) == 1]
        matched = {match.path for match in matches}
        return [(key, path) for key, path in labels if path not in matched], matches

    def read(self, matches: Sequence[Match]) -> None:
        """Read the label files that belong to one recording; the others are asked about later."""
        by_recording: defaultdict[str, list[Match]] = defaultdict(list)
        for match in matches:
            if len(match.recordings) == 1:
                by_recording[match.recordings[0]].append(match)
            else:
                self._doubts.append(match)
        for key, those in by_recording.items():
            self._of_recording(key, those)

    def ask(self, labels: Sequence[tuple[str, Path]], without: Iterable[str]) -> list[tuple[str, Path]]:
        """Tell each question once, also of what is only likely: label files, and recordings that are `without`.

        Returns the label files of which nothing is told.
        """
        in_doubt = {key for match in self._doubts for key in match.recordings}
        alone = {key: self.contents.recordings[key] for key in without if key not in in_doubt}
        found = likely(alone, labels) if labels and alone else []
        for matches in _together([*self._doubts, *found]):
            self._tell(matches)
        asked = {match.path for match in found}
        return [(key, path) for key, path in labels if path not in asked]

    def _of_recording(self, key: str, matches: Sequence[Match]) -> None:
        """Use the best of the label files that belong to one recording, unless it has labels."""
        usable: list[tuple[Match, Labels]] = []
        without: list[Problem] = []
        for match in matches:
            try:
                refuse_shifted(match)
                labels = self.readers[match.path.suffix.lower()](match.path)
                require_phones(labels)
                usable.append((match, labels))
            except MissingPhones as error:
                without.append(problem_of(match.path, error))
            except DataError as error:
                self.contents.problems.append(problem_of(match.path, error))
        own = self.contents.labels.get(key)
        usable = _distinct(usable, own)
        best = [] if own is not None or not usable else self._best(usable)
        if len({match.key for match, _ in best}) == 1:
            self._take(key, best)
        elif best:
            self._doubts += [match for match, _ in best]
        self._tell_others(key, without, [match for match, _ in usable if match not in [each for each, _ in best]])

    def _best(self, usable: Sequence[tuple[Match, Labels]]) -> list[tuple[Match, Labels]]:
        """Those of the best rank, in the order in which formats are read: the last is used."""
        order, rank = list(self.readers), min(match.rank for match, _ in usable)
        best = [(match, labels) for match, labels in usable if match.rank == rank]
        return sorted(best, key=lambda each: order.index(each[0].path.suffix.lower()))

    def _take(self, key: str, best: Sequence[tuple[Match, Labels]]) -> None:
        """Use label files of one name as those of a recording."""
        for _, labels in best:
            self.contents.take(key, labels)
        match, _ = best[-1]
        self.contents.tell(match.path, taken_for(match, self.contents.recordings[key]), used=True)

    def _tell_others(self, key: str, without: Sequence[Problem], others: Sequence[Match]) -> None:
        """Tell of the label files of a recording that are not used."""
        used, audio = self.contents.labels.get(key), self.contents.recordings[key].name
        for problem in without:
            beside = f"; '{used.file.name}' is used for '{audio}'" if used is not None else f" (labels of '{audio}')"
            self.contents.tell(problem.file, problem.reason + beside, used=used is not None)
            self.asked |= {key} if used is None else set()
        for match in others:
            instead = f"'{used.file.name}' is used: move away the one not wanted" if used is not None else _ADVICE
            self.contents.tell(match.path, f"perhaps these belong together: '{audio}' and this file; {instead}")

    def _tell(self, matches: Sequence[Match]) -> None:
        """One question on label files and recordings that perhaps belong together."""
        first, *others = sorted({match.path for match in matches})
        keys = sorted({key for match in matches for key in match.recordings})
        audio = [self.contents.recordings[key] for key in keys]
        named = _listed([_seen_from(first, path) for path in audio])
        more = f", {_listed([_seen_from(first, path) for path in others])}" if others else ""
        self.contents.tell(first, f"perhaps these belong together: {named}{more} and this file: {_ADVICE}")
        self.asked |= set(keys)


def _distinct(usable: Sequence[tuple[Match, Labels]], own: Labels | None) -> list[tuple[Match, Labels]]:
    """Without label files that are the same, byte by byte, as one before or as the one that is used."""
    kept: list[tuple[Match, Labels]] = []
    for match, labels in sorted(usable, key=lambda each: each[0].rank):
        others = [each.path for each, _ in kept] + ([own.file] if own is not None else [])
        if not any(filecmp.cmp(match.path, other, shallow=False) for other in others):
            kept.append((match, labels))
    return kept


def taken_for(match: Match, audio: Path) -> str:
    """What is told of a label file that is used for a recording of another name."""
    return f"is taken as the labels of '{_seen_from(match.path, audio)}': {match.how}"


def question(match: Match, recordings: Mapping[str, Path]) -> Problem:
    """The question whether a label file belongs to one of several recordings."""
    named = _listed([_seen_from(match.path, recordings[key]) for key in match.recordings])
    return Problem(match.path, f"perhaps these belong together: {named} and this file: {_ADVICE}")


def require_phones(labels: Labels) -> None:
    """Raise EmptyPhones for labels in which there is nothing but silence, of whatever speaker."""
    if all(is_silence(phone.label) for each in (labels, *labels.more) for phone in each.phones):
        raise EmptyPhones(f"{labels.file}: has no phone in it")


def refuse_shifted(match: Match) -> None:
    """Raise DataError for an .eaf whose times do not begin with those of the recording that it links."""
    if match.shifted:
        raise DataError(f"{match.path}: its recording begins with an offset: set it to 0 in ELAN (Edit, Linked Files)")


def _together(matches: Sequence[Match]) -> list[list[Match]]:
    """Matches that share a recording, together, in order."""
    group_of: dict[str, list[Match]] = {}
    for match in matches:
        groups = {id(group): group for key in match.recordings if (group := group_of.get(key)) is not None}
        merged = [each for group in groups.values() for each in group] + [match]
        group_of |= {key: merged for each in merged for key in each.recordings} if len(groups) != 1 else {}
        if len(groups) == 1:
            (merged,) = groups.values()
            merged.append(match)
            group_of |= dict.fromkeys(match.recordings, merged)
    return list({id(group): group for group in group_of.values()}.values())


def _seen_from(path: Path, other: Path) -> str:
    """The name of a file; with its folder, where that is not the one that `path` lies in."""
    return other.name if other.parent == path.parent else f"{other.parent.name}/{other.name}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_NAMED:,} more" if len(names) > N_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:N_NAMED]) + more
