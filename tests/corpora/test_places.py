"""A tar of a stranger's: every file that is wanted and plain, everything else by name and reason, and no end taken for another."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from mtl_speech.corpora.places import MAX_HEADER_BYTES, TooLargeError, members, unsafe

DATA = b"0123456789" * 100


def entry(name: str, size: int = len(DATA), kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def archive(*infos: tarfile.TarInfo, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=format) as made:  # type: ignore[call-overload]
        for info in infos:
            made.addfile(info, io.BytesIO(DATA) if info.isreg() else None)
    return stream.getvalue()


def read(data: bytes, below: str = "", max_bytes: int = 1 << 20) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files that a tar gives, and the reasons for those that it does not."""
    good, refused = {}, {}
    for member in members(io.BytesIO(data), lambda name: name.endswith(".wav"), max_bytes, below):
        if member.content is None:
            refused[member.name] = member.reason
        else:
            good[member.name] = member.content.read()
            assert len(good[member.name]) == member.size
    return good, refused


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_come_in_order_by_plain_names(mode: str, format: int) -> None:
    deep = "/".join(["ਪੰਜਾਬੀ"] * 4 if format != tarfile.USTAR_FORMAT else ["pa"]) + "/u2.wav"
    infos = entry("./s0/u1.wav"), entry("s0", 0, tarfile.DIRTYPE), entry("readme.txt"), entry(deep)
    good, refused = read(archive(*infos, mode=mode, format=format))
    assert list(good) == ["s0/u1.wav", deep] and set(good.values()) == {DATA} and not refused


def test_only_what_is_below_a_folder() -> None:
    data = archive(entry("ces/s0/u.wav"), entry("pan/s0/u.wav"), entry("cesar/u.wav"))
    assert list(read(data, "ces")[0]) == ["s0/u.wav"]


HOSTILE = {
    "../out.wav": "leads out",
    "/tmp/out.wav": "leads out",
    "s0/../../out.wav": "leads out",
    "s0\\..\\out.wav": "leads out",
    "C:out.wav": "leads out",
    "a\x1b[2J.wav": "control character",
    "a\n.wav": "control character",
    "a\udcff.wav": "not UTF-8",
    "a" * 300 + ".wav": "too long",
    "/".join(["a" * 100] * 20) + "/u.wav": "too long",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_with_the_reason(name: str) -> None:
    assert HOSTILE[name] in unsafe(name)
    good, refused = read(archive(entry(name), entry("u.wav"), format=tarfile.GNU_FORMAT))
    assert list(good) == ["u.wav"] and len(refused) == 1 and HOSTILE[name] in next(iter(refused.values()))


KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_are_refused_with_the_reason(kind: bytes) -> None:
    good, refused = read(archive(entry("evil.wav", 0, kind, "/etc/passwd"), entry("u.wav")))
    assert list(good) == ["u.wav"] and "is a link, a device" in refused["evil.wav"]


def test_a_sparse_file_is_refused() -> None:
    info = entry("big.wav")
    info.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": f"0,{len(DATA)}"}
    with pytest.raises(TooLargeError, match="more than 0.000977 GiB"):
        read(archive(info))
    info.pax_headers["GNU.sparse.size"] = "100"
    assert "sparse" in read(archive(info))[1]["big.wav"]


def test_of_one_name_the_first_is_used_however_it_is_written() -> None:
    names = "u.wav", "./u.wav", "U.wav", "cafe\u0301.wav", "caf\u00e9.wav", "x.wav/u.wav", "x.wav", "u.wav/v.wav"
    good, refused = read(archive(*map(entry, names)))
    assert list(good) == ["u.wav", "cafe\u0301.wav", "x.wav/u.wav"]
    assert "a second file of this name" in refused["U.wav"] and "the name of a folder" in refused["x.wav"]
    assert "lies in what is a file" in refused["u.wav/v.wav"]


# Cut short, damaged, too large


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_that_is_cut_anywhere_is_never_taken_for_a_whole_one(mode: str) -> None:
    data = archive(*(entry(f"u{n}.wav") for n in range(4)), mode=mode)
    outcomes = []
    for length in range(0, len(data), 128 if mode == "w" else 7):
        try:
            found, _ = read(data[:length])
            outcomes.append(True)
            assert len(found) == 4, f"{length} bytes of {len(data)}"
        except tarfile.ReadError:
            outcomes.append(False)
    assert outcomes == sorted(outcomes), "whole only where no more than the zeros at the end are missing"
    assert outcomes.count(False) * (128 if mode == "w" else 7) >= (4 * 1536 + 512 if mode == "w" else len(data) // 2)


def test_a_damaged_header_in_the_middle_is_no_end() -> None:
    data = bytearray(archive(*(entry(f"u{n}.wav") for n in range(4))))
    data[2 * 1536 + 10] ^= 1
    with pytest.raises(tarfile.ReadError, match="damaged"):
        read(bytes(data))


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(range(256)) * 9])
def test_what_is_no_tar_is_refused(data: bytes) -> None:
    with pytest.raises(tarfile.ReadError):
        read(data)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    header = entry("bomb.wav", 1 << 50).tobuf(tarfile.GNU_FORMAT)
    for name in ("bomb.wav", "bomb.txt"):
        header = entry(name, 1 << 50).tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(TooLargeError):
            read(header + bytes(1024))
    small = archive(*(entry(f"u{n}.wav") for n in range(9)), mode="w:gz")
    with pytest.raises(TooLargeError):
        read(small, max_bytes=8000)


def test_a_long_header_is_refused_unread() -> None:
    info = entry("u.wav")
    info.pax_headers = {"comment": "9" * (MAX_HEADER_BYTES + 1)}
    with pytest.raises(tarfile.ReadError, match="absurd"):
        read(archive(info))


def test_a_size_below_zero_is_refused() -> None:
    info = entry("u.wav")
    info.pax_headers = {"size": "-600"}
    with pytest.raises(tarfile.ReadError):
        read(archive(info))


def test_memory_does_not_grow_with_the_number_of_members() -> None:
    data = archive(*(entry(f"u{n}.txt") for n in range(3000)))
    tracemalloc.start()
    assert not list(members(io.BytesIO(data), lambda name: name.endswith(".wav"), 1 << 30))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000  # bytes; with the headers kept it is 3 million
