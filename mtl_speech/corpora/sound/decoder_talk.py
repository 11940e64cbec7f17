"""What libmpg123 writes to the standard error, in lines that name no file, is kept from it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import RLock

_TALK = re.compile(rb"\[?(?:src/)?libmpg123|\[?src/|Warning: |Note: |Error: |warning: |error: |\s*$")
_LOCK = RLock()  # the standard error is the whole process's


@contextmanager
def without_talk(talkative: bool) -> Iterator[None]:
    """Drop what the decoder of MP3 says meanwhile, if it is `talkative`.

    What anything else writes to the standard error comes out at the end.

    The decoder complains of sound files too, whose samples are those that other decoders give. Real faults show in the length.
    """
    if not talkative or sys.__stderr__ is None:  # without a standard error its number may be that of any file
        yield
        return
    with _LOCK, tempfile.TemporaryFile() as kept:
        saved = os.dup(2)
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            kept.seek(0)
            others = b"".join(line for line in kept if not _TALK.match(line))
            if others:
                with suppress(OSError):
                    os.write(2, others)
