"""The process in which espeak-ng runs: a JSON job on standard input, events and audio on standard output.

espeak-ng keeps state from call to call and does not survive threads: the same calls in the same order in a fresh
process give the same bytes, another order gives others. So `corpora.espeak` starts this module anew for every job:

    python -m mtl_speech.corpora.voice.espeak_worker

The library is GPL-3 and optional; nothing but this module loads it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: audio goes to the callback
PHONEME_EVENTS, PHONEME_IPA, DONT_EXIT = 0x1, 0x2, 0x8000  # options of espeak_Initialize
UTF8 = 1
IPA_BLANK_BETWEEN = 0x2 | ord(" ") << 8  # phoneme mode of espeak_TextToPhonemes
RATE, PITCH = 1, 3  # espeak_PARAMETER
LIST_TERMINATED, PHONEME = 0, 7  # espeak_EVENT_TYPE


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms: `sample` cut
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_ubyte * 8),  # UTF-8, ends at the first zero byte if there is one
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),  # a priority byte, then the name of the language
        ("identifier", ctypes.c_char_p),  # path of the voice file, then "+" and the variant
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Engine:
    """espeak-ng, initialised. At most one in a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self._lib.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        # espeak-ng holds at most 160 bytes of the path to its data: go there and name it relatively.
        os.chdir(Path(espeakng_loader.get_data_path()).parent)
        options = PHONEME_EVENTS | PHONEME_IPA | DONT_EXIT
        self.sample_rate: int = self._lib.espeak_Initialize(SYNCHRONOUS, 0, b".", options)
        if self.sample_rate <= 0:
            raise RuntimeError("espeak-ng could not be initialised: its data is missing or damaged")
        self.version = self._lib.espeak_Info(None).decode()
        self._audio: list[bytes] = []
        self._events: list[tuple[str, int]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only its address
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._audio.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != LIST_TERMINATED:
            event = events[index]
            if event.type == PHONEME:
                name = bytes(event.id).split(b"\0")[0].decode("utf-8", errors="replace")
                self._events.append((name, event.sample))
            index += 1
        return 0

    def set_voice(self, voice: str, variant: str) -> None:
        """Sets a voice and checks that it was set: espeak-ng keeps the previous one, or drops the variant, in silence.

        Raises:
            LookupError: there is no such voice or variant.
        """
        status = self._lib.espeak_SetVoiceByName((f"{voice}+{variant}" if variant else voice).encode())
        current = self._lib.espeak_GetCurrentVoice().contents
        path, _, found = (current.identifier or b"").decode().partition("+")
        names = {path, path.rpartition("/")[2], (current.languages or b"")[1:].decode(), (current.name or b"").decode()}
        if status != 0 or voice.casefold() not in {name.casefold() for name in names}:
            raise LookupError(f"espeak-ng has no voice '{voice}'")
        if found != variant:
            raise LookupError(f"espeak-ng has no voice variant '{variant}'")

    def say(self, text: str, rate: int, pitch: int) -> tuple[list[tuple[str, int]], bytes]:
        """Phoneme events (IPA as espeak-ng writes it, sample at which it begins) and 16-bit samples."""
        self._audio, self._events = [], []
        self._lib.espeak_SetParameter(RATE, rate, 0)
        self._lib.espeak_SetParameter(PITCH, pitch, 0)
        data = text.encode()
        status = self._lib.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng could not say '{text}' (status {status})")
        return self._events, b"".join(self._audio)

    def pronounce(self, text: str) -> str:
        """The phonemes of the text in IPA with blanks between, without saying it."""
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        while rest.value:
            clause = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), UTF8, IPA_BLANK_BETWEEN)
            clauses.append((clause or b"").decode())
        return " ".join(clauses)


def _run(job: dict[str, Any], output: BinaryIO) -> None:
    """Answers each request with a line of JSON and, where it is to be said, its samples."""
    engine = Engine()
    set_to: tuple[str, str] | None = None
    for request in job["requests"]:
        voice = (request["voice"], request["variant"])
        if voice != set_to:
            engine.set_voice(*voice)
            set_to = voice
        head: dict[str, Any] = {"version": engine.version, "sample_rate": engine.sample_rate, "bytes": 0}
        audio = b""
        if job["audio"]:
            head["events"], audio = engine.say(request["text"], request["rate"], request["pitch"])
            head["bytes"] = len(audio)
        else:
            head["phonemes"] = engine.pronounce(request["text"])
        output.write(json.dumps(head).encode() + b"\n" + audio)


def main() -> int:
    """Runs the job on standard input; an error that a person can act on goes out as {"error": ...}."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library itself prints goes to standard error
    job = json.load(sys.stdin)
    with output:
        try:
            _run(job, output)
        except (LookupError, OSError, RuntimeError) as error:
            output.write(json.dumps({"error": str(error)}).encode() + b"\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
