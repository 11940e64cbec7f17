"""Labels in a file: what is kept comes back, from wherever it is read, and takes no memory."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch

from mtl_speech.core.cache import Kept, Kind, Spool
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import PER_SEGMENT, build_store
from tests.command_line import INVENTORY, labelled_folder

SEGMENT = Kind[Segment](
    lambda s: (s.phoneme, s.start, s.end, 0), lambda label, start, end, _: Segment(label, start, end)
)
ROWS = Kind[tuple[str, int]](
    lambda pair: (pair[0], 0.0, 0.0, pair[1]), lambda label, start, end, number: (label, number)
)


def segments(n: int, first: int = 0) -> tuple[Segment, ...]:
    return tuple(Segment(INVENTORY[i % 5], 0.1 * i, 0.1 * i + 0.07) for i in range(first, first + n))


def test_what_is_kept_comes_back() -> None:
    spool, given = Spool(), [segments(3), segments(10_000, 3), segments(1, 7)]
    kept = [spool.keep(each, SEGMENT) for each in given]
    for one, other in zip(given, kept, strict=True):
        assert isinstance(other, Kept) and other == one and one == other and hash(other) == hash(one)
        assert len(other) == len(one) and list(other) == list(one) and repr(other) == repr(one)
        assert (other[0], other[-1], other[1:3]) == (one[0], one[-1], one[1:3])
    assert kept[0] != segments(4) and kept[0] != segments(3, 1) and kept[0] != list(given[0])
    assert pickle.loads(pickle.dumps(kept[0])) == given[0]
    assert spool.keep((), SEGMENT) == ()
    numbered = spool.keep([("ã̤", 5), ("ã̤", -1)], ROWS)
    assert list(numbered) == [("ã̤", 5), ("ã̤", -1)]
    with pytest.raises(IndexError):
        kept[2][1]


def test_the_file_goes_with_the_last_of_what_is_kept() -> None:
    n_open = len(os.listdir("/proc/self/fd"))
    kept = Spool().keep(segments(3), SEGMENT)
    assert len(os.listdir("/proc/self/fd")) == n_open + 1 and list(kept) == list(segments(3))
    del kept
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_memory_does_not_grow_with_what_is_kept() -> None:
    tracemalloc.start()
    spool = Spool()
    kept = [spool.keep(segments(2_000, i), SEGMENT) for i in range(50)]
    now = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert sum(map(len, kept)) == 100_000 and now < 100_000  # bytes; the objects take some 200 each


def test_a_corpus_keeps_its_labels_in_a_file_and_a_store_its_tables(tmp_path: Path) -> None:
    corpus = read_corpus(labelled_folder(tmp_path / "a", 4, 2), "pa")
    assert all(isinstance(utterance.segments, Kept) for utterance in corpus.utterances)
    store = build_store([corpus])
    lines = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    files = [tuple(int(x, 16) for x in line[0].split("-")) for line in lines if len(line) > 5 and line[5][0] == "/"]
    for name in (name for name in PER_SEGMENT if name != "number"):  # which counts up
        at = getattr(store, name).data_ptr()
        assert getattr(store, name).is_contiguous() and any(low <= at < high for low, high in files), name
    expected = [
        corpus.utterances[int(u)].segments[i] for i, u in zip([0, 1, 2, 3, 4, 5] * 4, store.utterance, strict=True)
    ]
    assert [store.phonemes[int(i)] for i in store.label] == [s.phoneme for s in expected]
    start = torch.tensor([s.start for s in expected], dtype=torch.float64)
    torch.testing.assert_close(store.start - store.first[store.utterance], start * 100, rtol=0, atol=1e-9)


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a table with a hole in it: the system writes what fits, and says so only when asked again."""
    corpus = read_corpus(labelled_folder(tmp_path / "a", 4, 2), "pa")
    room, write = [100], os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        n = write(file, data[: room[0]], offset)
        room[0] -= n
        return n

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        build_store([corpus])
