"""Speech-like audio made from labels: each phone a buzz or a hiss of its own, so that a small model can learn them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from mtl_speech.corpora.audio import SAMPLE_RATE

FRICATIVES = ("s", "sh", "f", "th", "hh", "z", "zh", "v", "ch", "jh", "t", "k", "p")


def spoken(
    spans: Sequence[tuple[float, float, str]], seconds: float, speaker: str, silent: Sequence[str]
) -> np.ndarray:
    """Samples (n,) at 16 kHz, full scale 1, of labelled spans in seconds: two formants a phone, the speaker's pitch, faint noise.

    The labels in `silent` are silence; a label in another case, or with a stress digit, sounds the same.
    """
    rng = np.random.default_rng(zlib.crc32(f"{speaker}{spans}".encode()))
    samples = 0.002 * rng.standard_normal(round(seconds * SAMPLE_RATE))
    pitch = 100.0 + zlib.crc32(speaker.encode()) % 100
    for start, end, label in spans:
        phone = label.lower().rstrip("012")
        if label in silent:
            continue
        begin, n = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE) - round(start * SAMPLE_RATE)
        time = np.arange(n) / SAMPLE_RATE
        code = zlib.crc32(phone.encode())
        low, high = 250.0 + 70.0 * (code % 11), 1200.0 + 330.0 * (code // 11 % 13)
        if phone in FRICATIVES:
            sound = np.sin(2 * np.pi * (high + 2000) * time) * (0.5 + rng.random(n))
        else:
            sound = np.sin(2 * np.pi * low * time) + 0.6 * np.sin(2 * np.pi * high * time)
            sound *= 1 + 0.5 * np.sin(2 * np.pi * pitch * time)
        samples[begin : begin + n] += 0.15 * sound * np.hanning(n + 2)[1:-1] ** 0.25
    return samples.astype(np.float32)
