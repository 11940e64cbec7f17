"""Labels kept in a file in place of memory, so that a corpus of a thousand hours needs little more of it than one of an hour.

A `Spool` is a file without a name in the cache folder. What is kept in it looks like a tuple; its items are made anew each time
that they are asked for. The file goes with the last of them.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from mtl_speech.core.files import write_at

T = TypeVar("T")
_RECORD = struct.Struct("<iidd")  # index of the label, number, start, end
_AT_ONCE = 4096  # records read together

Fields = tuple[str, float, float, int]  # label, start and end in seconds, number


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How an item becomes a record, and is made of one."""

    fields: Callable[[T], Fields]
    make: Callable[[str, float, float, int], T]


class Spool:
    """A file of records; only their labels, each once, are in memory. Raises OSError where it cannot be written."""

    def __init__(self) -> None:
        from mtl_speech.core.cache import FeatureCache

        self._file = FeatureCache().scratch()
        weakref.finalize(self, self._file.close)
        self._labels: list[str] = []
        self._place: dict[str, int] = {}
        self._n = 0

    def keep(self, items: Sequence[T], kind: Kind[T]) -> Sequence[T]:
        """The same items, in the file."""
        if not items:
            return ()
        first, records = self._n, []
        for label, start, end, number in map(kind.fields, items):
            place = self._place.setdefault(label, len(self._labels))
            if place == len(self._labels):
                self._labels.append(label)
            records.append(_RECORD.pack(place, number, start, end))
        write_at(self._file, b"".join(records), _RECORD.size * first)
        self._n += len(items)
        return Kept(self, first, len(items), kind)

    def read(self, first: int, n: int) -> Iterator[Fields]:
        """The `n` records from number `first` on."""
        for begin in range(first, first + n, _AT_ONCE):
            size = _RECORD.size * min(_AT_ONCE, first + n - begin)
            # pread: processes that share the file do not move each other's place in it
            for place, number, start, end in _RECORD.iter_unpack(
                os.pread(self._file.fileno(), size, _RECORD.size * begin)
            ):
                yield self._labels[place], start, end, number


class Kept(Sequence[T]):
    """Items in a `Spool`. Equal to a tuple of equal items, as which a pickle holds them."""

    __slots__ = ("_first", "_kind", "_n", "_spool")

    def __init__(self, spool: Spool, first: int, n: int, kind: Kind[T]) -> None:
        self._spool, self._first, self._n, self._kind = spool, first, n, kind

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[T]:
        return (self._kind.make(*record) for record in self._spool.read(self._first, self._n))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Kept, tuple)) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, tuple[tuple[T, ...]]]:
        return tuple, (tuple(self),)
