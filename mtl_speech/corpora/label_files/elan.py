"""ELAN's annotation files (.eaf): XML that is read without trust, and the phones and words in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import read_limited
from mtl_speech.corpora.audio import AUDIO_SUFFIXES
from mtl_speech.corpora.label_files import elan_times
from mtl_speech.corpora.label_files.tiers import labels_of_tiers
from mtl_speech.corpora.labels import Interval, Labels, in_time_order
from mtl_speech.phonology.phonemes import MAX_LABEL

MAX_BYTES = 64 << 20  # a file of two hours with ten tiers has under 40 MB
MAX_DEPTH = 16  # ELAN's own files have 5 levels
MAX_ELEMENTS = 1_000_000  # the same two hours have 600,000
MAX_ATTRIBUTES = 64  # of an element; ELAN's own have 8


def read_labels(path: Path, tier: str | None = None) -> Labels:
    """The phones and words of an .eaf file, as `labels_of_tiers` chooses them; `tier` is the name of the phones, or a pattern.

    An annotation that has no time of its own (a subdivision of another, or one between two that have) gets an even share of the
    time that is there, with a problem that says so.

    Raises:
        MissingPhones: no tier could be the phone tier.
        DataError: the file cannot be read, is no .eaf, or its times are not those of the recording.
    """
    root = read_eaf(path)
    timed = elan_times.times(root)
    tiers: list[tuple[str, tuple[Interval, ...]]] = []
    problems: list[Problem] = []
    for each in root.iterfind("TIER"):
        name = each.get("TIER_ID", "").strip()
        intervals = []
        for number, annotation in enumerate(elan_times.annotations_of(each), 1):
            label = (annotation.findtext("ANNOTATION_VALUE") or "").strip()
            span, reason = timed.spans.get(annotation), timed.reasons.get(annotation)
            if reason is not None:
                problems.append(Problem(path, f"'{label[:MAX_LABEL]}' {reason}", name, number, used=span is not None))
            if span is not None:
                intervals.append(Interval(*span, label, number))
        tiers.append((name, tuple(in_time_order(intervals))))
    labels = labels_of_tiers(path, tiers, "tiers", tier=tier)
    every = (labels, *labels.more)
    words = {id(each.words) for each in every if each.words}
    used = {*(each.tier for each in every), *(name for name, intervals in tiers if id(intervals) in words)}
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
