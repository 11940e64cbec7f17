"""ELAN's annotation files (.eaf): XML that is read without trust, and the phones and words in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import read_limited
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.labels import Interval, Labels, labels_of_tiers
from mtl_speech.phonology.phonemes import MAX_LABEL

MAX_BYTES = 64 << 20  # a file of two hours with ten tiers has under 40 MB
MAX_DEPTH = 16  # ELAN's own files have 5 levels
MAX_ELEMENTS = 1_000_000  # the same two hours have 600,000
MAX_ATTRIBUTES = 64  # of an element; ELAN's own have 8

Span = tuple[float, float]


def read_labels(path: Path) -> Labels:
    """The `phones` and `words` tiers of an .eaf file.

    An annotation that has no time of its own (a subdivision of another, or one between two that have) gets an even share of the
    time that is there, with a problem that says so.

    Raises:
        MissingPhones: no tier or several tiers could be the phone tier.
        DataError: the file cannot be read, is no .eaf, or its times are not those of the recording.
    """
    root = read_eaf(path)
    spans, guessed = _times(root)
    tiers: list[tuple[str, tuple[Interval, ...]]] = []
    problems: list[Problem] = []
    for tier in root.iterfind("TIER"):
        name = tier.get("TIER_ID", "").strip()
        intervals = []
        annotations = (each for each in tier.iterfind("ANNOTATION/*") if isinstance(each.tag, str))
        for number, annotation in enumerate(annotations, 1):
            label, own = (annotation.findtext("ANNOTATION_VALUE") or "").strip(), annotation.get("ANNOTATION_ID", "")
            if own not in spans:
                problems.append(Problem(path, f"'{label[:MAX_LABEL]}' has no time; left out", name, number))
                continue
            if own in guessed:
                reason = (
                    f"'{label[:MAX_LABEL]}' has no time of its own: it gets an even share of the time that is there"
                )
                problems.append(Problem(path, reason, name, number, used=True))
            intervals.append(Interval(*spans[own], label, number))
        tiers.append((name, tuple(intervals)))
    labels = labels_of_tiers(path, tiers, "tiers")
    used = {labels.tier, *(name for name, intervals in tiers if intervals and intervals is labels.words)}
    return replace(labels, problems=(*labels.problems, *(problem for problem in problems if problem.tier in used)))


def read_eaf(path: Path) -> Element:
    """The root of an .eaf file, comments included.

    A document type is refused, since its entities can stand for any amount of text; so is deep nesting, and a file larger than any
    real one.

    Raises:
        DataError: as above, or the file is no .eaf, or its times are not milliseconds from the begin of the recording.
    """
    raw = read_limited(path, MAX_BYTES, "the annotations of one recording")
    try:
        root = ElementTree.fromstring(raw, ElementTree.XMLParser(target=_Builder(path)))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path}: not an ELAN file ({error}): save it again from ELAN") from None
    if root.tag != "ANNOTATION_DOCUMENT" or root.find("TIME_ORDER") is None:
        raise DataError(f"{path}: not an ELAN file (its root is <{root.tag[:40]}>): save it again from ELAN")
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise DataError(f"{path}: its times are in {units[:40]}, and milliseconds are needed")
    for media in root.iterfind("HEADER/MEDIA_DESCRIPTOR"):
        file = Path(media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") or "")
        is_recording = file.stem == path.stem and file.suffix.lower() in AUDIO_SUFFIXES
        if is_recording and media.get("TIME_ORIGIN", "0") != "0":
            raise DataError(f"{path}: its recording begins with an offset: set it to 0 in ELAN (Edit, Linked Files)")
    return root


class _Builder(ElementTree.TreeBuilder):
    """Builds the tree of an .eaf file, comments included. Raises DataError for a document type, deep nesting, or too much in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(insert_comments=True)
        self._path = path
        self._depth = self._count = 0

    def start(self, tag: Any, attributes: dict[Any, Any], /) -> Element:
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > MAX_DEPTH:
            raise DataError(f"{self._path}: not an ELAN file: nested more than {MAX_DEPTH} levels deep")
        if self._count > MAX_ELEMENTS or len(attributes) > MAX_ATTRIBUTES:
            raise DataError(f"{self._path}: has too many elements or attributes for the annotations of one recording")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, *_: object) -> NoReturn:
        """Called before anything of it is read, such as the entities that it declares."""
        raise DataError(
            f"{self._path}: has a document type (<!DOCTYPE>), which no ELAN file has: save it again from ELAN"
        )


def _times(root: Element) -> tuple[dict[str, Span], set[str]]:
    """The spans in seconds of all annotations by their ids, and the ids of those that have no time of their own."""
    values = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE", "") for slot in root.iterfind("TIME_ORDER/*")}
    slots = {slot: int(value) / 1000 for slot, value in values.items() if re.fullmatch("[0-9]{1,9}", value)}
    spans: dict[str, Span] = {}
    guessed: set[str] = set()
    # Of an annotation: what refers to it, by the number of the tier.
    parts: defaultdict[str, defaultdict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for number, tier in enumerate(root.iterfind("TIER")):
        aligned = tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION")
        pairs = [(a.get("TIME_SLOT_REF1", ""), a.get("TIME_SLOT_REF2", "")) for a in aligned]
        times = _filled([slot for pair in pairs for slot in pair], slots)
        for annotation, (first, last) in zip(aligned, pairs, strict=True):
            if first in times and last in times:
                spans[annotation.get("ANNOTATION_ID", "")] = (times[first], times[last])
                if first not in slots or last not in slots:
                    guessed.add(annotation.get("ANNOTATION_ID", ""))
        for annotation in tier.iterfind("ANNOTATION/REF_ANNOTATION"):
            parts[annotation.get("ANNOTATION_REF", "")][number].append(annotation.get("ANNOTATION_ID", ""))
    timed = list(spans)
    for parent in timed:  # grows: what refers to a part gets its time from the part
        for names in parts.pop(parent, {}).values():
            start, end = spans[parent]
            share = (end - start) / len(names)
            spans |= {name: (start + i * share, start + (i + 1) * share) for i, name in enumerate(names)}
            guessed |= set(names) if len(names) > 1 or parent in guessed else set()
            timed += names
    return spans, guessed


def _filled(chain: Sequence[str], slots: Mapping[str, float]) -> dict[str, float]:
    """The times in seconds of the slots of a tier in their order; those without one lie evenly between those that have one."""
    import numpy as np

    order = [slot for i, slot in enumerate(chain) if i == 0 or chain[i - 1] != slot]
    known = [i for i, slot in enumerate(order) if slot in slots]
    if not known:
        return {}
    inside = range(known[0], known[-1] + 1)
    times = np.interp(inside, known, [slots[order[i]] for i in known]).tolist()
    return {order[i]: time for i, time in zip(inside, times, strict=True)}
