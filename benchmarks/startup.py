"""How long the command line takes to say what it can do, against a Python that does nothing.

python benchmarks/startup.py --output results/benchmarks
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import machine, number, table, write_results

from mtl_speech.commands.cli import main as program
from mtl_speech.core.terminal import progress, show_bars

TARGET = 4.0
FLOOR, CLICK = "python -c pass", "python -c 'import click'"


def command_lines() -> dict[str, list[str]]:
    """What is started, by its name in the table: the floor first."""
    own = [["--help"], *([name, "--help"] for name in sorted(program.commands))]
    lines = {FLOOR: ["-c", "pass"], CLICK: ["-c", "import click"]}
    return lines | {" ".join(["mtl-speech", *words]): ["-m", "mtl_speech", *words] for words in own}


def seconds(arguments: Sequence[str], bytecode: str) -> float:
    """Processor seconds of one run of Python with these arguments. Raises CalledProcessError where it fails.

    What Python compiles goes to the folder `bytecode`, so that no run but the first compiles, as with an installed package.
    """

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    before = used()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)
    return used() - before


def run(repeats: int) -> dict[str, Any]:
    """All figures. The commands take turns, so that a machine that slows down slows all of them."""
    lines = command_lines()
    found: dict[str, list[float]] = {name: [] for name in lines}
    with tempfile.TemporaryDirectory() as bytecode:
        for _ in progress(range(1 + repeats), "start-up"):
            for name, arguments in lines.items():
                found[name].append(seconds(arguments, bytecode))
    medians = {name: statistics.median(times[1:]) for name, times in found.items()}  # the first compiles
    rows = [{"row": n, "cpu_ms": 1e3 * m, "to_floor": m / medians[FLOOR]} for n, m in medians.items()]
    worst = max(row["to_floor"] for row in rows)
    return {"machine": machine(1), "repeats": repeats, "rows": rows, "worst": worst, "target": TARGET}


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder to write to")
    parser.add_argument("--repeats", type=int, default=30, help="runs of each command")
    given = parser.parse_args(arguments)
    with show_bars():
        data = run(given.repeats)
    text = table(
        ["command", "CPU ms", f"× {FLOOR}"],
        [[row["row"], number(row["cpu_ms"], 1), number(row["to_floor"])] for row in data["rows"]],
    )
    met = "met" if data["worst"] <= TARGET else "missed"
    write_results(given.output, "startup", data, f"{text}\n\nWorst {data['worst']:.2f}, target ≤ {TARGET:g}: {met}.")


if __name__ == "__main__":
    main(sys.argv[1:])
