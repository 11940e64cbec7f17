"""ELAN's annotation files (.eaf): XML that is read without trust, and the phones and words in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

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
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    try:
        _check_xml(path, raw)
        root = ElementTree.fromstring(raw, parser)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
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


def _check_xml(path: Path, raw: bytes) -> None:
    """Raise DataError for what has a document type, is nested deeply or has too much in it; nothing is kept of the text.

    Raises ExpatError, LookupError or ValueError for what is no XML.
    """
    parser = expat.ParserCreate()
    depth = count = 0

    def begin(_: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: not an ELAN file: nested more than {MAX_DEPTH} levels deep")
        if count > MAX_ELEMENTS or len(attributes) > MAX_ATTRIBUTES:
            raise DataError(f"{path}: has too many elements or attributes for the annotations of one recording")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> NoReturn:
        raise DataError(f"{path}: has a document type (<!DOCTYPE>), which no ELAN file has: save it again from ELAN")

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(raw, True)


def _times(root: Element) -> tuple[dict[str, Span], set[str]]:
    """The spans in seconds of all annotations by their ids, and the ids of those that have no time of their own."""
    slots = {slot.get("TIME_SLOT_ID", ""): _seconds(slot.get("TIME_VALUE")) for slot in root.iterfind("TIME_ORDER/*")}
    spans: dict[str, Span] = {}
    guessed: set[str] = set()
    parts: defaultdict[str, list[list[str]]] = defaultdict(list)  # of an annotation: what refers to it, tier by tier
    for tier in root.iterfind("TIER"):
        aligned = tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION")
        pairs = [(a.get("TIME_SLOT_REF1", ""), a.get("TIME_SLOT_REF2", "")) for a in aligned]
        times = _filled([slot for pair in pairs for slot in pair], slots)
        for annotation, (first, last) in zip(aligned, pairs, strict=True):
            if first in times and last in times:
                spans[annotation.get("ANNOTATION_ID", "")] = (times[first], times[last])
                if slots.get(first) is None or slots.get(last) is None:
                    guessed.add(annotation.get("ANNOTATION_ID", ""))
        siblings: defaultdict[str, list[str]] = defaultdict(list)
        for annotation in tier.iterfind("ANNOTATION/REF_ANNOTATION"):
            siblings[annotation.get("ANNOTATION_REF", "")].append(annotation.get("ANNOTATION_ID", ""))
        for parent, names in siblings.items():
            parts[parent].append(names)
    timed = list(spans)
    for parent in timed:  # grows: what refers to a part gets its time from the part
        for names in parts.pop(parent, ()):
            start, end = spans[parent]
            share = (end - start) / len(names)
            spans |= {name: (start + i * share, start + (i + 1) * share) for i, name in enumerate(names)}
            guessed |= set(names) if len(names) > 1 or parent in guessed else set()
            timed += names
    return spans, guessed


def _filled(chain: Sequence[str], slots: Mapping[str, float | None]) -> dict[str, float]:
    """The times in seconds of the slots of a tier in their order; those without one lie evenly between those that have one."""
    order = [slot for i, slot in enumerate(chain) if i == 0 or chain[i - 1] != slot]
    times: dict[str, float] = {}
    before: tuple[int, float] | None = None
    for i, slot in enumerate(order):
        time = slots.get(slot)
        if time is None:
            continue
        times[slot] = time
        if before is not None:
            step = (time - before[1]) / (i - before[0])
            times |= {order[k]: before[1] + (k - before[0]) * step for k in range(before[0] + 1, i)}
        before = (i, time)
    return times


def _seconds(milliseconds: str | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds is not None and re.fullmatch("[0-9]{1,9}", milliseconds) else None
