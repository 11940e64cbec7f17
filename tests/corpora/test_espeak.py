"""espeak-ng says what it is asked, the same each time, and its events become phones with times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl_speech.core.errors import MtlSpeechError, UsageError
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.voice.espeak import (
    Request,
    Speech,
    espeak_available,
    find_starts,
    pronounce,
    pronunciation,
    read_events,
    speak,
    timed_segments,
)
from mtl_speech.corpora.voice.synthetic import (
    LABELS,
    punjabi_words,
    sayable_words,
)

needs_espeak = pytest.mark.skipif(
    not espeak_available(), reason="espeakng-loader is not installed: pip install 'mtl_speech[synthetic]'"
)


RATE = 22_050  # Hz: espeak-ng's own


def synthesise(words: list[str], voice: str, labels: Mapping[str, str] | None = None, **how: Any) -> list[Speech]:
    """Each word said by itself, in order, with one voice."""
    return list(speak([Request(word, voice, **how) for word in words], labels=labels))


def test_events_lose_stress_pauses_and_switches_and_composites_are_parted() -> None:
    events = [
        ("(en)", 0),
        ("ˈɑːɹ", 0),
        ("", 100),
        ("r.", 200),
        ("ˌa\u0303", 300),
        ("əl", 400),
        ("aɪɚ", 500),
        ("(pa)", 600),
    ]
    found = [("ɑː", "ɹ"), (), ("ɽ",), ("ɑ̃",), ("ə", "l"), ("aɪ", "ɚ")]
    assert read_events(events, {"a\u0303": "ɑ\u0303"}) == list(zip(found, [0, 100, 200, 300, 400, 500], strict=True))


def test_event_without_audio_shares_the_time_of_the_one_before() -> None:
    phones = read_events([("ˈɜː", 0), ("l", 200), ("", 200)], {})
    assert phones == [(("ɜː", "l"), 0), ((), 200)]
    assert timed_segments(phones, [0, 200], 300, 100, 0.5) == ((0.5, 1.5, "ɜː"), (1.5, 2.5, "l"))


def test_closure_belongs_to_the_stop_and_transition_to_the_vowel() -> None:
    said = np.full(RATE, 3000, dtype=np.int16)
    said[: RATE // 10] = 0  # a silent beginning of 100 ms, of which 50 are the closure of the first k
    said[RATE // 2 - 1000 : RATE // 2 + 10] = 0  # the event comes a few samples before the burst
    phones = [(("k",), RATE // 10), (("ɑ",), 4000), (("k",), RATE // 2), (("n",), 14000), (("i",), 16000), ((), 20000)]
    starts = find_starts(phones, said, RATE)
    assert starts[0] == RATE // 10 - round(0.05 * RATE)
    assert starts[2] == RATE // 2 - 1000
    assert starts[4] == 16000 - round(0.02 * RATE)
    assert [starts[1], starts[3], starts[5]] == [4000, 14000, 20000]


def test_pronunciation_has_long_consonants_once_and_marks_switches() -> None:
    assert pronunciation("ˈʌ kʰː ə ʈʈ ˌiː i (en)m eɪ", {"ʌ": "ə"}) == (
        "ə",
        "kʰ",
        "ə",
        "ʈ",
        "iː",
        "i",
        "(en)",
        "m",
        "eɪ",
    )


@pytest.mark.parametrize("settings", [{"rate": 129}, {"rate": 231}, {"pitch": 100}])
def test_settings_outside_the_measured_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is not from"):
        Request("ਘਰ", "pa", "", **settings)


@needs_espeak
@pytest.mark.parametrize(("voice", "variant"), [("xx", ""), ("en-gb", ""), ("pa", "zzz"), ("pa", "F1")])
def test_voice_that_espeak_would_replace_in_silence_is_refused(voice: str, variant: str) -> None:
    with pytest.raises(MtlSpeechError, match=f"has no voice .*'{variant or voice}'"):
        list(speak([Request("ਘਰ", "pa", "m3"), Request("ਘਰ", voice, variant)]))


@needs_espeak
def test_same_requests_give_the_same_audio_in_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["ਘਰ", "ਪਾਣੀ", "ਹਵਾ"]
    once = synthesise(words, "pa", variant="f1", rate=200, pitch=40)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise ImportError", encoding="utf-8")  # must not get into the worker
    synthesise(words[::-1], "pa")
    again = synthesise(words, "pa", variant="f1", rate=200, pitch=40)
    assert [speech.segments for speech in once] == [speech.segments for speech in again]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(once, again, strict=True))
    assert once[0].samples.dtype == np.int16


def fundamental(speech: Speech) -> float:
    """Fundamental frequency of the first ɑ, in Hz, by the autocorrelation of its envelope."""
    start, end = next((start, end) for start, end, label in speech.segments if label == "ɑ")
    vowel = speech.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)].astype(np.float64)
    envelope = np.convolve(np.abs(vowel), np.hanning(SAMPLE_RATE // 400), "valid")
    envelope -= envelope.mean()
    correlation = np.correlate(envelope, envelope, "full")[len(envelope) - 1 :]
    shortest = SAMPLE_RATE // 300
    return SAMPLE_RATE / (shortest + int(np.argmax(correlation[shortest : SAMPLE_RATE // 90])))


@needs_espeak
def test_voice_rate_and_pitch_take_effect() -> None:
    settings = (("m3", 175, 50), ("m3", 130, 50), ("m3", 175, 90), ("m3", 175, 50), ("f1", 175, 50))
    requests = [Request("ਪਾਣੀ", "pa", variant, rate, pitch) for variant, rate, pitch in settings]
    plain, slow, high, back, woman = speak(requests, labels=LABELS)
    assert len(slow.samples) > 1.15 * len(plain.samples)
    assert fundamental(high) > 1.3 * fundamental(plain)
    assert fundamental(back) == pytest.approx(fundamental(plain), rel=0.1)
    assert fundamental(woman) > 1.3 * fundamental(plain)


@needs_espeak
def test_pronunciations_are_what_is_said() -> None:
    usable = sayable_words()
    words = [word for index, word in enumerate(punjabi_words()) if index in usable][::40]
    said = synthesise(words, "pa", labels=LABELS)
    assert [tuple(label for *_, label in each.segments) for each in said] == pronounce(words, "pa", labels=LABELS)
