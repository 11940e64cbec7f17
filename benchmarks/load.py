"""Load: validate, meta-train, adapt and evaluate on a large made-up corpus, by the command line: time and peak memory.

    nice -n 19 python benchmarks/load.py --output results/benchmarks

The whole size is 50,000 recordings with 200,000 segments of 500 phonemes; each command is measured at several fractions of it, so
that growth can be seen. The audio is buzzes of 0.6 s, one chord a phoneme: what is learned means nothing. Each command runs in a
process of its own with one thread. Time is that of the processor. The exponent is that of the size in the time (or memory) from one
fraction to the next: 1 is linear. The recordings are removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from measuring import machine, number, table, write_results

from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.phonology.phonemes import to_ipa

N_FILES, PER_FILE, N_PHONEMES, FILES_PER_SPEAKER = 50_000, 4, 500, 200
STEP = SAMPLE_RATE // 10  # samples of a phoneme, and of the silence at either end
CONSONANTS = "p b t d ʈ ɖ c ɟ k ɡ q ɢ m n ɳ ɲ ŋ f v s z ʃ ʒ ʂ ʐ x ɣ χ ʁ r l".split()
VOWELS = "i y ɨ ʉ ɯ u ɪ ʏ ʊ e ø ɘ ɵ ɤ o ə ɛ œ ɜ ʌ ɔ æ a ɑ".split()


def inventory() -> list[str]:
    """N_PHONEMES different phonemes: letters with and without modifiers."""
    labels = [
        "".join(pair) for pair in product(CONSONANTS, ("", "ʰ", "ʷ", "ʲ", "ˠ", "ː", "ʰː", "ʷʰ", "ʲʰ", "ʷː", "ʲː", "ʼ"))
    ]
    labels += ["".join(pair) for pair in product(VOWELS, ("", "ː", "\u0303", "\u0330", "\u0324", "\u0303ː"))]
    found = list(dict.fromkeys(label for label in labels if to_ipa(label, "ipa") == label))
    assert len(found) >= N_PHONEMES
    return found[:N_PHONEMES]


def make_corpus(folder: Path, n_files: int) -> None:
    """Recordings with a TextGrid beside each; a few phonemes are frequent and most are rare, as in languages."""
    rng = np.random.default_rng(0)
    names = inventory()
    seconds = np.arange(STEP) / SAMPLE_RATE
    pitches = np.exp(rng.uniform(np.log(150), np.log(6000), size=(N_PHONEMES, 4)))
    sounds = np.sin(2 * np.pi * pitches[:, :, None] * seconds).mean(1).astype(np.float32) * 0.3
    share = 1 / (np.arange(N_PHONEMES) + 20)
    phones = rng.choice(N_PHONEMES, size=(n_files, PER_FILE), p=share / share.sum())
    phones[: -(-N_PHONEMES // PER_FILE)].flat[:N_PHONEMES] = np.arange(N_PHONEMES)  # none is missing
    silence = np.zeros(STEP, dtype=np.float32)
    for place, row in enumerate(phones):
        path = folder / f"s{place // FILES_PER_SPEAKER:03}" / f"u{place:05}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.concatenate([silence, *sounds[row], silence])
        soundfile.write(path, samples + 0.02 * rng.standard_normal(len(samples)), SAMPLE_RATE, subtype="PCM_16")
        path.with_suffix(".TextGrid").write_text(textgrid([names[i] for i in row]), encoding="utf-8")


def textgrid(phones: list[str]) -> str:
    """The TextGrid of a recording in Praat's short form."""
    edges = [f"{i / 10:.1f}" for i in range(len(phones) + 3)]
    rows = zip(edges, edges[1:], ["", *phones, ""], strict=False)
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", edges[-1], "<exists>", "1"]
    lines = [*head, '"IntervalTier"', '"phones"', "0", edges[-1], str(len(phones) + 2)]
    return "\n".join([*lines, *(f'{start}\n{end}\n"{label}"' for start, end, label in rows)]) + "\n"


def commands(corpus: Path, results: Path) -> dict[str, list[str]]:
    """The command lines, in the order in which they run."""
    common = ["--threads", "1", "-q"]
    meta, adapted = results / "meta-train", results / "adapt"
    short = ["--meta-steps", "20", "--valid-tasks", "20", "--validate-every", "20"]
    data = ["--data", str(corpus)]
    adapt = ["adapt", "--lang", "und", *data, "--meta-steps", "10"]
    return {
        "validate": ["validate", str(corpus), "--lang", "und", "-q"],
        "meta-train": ["meta-train", str(corpus), "--lang", "und", *short, "-o", str(meta), *common],
        "adapt --shots 20": [*adapt, "--shots", "20", "-o", str(adapted), *common],
        "evaluate": ["evaluate", str(adapted / "pack"), *data, "-o", str(results / "evaluate"), *common],
        "adapt": [*adapt, "-o", str(results / "adapt-all"), *common],
    }


def measure(arguments: list[str], log_file: Path) -> dict[str, float]:
    """Run one command in a process of its own: seconds of processor and clock, peak memory in MB."""
    started = time.perf_counter()
    with log_file.open("w") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mtl_speech", *arguments],
            stdout=log_stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} failed ({process.returncode}):\n{log_file.read_text()[-3000:]}")
    seconds = time.perf_counter() - started
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def growth_table(rows: list[dict[str, Any]]) -> str:
    """The measurements by command, with the exponents from one size to the next."""
    lines = []
    for name in dict.fromkeys(row["command"] for row in rows):
        before: dict[str, Any] | None = None
        for row in (row for row in rows if row["command"] == name):
            exponents = ["", ""]
            if before is not None:
                size = log(row["files"] / before["files"])
                exponents = [number(log(row[key] / before[key]) / size) for key in ("cpu_seconds", "peak_mb")]
            figures = (number(row["cpu_seconds"], 0), exponents[0], number(row["peak_mb"], 0), exponents[1])
            lines.append((name, f"{row['files']:,}", f"{row['files'] * PER_FILE:,}", *figures))
            before = row
    header = ("command", "recordings", "segments", "processor s", "grows as n^", "peak MB", "grows as n^")
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fractions", nargs="+", type=Fraction, default=[Fraction(1, 16), Fraction(1, 4), Fraction(1)])
    parser.add_argument("--commands", nargs="+", help="such as 'validate' 'adapt --shots 20'; by default all")
    parser.add_argument("--work", type=Path, default=Path("/tmp/mtl-speech-load"), help="where the recordings are made")
    parser.add_argument(
        "--output", type=Path, default=Path("results/benchmarks"), help="folder for load.json and load.md"
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for fraction in options.fractions:
        n_files = round(N_FILES * fraction)
        work = options.work / str(n_files)
        shutil.rmtree(work, ignore_errors=True)
        make_corpus(work / "corpus", n_files)
        for name, arguments in commands(work / "corpus", work / "results").items():
            if options.commands is None or name in options.commands:
                rows.append({"command": name, "files": n_files, **measure(arguments, work / f"{name.split()[0]}.log")})
                print(json.dumps(rows[-1]), flush=True)
        page_bytes = {path.parent.name: path.stat().st_size for path in work.glob("results/*/report.html")}
        shutil.rmtree(work)
        data = {"machine": machine(1), "rows": rows, "page_bytes": page_bytes}
        write_results(options.output, "load", data, growth_table(rows))


if __name__ == "__main__":
    main()
