"""A small folder of recordings as a linguist has them: a folder a speaker, TextGrids as Praat, the aligner and others write them.

python -m tests.corpora_like.own_data FOLDER

makes FOLDER/my-recordings and FOLDER/another-session. Odd on purpose, but all of it of use: a TextGrid in UTF-16, a tier "Phones",
affricates with a tie, without and as a ligature, FLAC and MP3 beside WAV. With --problems also what is not: a recording
without a TextGrid, a TextGrid without a recording, a label that is no phoneme.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from tests.corpora_like.sounds import spoken

WORDS = {
    "ʧaka": "ʧ a k a",
    "tʃiku": "tʃ i k u",
    "suta": "s u t a",
    "misa": "m i s a",
    "kut͡ʃi": "k u t͡ʃ i",
    "nama": "n a m a",
}
PHONEMES = {"t͡ʃ", "a", "k", "i", "u", "s", "t", "m", "n"}
SPEAKERS, PHONE_SECONDS = ("asha", "bir", "chand", "deep", "esha"), 0.1
FORMATS = ("wav", "flac", "mp3")  # of the recordings of a speaker


def make(folder: Path, problems: bool = False) -> Path:
    """Write the copy into `folder`; gives the folder of the recordings."""
    corpus = folder / "my-recordings"
    for number, speaker in enumerate(SPEAKERS):
        for take, suffix in enumerate(FORMATS):
            _write(corpus / speaker / f"take {take + 1}.{suffix}", speaker, 10 * number + take)
    for take in range(2):
        _write(folder / "another-session" / "fateh" / f"take {take + 1}.wav", "fateh", 90 + take)
    whole = corpus / "asha" / "take 1.TextGrid"
    text = whole.read_text(encoding="utf-8").replace('"phones"', '"Phones"')
    whole.write_bytes(text.encode("utf-16"))
    if problems:
        (corpus / "bir" / "take 1.TextGrid").unlink()
        (corpus / "chand" / "take 2.flac").unlink()
        broken = corpus / "chand" / "take 1.TextGrid"
        broken.write_text(broken.read_text(encoding="utf-8").replace('text = "k"', 'text = "Q"', 1), encoding="utf-8")
    return corpus


def _write(path: Path, speaker: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words, phones, at = [], [], 0.2
    for word in np.random.default_rng(seed).permutation(list(WORDS)).tolist():
        start = at
        for label in WORDS[word].split():
            phones.append((round(at, 2), round(at + PHONE_SECONDS, 2), label))
            at = round(at + PHONE_SECONDS, 2)
        words.append((start, at, word))
    seconds = round(at + 0.2, 2)
    heard = [(start, end, label.replace("t͡ʃ", "ʧ").replace("tʃ", "ʧ")) for start, end, label in phones]
    soundfile.write(path, spoken(heard, seconds, speaker, ()), SAMPLE_RATE)
    write_textgrid(path.with_suffix(".TextGrid"), seconds, {"words": words, "phones": phones})


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), problems="--problems" in sys.argv))
