"""Checkpoints of a training run: killed at any instant, it goes on where it was and ends with the same bits.

A checkpoint is one safetensors file with everything that the next steps depend on; its tensor `state` holds the plain values as
JSON. It is named by its number and the SHA-256 of its bytes, so a damaged one is told, and it appears whole by one rename. The
last good one and the one before are kept. What is read is data, never code: see `tensor_files`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from mtl_speech import __version__
from mtl_speech.core.distributed import highest, is_main, wait_for_all
from mtl_speech.core.errors import DataError, PackError
from mtl_speech.core.files import TEMPORARY, atomic_write, content_hash
from mtl_speech.core.tensor_files import decode, encode, header_entries, parse_json, read_bounded, refuse
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.corpus import Corpus

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 1 << 31
STATE, TORCH = "state", "torch"  # tensors with the plain values, and with the state of torch's own generator
NAME = re.compile(r"([0-9]{8})-([0-9a-f]{64})\.safetensors")
STOPS = (signal.SIGINT, signal.SIGTERM)
N_NAMED = 5  # differences that an error names
ANEW = "start anew with --fresh, or name another folder to write to"

About = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class State:
    """What the next steps of a training depend on: tensors, and plain values that JSON can hold."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Diverged(DataError):
    """A state with numbers that are not finite, from which nothing can go on."""


class Resumable(Protocol):
    """A training that can be left between two steps and taken up again."""

    def state(self) -> State:
        """All that the next steps depend on, but torch's own generator."""

    def restore(self, state: State) -> None:
        """Go on from a state. May raise KeyError, TypeError, ValueError, IndexError or RuntimeError where it does not fit."""


class Checkpoints:
    """The checkpoints of one training in `folder`, one every `minutes` and, where that is given, every `steps`.

    `about` tells apart what may not differ between the run that was stopped and the one that goes on: groups of settings and of
    data, as plain values. `say` tells the user what happens.
    """

    def __init__(
        self,
        folder: Path,
        about: About,
        minutes: float = 10.0,
        steps: int | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.minutes, self.steps, self.say = folder, minutes, steps, say
        self.about: About = json.loads(json.dumps({"checkpoint": {"format": FORMAT}, **about}))
        self.n_saved, self.seconds = 0, 0.0  # what it has cost
        self._good: Path | None = None
        self._found: tuple[Path, State] | None = None
        self._saved_at, self._ticks = time.monotonic(), 0
        self._before: dict[int, Any] = {}
        self._stop: int | None = None
        self._process = os.getpid()

    def check(self, fresh: bool = False) -> None:
        """See whether there is a checkpoint to go on from, before the work that a training needs; with `fresh` those there go.

        Raises DataError: the run that was stopped had other settings or other data, or no checkpoint can be used.
        """
        if fresh:
            self.clear()
        wait_for_all()  # none may look while the main process still removes old ones
        self._found = self._latest()
        if self._found is not None:
            path, state = self._found
            with fitting(path):
                differing = differences(state.values["about"], self.about)
            if differing:
                more = [f"and {len(differing) - N_NAMED} more"] if differing[N_NAMED:] else []
                named = "; ".join([*differing[:N_NAMED], *more])
                raise DataError(f"{self.folder}: the run that was stopped here differs from this one: {named}: {ANEW}")

    def resume(self, training: Resumable) -> None:
        """Put `training` where the last good checkpoint was taken; nothing happens where there is none.

        Raises DataError as `check` does, and where the checkpoint is not one of such a training.
        """
        if self._found is None:
            self.check()
        found, self._found = self._found, None
        if found is None:
            return
        path, state = found
        with fitting(path):
            training.restore(state)
            torch.set_rng_state(state.tensors[TORCH])
        self._good, self._saved_at = path, time.monotonic()
        if state.values.get("computed_by") != computed_by():
            logger.warning(
                "it began with other versions or threads: numbers can differ in their last digits from here on"
            )
        self.say(
            f"goes on from checkpoint {int(path.name[:8])} of the run that was stopped ({state.values.get('saved')})"
        )

    def tick(self, training: Resumable, last: bool = False) -> None:
        """Between two steps: save where it is time to. A run that was asked to stop is saved, and stops.

        Of several processes the main one saves, and all stop where any of them was asked to.
        """
        self._ticks += 1
        by_steps = self.steps is not None and self._ticks >= self.steps
        by_time = 0 < self.minutes <= (time.monotonic() - self._saved_at) / 60
        (asked,) = highest([float(self._stop or 0)])
        self._stop = int(asked) or None
        if (last or by_steps or by_time or asked) and is_main():
            try:
                self.save(training.state())
            except Diverged as error:  # the run itself goes on: with checkpoints it does what it does without
                logger.warning("no checkpoint was written, the last good one stays: %s", error)
                self._saved_at, self._ticks = time.monotonic(), 0
        self._stop_if_asked()

    def save(self, state: State) -> Path:
        """Write a checkpoint; the last good one before is kept, older ones go. Raises Diverged, OSError."""
        began = time.monotonic()
        saved = time.strftime("%Y-%m-%d %H:%M:%S")
        values = {**state.values, "about": self.about, "saved": saved, "computed_by": computed_by()}
        try:
            text = json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise Diverged("training has diverged: a score or a loss is not finite any more") from error
        plain = {STATE: torch.frombuffer(bytearray(text), dtype=torch.uint8), TORCH: torch.get_rng_state()}
        for name, tensor in state.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise Diverged(f"training has diverged: '{name}' is not finite any more: lower the learning rate")
            plain[name] = tensor.byte() if tensor.dtype == torch.bool else tensor
        data = encode(plain, self.folder, MAX_BYTES)
        number = 1 + max((int(path.name[:8]) for path in self._all()), default=0)
        path = atomic_write(self.folder / f"{number:08}-{hashlib.sha256(data).hexdigest()}.safetensors", data)
        self._remove(keep=(path, self._good))
        self._good, self._saved_at, self._ticks = path, time.monotonic(), 0
        self.n_saved, self.seconds = self.n_saved + 1, self.seconds + time.monotonic() - began
        return path

    def clear(self) -> None:
        """The run is done, or begins anew: its checkpoints go. Raises OSError."""
        if not is_main():
            return
        if self.n_saved:
            logger.info("%d checkpoints took %.2f s", self.n_saved, self.seconds)
        if self.folder.is_dir():
            self._remove()
            with suppress(OSError):  # what else lies in it is not ours
                self.folder.rmdir()

    def _remove(self, keep: Sequence[Path | None] = ()) -> None:
        """Remove checkpoints, whole and half-written ones, but those in `keep`; nothing else."""
        for path in list(self.folder.iterdir()):
            if (NAME.fullmatch(path.name) or TEMPORARY.fullmatch(path.name)) and path not in keep:
                path.unlink()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Inside, an interrupt or SIGTERM waits for the next `tick`, or for the end; a second one does not."""
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in STOPS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield
        finally:
            self._restore_signals()
        self._stop_if_asked()  # after the last step, which was saved

    def _stop_if_asked(self) -> None:
        if self._stop is not None:
            number, self._stop = self._stop, None
            wait_for_all()  # until the main process has saved
            self.say("stopped, and saved: the same command goes on from here")
            self._restore_signals()
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker process that has this handler too: it ends with the run
            return
        if self._stop is None:
            self._stop = number
            os.write(2, b"\nstops after this step, and saves; once more to stop at once\n")  # `print` may be at work
            return
        self._restore_signals()
        signal.raise_signal(number)

    def _restore_signals(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _all(self) -> list[Path]:
        """The files of checkpoints, oldest first, whatever is in them."""
        return sorted(path for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name))

    def _latest(self) -> tuple[Path, State] | None:
        """The last good checkpoint; None where there is none at all. Raises DataError where none of those there is good."""
        paths = self._all()
        for path in reversed(paths):
            try:
                return path, read_checkpoint(path)
            except PackError as error:
                logger.warning("a damaged checkpoint is not used, the one before is: %s", error)
        if paths:
            raise DataError(f"{self.folder}: no checkpoint in it can be used, all are damaged: {ANEW}")
        return None


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Inside, what the checkpoint `path` holds is used: DataError where it is of something else."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise DataError(f"{path}: does not hold what this run needs ({error!r}): {ANEW}") from error


def computed_by() -> dict[str, object]:
    """What makes numbers differ in their last digits only."""
    return {"mtl_speech": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}


def read_checkpoint(path: Path) -> State:
    """What a checkpoint holds, checked throughout. Raises PackError where it is damaged."""
    name = NAME.fullmatch(path.name)
    data = read_bounded(path, MAX_BYTES)
    actual = hashlib.sha256(data).hexdigest()
    if name is None or actual != name[2]:
        refuse(path, f"has the SHA-256 {actual}, and is named otherwise", "it was cut short or changed")
    header_entries(data, path)
    tensors = decode(data, path)
    text = tensors.pop(STATE, torch.zeros(0))
    return State(tensors, parse_json(text.numpy().tobytes(), path, "the state"))


def differences(then: About, now: About) -> list[str]:
    """What differs between what two runs are about, in words: settings, and recordings by name."""
    found = []
    for group in (*now, *(then.keys() - now.keys())):
        old, new = then.get(group, {}), now.get(group, {})
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                found.append(f"{group}: {key} is {'new' if key in new else 'gone'}")
            elif old[key] != new[key]:
                hashed = isinstance(old[key], str) and re.fullmatch(r"[0-9a-f]{16,}", str(old[key]))
                found.append(f"{group}: {key} " + ("has changed" if hashed else f"was {old[key]}, is {new[key]}"))
    return found


def hashes_of(parts: Mapping[str, Sequence[Corpus]]) -> dict[str, str]:
    """A hash of each recording with its labels, by its part (training or validation) and id. Raises OSError."""
    each = [(part, corpus.name, u) for part, corpora in parts.items() for corpus in corpora for u in corpus.utterances]
    found = {}
    for part, name, u in progress(each, "checking"):
        labels = [(s.phoneme, s.start, s.end) for s in u.segments]
        text = json.dumps([u.language, u.speaker, labels, content_hash(u.audio)])
        # Names without characters that JSON or a terminal could mind.
        key = f"{part}/{name}/{u.id}".encode("unicode_escape").decode()
        found[key] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def tensors_of(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that begin with `prefix`, for a `State`; those without an element are not needed."""
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in named.items() if tensor.numel()}


def put_tensors(prefix: str, named: Mapping[str, Tensor], state: State) -> None:
    """Copy what `tensors_of` gave into the tensors `named`. Raises KeyError, ValueError where it does not fit."""
    with torch.no_grad():
        for name, tensor in named.items():
            if tensor.numel():
                found = state.tensors[f"{prefix}.{name}"]
                if found.shape != tensor.shape:
                    raise ValueError(f"'{name}' has the shape {tuple(found.shape)}, not {tuple(tensor.shape)}")
                tensor.copy_(found)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, for a `State`."""
    remembered = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{key}": tensor for i, row in remembered.items() for key, tensor in row.items()}


def put_optimiser(optimiser: torch.optim.Optimizer, state: State) -> None:
    """Give an optimiser back what `optimiser_tensors` took. Its groups and their rates stay as they are.

    Raises KeyError, ValueError, IndexError where it does not fit.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    rows: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.tensors.items():
        if name.startswith("optimiser."):
            _, i, key = name.split(".")
            if tensor.shape not in ((), parameters[int(i)].shape):
                raise ValueError(f"'{name}' has the shape {tuple(tensor.shape)}")
            rows[int(i)][key] = tensor.clone()
    optimiser.load_state_dict({"state": dict(rows), "param_groups": optimiser.state_dict()["param_groups"]})
