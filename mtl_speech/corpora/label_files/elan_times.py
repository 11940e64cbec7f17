"""When the annotations of an .eaf file are: by their own times, by those of what they belong to, and by their links.

The order of annotations in the file says nothing: the parts of a subdivision name the one before them, and annotations with times
share a time slot with the next."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from mtl_speech.corpora.spans import Span

_SHARE = "has no time of its own: it gets an even share of the time that is there"
_NO_TIME = "has no time; left out"
_FILE_ORDER = "they are taken in the order of the file"
_MAX_ID = 40  # characters of an id in a message


@dataclass
class Timed:
    """The spans of annotations in seconds, and what is to be said of them; those without a span are left out."""

    spans: dict[Element, Span] = field(default_factory=dict)
    reasons: dict[Element, str] = field(default_factory=dict)


def annotations_of(tier: Element) -> Iterator[Element]:
    """The annotations of a tier in the order of the file, without comments."""
    return (each for each in tier.iterfind("ANNOTATION/*") if isinstance(each.tag, str))


def times(root: Element) -> Timed:
    """The times of all annotations of a file."""
    found = Timed()
    slots = _slots(root)
    order = {slot: place for place, slot in enumerate(slots)}
    known = {slot: time for slot, time in slots.items() if time is not None}
    tiers = list(root.iterfind("TIER"))
    for tier in tiers:
        _find_aligned(tier, known, order, found)
    _find_parts(tiers, found)
    for tier in tiers:
        for each in annotations_of(tier):
            if each not in found.spans:
                found.reasons.setdefault(each, _NO_TIME)
    return found


def _slots(root: Element) -> dict[str, float | None]:
    """The time slots in the order of the file, with their times in seconds where they have one."""
    values = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE", "") for slot in root.iterfind("TIME_ORDER/*")}
    return {slot: int(value) / 1000 if re.fullmatch("[0-9]{1,9}", value) else None for slot, value in values.items()}


def _find_aligned(tier: Element, known: Mapping[str, float], order: Mapping[str, int], found: Timed) -> None:
    """The spans of the annotations of a tier that name time slots; slots without a time lie evenly between those that have one."""
    aligned = [each for each in annotations_of(tier) if each.tag == "ALIGNABLE_ANNOTATION"]
    pairs = [(each.get("TIME_SLOT_REF1", ""), each.get("TIME_SLOT_REF2", "")) for each in aligned]
    broken = ""
    slots: Mapping[str, float] = known
    if any(slot not in known for pair in pairs for slot in pair):
        chain, broken = _chain_of_slots(pairs, known, order)
        slots = _filled(chain, known)
    for annotation, (first, last) in zip(aligned, pairs, strict=True):
        if first in slots and last in slots:
            found.spans[annotation] = (slots[first], slots[last])
            if first not in known or last not in known:
                found.reasons[annotation] = _SHARE + broken


def _chain_of_slots(
    pairs: Sequence[tuple[str, str]], known: Mapping[str, float], order: Mapping[str, int]
) -> tuple[list[str], str]:
    """The time slots of a tier as they follow each other: annotations that share a slot are neighbours.

    Runs of neighbours lie in the order of their times, or of the list of time slots where they have none. Also what is wrong, if
    the annotations are no chain.
    """
    after = dict(pairs)
    followed = set(after.values())
    starts = [first for first, _ in pairs if first not in followed]
    runs = [_run(start, after) for start in starts]
    if len(after) < len(pairs) or len(followed) < len(pairs) or sum(len(run) - 1 for run in runs) < len(pairs):
        chain = [slot for pair in pairs for slot in pair]
        return chain, f"; its neighbours share no time slots one after the other: {_FILE_ORDER}"
    listed = sorted((order.get(slot, len(order)), slot) for run in runs for slot in run)
    latest, before = float("-inf"), {}
    for _, slot in listed:
        latest = known.get(slot, latest)
        before[slot] = latest

    def place(run: Sequence[str]) -> tuple[float, bool, int]:
        own = [known[slot] for slot in run if slot in known]
        return (own[0] if own else before[run[0]], not own, order.get(run[0], len(order)))

    return [slot for run in sorted(runs, key=place) for slot in run], ""


def _run(start: str, after: Mapping[str, str]) -> list[str]:
    """What follows one after the other from `start` on; a circle is left where it closes."""
    run = {start: None}
    while (following := after.get(next(reversed(run)))) is not None and following not in run:
        run[following] = None
    return list(run)


def _filled(chain: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """The times in seconds of slots in their order; those without one lie evenly between those that have one."""
    import numpy as np

    order = [slot for i, slot in enumerate(chain) if i == 0 or chain[i - 1] != slot]
    places = [i for i, slot in enumerate(order) if slot in known]
    if not places:
        return {}
    inside = range(places[0], places[-1] + 1)
    filled = np.interp(inside, places, [known[order[i]] for i in places]).tolist()
    return {order[i]: time for i, time in zip(inside, filled, strict=True)} | dict(known)


def _find_parts(tiers: Sequence[Element], found: Timed) -> None:
    """The spans of annotations that refer to others: of several in one tier each has an even share of the time."""
    own_ids = [each.get("ANNOTATION_ID", "") for tier in tiers for each in annotations_of(tier)]
    twice = {name for name, number in Counter(own_ids).items() if number > 1}
    # Of an annotation, by its id: what refers to it, by the number of the tier.
    parts: defaultdict[str, defaultdict[int, list[Element]]] = defaultdict(lambda: defaultdict(list))
    for number, tier in enumerate(tiers):
        for each in annotations_of(tier):
            parent = each.get("ANNOTATION_REF", "")
            if each.tag == "REF_ANNOTATION" and parent in twice:
                found.reasons[each] = (
                    f"refers to '{parent[:_MAX_ID]}', which is the id of several annotations; left out"
                )
            elif each.tag == "REF_ANNOTATION" and parent:
                parts[parent][number].append(each)
    timed = list(found.spans)
    for whole in timed:  # grows: what refers to a part gets its time from the part
        for siblings in parts.pop(whole.get("ANNOTATION_ID", ""), {}).values():
            _divide(whole, siblings, found)
            timed += siblings


def _divide(parent: Element, siblings: Sequence[Element], found: Timed) -> None:
    """Give the parts of an annotation in one tier their shares of its time, in the order of their links."""
    ordered, broken = _in_chain(siblings)
    start, end = found.spans[parent]
    share = (end - start) / len(ordered)
    for i, part in enumerate(ordered):
        found.spans[part] = (start + i * share, start + (i + 1) * share)
        if len(ordered) > 1 or parent in found.reasons:
            found.reasons[part] = _SHARE + broken


def _in_chain(siblings: Sequence[Element]) -> tuple[Sequence[Element], str]:
    """The parts of one annotation as each names the one before it, and what is wrong where they do not: then as in the file."""
    ids = [each.get("ANNOTATION_ID", "") for each in siblings]
    before = [each.get("PREVIOUS_ANNOTATION", "") for each in siblings]
    if len(siblings) < 2 or not any(before):
        return siblings, ""
    after: dict[str | None, Element] = dict(zip(before, siblings, strict=True))
    ordered: list[Element] = []
    name: str | None = ""
    while (part := after.pop(name, None)) is not None:
        ordered.append(part)
        name = part.get("ANNOTATION_ID") or None
    if len(ordered) == len(siblings):
        return ordered, ""
    foreign = next((name for name in before if name and name not in ids), None)
    heads = before.count("")
    if foreign is not None:
        reason = f"one of its neighbours follows '{foreign[:_MAX_ID]}', which is none of them"
    elif heads != 1:
        reason = f"{heads} of its neighbours are the first" if heads else "its neighbours follow each other in a circle"
    elif len(set(before)) < len(before):
        reason = "several of its neighbours follow the same one"
    else:
        reason = "its neighbours follow each other in a circle"
    return siblings, f"; by PREVIOUS_ANNOTATION {reason}: {_FILE_ORDER}"
