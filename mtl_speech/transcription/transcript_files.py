"""Transcriptions as files: TextGrid, CTM, JSON. Tiers that a person made are kept as they stand, ours are put beside them.

Phones stand in the tier `phones-pred`, never in `phones`: so nothing takes machine labels for labels that a person has checked. The
tier `confidence` has the same intervals, with labels such as `0.87`; a phoneme of which the model has never heard an example is
marked there: `0.41 zero-shot`. Silence is empty in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import json_text, plain
from mtl_speech.corpora.labels import MACHINE_LABELS, MISMATCH
from mtl_speech.corpora.textgrid import INTERVALS, TextGrid, Tier, long_form, read_whole
from mtl_speech.transcription.transcript import Phone, Transcription

CONFIDENCE = "confidence"
OWN_TIERS = (MACHINE_LABELS, CONFIDENCE)
JSON_FORMAT = "mtl_speech.transcription/1"
_ZERO_SHOT = "zero-shot"
_CONFIDENCE_LABEL = re.compile(rf"|[01]\.[0-9]{{2}}( {_ZERO_SHOT})?")
_DECIMALS = 6  # of a time in seconds


def textgrid_text(found: Transcription, beside: Path | None = None) -> str:
    """A TextGrid with the tiers of a transcription, after all tiers of the TextGrid `beside` the recording if there is one.

    Of the tiers beside only those of an earlier transcription are left out.

    Raises:
        DataError: the TextGrid beside cannot be kept whole, or is of another recording.
    """
    if beside is None:
        kept = TextGrid("0", _numeral(found.duration))
    else:
        kept = read_whole(beside)
        check_own_tiers(beside, [(tier.name, [e[-1] for e in tier.entries]) for tier in kept.tiers])
        if abs(float(kept.start)) > MISMATCH or abs(float(kept.end) - found.duration) > MISMATCH:
            raise DataError(
                f"{beside}: made for {float(kept.start):.2f} to {float(kept.end):.2f} s, but the recording has 0 to "
                f"{found.duration:.2f} s: is it the right one?"
            )
    tiers = [tier for tier in kept.tiers if tier.name not in OWN_TIERS]
    tiers += [_tier(name, texts(found, name), kept) for name in OWN_TIERS]
    return long_form(TextGrid(kept.start, kept.end, tuple(tiers)))


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
