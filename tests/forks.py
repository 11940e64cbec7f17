"""Commands in processes of their own that can be killed, forked from one that has loaded everything: a start takes no second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent

# Reads a command a line; answers with the number of its process, and with its status once that has ended.
SERVER = """
import json, os, resource, signal, sys, traceback
import soundfile, soxr, torch, torch._dynamo
from mtl_speech.commands import train, transcribe, workflows
from mtl_speech.features import augment
from mtl_speech.report import page, results
from mtl_speech.training import adapt, checkpoint, meta_test, pretrain
from mtl_speech.commands.cli import main

torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(job["folder"])
            for number, stream in ((1, "out"), (2, "err")):
                os.dup2(os.open(job["log"] + "." + stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
            for name, limit in job["limits"].items():
                resource.setrlimit(getattr(resource, name), (limit, limit))
            if job["before"]:
                exec(job["before"])
            main(job["arguments"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs one command at a time; `out` and `err` are what the last one said."""

    def __init__(self, log: Path) -> None:
        self.log = log
        no_cache = {"MTL_SPEECH_CACHE": f"{log}.cache", "MTL_SPEECH_CACHE_GIB": "0"}  # recordings are read every time
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **no_cache}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(
        self,
        folder: Path,
        *arguments: object,
        meanwhile: Callable[[int], None] | None = None,
        limits: dict[str, int] | None = None,
        before: str = "",
    ) -> int:
        """Run a command in `folder`; gives its exit code, or minus the number of the signal that ended it.

        `meanwhile` is called with the number of the process. `limits` are of `resource.setrlimit`, `before` is code
        that runs first.
        """
        job = {
            "folder": str(folder),
            "log": str(self.log),
            "arguments": [str(argument) for argument in arguments],
            "limits": limits or {},
            "before": before,
        }
        assert self.server.stdin is not None and self.server.stdout is not None
        print(json.dumps(job), file=self.server.stdin, flush=True)
        child = int(self.server.stdout.readline())
        if meanwhile is not None:
            meanwhile(child)
        return int(self.server.stdout.readline())

    @property
    def out(self) -> str:
        """What the last command printed."""
        return Path(f"{self.log}.out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it said on standard error."""
        return Path(f"{self.log}.err").read_text(encoding="utf-8")
