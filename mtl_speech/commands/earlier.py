"""Keeping what an earlier run left in a results folder: its pack and report go to `earlier/<n>/` before new ones come."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtl_speech.core.files import content_hash, sync_folder, temporary_sibling
from mtl_speech.model.pack import CARD, EARLIER, PACK, previous_of

_NOT_KEPT = {"log.txt"}  # the run that is under way writes to it


@contextmanager
def earlier_kept(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, a new pack and report can be written to `folder`: what was there is kept, and `say` tells where.

    Where the new ones are the same to the byte, one of both is enough. Raises OSError when the earlier ones cannot be kept; nothing
    has been replaced then.
    """
    kept = keep_earlier(folder)
    yield
    if kept is not None:
        previous = previous_of(folder / PACK)
        if _same(previous, kept / PACK):  # `save_pack` keeps one too, which would be there twice
            shutil.rmtree(previous)
        if _adds_nothing(kept, folder):  # a run that was killed at its end, and made the same again
            shutil.rmtree(kept)
            with suppress(OSError):
                kept.parent.rmdir()
            return
        say(f"the earlier pack and report are kept in {kept}")


def keep_earlier(folder: Path) -> Path | None:
    """Copy the pack in `folder`, and the files beside it, to `earlier/<n>/`; gives that path, or None where there is no pack.

    The copy appears whole or not at all, and what is copied stays where it is: so whatever happens until the new pack has taken
    its place, a whole pack is under the old name. A run that was interrupted there leaves a copy, which then serves.

    Raises OSError when it cannot be copied.
    """
    pack = folder / PACK
    if not pack.is_dir():
        return None
    numbers = sorted(int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdecimal())
    if numbers and _same(pack, folder / EARLIER / str(numbers[-1]) / PACK):
        return folder / EARLIER / str(numbers[-1])
    place = folder / EARLIER / str(numbers[-1] + 1 if numbers else 1)
    temporary = temporary_sibling(place)
    try:
        shutil.copytree(pack, temporary / PACK, symlinks=True)
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name not in _NOT_KEPT and not path.name.startswith("."):
                shutil.copy2(path, temporary)
        os.rename(temporary, place)
    except shutil.Error as error:  # of several files at once
        reasons = "; ".join(sorted({why for *_, why in error.args[0]}))
        raise OSError(f"{place}: the earlier pack could not be kept, so nothing was replaced: {reasons}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(place.parent)
    return place


def _adds_nothing(kept: Path, folder: Path) -> bool:
    """Whether all that is kept lies in the folder too, to the byte."""
    names = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file()]
    return all((folder / name).is_file() and content_hash(folder / name) == content_hash(kept / name) for name in names)


def _same(pack: Path, other: Path) -> bool:
    """Whether two packs are the same: a card holds the hash of the weights."""
    try:
        return (pack / CARD).read_bytes() == (other / CARD).read_bytes()
    except OSError:
        return False
