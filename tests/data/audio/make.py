"""Makes the files of this folder anew: `python tests/data/audio/make.py`. Needs ffmpeg, which nothing else here does.

Each holds the same tones and noise, 1.5 s of them or the beginning, as ffmpeg writes them to files and to pipes: 50 kB in all.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
RATE, SECONDS = 16_000, 1.5
PIPED = {
    "vbr-pipe.mp3": "-q:a 4 -f mp3",
    "pipe.flac": "-ar 8000 -t 0.75 -f flac",
    "pipe.caf": "-ar 8000 -t 0.5 -c:a pcm_mulaw -f caf",
}
FILED = {
    "xing-and-tags.mp3": "-b:a 24k -write_id3v1 1 -metadata title=tape",
    "no-xing.mp3": "-q:a 4 -write_xing 0",
    "vorbis.ogg": "-c:a libvorbis -ar 8000",
    "opus.opus": "-c:a libopus -b:a 12k",
    "refused.m4a": "-c:a aac -b:a 8k -t 0.3",
}  # fmt: skip


def wave() -> np.ndarray:
    """A quiet tone, noise, and a tone: the frames of an MP3 of variable rate differ most in size so."""
    n = round(SECONDS * RATE) // 3
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(n) / RATE)
    return np.concatenate((tone, np.random.default_rng(0).normal(0, 0.1, n), tone))


def ffmpeg(*arguments: str) -> bytes:
    return subprocess.run(("ffmpeg", "-v", "error", "-y", *arguments), check=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, picture = Path(folder, "a.wav"), Path(folder, "a.png")
        soundfile.write(source, wave(), RATE)
        ffmpeg("-f", "lavfi", "-i", "color=c=red:s=640x640", "-frames:v", "1", str(picture))
        common = ("-i", str(source), "-bitexact")
        for name, options in PIPED.items():
            (HERE / name).write_bytes(ffmpeg(*common, *options.split(), "pipe:1"))
        for name, options in FILED.items():
            ffmpeg(*common, *options.split(), str(HERE / name))
        cover = ("-i", str(source), "-i", str(picture), "-map", "0", "-map", "1")
        ffmpeg(*cover, "-q:a", "4", "-write_xing", "0", "-write_id3v1", "1", str(HERE / "cover.mp3"))


if __name__ == "__main__":
    main()
