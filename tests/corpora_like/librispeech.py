"""A small copy of LibriSpeech as it is distributed, with alignments as the Montreal Forced Aligner leaves them.

python -m tests.corpora_like.librispeech FOLDER

makes FOLDER/LibriSpeech and FOLDER/alignments. Odd on purpose: a recording without a TextGrid, a chapter without any, `spn` for
a word that the aligner did not know, silence written "sil", "sp" and "", an empty line in a .trans.txt, a TextGrid of no recording.
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
    "TEA": "T IY1", "SHOE": "SH UW1", "MAN": "M AE1 N", "BOOK": "B UH1 K", "ZOO": "Z UW1", "NAME": "N EY1 M",
    "KEY": "K IY1", "BAT": "B AE1 T", "SEES": "S IY1 Z", "ABOUT": "AH0 B AW1 T", "MOON": "M UW1 N",
}  # fmt: skip
SPEAKERS = {
    "train-clean-100": ("103", "1034", "26", "4014", "19", "8975"),
    "dev-clean": ("84", "174", "2277"),
    "test-clean": ("61", "121", "8555"),
}
N_UTTERANCES, N_WORDS, PHONE_SECONDS = 4, 9, 0.09
SILENT = ("", "sil", "sp")
UNALIGNED = "train-clean-100/103/1240/103-1240-0003"  # has no TextGrid
BARE_CHAPTER = ("train-clean-100", "8975", "270782")  # the only chapter of which no recording has one


def make(folder: Path) -> Path:
    """Write the copy into `folder`; gives the folder of the corpus. The alignments lie beside it, in `alignments`."""
    corpus = folder / "LibriSpeech"
    rows = ["; the speakers of a small copy", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            chapters = ("1240", "1241") if speaker == "103" else ("270782",)
            for chapter in chapters:
                _write_chapter(folder, split, speaker, chapter)
            rows.append(f"{speaker:<5}| {'FM'[int(speaker) % 2]} | {split:<17}| 0.15  | Reader {speaker}, of the copy")
    (corpus / "SPEAKERS.TXT").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (corpus / "CHAPTERS.TXT").write_text(
        ";ID    |READER|MINUTES| SUBSET | PROJ.|BOOK ID| TITLE | TITLE\n", encoding="utf-8"
    )
    stray = folder / "alignments" / "dev-clean" / "84" / "9" / "84-9-0000.TextGrid"
    stray.parent.mkdir(parents=True)
    write_textgrid(stray, 1.0, {"words": [(0.0, 1.0, "GONE")], "phones": [(0.0, 1.0, "AA1")]})
    return corpus


def _write_chapter(folder: Path, split: str, speaker: str, chapter: str) -> None:
    place = Path(split) / speaker / chapter
    (folder / "LibriSpeech" / place).mkdir(parents=True)
    bare = (split, speaker, chapter) == BARE_CHAPTER
    if not bare:
        (folder / "alignments" / place).mkdir(parents=True)
    lines = []
    for number in range(N_UTTERANCES):
        name = f"{speaker}-{chapter}-{number:04}"
        rng = np.random.default_rng([int(speaker), int(chapter), number])
        text = [*rng.choice(list(WORDS), N_WORDS), *(["QUIXOTIC"] if number == 1 else [])]
        words, phones, seconds = aligned(text, number)
        samples = spoken(phones, seconds, speaker, SILENT)
        soundfile.write(folder / "LibriSpeech" / place / f"{name}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        if not bare and (place / name).as_posix() != UNALIGNED:
            path = folder / "alignments" / place / f"{name}.TextGrid"
            write_textgrid(path, seconds, {"words": words, "phones": phones})
        lines.append(f"{name} {' '.join(text)}\n")
    lines.insert(2, "\n")
    (folder / "LibriSpeech" / place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")


def aligned(
    text: list[str], number: int
) -> tuple[list[tuple[float, float, str]], list[tuple[float, float, str]], float]:
    """The words and phones of a text with their times, and the seconds in all; a word that is not known is one "spn"."""
    pause = SILENT[number % len(SILENT)]
    words, phones, at = [], [(0.0, 0.2, pause)], 0.2
    for word in text:
        start = at
        for phone in WORDS.get(word, "spn").split():
            phones.append((round(at, 2), round(at + PHONE_SECONDS, 2), phone))
            at = round(at + PHONE_SECONDS, 2)
        words.append((start, at, word if word in WORDS else "<unk>"))
    phones.append((at, round(at + 0.3, 2), "sp" if pause else ""))
    return words, phones, round(at + 0.3, 2)


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
