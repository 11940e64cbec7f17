"""A training that is killed at any instant goes on, and ends with the bits of one that was never killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from mtl_speech.core.errors import DataError
from mtl_speech.core.options import EncoderConfig, PretrainConfig
from mtl_speech.core.tensor_files import encode
from mtl_speech.features.crops import CropBatches
from mtl_speech.model.learner import MetaLearner
from mtl_speech.training.checkpoint import Checkpoints, Resumable, State
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.training.pretrain import PretrainBrain, PretrainModel, Remaining
from tests.command_line import labelled_folder, save_base
from tests.forks import Forks
from tests.helpers import frozen_bytes, make_store, meta_config, seeded, shake, tiny_learner, toy_store

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
N_SLOW = 20


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
        with suppress(ProcessLookupError):  # it was done before
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
    if how in CODES:
        inside = 0 < reached < trainings.whole[command][1]  # of the training, not of what comes before and after it
        assert not inside or "stopped, and saved" in trainings.forks.out
        assert not list(folder.rglob("*.tmp")) and not list(folder.glob(".lock*"))
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


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("command", SETTINGS)
def test_what_is_stopped_goes_on_to_the_same_bits(
    trainings: Trainings, tmp_path: Path, command: str, number: int
) -> None:
    how = KILLS[2 * (command == "pretrain") + number]
    check_goes_on(trainings, command, how, tmp_path / "out", random.Random(f"{command} {how} fast"))


@pytest.mark.slow
@pytest.mark.parametrize("command", SETTINGS)
@pytest.mark.parametrize("how", KILLS)
def test_twenty_random_instants(trainings: Trainings, tmp_path: Path, command: str, how: str) -> None:
    rng = random.Random(f"{command} {how}")
    for number in range(N_SLOW):
        print(check_goes_on(trainings, command, how, tmp_path / str(number), rng), flush=True)


# In one process: what a checkpoint holds, and which are refused


def meta_trainer(theta_init: str, **settings: Any) -> MetaTrainer:
    store = toy_store()
    config = meta_config(
        meta_steps=12, theta_init=theta_init, hard_ratio=0.5, augment=True, validate_every=3, **settings
    )
    return MetaTrainer(tiny_learner(store, theta_init=theta_init), store, config)


def brain(epochs: int = 2, dropout: float = 0.3) -> PretrainBrain:
    store = make_store([[0, 1, 0, 1, 1, 0]] * 6, phonemes=("a", "s"), noise=2.0)
    config = PretrainConfig(epochs=epochs, batch_frames=100, crop_lengths=(48, 96), pretrain_lr=0.01)
    torch.manual_seed(0)
    model = PretrainModel(EncoderConfig(channels=8, blocks=1, embedding_size=12, dropout=dropout), ("a", "s"))
    made = PretrainBrain(config, model, CropBatches([store], config.crop_lengths, config.batch_frames, 0), store)
    made.on_fit_start()
    return made


class Stopped(Exception):
    """In the place of a kill."""


class StopAt(Checkpoints):
    """Checkpoints at every step, that stop the training at one of them."""

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder, {}, steps=1)
        self.left = at

    def tick(self, training: Resumable, last: bool = False) -> None:
        """Save, and count."""
        super().tick(training, last)
        self.left -= 1
        if self.left == 0:
            raise Stopped


def same(one: State, other: State) -> None:
    """Everything is, but for what it took in seconds."""
    assert one.tensors.keys() == other.tensors.keys()
    for name in one.tensors:
        assert torch.equal(one.tensors[name], other.tensors[name]), name
    volatile, plain = {"seconds", "about", "saved", "computed_by"}, []
    for each in (one, other):
        values = json.loads(json.dumps({key: value for key, value in each.values.items() if key not in volatile}))
        for row in values.get("history", []):
            del row["seconds"]
        plain.append(values)
    assert plain[0] == plain[1]


@pytest.mark.parametrize("theta_init", ["posterior", "random", "previous"])
def test_all_of_a_meta_training_is_restored(tmp_path: Path, theta_init: str) -> None:
    scores = {number: 0.1 * (number % 4) for number in range(13)}
    whole = meta_trainer(theta_init)
    whole.train(lambda _: scores[len(whole.history.rounds)])
    left = meta_trainer(theta_init)
    with pytest.raises(Stopped):
        left.train(lambda _: scores[len(left.history.rounds)], checkpoints=StopAt(tmp_path, 9))
    assert left.best is not None and left.pool.pools and len(left.history.rounds) == 8
    again = meta_trainer(theta_init)
    shake(again.learner)
    Checkpoints(tmp_path, {}).resume(again)
    same(left.state(), again.state())
    assert again.history == left.history
    again.train(lambda _: scores[len(again.history.rounds)], checkpoints=Checkpoints(tmp_path, {}))
    same(whole.state(), again.state())
    assert again.history == whole.history and frozen_bytes(again.learner) == frozen_bytes(whole.learner)


def test_all_of_a_pretraining_is_restored(tmp_path: Path) -> None:
    def fit(trained: PretrainBrain, checkpoints: Checkpoints | None) -> None:
        trained.checkpoints = checkpoints
        loader = DataLoader(trained.batches, None, sampler=Remaining(trained), generator=seeded(0))
        trained.fit(trained.epochs(), loader, progressbar=False)

    whole, left, again = brain(), brain(), brain()
    torch.manual_seed(1)
    fit(whole, None)
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        fit(left, StopAt(tmp_path, 9))  # in the second epoch
    assert left.epoch == 2 and left.step > 1
    torch.manual_seed(2)
    torch.rand(5)
    fit(again, Checkpoints(tmp_path, {}))
    same(whole.state(), again.state())
    assert frozen_bytes(again.average) == frozen_bytes(whole.average)


def test_other_settings_and_other_recordings_are_refused_by_name(tmp_path: Path) -> None:
    about = {"settings": {"epochs": 3, "lang": "pa"}, "recordings": {f"training/u{i}": f"{i:016x}" for i in range(9)}}
    Checkpoints(tmp_path, about).save(meta_trainer("posterior").state())
    Checkpoints(tmp_path, about).resume(meta_trainer("posterior"))
    other = {"settings": {"epochs": 4, "lang": "pa"}, "recordings": {**about["recordings"], "training/u2": "f" * 16}}
    del other["recordings"]["training/u5"]
    with pytest.raises(DataError) as caught:
        Checkpoints(tmp_path, other).resume(meta_trainer("posterior"))
    assert "settings: epochs was 3, is 4; recordings: training/u2 has changed; recordings: training/u5 is gone:" in str(
        caught.value
    )
    assert "--fresh" in str(caught.value)
    none: dict[str, dict[str, object]] = {"settings": about["settings"], "recordings": {}}
    with pytest.raises(DataError, match="u4 is gone; and 4 more"):
        Checkpoints(tmp_path, none).resume(meta_trainer("posterior"))


def test_the_last_good_checkpoint_and_the_one_before_are_kept(tmp_path: Path) -> None:
    trainer = meta_trainer("posterior")
    kept = Checkpoints(tmp_path, {})
    paths = [kept.save(trainer.state()) for _ in range(4)]
    assert sorted(tmp_path.iterdir()) == paths[2:]
    paths[3].write_bytes(paths[3].read_bytes()[:-1])
    resumed = Checkpoints(tmp_path, {})
    resumed.resume(trainer)
    fifth = resumed.save(trainer.state())
    assert sorted(tmp_path.iterdir()) == [paths[2], fifth], "the good one is kept, not the damaged one"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"\x80\x04K\x01.",  # a pickle
    ],
    ids=["empty", "cut", "flipped", "pickle"],
)
def test_where_none_is_good_nothing_begins_anew_unasked(tmp_path: Path, damage: Any, caplog: Any) -> None:
    path = Checkpoints(tmp_path, {}).save(meta_trainer("posterior").state())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="all are damaged: start anew with --fresh"):
        Checkpoints(tmp_path, {}).resume(meta_trainer("posterior"))
    assert path.exists() and f"{path}: has the SHA-256 " in caplog.text


@pytest.mark.parametrize("kind", ["pretraining", "no json", "shape", "optimiser"])
def test_what_is_well_made_but_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    state = meta_trainer("posterior").state()
    if kind == "pretraining":
        state = brain().state()
    elif kind == "shape":
        state = replace(state, tensors={**state.tensors, "learner.theta": torch.zeros(1, 1)})
    elif kind == "optimiser":
        state = replace(state, tensors={**state.tensors, "optimiser.0.exp_avg": torch.zeros(1, 1, 1)})
    path = Checkpoints(tmp_path, {}).save(state)
    if kind == "no json":
        path.unlink()
        data = encode({"state": torch.arange(9)}, path, 1 << 20)
        (tmp_path / f"00000001-{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    with pytest.raises(DataError, match="does not hold what this run needs|all are damaged"):
        Checkpoints(tmp_path, {}).resume(meta_trainer("posterior"))


def test_other_threads_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    trainer = meta_trainer("posterior")
    Checkpoints(tmp_path, {}).save(trainer.state())
    Checkpoints(tmp_path, {}).resume(trainer)
    assert "other versions or threads" not in caplog.text
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    Checkpoints(tmp_path, {}).resume(trainer)
    assert "other versions or threads" in caplog.text


def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path: Path) -> None:
    trainer = meta_trainer("posterior")
    with torch.no_grad():
        trainer.learner.theta[0, 0] = torch.nan
    with pytest.raises(DataError, match=r"training has diverged: 'learner.theta' is not finite any more: lower"):
        Checkpoints(tmp_path, {}).save(trainer.state())
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_ends_as_without_checkpoints(tmp_path: Path, caplog: Any) -> None:
    """The best state seen is kept, and the last good checkpoint; a score that is no number is never the best."""
    scores = [0.5, 0.6, float("nan"), float("nan"), float("nan")]
    ends = []
    for checkpoints in (None, Checkpoints(tmp_path, {}, steps=1)):
        trainer = meta_trainer("posterior", outer_lr=0.9)
        each = iter(scores)

        def validate(learner: MetaLearner, each: Iterator[float] = each) -> float:
            score = next(each)
            if score != score:
                with torch.no_grad():
                    learner.theta.fill_(torch.nan)
            return score

        trainer.train(validate, checkpoints=checkpoints)
        assert trainer.best is not None and trainer.best[0] == 0.6
        ends.append(trainer.learner.theta.detach().clone())
    assert torch.equal(*ends) and bool(torch.isfinite(ends[0]).all())
    assert "no checkpoint was written, the last good one stays" in caplog.text
    assert [path for path in tmp_path.iterdir() if path.suffix == ".safetensors"]


def test_other_files_in_the_folder_of_checkpoints_stay(tmp_path: Path) -> None:
    mine = tmp_path / "checkpoints" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    checkpoints = Checkpoints(mine.parent, {})
    checkpoints.save(meta_trainer("posterior").state())
    checkpoints.clear()
    assert list(mine.parent.iterdir()) == [mine]


def test_a_checkpoint_is_due_by_minutes_or_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    trainer = meta_trainer("posterior")
    for minutes, steps, expected in ((2.0, None, [3, 6]), (0.0, 2, [2, 4, 6]), (0.0, None, []), (3.0, 4, [4])):
        kept = Checkpoints(tmp_path / f"{minutes}{steps}", {}, minutes, steps)
        saved = []
        for tick in range(1, 7):
            now += 41.0
            before = kept.n_saved
            kept.tick(trainer)
            saved += [tick] if kept.n_saved > before else []
        assert saved == expected, (minutes, steps)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """An interrupt counts, as at a terminal: a shell starts its background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {}, say=lambda _: None)
    with pytest.raises(KeyboardInterrupt), kept.stoppable():
        signal.raise_signal(signal.SIGINT)
        assert not list(tmp_path.iterdir())
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it waited")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, {}, say=lambda _: None)
    with pytest.raises(KeyboardInterrupt), kept.stoppable():
        signal.raise_signal(signal.SIGINT)


def test_the_command_refuses_what_differs_and_begins_anew_when_asked(trainings: Trainings, tmp_path: Path) -> None:
    folder, command = tmp_path / "out", "meta-train"

    def kill(child: int) -> None:
        while newest(folder) < 4:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)

    assert trainings.run(command, folder, meanwhile=kill) == -signal.SIGKILL
    assert trainings.run(command, folder, "--outer-lr", 0.01) == 1
    assert "settings: outer_lr was 0.003, is 0.01: start anew with --fresh" in trainings.forks.err
    assert checkpoints(folder)
    assert trainings.run(command, folder, "--fresh") == 0, trainings.forks.err
    assert "goes on from" not in trainings.forks.out
    assert written(folder) == trainings.whole[command][0]
