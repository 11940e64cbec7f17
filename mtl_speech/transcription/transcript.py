"""What a transcription is, and its files: TextGrid, CTM, JSON and ELAN.

Tiers that a person made are kept as they stand, ours are put beside them. Phones stand in the tier `phones-pred`, never in
`phones`: so nothing takes machine labels for labels that a person has checked. The tier `confidence` has the same intervals, with
labels such as `0.87`; a phoneme of which the model has never heard an example is marked there: `0.41 zero-shot`. Silence is empty
in both.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import json_text, plain
from mtl_speech.corpora.label_files.elan import read_eaf
from mtl_speech.corpora.label_files.textgrid import INTERVALS, TextGrid, Tier, long_form, read_whole
from mtl_speech.corpora.labels import MACHINE_LABELS, MISMATCH, ROUNDING, TOLERANCE

SILENCE = ""  # the label of a stretch without speech
CONFIDENCE = "confidence"
OWN_TIERS = (MACHINE_LABELS, CONFIDENCE)
JSON_FORMAT = "mtl_speech.transcription/1"
_ZERO_SHOT = "zero-shot"
_CONFIDENCE_LABEL = re.compile(rf"|[01]\.[0-9]{{2}}( {_ZERO_SHOT})?")
_DECIMALS = 6  # of a time in seconds
_TYPE = "machine-labels"  # our linguistic type: annotations with times, and no other rule
_ORDER = ("LICENSE", "HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE")  # what an .eaf begins with


@dataclass(frozen=True)
class Phone:
    """One stretch of a recording: an IPA phoneme, or SILENCE; its span in seconds; the calibrated probability of the label.

    `zero_shot`: the model has never heard an example of this phoneme.
    """

    phoneme: str
    start: float
    end: float
    confidence: float
    zero_shot: bool = False


@dataclass(frozen=True)
class Transcription:
    """The phones of one recording, in order, from 0 to its end without gap or overlap. `duration` in seconds."""

    duration: float
    phones: tuple[Phone, ...]

    @property
    def spoken(self) -> tuple[Phone, ...]:
        """The phones without silence."""
        return tuple(phone for phone in self.phones if phone.phoneme != SILENCE)


def textgrid_text(found: Transcription, beside: Path | None = None) -> str:
    """A TextGrid with the tiers of a transcription, after all tiers of the TextGrid `beside` the recording if there is one.

    Of the tiers beside only those of an earlier transcription are left out. Where the TextGrid beside begins late, ours have its
    times; where it does not reach to the first or the last phone, silence is put to its tiers there.

    Raises:
        DataError: the TextGrid beside cannot be kept whole, or is of another recording.
    """
    if beside is None:
        kept, begin = TextGrid("0", _numeral(found.duration)), 0.0
    else:
        kept = read_whole(beside)
        check_own_tiers(beside, [(tier.name, [e[-1] for e in tier.entries]) for tier in kept.tiers])
        begin = _begin(beside, kept, found.duration)
    kept = replace(kept, tiers=tuple(tier for tier in kept.tiers if tier.name not in OWN_TIERS))
    phones = [replace(phone, start=phone.start + begin, end=phone.end + begin) for phone in found.phones]
    kept = _reaching(kept, [phone for phone in phones if phone.phoneme != SILENCE], begin, begin + found.duration)
    moved = Transcription(found.duration, tuple(phones))
    tiers = [*kept.tiers, *(_tier(name, texts(moved, name), kept) for name in OWN_TIERS)]
    return long_form(TextGrid(kept.start, kept.end, tuple(tiers)))


def _begin(path: Path, grid: TextGrid, duration: float) -> float:
    """The time of a TextGrid at which its recording begins, in seconds: 0, or where it begins if it is as long as the recording.

    Raises DataError where it fits in neither way.
    """
    start, end = float(grid.start), float(grid.end)
    shifted, same = abs(end - start - duration), max(abs(start), abs(end - duration))
    if shifted <= MISMATCH and shifted + ROUNDING < same and abs(grid.begin - start) <= MISMATCH:
        return start
    if same <= MISMATCH:
        return 0.0
    raise DataError(
        f"{path}: made for {start:.2f} to {end:.2f} s, but the recording has 0 to {duration:.2f} s: is it the right one?"
    )


def _reaching(grid: TextGrid, phones: Sequence[Phone], begin: float, end: float) -> TextGrid:
    """A TextGrid with time for the first and the last phone: from `begin` or to `end`, where too little of one would be left."""
    for phone in phones[-1:]:
        if _is_lost(phone, phone.end - float(grid.end)):
            tiers = tuple(_longer(tier, tier.start, _numeral(end)) for tier in grid.tiers)
            grid = replace(grid, end=_numeral(end), tiers=tiers)
    for phone in phones[:1]:
        if _is_lost(phone, float(grid.start) - phone.start):
            tiers = tuple(_longer(tier, _numeral(begin), tier.end) for tier in grid.tiers)
            grid = replace(grid, start=_numeral(begin), tiers=tiers)
    return grid


def _is_lost(phone: Phone, outside: float) -> bool:
    """Whether too little of a phone would be left without the seconds that are outside."""
    return outside > min(TOLERANCE, (phone.end - phone.start) / 2)


def _longer(tier: Tier, start: str, end: str) -> Tier:
    """A tier from `start` to `end`: one of intervals has silence there, in its first or last interval if that is silent already."""
    entries = list(tier.entries)
    if tier.kind == INTERVALS and entries:
        (first, stop, label), silent = entries[0], not entries[0][-1].strip()
        if float(start) < float(first):
            entries[:1] = [(start, stop, label)] if silent else [(start, first, ""), entries[0]]
        (first, stop, label), silent = entries[-1], not entries[-1][-1].strip()
        if float(stop) < float(end):
            entries[-1:] = [(first, end, label)] if silent else [entries[-1], (stop, end, "")]
    return replace(
        tier,
        start=start if float(start) < float(tier.start) else tier.start,
        end=end if float(end) > float(tier.end) else tier.end,
        entries=tuple(entries),
    )


def texts(found: Transcription, tier: str) -> list[tuple[Phone, str]]:
    """The spoken phones with their labels in one of our tiers."""
    return [(phone, phone.phoneme if tier == MACHINE_LABELS else confidence_label(phone)) for phone in found.spoken]


def confidence_label(phone: Phone) -> str:
    """Such as `0.87`, or `0.41 zero-shot`."""
    return f"{phone.confidence:.2f}" + f" {_ZERO_SHOT}" * phone.zero_shot


def check_own_tiers(path: Path, tiers: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise DataError if a tier (name, labels) has a name of ours but was not made by an earlier transcription, so must be kept."""
    for name in OWN_TIERS:
        labels = [each for tier, each in tiers if tier == name]
        foreign = name == CONFIDENCE and any(
            not _CONFIDENCE_LABEL.fullmatch(label) for each in labels for label in each
        )
        if len(labels) > 1 or foreign:
            what = f"{len(labels)} tiers '{name}'" if len(labels) > 1 else f"a tier '{name}' of other content"
            raise DataError(f"{path}: has {what}, which a transcription would replace: give it another name")


def ctm_lines(found: Transcription, recording: str) -> str:
    """The spoken phones as lines `recording 1 start duration label confidence`. Raises DataError for a name with a blank.

    A comment before them names the phonemes of which the model has never heard an example.
    """
    if re.search(r"\s", recording):
        raise DataError(f"'{recording}' has a blank, which a name in a CTM file cannot have: rename the recording")
    guessed = sorted({p.phoneme for p in found.spoken if p.zero_shot})
    comment = f";; {recording}: {_ZERO_SHOT}: {' '.join(guessed)}\n" if guessed else ""
    return comment + "".join(
        f"{recording} 1 {p.start:.3f} {p.end - p.start:.3f} {p.phoneme} {p.confidence:.3f}\n" for p in found.spoken
    )


def transcription_json(found: Transcription, recording: str, pack: str) -> str:
    """A transcription as JSON: duration, and all phones with their times in seconds, silence with the label ""."""
    return json_text(
        {
            "format": JSON_FORMAT,
            "recording": recording,
            "pack": pack,
            "duration": found.duration,
            "phones": plain(found.phones),
        }
    )


def _tier(name: str, labelled: Sequence[tuple[Phone, str]], grid: TextGrid) -> Tier:
    """Labelled phones as intervals without gap over the whole of `grid`."""
    first, last = float(grid.start), float(grid.end)
    entries: list[tuple[str, str, str]] = []
    at = grid.start
    for phone, label in labelled:
        start, end = _numeral(phone.start), _numeral(phone.end)
        start = grid.start if float(start) <= first else start
        end = grid.end if float(end) >= last else end
        if float(start) >= float(end):
            raise DataError(
                f"a phone at {phone.start:.3f} s lies outside {first:.3f} to {last:.3f} s of the TextGrid beside it"
            )
        if float(start) > float(at):
            entries.append((at, start, ""))
        entries.append((start, end, label))
        at = end
    if float(at) < last:
        entries.append((at, grid.end, ""))
    return Tier(INTERVALS, name, grid.start, grid.end, tuple(entries))


def _numeral(seconds: float) -> str:
    return f"{seconds:.{_DECIMALS}f}".rstrip("0").rstrip(".") or "0"


def eaf_bytes(found: Transcription, audio: Path, target: Path, beside: Path | None = None) -> bytes:
    """An .eaf, to be written to `target`, with the tiers of a transcription and a relative link to the recording `audio`.

    All that is in the .eaf `beside` the recording, if there is one, is kept: tiers, annotations, linguistic types, controlled
    vocabularies and the rest. Only the tiers of an earlier transcription are replaced, and relative links to media are made to lead
    from `target` to where they led. Times are rounded to milliseconds, as ELAN has them.

    Raises:
        DataError: the .eaf beside cannot be read, or has a tier of its own under the name of one of ours.
    """
    own = _own_document(found)
    _link(own, audio, target)
    ElementTree.indent(own, "\t")
    if beside is None:
        return _written(own)
    root = read_eaf(beside)
    labels = [
        (t.get("TIER_ID", ""), [v.text or "" for v in t.iterfind(".//ANNOTATION_VALUE")]) for t in root.iterfind("TIER")
    ]
    check_own_tiers(beside, labels)
    _drop_own_tiers(root, beside)
    _move_links(root, beside.parent, target.parent)
    if not any(_names(media, audio) for media in root.iterfind("HEADER/MEDIA_DESCRIPTOR")):
        _link(root, audio, target)
    _put_in(own, root)
    return _written(root)


def _own_document(found: Transcription) -> Element:
    """A document of our tiers alone."""
    from pympi import Elan

    eaf = Elan.Eaf(author="mtl_speech")
    eaf.add_linguistic_type(_TYPE)
    for name in OWN_TIERS:
        eaf.add_tier(name, ling=_TYPE)
        for phone, label in texts(found, name):
            start = round(1000 * phone.start)
            eaf.add_annotation(name, start, max(round(1000 * phone.end), start + 1), label)
    eaf.remove_tier("default")
    eaf.remove_linguistic_type("default-lt")
    eaf.properties = [("lastUsedAnnotationId", eaf.maxaid)]
    root: Element = Elan.to_adocument(eaf, pretty=False)
    return root


def _link(root: Element, audio: Path, target: Path) -> None:
    """Link the recording, after other media."""
    header = root.find("HEADER")
    if header is None:
        header = Element("HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
        root.insert(_place(root, "HEADER"), header)
    url = _relative(audio, target.parent)
    kind = "audio/x-wav" if audio.suffix.lower() == ".wav" else mimetypes.guess_type(audio.name)[0] or "unknown"
    media = Element("MEDIA_DESCRIPTOR", {"MEDIA_URL": url, "MIME_TYPE": kind, "RELATIVE_MEDIA_URL": url})
    header.insert(len(header.findall("MEDIA_DESCRIPTOR")), media)


def _names(media: Element, audio: Path) -> bool:
    """Whether a link leads to a file of that name."""
    urls = (media.get("RELATIVE_MEDIA_URL", ""), media.get("MEDIA_URL", ""))
    return any(re.split(r"[\\/]", url)[-1] == audio.name for url in urls)


def _move_links(root: Element, before: Path, after: Path) -> None:
    """Make links that are relative to the folder `before` relative to `after`."""
    if before.resolve() == after.resolve():
        return
    for link in root.iterfind("HEADER/*"):
        for key in ("RELATIVE_MEDIA_URL", "RELATIVE_LINK_URL"):
            url = link.get(key, "")
            if url.startswith("."):
                link.set(key, _relative(before / url, after))


def _relative(path: Path, folder: Path) -> str:
    url = Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()
    return url if url.startswith("../") else f"./{url}"


def _drop_own_tiers(root: Element, path: Path) -> None:
    """Take out the tiers of an earlier transcription, with the time slots that only they use."""
    own = [tier for tier in root.iterfind("TIER") if tier.get("TIER_ID") in OWN_TIERS]
    for tier in root.iterfind("TIER"):
        if tier.get("PARENT_REF") in OWN_TIERS:
            raise DataError(
                f"{path}: its tier '{tier.get('TIER_ID')}' depends on '{tier.get('PARENT_REF')}', which a transcription would "
                "replace: give that another name"
            )
    dropped = {slot for tier in own for slot in _slots(tier)}
    for tier in own:
        root.remove(tier)
    dropped -= {slot for tier in root.iterfind("TIER") for slot in _slots(tier)}
    order = root.find("TIME_ORDER")
    assert order is not None  # read_eaf has seen it
    for slot in [slot for slot in order if slot.get("TIME_SLOT_ID") in dropped]:
        order.remove(slot)


def _slots(tier: Element) -> list[str]:
    """The ids of the time slots that a tier uses."""
    return [a.get(key, "") for a in tier.iterfind("ANNOTATION/*") for key in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")]


def _put_in(own: Element, root: Element) -> None:
    """Put the tiers, time slots and linguistic type of our document `own` into `root`, under ids that are free there."""
    annotations, slots = _largest(root, "ANNOTATION_ID"), _largest(root, "TIME_SLOT_ID")
    for element in own.iter():
        for key, prefix, last in (
            ("TIME_SLOT_ID", "ts", slots),
            ("TIME_SLOT_REF1", "ts", slots),
            ("TIME_SLOT_REF2", "ts", slots),
            ("ANNOTATION_ID", "a", annotations),
        ):
            if key in element.attrib:
                element.set(key, f"{prefix}{last + int(element.attrib[key].removeprefix(prefix))}")
    _set_type(own, root)
    order = root.find("TIME_ORDER")
    assert order is not None  # read_eaf has seen it
    order.extend(own.findall("TIME_ORDER/TIME_SLOT"))
    at = _place(root, "TIER")
    root[at:at] = own.findall("TIER")
    for entry in root.iterfind("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']"):
        entry.text = str(_largest(root, "ANNOTATION_ID"))


def _set_type(own: Element, root: Element) -> None:
    """Give our tiers a linguistic type that `root` has, or gets: one without rules."""
    types = {each.get("LINGUISTIC_TYPE_ID"): each for each in root.iterfind("LINGUISTIC_TYPE")}
    name = _TYPE
    while name in types and not _without_rules(types[name]):
        name += "-2"
    for tier in own.iterfind("TIER"):
        tier.set("LINGUISTIC_TYPE_REF", name)
    if name not in types:
        (kind,) = own.findall("LINGUISTIC_TYPE")
        kind.set("LINGUISTIC_TYPE_ID", name)
        root.insert(_place(root, "LINGUISTIC_TYPE"), kind)


def _without_rules(kind: Element) -> bool:
    rules = ("CONSTRAINTS", "CONTROLLED_VOCABULARY_REF")
    return kind.get("TIME_ALIGNABLE", "true") == "true" and not any(kind.get(rule) for rule in rules)


def _place(root: Element, tag: str) -> int:
    """Where in `root` a new element belongs, after others of its tag."""
    earlier = _ORDER[: _ORDER.index(tag) + 1]
    return max((i for i, child in enumerate(root, 1) if child.tag in earlier), default=0)


def _largest(root: Element, key: str) -> int:
    """The largest number at the end of the ids of a kind; 0 where there is none."""
    ends = (re.search(r"[0-9]{1,15}$", element.get(key, "")) for element in root.iter())
    return max((int(end[0]) for end in ends if end), default=0)


def _written(root: Element) -> bytes:
    data: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return data
