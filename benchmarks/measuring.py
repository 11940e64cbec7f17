"""What the benches share: the machine's description, peak memory, tables, and the files that a bench writes."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtl_speech.core.files import atomic_write


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(models) or None,
        "threads": threads,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def peak_memory(step: Callable[[], object]) -> int | None:
    """Bytes that the process grows by at most while it takes a step; None where the system cannot tell (it is not Linux).

    The high-water mark of resident memory is reset first, and what the allocator keeps of earlier steps is given back, so steps
    in one process do not see each other.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        step()
        return None
    step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns after the first are flush right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def number(value: float | None, digits: int = 2) -> str:
    """A figure of a table; nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def write_results(folder: Path, name: str, data: dict[str, Any], tables: str) -> None:
    """Write `data`, whose key "machine" tells what it was measured on, as `name`.json; the tables as `name`.md; print them."""
    text = "Machine: " + ", ".join(f"{key} {value}" for key, value in data["machine"].items()) + f".\n\n{tables}\n"
    atomic_write(folder / f"{name}.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    atomic_write(folder / f"{name}.md", text)
    print(text)
