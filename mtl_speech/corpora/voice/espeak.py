"""Synthetic speech with phone times, by espeak-ng (the optional extra `synthetic`): any language that espeak-ng has.

The times come from espeak-ng's phoneme events and are moved to where the audio changes. Figures measured on such speech say
nothing about human speech.

Measured on Punjabi at 130 to 230 words a minute as the change of the spectrum around each event: the event of a vowel
after a voiced stop, a nasal or a liquid comes 10 to 30 ms after the release (espeak-ng counts the formant transition as
the consonant's), that of a voiceless stop after its closure; nearly all others are exact to some 3 ms. So each kind has
its own shift: 57 % of 2,545 boundaries then lie within 10 ms of the largest change of the spectrum, 46 % of the events
as they come, 30 % with one shift of -10 ms for all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mtl_speech.core.errors import MtlSpeechError, UsageError
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.phonology.phone_sets import TABLES, VOWEL_ORDER
from mtl_speech.phonology.phonemes import normalise_ipa

if TYPE_CHECKING:
    import numpy as np

RATES = (130, 230)  # words a minute: outside, espeak-ng's phone times go wrong
PITCHES = (0, 99)
PADDING = 0.1  # seconds of silence before and after each utterance
SILENCE_LEVEL = 32  # of 32767
MAX_INITIAL_CLOSURE = 0.05  # seconds: after a pause, how much of the silence is a stop's closure
# Seconds by which the event of a vowel lags behind the release of the consonant before it: espeak-ng counts the formant
# transition as the consonant's. After fricatives, voiceless stops and affricates the event is exact.
RELEASE_LAG: dict[str, float] = dict.fromkeys("mɱnɳɲŋɴlɭʎɫɾrɹɻjwɥ", 0.020) | dict.fromkeys("bdɖɡɽ", 0.010)
_PROSODY = "ˈˌ+"  # stress, high tone
_STOPS = frozenset("pʈtckqʔ")
_COMPOSITE = re.compile(f"^([{''.join(VOWEL_ORDER)}][^ɹlnmɚ]*)([ɹlnmɚ].*)$")
Phones = Sequence[tuple[tuple[str, ...], int]]  # labels of an event (none: a pause) and its first sample


@dataclass(frozen=True)
class Request:
    """One utterance to be said: `rate` in words a minute (130 to 230), `pitch` from 0 to 99."""

    text: str
    voice: str
    variant: str = ""
    rate: int = 175
    pitch: int = 50

    def __post_init__(self) -> None:
        if not RATES[0] <= self.rate <= RATES[1]:
            raise UsageError(f"speaking rate {self.rate} is not from {RATES[0]} to {RATES[1]} words a minute")
        if not PITCHES[0] <= self.pitch <= PITCHES[1]:
            raise UsageError(f"pitch {self.pitch} is not from {PITCHES[0]} to {PITCHES[1]}")


@dataclass(frozen=True)
class Speech:
    """What was said: `samples` (int16, mono, `audio.SAMPLE_RATE`), phone segments
    (start and end in seconds, IPA label), and whether espeak-ng switched to another language on the way."""

    request: Request
    samples: np.ndarray
    segments: tuple[tuple[float, float, str], ...]
    switched: bool
    version: str  # of espeak-ng


def espeak_available() -> bool:
    """Whether the optional package with espeak-ng is installed. Does not load it."""
    return find_spec("espeakng_loader") is not None


def speak(requests: Sequence[Request], *, labels: Mapping[str, str] | None = None) -> Iterator[Speech]:
    """Says the requests in order, in one fresh process, so that the same requests give the same bytes.

    Args:
        requests: what to say.
        labels: from espeak-ng's IPA (without stress) to the labels wanted; what is not in it is normalised only.

    Raises:
        MtlSpeechError: espeak-ng is not installed, has no such voice or variant, or fails.
    """
    names = _decomposed(labels or {})
    for request, (head, data) in zip(requests, _answers(requests, audio=True), strict=True):
        yield _speech(request, head, data, names)


def pronounce(words: Sequence[str], voice: str, *, labels: Mapping[str, str] | None = None) -> list[tuple[str, ...]]:
    """The phones of each word without saying it, a hundred times as fast.

    They are those of `speak` but for what espeak-ng only decides while speaking. A switch to another language and
    back shows as "(en)", "(hi)", ... A long consonant is one label without length, as in the events.

    Raises:
        MtlSpeechError: espeak-ng is not installed, has no such voice, or fails.
    """
    answers = _answers([Request(word, voice) for word in words], audio=False)
    names = _decomposed(labels or {})
    return [pronunciation(head["phonemes"], names) for head, _ in answers]


def _decomposed(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels under Unicode NFD keys."""
    return {unicodedata.normalize("NFD", name): label for name, label in labels.items()}


def _answers(requests: Sequence[Request], audio: bool) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Runs the worker; per request the head of its answer and the samples as bytes."""
    if not espeak_available():
        raise MtlSpeechError("synthetic speech needs espeak-ng: pip install 'mtl_speech[synthetic]'")
    job = {"audio": audio, "requests": [asdict(request) for request in requests]}
    package = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "mtl_speech.corpora.voice.espeak_worker"]
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as messages:
        source.write(json.dumps(job).encode())
        source.seek(0)
        with subprocess.Popen(
            command, stdin=source, stdout=subprocess.PIPE, stderr=messages, env=os.environ | {"PYTHONPATH": path}
        ) as process:
            assert process.stdout is not None
            try:
                for _ in requests:
                    yield _answer(process.stdout, process, messages)
            except BaseException:
                process.kill()
                raise


def _answer(stream: IO[bytes], process: subprocess.Popen[bytes], messages: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Reads one answer of the worker."""
    line = stream.readline()
    head: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
    if "error" in head:
        raise MtlSpeechError(head["error"])
    data = stream.read(head.get("bytes", 0))
    if not head or len(data) != head["bytes"]:
        status = process.wait()
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip().splitlines()[-1:]
        raise MtlSpeechError(f"espeak-ng stopped with status {status}" + (f": {said[0]}" if said else ""))
    return head, data


def _speech(request: Request, head: dict[str, Any], data: bytes, labels: Mapping[str, str]) -> Speech:
    """An answer of the worker as labelled 16 kHz audio."""
    import numpy as np
    import soxr

    rate = head["sample_rate"]
    said = np.frombuffer(data, dtype="<i2")
    switched = any(name.startswith("(") for name, _ in head["events"])
    phones = read_events(head["events"], labels)
    segments = timed_segments(phones, find_starts(phones, said, rate), len(said), rate, PADDING)
    silence = np.zeros(round(PADDING * SAMPLE_RATE))
    resampled = soxr.resample(said.astype(np.float64), rate, SAMPLE_RATE)
    samples = np.concatenate([silence, resampled, silence]).round().clip(-32768, 32767).astype(np.int16)
    return Speech(request, samples, segments, switched, head["version"])


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


def timed_segments(
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
