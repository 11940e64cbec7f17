"""NIST SPHERE audio: read where libsndfile reads it, refused with advice where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import audio_duration, load_audio, sphere_header, why_unreadable
from tests.corpora_like.timit import sphere_header as made_header

SAMPLES = np.round(8_000 * np.sin(np.arange(16_000) / 9)).astype("<i2")


def write(path: Path, coding: str = "", swapped: bool = False, n_bytes: int | None = None) -> Path:
    header = made_header(len(SAMPLES), "fcjf0_sa1", coding)
    if swapped:
        header = header.replace(b"sample_byte_format -s2 01", b"sample_byte_format -s2 10")
    data = (SAMPLES.byteswap() if swapped else SAMPLES).tobytes()
    path.write_bytes(header + data[:n_bytes])
    return path


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("coding", ["", "pcm"])
def test_both_byte_orders_are_read(tmp_path: Path, coding: str, swapped: bool) -> None:
    path = write(tmp_path / "SA1.WAV", coding, swapped)
    np.testing.assert_allclose(load_audio(path), SAMPLES / 32_768, atol=1e-7)
    assert audio_duration(path) == 1.0


def test_mu_law_is_read(tmp_path: Path) -> None:
    """Of telephone corpora, one byte a sample."""
    path = tmp_path / "a.sph"
    header = made_header(8_000, "a", "mu-law").replace(b"sample_n_bytes -i 2", b"sample_n_bytes -i 1")
    header = header.replace(b"sample_byte_format -s2 01", b"sample_byte_format -s1 1").ljust(1024)
    path.write_bytes(header + b"\x80\x00" * 4_000)
    assert np.abs(load_audio(path)).max() == pytest.approx(0.98, abs=0.01) and audio_duration(path) == 0.5


def test_the_header_is_read(tmp_path: Path) -> None:
    header = sphere_header(write(tmp_path / "SA1.WAV"))
    assert header is not None
    assert (header["sample_count"], header["utterance_id"], header["sample_byte_format"]) == (
        "16000",
        "fcjf0_sa1",
        "01",
    )
    (tmp_path / "other").write_bytes(b"RIFF")
    assert sphere_header(tmp_path / "other") is None and why_unreadable(tmp_path / "other") is None
    assert why_unreadable(tmp_path / "none") is None


def test_a_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cut short: 0\.50 s of the 1\.00 s"):
        load_audio(write(tmp_path / "SA1.WAV", n_bytes=16_000))


@pytest.mark.parametrize(
    ("coding", "advice"),
    [
        (
            "pcm,embedded-shorten-v2.00",
            r"compressed \(pcm,embedded-shorten-v2\.00\): convert it with `sph2pipe -f wav SA1\.WAV",
        ),
        ("alaw,embedded-shorten-v2.00", "sph2pipe"),
        ("adpcm", "samples in adpcm: convert it with `sox -t sph SA1.WAV"),
    ],
)
def test_what_cannot_be_read_says_how_to_convert_it(tmp_path: Path, coding: str, advice: str) -> None:
    path = write(tmp_path / "SA1.WAV", coding)
    for read in (load_audio, audio_duration):
        with pytest.raises(DataError, match=advice):
            read(path)
