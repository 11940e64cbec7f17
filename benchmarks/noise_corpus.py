"""Corpora of noise bursts with TextGrids, made up for the benchmarks: each phoneme is noise through a filter of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import soundfile

from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.phonology.phonemes import UnmappableLabel, to_ipa

SECONDS = 0.09  # of a phone; so much silence lies before the first and behind the last
VARIANTS = 16  # different bursts of a phoneme


def phoneme_names(n: int) -> list[str]:
    """`n` different phonemes in IPA."""
    found: list[str] = []
    for mark, letter in itertools.product(
        ("", "ː", "ʰ", "ʷ", "ʲ"), "aeioupbtdkgfvszmnlrjwhɐɑɒəɛɪɔʊʌɓɖɗɟɢɣɦɬɭɮɲɳɴɹɻʀʁʂʃʈʋʎʐʑʒθχçβɕɸ"
    ):
        try:
            ipa = to_ipa(letter + mark, "ipa")
        except UnmappableLabel:
            continue
        if ipa is not None and ipa not in found:
            found.append(ipa)
    return found[:n]


def bursts(n_phonemes: int, seed: int) -> np.ndarray:
    """Noise bursts (n_phonemes, VARIANTS, n_samples): one resonance each, at a pitch of its own."""
    rng = np.random.default_rng(seed)
    n = round(SECONDS * SAMPLE_RATE)
    frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    centres = 150.0 * (6500.0 / 150.0) ** (np.arange(n_phonemes) / n_phonemes)
    response = 0.02 + 1.0 / (1.0 + ((frequency - centres[:, None]) / (0.1 * centres[:, None])) ** 2)
    noise = rng.standard_normal((n_phonemes, VARIANTS, n))
    made = np.fft.irfft(np.fft.rfft(noise) * response[:, None], n=n)
    return (0.1 * made / made.std(axis=2, keepdims=True)).astype(np.float32)


def make_noise_corpus(
    folder: Path, n_segments: int, n_phonemes: int, per_recording: int, n_speakers: int = 8, seed: int = 0
) -> float:
    """Write recordings of `per_recording` phones, all phonemes equally often; returns their seconds in all."""
    rng = np.random.default_rng(seed)
    names, sounds = phoneme_names(n_phonemes), bursts(n_phonemes, seed)
    labels = rng.permutation(np.arange(n_segments) % n_phonemes)
    silence, seconds = np.zeros(sounds.shape[2], dtype=np.float32), 0.0
    for number, spoken in enumerate(np.split(labels, range(per_recording, n_segments, per_recording))):
        path = folder / f"s{number % n_speakers}" / f"u{number:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = [sounds[label, rng.integers(VARIANTS)] for label in spoken]
        samples = np.concatenate([silence, *parts, silence])
        samples += 0.002 * rng.standard_normal(len(samples)).astype(np.float32)
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        times = np.round(SECONDS * np.arange(1, len(spoken) + 2), 4).tolist()
        phones = [(times[i], times[i + 1], names[c]) for i, c in enumerate(spoken.tolist())]
        duration = len(samples) / SAMPLE_RATE
        write_textgrid(path.with_suffix(".TextGrid"), duration, {"phones": phones})
        seconds += duration
    return seconds
