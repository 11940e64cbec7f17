"""From espeak-ng's phoneme events to labels and times: what it writes, and where the audio changes.

Measured on Punjabi at 130 to 230 words a minute as the change of the spectrum around each event: the event of a vowel
after a voiced stop, a nasal or a liquid comes 10 to 30 ms after the release (espeak-ng counts the formant transition as
the consonant's), that of a voiceless stop after its closure; nearly all others are exact to some 3 ms. So each kind has
its own shift: 57 % of 2,545 boundaries then lie within 10 ms of the largest change of the spectrum, 46 % of the events
as they come, 30 % with one shift of -10 ms for all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtl_speech.phonology.phone_sets import TABLES, VOWEL_ORDER
from mtl_speech.phonology.phonemes import normalise_ipa

if TYPE_CHECKING:
    import numpy as np

Phones = Sequence[tuple[tuple[str, ...], int]]  # labels of an event (none: a pause) and its first sample

SILENCE_LEVEL = 32  # of 32767
MAX_INITIAL_CLOSURE = 0.05  # seconds: after a pause, how much of the silence is a stop's closure
# Seconds by which the event of a vowel lags behind the release of the consonant before it: espeak-ng counts the formant
# transition as the consonant's. After fricatives, voiceless stops and affricates the event is exact.
RELEASE_LAG: dict[str, float] = dict.fromkeys("mɱnɳɲŋɴlɭʎɫɾrɹɻjwɥ", 0.020) | dict.fromkeys("bdɖɡɽ", 0.010)
_PROSODY = "ˈˌ+"  # stress, high tone
_STOPS = frozenset("pʈtckqʔ")
_COMPOSITE = re.compile(f"^([{''.join(VOWEL_ORDER)}][^ɹlnmɚ]*)([ɹlnmɚ].*)$")


def pronunciation(phonemes: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of phonemes as espeak-ng writes them with blanks between; a switch of language stays: "(en)"."""
    found: list[str] = []
    for name in re.sub(r"(\([a-z-]+\))", r" \1 ", phonemes).split():
        raw = name.strip(_PROSODY)
        if raw and raw[0] not in VOWEL_ORDER:  # long consonants: the events give them once and without length
            raw = re.sub(r"^(.+)\1$", r"\1", raw.removesuffix("ː"))
        for label in (raw,) if raw.startswith("(") else event_labels(raw, labels):
            if label[0] in VOWEL_ORDER or found[-1:] != [label]:
                found.append(label)
    return tuple(found)


def read_events(events: Sequence[tuple[str, int]], labels: Mapping[str, str]) -> Phones:
    """Labels and first sample of each event. An event without audio of its own is joined to the one before it."""
    phones: list[tuple[tuple[str, ...], int]] = []
    kept = [(name, sample) for name, sample in events if not name.startswith("(")]
    for index, (name, sample) in enumerate(kept):
        found = event_labels(name, labels)
        if found and phones and phones[-1][0] and index + 1 < len(kept) and kept[index + 1][1] == sample:
            phones[-1] = (phones[-1][0] + found, phones[-1][1])
        else:
            phones.append((found, sample))
    return phones


def event_labels(name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The labels of an event: none for a pause, two for a vowel and the sonorant that espeak-ng fuses with it."""
    raw = unicodedata.normalize("NFD", name.strip(_PROSODY))
    if not raw:
        return ()
    label = normalise_ipa(labels.get(raw, TABLES["espeak"].get(raw, raw)))
    composite = None if raw in labels else _COMPOSITE.match(label)
    return composite.groups() if composite else (label,)


def find_starts(phones: Phones, said: np.ndarray, rate: int) -> list[int]:
    """Where each phone or pause begins, in samples.

    A voiceless stop begins with its closure, the silence before its event. A vowel after a voiced consonant of
    `RELEASE_LAG` begins that much earlier than its event.
    """
    import numpy as np

    loud = np.flatnonzero(np.abs(said.astype(np.int32)) > SILENCE_LEVEL)
    slack = round(0.002 * rate)  # the burst may begin a few samples before its event
    starts: list[int] = []
    for index, (names, sample) in enumerate(phones):
        before = phones[index - 1][0] if index else ()
        earliest = starts[-1] + 1 if starts else 0
        start = sample
        if names and names[0][0] in _STOPS:
            sounding = loud[: np.searchsorted(loud, sample - slack)]
            start = int(sounding[-1]) + 1 if len(sounding) else 0
            if not before:
                start = max(start, sample - round(MAX_INITIAL_CLOSURE * rate))
        elif names and before and names[0][0] in VOWEL_ORDER:
            start = sample - round(RELEASE_LAG.get(_letters(before[-1]), 0.0) * rate)
        starts.append(max(start, earliest))
    return starts


def _letters(label: str) -> str:
    """The label without its combining marks and length: "d̪" is "d", but "d͡ʒ" is "dʒ" and "bʱ" stays."""
    return "".join(character for character in label if not unicodedata.combining(character) and character != "ː")


def find_segments(
    phones: Phones, starts: Sequence[int], length: int, rate: int, offset: float
) -> tuple[tuple[float, float, str], ...]:
    """Segments in seconds, `offset` added to all times. A consonant said twice is one: nothing parts it."""
    segments: list[tuple[float, float, str]] = []
    for (names, _), start, end in zip(phones, starts, [*starts[1:], length], strict=True):
        for index, name in enumerate(names):
            begin, finish = (offset + (start + (end - start) * part / len(names)) / rate for part in (index, index + 1))
            if segments and segments[-1][2] == name and segments[-1][1] == begin and name[0] not in VOWEL_ORDER:
                begin = segments.pop()[0]
            segments.append((begin, finish, name))
    return tuple(segments)
