"""A small copy of TIMIT: the tree in upper or lower case, audio as NIST SPHERE or RIFF under the name .WAV, labels in samples.

python -m tests.corpora_like.timit FOLDER

makes FOLDER/TIMIT in upper case with SPHERE audio. Odd on purpose: SA sentences, a glottal stop, closures with and without their
release, speakers of TEST that are in no split.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from mtl_speech.corpora.audio import SAMPLE_RATE
from tests.corpora_like.sounds import spoken

WORDS = {
    "tea": "tcl t iy", "shoe": "sh ux", "man": "m ae n", "book": "bcl b uh kcl k", "zoo": "z uw", "only": "q ow n l iy",
    "garage": "gcl g axr aa zh", "bottle": "bcl b ao dx el", "button": "bcl b ah q en", "the": "dh ax", "dish": "dcl d ix sh",
    "hat": "hv ae tcl", "judge": "dcl jh ah dcl jh", "winner": "w ih nx axr", "am": "ax m", "put": "pcl p ax-h tcl t",
}  # fmt: skip
SPEAKERS = {
    "TRAIN": (("DR1", "FCJF0"), ("DR1", "MCPM0"), ("DR2", "FAEM0"), ("DR3", "MADC0"), ("DR8", "MBSB0")),
    "TEST": (("DR1", "MDAB0"), ("DR1", "FELC0"), ("DR1", "FAKS0"), ("DR4", "FADG0"), ("DR5", "MAHH0")),
}
SENTENCES = ("SA1", "SI648", "SX37", "SX127", "SX217")
SAID_BY_ALL = ("hat", "zoo", "tea", "only")  # of SA1
SILENT = ("h#", "pau", "epi", "bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "q")


def make(folder: Path, upper: bool = True, sphere: bool = True) -> Path:
    """Write the copy into `folder`; gives the folder of the corpus."""
    corpus = folder / _cased("TIMIT", upper)
    for part, speakers in SPEAKERS.items():
        for region, speaker in speakers:
            place = corpus / _cased(part, upper) / _cased(region, upper) / _cased(speaker, upper)
            place.mkdir(parents=True)
            for number, name in enumerate(SENTENCES):
                rng = np.random.default_rng([number, *speaker.encode()])
                text = SAID_BY_ALL if name == "SA1" else rng.permutation(list(WORDS)).tolist()
                _write_sentence(place, name, text, speaker, upper, sphere)
    return corpus


def _write_sentence(place: Path, name: str, text: Sequence[str], speaker: str, upper: bool, sphere: bool) -> None:
    phones, words, at = [(0, 2000, "h#")], [], 2000
    for index, word in enumerate(text):
        start = at
        for label in WORDS[word].split():
            n = 500 if label.endswith("cl") else 1400
            phones.append((at, at + n, label))
            at += n
        words.append((start, at, word))
        if index == len(text) // 2:
            phones.append((at, at + 1200, "pau"))
            at += 1200
    phones.append((at, at + 2400, "h#"))
    at += 2400
    spans = [(start / SAMPLE_RATE, end / SAMPLE_RATE, label) for start, end, label in phones]
    samples = np.round(spoken(spans, at / SAMPLE_RATE, speaker, SILENT) * 32_000).astype("<i2")
    path = place / _cased(f"{name}.WAV", upper)
    if sphere:
        path.write_bytes(sphere_header(len(samples), f"{speaker}_{name}".lower()) + samples.tobytes())
    else:
        soundfile.write(path, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    for suffix, rows in ((".PHN", phones), (".WRD", words), (".TXT", [(0, at, f"{' '.join(text).capitalize()}.")])):
        lines = "".join(f"{start} {end} {label}\n" for start, end, label in rows)
        (place / _cased(f"{name}{suffix}", upper)).write_text(lines, encoding="ascii")


def sphere_header(n_samples: int, utterance: str, coding: str = "") -> bytes:
    """The 1,024 bytes before the samples; TIMIT itself does not name a coding."""
    fields = [
        "database_id -s5 TIMIT", "database_version -s3 1.0", f"utterance_id -s{len(utterance)} {utterance}",
        "channel_count -i 1", f"sample_count -i {n_samples}", f"sample_rate -i {SAMPLE_RATE}", "sample_n_bytes -i 2",
        "sample_byte_format -s2 01", "sample_sig_bits -i 16",
    ]  # fmt: skip
    if coding:
        fields.append(f"sample_coding -s{len(coding)} {coding}")
    return "\n".join(["NIST_1A", "   1024", *fields, "end_head", ""]).encode("ascii").ljust(1024, b" ")


def _cased(name: str, upper: bool) -> str:
    return name if upper else name.lower()


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
