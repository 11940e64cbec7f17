"""A small copy of Common Voice pa-IN as it is distributed, with TextGrids as VoxCommunis gives them out.

python -m tests.corpora_like.common_voice FOLDER

makes FOLDER/cv-corpus-17.0-2024-03-15/pa-IN and FOLDER/textgrids. Odd on purpose: sentences with quotes, a tab and a line break,
which the lists do not quote; a clip without a TextGrid, a TextGrid without a clip, a line without a clip; clips that are not
validated; `spn`, `sil` and empty marks; a tier named with the speaker; "ʰ" as a phone of its own, and IPA in other spellings.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import soundfile

from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from tests.corpora_like.sounds import spoken

WORDS = {
    "ਘਰ": "k ə ɾ", "ਚਾਹ": "t͡ʃ ɑ ɦ", "ਗੱਲ": "g ə lː", "ਕੀ": "k i", "ਦੋ": "d̪ o", "ਤੂੰ": "t̪ ũ", "ਸੋਨਾ": "s o n ɑ", "ਜਲ": "dʒ ə l",
    "ਠੱਗ": "ʈ ʰ ə ɡ", "ਚੂਨਾ": "ʧ u n ɑ", "ਲਾਲ": "l ɑ l", "ਸਾਰਾ": "s ɑ ɾ ɑ",
}  # fmt: skip
PHONEMES = "k ə ɾ t͡ʃ ɑ ɦ ɡ lː i d̪ o t̪ ũ s n d͡ʒ l ʈʰ u".split()
SPEAKERS = {"train": ("ajit", "bani", "channi", "dev"), "dev": ("esha", "fateh"), "test": ("gita", "harpal", "inder")}
N_CLIPS, PHONE_SECONDS = 3, 0.09
SILENT = ("", "sil", "spn")
OLD = "client_id path sentence up_votes down_votes age gender accents locale segment".split()
NEW = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment".split()
UNALIGNED, NO_CLIP, STRAY = "common_voice_pa-IN_20001", "common_voice_pa-IN_29999", "common_voice_pa-IN_28888"


def client_id(speaker: str) -> str:
    """A speaker's hash of 128 hex digits."""
    return hashlib.sha512(speaker.encode()).hexdigest()


def make(
    folder: Path, columns: list[str] = NEW, shared: bool = False, release: str = "cv-corpus-17.0-2024-03-15"
) -> Path:
    """Write the copy into `folder`; gives the folder of the language. With `shared` a speaker is in two official parts."""
    corpus, textgrids = folder / release / "pa-IN", folder / "textgrids"
    (corpus / "clips").mkdir(parents=True)
    textgrids.mkdir()
    lists: dict[str, list[tuple[str, str, str]]] = {name: [] for name in ("train", "dev", "test", "validated", "other")}
    number = 20000
    for part, speakers in SPEAKERS.items():
        for speaker in speakers:
            for take in range(N_CLIPS):
                number += 1
                name = f"common_voice_pa-IN_{number}"
                text = _write_clip(corpus / "clips", textgrids, name, speaker, number)
                row = (client_id(speaker), f"{name}.mp3", _odd(text, take))
                lists["validated"].append(row)
                lists["train" if shared and number == 20019 else part].append(row)
    lists["validated"].append((client_id("ajit"), f"{NO_CLIP}.mp3", "ਗੁੰਮ"))
    _write_clip(corpus / "clips", None, "common_voice_pa-IN_27777", "nobody", 27777)
    lists["other"].append((client_id("nobody"), "common_voice_pa-IN_27777.mp3", "ਹੋਰ"))
    write_textgrid(textgrids / f"{STRAY}.TextGrid", 1.0, {"words": [(0.0, 1.0, "ਗੁੰਮ")], "phones": [(0.0, 1.0, "ɑ")]})
    for name, rows in lists.items():
        lines = ["\t".join(columns)]
        for speaker, path, sentence in rows:
            cells = dict.fromkeys(columns, "") | {"client_id": speaker, "path": path, "sentence": sentence}
            cells |= {"up_votes": "2", "down_votes": "0", "locale": "pa-IN"}
            lines.append("\t".join(cells[column] for column in columns))
        (corpus / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return corpus


def _odd(text: str, take: int) -> str:
    """A sentence as people type it in: with one quotation mark, and sometimes a tab or a line break."""
    return (f'"{text}', text.replace(" ", "\t", 1), text.replace(" ", "\n", 1))[take]


def _write_clip(clips: Path, textgrids: Path | None, name: str, speaker: str, seed: int) -> str:
    """Write the clip as MP3 at 32 kHz, and its TextGrid; gives the sentence."""
    words, phones, at = [], [(0.0, 0.2, SILENT[seed % 2])], 0.2
    said = np.random.default_rng(seed).permutation(list(WORDS)).tolist()
    for place, word in enumerate(said):
        start = at
        for label in WORDS[word].split() if (place, seed % 3) != (4, 0) else ["spn"]:
            phones.append((round(at, 2), round(at + PHONE_SECONDS, 2), label))
            at = round(at + PHONE_SECONDS, 2)
        words.append((start, at, word))
    seconds = round(at + 0.2, 2)
    heard = [(start, end, {"ʧ": "t͡ʃ", "ɡ": "g"}.get(label, label)) for start, end, label in phones]
    samples = np.repeat(spoken(heard, seconds, speaker, SILENT), 2)
    soundfile.write(clips / f"{name}.mp3", samples, 2 * SAMPLE_RATE)
    if textgrids is not None and name != UNALIGNED:
        prefix = f"{client_id(speaker)[:8]} - " if seed % 5 == 0 else ""
        write_textgrid(textgrids / f"{name}.TextGrid", seconds, {f"{prefix}words": words, f"{prefix}phones": phones})
    return " ".join(said)


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
