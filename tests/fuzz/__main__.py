"""Fuzz the readers, guided by coverage: `python -m tests.fuzz --runs 1000000`. Needs the extra `fuzz` (atheris).

The runs are shared out to all targets, or go to the one of --target. Each target runs in a process of its own, which the fuzzer
ends when one input takes more than MAX_SECONDS or the process more than MAX_MEGABYTES. What breaks a reader is kept in the folder
of --keep. The exit code is 1 when something was found.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_SECONDS = 20  # for one input, on a machine that does other things too
MAX_MEGABYTES = 2_000  # torch alone has some hundred
MAX_BYTES = 4_096  # of an input
SLOW = {
    "card_values": 0.05,
    "audio": 0.4,
    "card": 0.4,
    "mpeg": 0.2,
    "ogg": 0.3,
    "joined": 0.4,
}  # their share of the runs, against 1 of the others


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--target", help="one target alone")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs that break a reader"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.one:
        fuzz(options.one, rest)
    from tests.fuzz.targets import TARGETS

    names = [options.target] if options.target else list(TARGETS)
    shares = {name: SLOW.get(name, 1.0) for name in names}
    options.keep.mkdir(parents=True, exist_ok=True)
    total, failed, begin = 0, [], time.monotonic()
    for name in names:
        runs = -(-options.runs * shares[name] // sum(shares.values()))
        n, seconds, broken = run(name, int(runs), options.keep)
        print(f"{name:14} {n:>9,} inputs {seconds:>7.0f} s{'  BROKEN' if broken else ''}", flush=True)
        total, failed = total + n, failed + [name] * broken
    print(
        f"{'in all':14} {total:>9,} inputs {time.monotonic() - begin:>7.0f} s; {len(failed)} broken {' '.join(failed)}"
    )
    return 1 if failed else 0


def run(name: str, runs: int, keep: Path) -> tuple[int, float, bool]:
    """Fuzz one target in a process of its own. Returns how many inputs it was given, the seconds, and whether one broke it."""
    limits = [f"-runs={runs}", f"-timeout={MAX_SECONDS}", f"-rss_limit_mb={MAX_MEGABYTES}", f"-max_len={MAX_BYTES}"]
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--one",
        name,
        *limits,
        "-seed=1",
        f"-artifact_prefix={keep}/{name}-",
    ]
    begin = time.monotonic()
    with open(keep / f"{name}.log", "w+b") as log:
        done = subprocess.run([*command, "-print_final_stats=1"], stdout=log, stderr=log, check=False)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    found = re.findall(r"stat::number_of_executed_units: (\d+)|^#(\d+)\t", said, re.MULTILINE)
    n = max((int(a or b) for a, b in found), default=0)
    return n, time.monotonic() - begin, done.returncode != 0


def fuzz(name: str, arguments: list[str]) -> None:
    """Run the fuzzer in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["mtl_speech", "yaml"]):
        from tests.fuzz.targets import TARGETS, attempt
    memory = Path("/dev/shm")
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        folder, corpus = Path(place, "work"), Path(place, "corpus")
        folder.mkdir()
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *arguments, str(corpus)], lambda data: attempt(target, folder, data))
        atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
