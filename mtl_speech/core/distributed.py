"""Training on several processes that torchrun starts: which one this is, and sums over all of them.

Every process draws the same tasks and batches and computes its share; gradients are summed, so that all hold the weights that one
process alone would have. The first of them, the main one, writes files and talks; the others end with the training. Without
torchrun there is one process, and each function gives back what it was given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from mtl_speech.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

LOST = re.compile(r"connection (was )?(closed|reset|refused)|broken pipe|timed out|aborted|gloo|nccl", re.IGNORECASE)


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return not launched() or os.environ["RANK"] == "0"


@contextmanager
def processes(device: str = "cpu") -> Iterator[None]:
    """Inside, the processes that torchrun started work together, over NCCL where `device` is "cuda" and gloo otherwise."""
    if not launched():
        yield
        return
    # This module keeps the group that there is when it is imported (the default of its arguments); with a group kept, the threads
    # of gloo outlive `destroy_process_group`, and now and then abort the process at its end. torch.optim imports it, too.
    import torch.distributed.nn.functional

    dist = torch.distributed
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def only_one_process(what: str) -> None:
    """Raises UsageError where several processes were started for something that one does."""
    if launched() and not together():
        raise UsageError(f"{what} runs in one process: start it without torchrun")


def leave_to_main() -> None:
    """What follows is for the main process alone: any other has done its share and ends here, with exit code 0."""
    if not is_main():
        raise SystemExit(0)


def together() -> bool:
    """Whether this process works together with others (inside `processes`)."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def n_processes() -> int:
    """How many processes share the work."""
    return int(os.environ["WORLD_SIZE"]) if together() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if together() else 0


@contextmanager
def peers_alive() -> Iterator[None]:
    """Inside, this process talks to the others: DataError where one of them has gone."""
    try:
        yield
    except RuntimeError as error:
        if not together() or not LOST.search(str(error)):
            raise
        raise DataError(
            "another process of this training has ended; its own message tells why: start the same command again, and it goes "
            "on from the last checkpoint"
        ) from error


def total(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes, without gradient; it has the same shape on each."""
    if n_processes() == 1:
        return tensor
    import torch

    summed = tensor.detach().clone()
    with peers_alive():
        torch.distributed.all_reduce(summed)
    return summed


def total_with_gradient(tensor: Tensor) -> Tensor:
    """The same, with the gradient of the sum of what all processes make of it."""
    if n_processes() == 1:
        return tensor
    from torch.distributed.nn.functional import all_reduce

    with peers_alive():
        return cast("Tensor", all_reduce(tensor))


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients by their sums over all processes, in one message; a process without a gradient counts as zero."""
    if n_processes() == 1:
        return
    import torch

    moved = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in moved])
    for parameter, part in zip(moved, total(flat).split([p.numel() for p in moved]), strict=True):
        parameter.grad = part.view_as(parameter)


def highest(values: Sequence[float]) -> list[float]:
    """The highest of each of the values among all processes."""
    if n_processes() == 1:
        return list(values)
    import torch

    found = torch.tensor(values, dtype=torch.float64)
    with peers_alive():
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found.tolist()


def from_main(values: Sequence[float]) -> list[float]:
    """What the main process has for these values; the others give as many of their own, which do not count."""
    import torch

    mine = values if rank() == 0 else [0.0] * len(values)
    return total(torch.tensor(mine, dtype=torch.float64)).tolist()


def wait_for_all() -> None:
    """Go on once every process is here."""
    highest([0.0])
