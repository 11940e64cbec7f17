"""A training that is killed at any instant goes on, and ends with the bits of one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import labelled_folder, save_base
from tests.forks import Forks

# Recordings are few and models tiny, so that a run takes a second; checkpoints are as dense as they can be of use.
SETTINGS = {
    "pretrain": "--epochs 3 --channels 8 --blocks 1 --embedding-size 12 --batch-frames 100 --crop-lengths 48,96 "
    "--augmented-views 1 --checkpoint-steps 4",
    "meta-train": "--base {root}/base --lang sw --meta-steps 40 --validate-every 8 --n-way 3 --n-shot 1 --n-query 3 "
    "--valid-tasks 5 --hard-ratio 0.5 --augment --checkpoint-steps 2",
}
KILLS = ("killed", "terminated", "interrupted", "cut short")
SIGNALS = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
CODES = {"terminated": 143, "interrupted": 130}
N_FAST, N_SLOW = 2, 20


@dataclass
class Trainings:
    """Where the trainings run, and what those that nothing interrupted gave: files by name, and how many checkpoints."""

    root: Path
    forks: Forks
    whole: dict[str, tuple[dict[str, bytes], int]]

    def run(self, command: str, folder: Path, *more: str, **given: Any) -> int:
        options = SETTINGS[command].format(root=self.root).split()
        return self.forks.run(
            self.root, command, self.root / "many", *options, "--threads", 1, "-o", folder, *more, **given
        )


def written(folder: Path) -> dict[str, bytes]:
    """All files of a run but its log; the history without what it took in seconds."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    del found["log.txt"]
    history = json.loads(found["history.json"])
    for row in history.get("epochs", []):
        del row["seconds"]
    return {**found, "history.json": json.dumps(history).encode()}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    root = tmp_path_factory.mktemp("resume")
    labelled_folder(root / "many", 24, 6)
    save_base(root / "base")
    with Forks(root / "said") as forks:
        found = Trainings(root, forks, {})
        for command in SETTINGS:
            assert found.run(command, root / command) == 0, forks.err
            (counted,) = [line for line in lines(root / command) if "checkpoints took" in line]
            found.whole[command] = written(root / command), int(counted.split()[3])
        yield found


def lines(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text(encoding="utf-8").splitlines()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in the folder of a run, the last one at the end."""
    return sorted((folder / "checkpoints").glob("*.safetensors"))


def newest(folder: Path) -> int:
    found = checkpoints(folder)
    return int(found[-1].name[:8]) if found else 0


def stopped_at(trainings: Trainings, command: str, how: str, folder: Path, rng: random.Random) -> int:
    """Stop a run in `folder` at a random instant; gives the number of the checkpoint that it had reached, or -1: not stopped."""
    number = rng.randrange(2 if how == "cut short" else 0, trainings.whole[command][1])
    delay = rng.uniform(0.0, 0.1)

    def stop(child: int) -> None:
        until = time.monotonic() + 120
        while newest(folder) < number and time.monotonic() < until and Path(f"/proc/{child}").exists():
            time.sleep(0.0005)
        time.sleep(delay)
        os.kill(child, SIGNALS.get(how, signal.SIGKILL))

    code = trainings.run(command, folder, meanwhile=stop)
    if code == 0:
        return -1
    assert code == CODES.get(how, -signal.SIGKILL), trainings.forks.err
    assert not (folder / "pack").exists() or how in ("killed", "cut short"), "nothing is half done"
    return newest(folder)


def check_goes_on(trainings: Trainings, command: str, how: str, folder: Path, rng: random.Random) -> str:
    """Stop a run at a random instant, let it go on, compare; says what happened."""
    while (reached := stopped_at(trainings, command, how, folder, rng)) < 0:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    kept = checkpoints(folder)
    assert len(kept) <= 3, "the last, the one before, and one more where the kill fell between writing and removing"
    if how in CODES and reached:
        assert "stopped, and saved" in trainings.forks.out and not list(folder.rglob("*.tmp"))
    if how == "cut short":
        data = kept[-1].read_bytes()
        kept[-1].write_bytes(data[: rng.randrange(len(data))])
    assert trainings.run(command, folder) == 0, trainings.forks.err
    said = "\n".join(lines(folder))
    used = reached - (how == "cut short")
    if used:
        assert f"goes on from checkpoint {used} " in said
    assert ("a damaged checkpoint is not used" in said) == (how == "cut short")
    assert written(folder) == trainings.whole[command][0], (
        "the same bits as a run that was never stopped, and nothing else"
    )
    return f"{command} {how} after checkpoint {reached} of {trainings.whole[command][1]}"


@pytest.mark.parametrize("command", SETTINGS)
@pytest.mark.parametrize("how", KILLS)
def test_what_is_stopped_goes_on_to_the_same_bits(trainings: Trainings, tmp_path: Path, command: str, how: str) -> None:
    rng = random.Random(f"{command} {how} fast")
    for number in range(N_FAST if how == "killed" else 1):
        check_goes_on(trainings, command, how, tmp_path / str(number), rng)


@pytest.mark.slow
@pytest.mark.parametrize("command", SETTINGS)
@pytest.mark.parametrize("how", KILLS)
def test_twenty_random_instants(trainings: Trainings, tmp_path: Path, command: str, how: str) -> None:
    rng = random.Random(f"{command} {how}")
    for number in range(N_SLOW):
        print(check_goes_on(trainings, command, how, tmp_path / str(number), rng), flush=True)
