"""The disk is full, the folder cannot be written, files go away, another run is there: a clear error, and nothing is harmed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mtl_speech.commands.cli import _resources
from mtl_speech.core.files import content_hash
from mtl_speech.core.options import PretrainOptions, TranscribeOptions
from mtl_speech.core.settings import settings
from mtl_speech.corpora.label_files.elan import read_eaf
from mtl_speech.corpora.label_files.textgrid import read_textgrid
from mtl_speech.corpora.voice.espeak import espeak_available
from mtl_speech.model.pack import load_pack, save_pack
from mtl_speech.model.segmenter import new_segmenter
from mtl_speech.model.strategy import base_pack
from tests.command_line import labelled_folder, run
from tests.forks import Forks
from tests.helpers import tiny_base

META = "--n-way 3 --n-shot 1 --n-query 3 --valid-tasks 5 --meta-steps 4"
ENCODER = "--epochs 1 --channels 8 --blocks 1 --embedding-size 12 --augmented-views 0 --checkpoint-steps 1"
ON_LANGUAGE = "--lang sw --base {root}/base --meta-steps 1"
# Every command that writes, and where in the package it asks what there is.
COMMANDS = {
    "pretrain": f"pretrain {{root}}/many {ENCODER}",
    "meta-train": f"meta-train {{root}}/many --base {{root}}/base --lang sw {META} --checkpoint-steps 1",
    "adapt": f"adapt --data {{root}}/many {ON_LANGUAGE}",
    "ablate": f"ablate --data {{root}}/many {ON_LANGUAGE}",
    "evaluate": "evaluate {root}/pack --data {root}/many --base {root}/base --clips",
    "transcribe": "transcribe {root}/pack {root}/many --base {root}/base --format textgrid,eaf,ctm,json --score",
    "suggest": "suggest {root}/pack --pool {root}/pool --base {root}/base",
    "demo": "demo --base {root}/base --n-words 60 --shots 3 --meta-steps 1",
}
FAST = ("meta-train", "transcribe")  # the others are slow
WRITING = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in COMMANDS]
READING = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in COMMANDS if name != "demo"]


@dataclass
class Place:
    """Inputs in `root`, which nothing may change, and a server that runs commands."""

    root: Path
    forks: Forks
    hashes: dict[str, str]

    def words(self, command: str) -> list[str]:
        if command == "demo" and not espeak_available():
            pytest.skip("espeakng-loader is not installed")
        return [*COMMANDS[command].format(root=self.root).split(), "--threads", "1"]

    def check_inputs(self) -> None:
        assert hashes(self.root) == self.hashes


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): content_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("inputs")
    labelled_folder(root / "many", 12, 6)
    labelled_folder(root / "pool", 4, 2, seed=5)
    for path in (root / "pool").rglob("*.TextGrid"):
        path.unlink()
    base = tiny_base()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segmenter = new_segmenter(base.encoder)
    save_pack(base_pack(base.encoder, base.head, base.phonemes, {"name": "tiny"}, segmenter), root / "base")
    out = tmp_path_factory.mktemp("made")
    words = [
        "adapt",
        "--lang",
        "sw",
        "--data",
        root / "many",
        "--base",
        root / "base",
        "--meta-steps",
        0,
        "-q",
        "-o",
        out,
    ]
    run(*words)
    shutil.copytree(out / "pack", root / "pack")
    with Forks(out / "said") as forks:
        yield Place(root, forks, hashes(root))


def check_whole(folder: Path) -> None:
    """No file below `folder` is cut short, but for the log, and nothing temporary is left."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".tmp") and path.name != ".lock.json", path
        if path.suffix == ".json" and path.parent.name != "pack":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.name == "card.json":
            load_pack(path.parent)
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        elif path.suffix == ".TextGrid":
            assert read_textgrid(path).tiers
        elif path.suffix == ".eaf":
            read_eaf(path)
        elif path.suffix in (".csv", ".sha256", ".ctm"):
            assert path.read_bytes()[-1:] in (b"", b"\n"), path


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at `folder`."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def needed(place: Place, command: str, folder: Path) -> int:
    """Bytes that a run takes on a disk, in blocks, at its end."""
    assert place.forks.run(place.root, *place.words(command), "-o", folder) == 0, place.forks.err
    place.check_inputs()
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk(place: Place, tmp_path: Path, command: str) -> None:
    size = needed(place, command, tmp_path / "whole")
    for number, share in enumerate((0.2, 0.8)):
        with small_disk(tmp_path / f"disk{number}", max(8192, int(share * size))) as disk:
            code = place.forks.run(place.root, *place.words(command), "-o", disk / "out")
            assert code == 1 and "No space left on device" in place.forks.err, (code, share, place.forks.err)
            check_error(place)
            check_whole(disk)
            place.check_inputs()


def check_error(place: Place) -> None:
    """The last line on standard error says which file it was, and no traceback is shown."""
    assert "Traceback" not in place.forks.err and "Logging error" not in place.forks.err, place.forks.err
    last = place.forks.err.splitlines()[-1]
    assert last.startswith("mtl-speech: ") and last.count(": ") >= 2, last


@pytest.mark.parametrize("command", WRITING)
def test_a_limit_on_files(place: Place, tmp_path: Path, command: str) -> None:
    """As a quota does, without the rights that mounting needs."""
    largest = {}
    needed(place, command, tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            largest[path.relative_to(tmp_path / "whole").parts[0]] = path.stat().st_size
    limit = int(0.9 * max(largest.values()))
    words = [*place.words(command), "-o", tmp_path / "out"]
    if command == "pretrain" and "workers" in {setting.name for setting in settings(PretrainOptions)}:
        words += ["--workers", 0]  # a limit on files is one on shared memory too
    code = place.forks.run(place.root, *words, limits={"RLIMIT_FSIZE": limit})
    assert code == 1 and "File too large" in place.forks.err, place.forks.err
    check_error(place)
    check_whole(tmp_path / "out")
    place.check_inputs()


@pytest.mark.parametrize("command", WRITING)
def test_a_folder_that_cannot_be_written(place: Place, tmp_path: Path, command: str) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        (disk / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for folder in (disk / "there", disk / "new"):
            assert place.forks.run(place.root, *place.words(command), "-o", folder) == 1
            assert f"mtl-speech: {folder}" in place.forks.err and "Read-only file system" in place.forks.err
            check_error(place)
        place.check_inputs()


# Code that runs when the command begins to read audio: the recording {victim} goes away, or is another.
MEANWHILE = """
import soundfile
from pathlib import Path
from mtl_speech.features import store as store_module
from mtl_speech.transcription import transcribe
done = []
def then(real):
    def read(path, *a, **k):
        if not done:
            done.append(1)
            {deed}
        return real(path, *a, **k)
    return read
store_module.load_audio = then(store_module.load_audio)
transcribe.stream_audio = then(transcribe.stream_audio)
"""
DEEDS = {
    "has gone": "Path({victim!r}).unlink()",
    "has changed": "soundfile.write({victim!r}, soundfile.read({victim!r})[0][::-1], 16000)",
}


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("what", DEEDS)
def test_a_recording_that_goes_or_changes_meanwhile(place: Place, tmp_path: Path, command: str, what: str) -> None:
    root = tmp_path / "inputs"
    shutil.copytree(place.root, root)
    victim = root / ("pool" if command == "suggest" else "many") / "s0" / "u00.wav"
    words = [word.replace(str(place.root), str(root)) for word in place.words(command)]
    before = MEANWHILE.format(deed=DEEDS[what].format(victim=str(victim)))
    assert place.forks.run(root, *words, "-o", tmp_path / "out", before=before) == 1, place.forks.err
    said = place.forks.out + place.forks.err
    assert f"{victim}: {what} while it was used" in said or (what == "has gone" and f"{victim}: " in said), said
    assert not (tmp_path / "out" / "pack").exists() and not (tmp_path / "out" / "report.json").exists()
    check_whole(tmp_path / "out")
    others = {str(path): value for path, value in hashes(root).items() if path != str(victim)}
    assert others == {name.replace(str(place.root), str(root)): value for name, value in place.hashes.items()
                      if not name.endswith(str(victim.relative_to(root)))}  # fmt: skip


# Two runs in one folder


def until(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize("command", WRITING)
def test_two_runs_in_one_folder(place: Place, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"

    def second(first: int) -> None:
        until(out / ".lock.json")
        os.kill(first, signal.SIGSTOP)
        try:
            said = run(*place.words(command), "-o", out, code=1).stderr
        finally:
            os.kill(first, signal.SIGCONT)
        assert f"{out}: another run writes to this folder: process {first} on {socket.gethostname()}, since 20" in said
        assert f"(mtl-speech {command} " in said

    assert place.forks.run(place.root, *place.words(command), "-o", out, meanwhile=second) == 0, place.forks.err
    check_whole(out)
    assert not list(out.glob(".lock*")), "the folder is free again"
    place.check_inputs()


def test_a_run_that_was_killed_blocks_nothing(place: Place, tmp_path: Path) -> None:
    """Neither by what it left, nor by a process of its own that lives on for a while."""
    out = tmp_path / "out"
    orphan = (
        "import mtl_speech.commands.train as t\n"
        "real = t.read_corpus\ndef read(*a, **k):\n    os.fork() or (time.sleep(2), os._exit(0))\n"
    )
    orphan = f"import os, time\n{orphan}    time.sleep(60)\nt.read_corpus = read"

    def kill(child: int) -> None:
        until(out / ".lock.json")
        time.sleep(0.2)
        os.kill(child, signal.SIGKILL)

    words = [*place.words("pretrain"), "-o", out]
    assert place.forks.run(place.root, *words, meanwhile=kill, before=orphan) == -signal.SIGKILL
    assert (out / ".lock.json").exists()
    (out / ".report.json.1-0123abcd.tmp").write_text("half")
    (out / ".pack.1-0123abcd.tmp").mkdir()
    assert place.forks.run(place.root, *words) == 0, place.forks.err
    check_whole(out)
    assert {path.name for path in out.iterdir()} == {"pack", "history.json", "log.txt"}


# Memory and processes


LITTLE = """
import resource
vm = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + ({room} << 20)
resource.setrlimit(resource.RLIMIT_AS, (vm, vm))
"""


@pytest.mark.parametrize(
    ("command", "more", "room", "hint"),
    [
        ("pretrain", ["--channels", "4096", "--blocks", "8"], 100, "lower --batch-frames or --crop-lengths"),
        ("meta-train", ["--meta-batch", "6000"], 60, "lower --meta-batch or --n-way or --n-query"),
    ],
)
def test_memory_that_runs_out(
    place: Place, tmp_path: Path, command: str, more: list[str], room: int, hint: str
) -> None:
    words = [*place.words(command), *more, "-o", tmp_path / "out"]
    assert place.forks.run(place.root, *words, before=LITTLE.format(room=room)) == 1
    assert "mtl-speech: out of memory (" in place.forks.err and hint in place.forks.err, place.forks.err
    check_error(place)
    check_whole(tmp_path / "out")
    place.check_inputs()


def workers_of(process: int) -> list[int]:
    """The processes that a process has started, but for the one that only looks after shared memory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == process and b"resource_tracker" not in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_worker_process_that_dies(place: Place, tmp_path: Path) -> None:
    """One that reads recordings or makes batches beside a training is killed, as the system does where memory runs out."""

    def kill_one(child: int) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (workers := workers_of(child)):
            time.sleep(0.001)
        time.sleep(0.2)
        os.kill(workers[0], signal.SIGKILL)

    words = [*place.words("pretrain")[:-1], "2", "--augmented-views", 2, "--epochs", 20, "-o", tmp_path / "out"]
    assert place.forks.run(place.root, *words, meanwhile=kill_one) == 1
    assert "mtl-speech: a worker process died" in place.forks.err, place.forks.err
    assert "lower --threads" in place.forks.err or "lower --workers or --threads" in place.forks.err
    check_error(place)
    check_whole(tmp_path / "out")
    place.check_inputs()


class Dying(Dataset[int]):
    """Its worker ends in the middle."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> int:
        if number == 2:
            os._exit(1)
        return number


@pytest.mark.parametrize("kind", ["pool", "loader"])
def test_a_dead_worker_is_told_from_a_mistake_of_ours(kind: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        if kind == "pool":
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                pool.submit(os._exit, 1).result()
        else:
            list(DataLoader(Dying(), num_workers=1, batch_size=None))
    assert "a worker process died" in str(_resources(caught.value, PretrainOptions))
    assert _resources(RuntimeError("shapes do not match"), PretrainOptions) is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), None])
def test_what_to_lower_is_named_by_command(error: BaseException | None) -> None:
    if error is None:
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            torch.empty(1 << 60)
        error = caught.value
    assert "lower --batch-frames or --crop-lengths, or close" in str(_resources(error, PretrainOptions))
    assert "give it fewer or shorter recordings" in str(_resources(error, TranscribeOptions))
