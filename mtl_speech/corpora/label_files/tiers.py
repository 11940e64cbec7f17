"""Which tiers of a label file have the phones and the words, and of whom: by a name that is given, or the names of known tools."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.labels import MACHINE_LABELS, Interval, Labels, MissingPhones, in_time_order
from mtl_speech.corpora.spans import Span, union
from mtl_speech.phonology.phonemes import MAX_LABEL, is_silence

NamedTier = tuple[str, tuple[Interval, ...]]
_BEFORE, _AT, _AFTER = "{speaker} - {name}", "{name}@{speaker}", "{name} - {speaker}"
_LISTED = 8  # names of tiers in a message
MAX_SPEAKERS = 100  # of one recording: a meeting has 20
MAX_NAME = 1000  # characters of a tier's name that a pattern is compared with
# Labels of time in which nothing is heard, without brackets. Other labels are of speech or noise, be they phonemes or not.
PAUSES = frozenset({"", "sil", "sp", "ssil", "silence", "pau", "pause", "p:", "h#", "epi", "eps", "#", "##", "_", "-"})


@dataclass(frozen=True)
class Convention:
    """How a tool names its tiers. `forms` say how it puts a speaker's name beside; `notation` is the phone set that it writes."""

    tool: str
    phones: tuple[str, ...]
    words: tuple[str, ...]
    forms: tuple[str, ...] = (_BEFORE, _AT)
    notation: str = ""


# In the order in which they are tried: for each the name alone, then with a speaker's. Small and capital letters are the same.
CONVENTIONS = (
    # The names that are asked for, and those of MFA ("anna - phones"), EasyAlign, Charsiu, and what is made of gentle's alignments.
    Convention("", ("phones", "phone", "phonemes", "phoneme", "segments"), ("words", "word")),
    Convention("WebMAUS", ("MAU",), ("ORT-MAU", "ORT", "KAN-MAU", "KAN"), notation="xsampa"),
    Convention("DoReCo", ("ph",), ("wd",), notation="xsampa"),
    Convention("LaBB-CAT", ("segment",), ("word", "words"), (_BEFORE, _AT, _AFTER)),
    Convention("SPPAS", ("PhonAlign",), ("TokensAlign",)),
)


@dataclass(frozen=True)
class _Found:
    """A tier by its place among all, and whose it is: "" for one without a speaker's name."""

    place: int
    speaker: str = ""


@dataclass(frozen=True)
class _Choice:
    """The tiers of phones, by a convention of names or by none; `problem` says where that is not plain."""

    tiers: tuple[_Found, ...]
    convention: Convention = CONVENTIONS[0]
    problems: tuple[Problem, ...] = ()


def labels_of_tiers(
    path: Path,
    tiers: Sequence[NamedTier],
    kind: str,
    problems: Sequence[Problem] = (),
    duration: float | None = None,
    tier: str | None = None,
) -> Labels:
    """The phones and words of a label file, from its tiers (name, intervals).

    Of several speakers the first has the others in `more`. `kind` says in messages what the tiers are; `problems` were found
    before. `tier` is the name of the tier of phones, or a pattern of names with * and ?; by default the names of `CONVENTIONS`,
    with a problem where it is not 'phones'.

    Raises MissingPhones where no tier could be that of phones, DataError for tiers of more speakers than any recording has.
    """
    choice = _by_known_names(path, tiers) if tier is None else _by_pattern(path, tiers, tier)
    if choice is None:
        raise MissingPhones(f"{path}: {_missing([name for name, _ in tiers], kind, tier)}")
    if len(choice.tiers) > MAX_SPEAKERS:
        raise DataError(f"{path}: {len(choice.tiers):,} tiers are taken as those of phones: choose by --tier")
    words = _word_tiers(tuple(name for name, _ in tiers), choice.tiers, choice.convention)
    foreign = [place for place in words if place is not None and _is_foreign(tiers[place][0])]
    found = (*problems, *choice.problems, *(_taken(path, tiers[place][0], "words") for place in foreign))
    machine = dict(tiers).get(MACHINE_LABELS, ()) if len(choice.tiers) == 1 else ()
    labels = [
        Labels(
            path,
            *tiers[each.place],
            words=() if place is None else tiers[place][1],
            problems=found if each is choice.tiers[0] else (),
            duration=duration,
            machine=machine,
            speaker=each.speaker,
            notation=choice.convention.notation,
            unlabelled=spans,
        )
        for each, place, spans in zip(choice.tiers, words, _others(path, tiers, choice, words), strict=True)
    ]
    return replace(labels[0], more=tuple(labels[1:])) if len(labels) > 1 else labels[0]


def _others(
    path: Path, tiers: Sequence[NamedTier], choice: _Choice, words: Sequence[int | None]
) -> list[tuple[Span, ...]]:
    """When others than each speaker can be heard, whether their tiers are chosen or not; nothing where no speaker is named."""
    if not any(each.speaker for each in choice.tiers):
        return [() for _ in choice.tiers]
    heard: defaultdict[str, list[Span]] = defaultdict(list)
    for of, place in zip(choice.tiers, words, strict=True):
        heard[of.speaker] += _sounding((*tiers[of.place][1], *(() if place is None else tiers[place][1])))
    chosen = set(heard)
    for name, intervals in tiers:
        speaker = _speaker_of(name)
        if speaker and speaker not in chosen:
            heard[speaker] += _sounding(intervals)
    if len(heard) > MAX_SPEAKERS:
        raise DataError(f"{path}: tiers of {len(heard):,} speakers are more than any recording has")
    return [
        union(span for speaker, spans in heard.items() if speaker != of.speaker for span in spans)
        for of in choice.tiers
    ]


def _sounding(intervals: Iterable[Interval]) -> list[Span]:
    return [(each.start, each.end) for each in intervals if _is_heard(each.label)]


def _is_heard(label: str) -> bool:
    """Whether a label is of something that is heard: speech, whether anyone wrote it down or not, or noise."""
    text = label.strip().lower().strip("<>[]{}()*")
    return text not in PAUSES


def of_all_speakers(labels: Labels) -> Labels:
    """The labels of all speakers of a recording as one: what is a pause to one of them is none to the others, so without pauses."""
    if not labels.more:
        return labels
    every = (labels, *labels.more)
    phones = in_time_order(phone for each in every for phone in each.phones if _is_heard(phone.label))
    words = in_time_order(word for each in every for word in each.words if _is_heard(word.label))
    return replace(labels, phones=tuple(phones), words=tuple(words), tier=None, more=(), unlabelled=())


def common_notation(labels: Iterable[Labels]) -> str | None:
    """The phone set of the tool that made all of these labels; None where there are others, or letters that it does not have.

    WebMAUS and DoReCo write X-SAMPA, which is ASCII, but may be asked for IPA.
    """
    notation = ""
    for each in labels:
        for own in (each, *each.more):
            if not own.notation or own.notation != (notation or own.notation):
                return None
            notation = own.notation
            if not all(phone.label.isascii() for phone in own.phones):
                return None
    return notation or None


def _missing(names: Sequence[str], kind: str, tier: str | None) -> str:
    """Why no tier is the phone tier, and what to do."""
    listed = ", ".join(f"'{name[:MAX_LABEL]}'" for name in names[:_LISTED]) or "none"
    if tier is not None and (tier != MACHINE_LABELS or MACHINE_LABELS not in names):
        return f"no tier '{tier[:MAX_LABEL]}' ({kind}: {listed})"
    if MACHINE_LABELS in names:
        return f"the tier '{MACHINE_LABELS}' holds machine labels: check them and rename the tier to 'phones'"
    return f"no 'phones' tier ({kind}: {listed}): name the tier of phonemes 'phones', or give its name by --tier"


def _taken(path: Path, name: str, wanted: str, by: str = "") -> Problem:
    return Problem(path, f"tier '{name}' is taken as the tier '{wanted}'{by}", name, used=True)


def _is_foreign(name: str) -> bool:
    """Whether a tier of words has the name of another tool's."""
    own = CONVENTIONS[0]
    return not any(_speaker(name, wanted, own.forms) is not None for wanted in own.words)


def _has_labels(tier: NamedTier) -> bool:
    return any(not is_silence(each.label) for each in tier[1])


@lru_cache(maxsize=4096)
def _speaker(name: str, wanted: str, forms: tuple[str, ...]) -> str | None:
    """Whose tier a name names: "" for the wanted name alone, None for another tier."""
    name = name.strip()
    if name.lower() == wanted.lower():
        return ""
    for form in forms:
        before, after = form.replace("{name}", wanted.lower()).split("{speaker}")
        # as in "anna- phones": blanks around the name are of no weight
        before, after = before.rstrip(), after.lstrip()
        if name.lower().startswith(before) and name.lower().endswith(after):
            speaker = name[len(before) : len(name) - len(after)].strip()
            if speaker:
                return speaker
    return None


@lru_cache(maxsize=64)
def _groups(names: tuple[str, ...]) -> list[tuple[Convention, tuple[_Found, ...]]]:
    """The tiers that could be the phones, by the names of tools: the best first. Together are those of one name, or of speakers."""
    groups: list[tuple[Convention, tuple[_Found, ...]]] = []
    for convention in CONVENTIONS:
        exact = tuple(_Found(i) for i, name in enumerate(names) if name == convention.phones[0])
        lowered = [
            tuple(_Found(i) for i, name in enumerate(names) if name.lower() == wanted.lower())
            for wanted in convention.phones
        ]
        decorated = tuple(
            _Found(i, speaker)
            for i, name in enumerate(names)
            if (speaker := next(filter(None, (_speaker(name, w, convention.forms) for w in convention.phones)), None))
        )
        groups += [(convention, those) for those in (exact, *lowered, decorated) if those]
    return groups


def _first_with_labels(tiers: Sequence[NamedTier], places: Sequence[int]) -> int:
    return next((place for place in places if _has_labels(tiers[place])), places[0])


def _by_known_names(path: Path, tiers: Sequence[NamedTier]) -> _Choice | None:
    """The tiers of phones by the names of `CONVENTIONS`: the first that have labels, else the first."""
    groups = _groups(tuple(name for name, _ in tiers))
    if not groups:
        return None
    full = [group for group in groups if any(_has_labels(tiers[each.place]) for each in group[1])]
    convention, chosen = (full or groups)[0]
    problems: list[Problem] = []
    if chosen[0].speaker:
        kept = _one_each(path, tiers, chosen, problems)
    else:
        kept = [_Found(_first_with_labels(tiers, [each.place for each in chosen]))]
    names = [tiers[each.place][0] for each in kept]
    if full and groups[0] is not full[0]:
        empty = tiers[groups[0][1][0].place][0]
        problems.append(Problem(path, f"tier '{empty}' has no labels: '{names[0]}' is used", empty, used=True))
    by = f" (a name of {convention.tool})" if convention.tool else ""
    problems += [_taken(path, name, "phones", by) for name in names if name != "phones"]
    if not kept[0].speaker:
        problems += _same_name(path, tiers, names[0])
        problems += _unused(path, tiers, names[0], full)
    return _Choice(tuple(kept), convention, tuple(problems))


def _same_name(path: Path, tiers: Sequence[NamedTier], name: str) -> list[Problem]:
    """What is left out since it has the very name of the tier that is used."""
    those = [tier for tier in tiers if tier[0] == name]
    which = "the first" if sum(map(_has_labels, those)) != 1 else "the one with labels"
    return [Problem(path, f"{len(those)} tiers '{name}'; {which} is used", name)] if len(those) > 1 else []


def _unused(
    path: Path, tiers: Sequence[NamedTier], name: str, full: Sequence[tuple[Convention, tuple[_Found, ...]]]
) -> list[Problem]:
    """What speakers' tiers of phones are not used, since there is one without a speaker's name."""
    others = [
        tiers[each.place][0] for convention, group in full for each in group if each.speaker and not convention.tool
    ]
    if not others:
        return []
    listed = ", ".join(f"'{other}'" for other in others[:_LISTED])
    return [Problem(path, f"tier '{name}' is used, not {listed}: choose by --tier", name, used=True)]


def _by_pattern(path: Path, tiers: Sequence[NamedTier], pattern: str) -> _Choice | None:
    """The tier of that name, else those that the pattern fits; where several fit, each is a speaker's."""
    names = [name for name, _ in tiers]
    pattern = pattern.strip()
    places = [place for place, name in enumerate(names) if name == pattern != MACHINE_LABELS]
    if places:
        chosen = _Found(_first_with_labels(tiers, places), _speaker_of(pattern))
        return _Choice((chosen,), _convention_of(pattern), tuple(_same_name(path, tiers, pattern)))
    found = _fitting(names, pattern, 0) or _fitting(names, pattern, re.IGNORECASE)
    if not found:
        return None
    problems: list[Problem] = []
    kept = _one_each(path, tiers, found, problems)
    for name in (names[each.place] for each in kept):
        problems.append(Problem(path, f"tier '{name}' is taken: '{pattern}' fits it", name, used=True))
    return _Choice(tuple(kept), _convention_of(names[kept[0].place]), tuple(problems))


def _convention_of(name: str) -> Convention:
    """The convention that a name of a tier of phones is of; the first where there is none."""
    those = (c for c in CONVENTIONS if any(_speaker(name, wanted, c.forms) is not None for wanted in c.phones))
    return next(those, CONVENTIONS[0])


def _speaker_of(name: str) -> str:
    """The speaker in the name of a tier of phones or words; "" where there is none."""
    found = (_speaker(name, wanted, c.forms) for c in CONVENTIONS for wanted in (*c.phones, *c.words))
    return next(filter(None, found), "")


def _fitting(names: Sequence[str], pattern: str, flags: int) -> list[_Found]:
    """The tiers whose names a pattern fits. Where there are several, a speaker's name is what stands for its * and ?."""
    parts = (
        part.replace("?", ".").replace("*", ".*") if place % 2 else re.escape(part)
        for place, part in enumerate(re.split(r"(\*+|\?+)", re.sub(r"\*+", "*", pattern)))
    )
    fits = re.compile(
        "".join(f"({part})" if place % 2 else part for place, part in enumerate(parts)), flags | re.DOTALL
    )
    found: list[tuple[int, str]] = []
    for place, name in enumerate(names):
        match = fits.fullmatch(name) if len(name) <= MAX_NAME and name != MACHINE_LABELS else None
        if match is not None:
            stood = " ".join(filter(None, (part.strip(" -_@.:") for part in match.groups())))
            found.append((place, _speaker_of(name) or stood))
    if len(found) == 1:
        return [_Found(place, _speaker_of(names[place])) for place, _ in found]
    return [_Found(place, speaker or names[place]) for place, speaker in found]


def _one_each(path: Path, tiers: Sequence[NamedTier], found: Sequence[_Found], problems: list[Problem]) -> list[_Found]:
    """The first tier with labels of each speaker; another of the same speaker is told. Where none has labels, the first tier."""
    used: dict[str, _Found] = {}
    for each in found:
        if not _has_labels(tiers[each.place]):
            continue
        kept, name = used.setdefault(each.speaker, each), tiers[each.place][0]
        if kept is not each:
            reason = f"a second tier of the speaker '{each.speaker}': left out, '{tiers[kept.place][0]}' is used"
            problems.append(Problem(path, reason, name))
    return list(used.values()) or [found[0]]


@lru_cache(maxsize=64)
def _word_tiers(names: tuple[str, ...], phones: tuple[_Found, ...], convention: Convention) -> list[int | None]:
    """The place of the tier of words of each tier of phones: by the names of the tool of the phones first.

    Without a speaker's name only where there is one speaker, who may then be named in one of the two tiers alone.
    """
    found: list[int | None] = [None] * len(phones)
    alone = len(phones) == 1
    for wanted, forms in dict.fromkeys((w, c.forms) for c in (convention, *CONVENTIONS) for w in c.words):
        whose: dict[str, int] = {}
        for place, name in enumerate(names):
            speaker = _speaker(name, wanted, forms)
            if speaker is not None and (speaker not in whose or (name == wanted != names[whose[speaker]])):
                whose[speaker] = place
        for number, of in enumerate(phones):
            own = whose.get(of.speaker) if of.speaker or alone else None
            if own is None and alone:
                own = whose.get("", next(iter(whose.values())) if len(whose) == 1 and not of.speaker else None)
            found[number] = own if found[number] is None else found[number]
    return found
