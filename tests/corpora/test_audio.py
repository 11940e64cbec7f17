"""Audio of every kind becomes the same mono 16 kHz samples; what cannot be trusted is refused with its reason."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import (
    FFT_SIZE,
    HOP_LENGTH,
    MEL_BANDS,
    SAMPLE_RATE,
    WINDOW_LENGTH,
    audio_duration,
    check_audio,
    load_audio,
    log_mel,
    stream_audio,
    stream_mel,
)
from mtl_speech.corpora.sound.sphere import sphere_header, why_unreadable
from tests.corpora_like.timit import sphere_header as made_header


def tone(rate: int, seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "format", "subtype"),
    [
        ("a.wav", 16_000, 1, "WAV", "PCM_16"),
        ("a.WAV", 44_100, 2, "WAV", "PCM_24"),
        ("float.wav", 48_000, 1, "WAV", "FLOAT"),
        ("telephone.wav", 8_000, 1, "WAV", "ULAW"),
        ("a.flac", 44_100, 2, "FLAC", "PCM_16"),
        ("a.ogg", 22_050, 1, "OGG", "VORBIS"),
        ("a.opus", 48_000, 2, "OGG", "OPUS"),
        ("a.mp3", 44_100, 2, "MP3", "MPEG_LAYER_III"),
        ("a.aiff", 32_000, 1, "AIFF", "PCM_16"),
        ("a.sph", 16_000, 1, "NIST", "PCM_16"),
    ],
)
def test_every_format_gives_the_same_samples(
    tmp_path: Path, name: str, rate: int, channels: int, format: str, subtype: str
) -> None:
    path = tmp_path / name
    wave = tone(rate)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, format=format, subtype=subtype)
    loaded = load_audio(path)
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - SAMPLE_RATE) <= 0.01 * SAMPLE_RATE
    assert audio_duration(path) == pytest.approx(len(loaded) / SAMPLE_RATE, abs=0.001)
    middle = slice(SAMPLE_RATE // 4, SAMPLE_RATE // 2)
    spectrum = np.abs(np.fft.rfft(loaded[middle]))
    assert np.argmax(spectrum) == 110  # 440 Hz in a quarter of a second
    assert np.abs(loaded[middle]).max() == pytest.approx(0.5, abs=0.03)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(SAMPLE_RATE), -0.5 * tone(SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_16_khz_samples_come_unchanged(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 600_000).astype(np.float32)  # more than one block
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), wave)


def damaged(path: Path) -> tuple[Path, str]:
    """Make the damaged file that the name stands for; its path and what the error must say."""
    wave, kind = tone(44_100), path.stem
    whole = path.with_stem("whole")
    soundfile.write(whole, wave, 44_100, subtype="FLOAT" if kind == "nan" else None)
    raw = bytearray(whole.read_bytes())
    said = "cannot be read as audio"
    if kind == "empty":
        raw, said = bytearray(), "empty file"
    elif kind == "text":
        raw, said = bytearray(b"not audio at all " * 40), "is a text file"
    elif kind == "headless":
        raw = raw[4000:]
    elif kind == "cut":
        raw, said = raw[: len(raw) // 2], "cut short|cannot be read"
    elif kind == "rate":
        raw[24:28], said = struct.pack("<I", 1), "1 Hz"
    elif kind == "size":
        at = raw.index(b"data") + 4
        raw[at : at + 4], said = struct.pack("<I", 1 << 30), "cut short"
    elif kind == "hours":  # FLAC's 36 bits of sample count
        raw[18:26] = (int.from_bytes(raw[18:26], "big") | ((1 << 36) - 1)).to_bytes(8, "big")
        said = "cut short"
    elif kind == "nan":
        soundfile.write(whole, np.where(np.arange(len(wave)) == 77, np.nan, wave), 44_100, subtype="FLOAT")
        raw, said = bytearray(whole.read_bytes()), "NaN"
    elif kind == "none":
        soundfile.write(whole, wave[:0], 44_100)
        raw, said = bytearray(whole.read_bytes()), "no samples"
    path.write_bytes(raw)
    return path, said


DAMAGED = [
    "empty.wav",
    "text.wav",
    "headless.flac",
    "cut.wav",
    "cut.flac",
    "cut.mp3",
    "cut.ogg",
    "rate.wav",
    "size.wav",
]
DAMAGED += ["hours.flac", "nan.wav", "none.wav"]


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_file_and_reason(tmp_path: Path, name: str) -> None:
    path, said = damaged(tmp_path / name)
    with pytest.raises(DataError, match=said) as caught:
        load_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["empty.wav", "text.wav", "headless.flac", "rate.wav", "hours.flac", "none.wav"])
def test_a_bad_header_has_no_duration(tmp_path: Path, name: str) -> None:
    path, _ = damaged(tmp_path / name)
    with pytest.raises(DataError, match=path.name):
        audio_duration(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.wav", tmp_path):
        with pytest.raises(DataError, match="no such audio file"):
            load_audio(path)


def test_a_wav_written_to_a_pipe_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(SAMPLE_RATE), SAMPLE_RATE)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(raw)
    assert len(load_audio(path)) == SAMPLE_RATE


def test_an_absurd_header_costs_no_memory(tmp_path: Path) -> None:
    paths = [damaged(tmp_path / name)[0] for name in ("hours.flac", "size.wav")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        with pytest.raises(DataError):
            load_audio(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_recording_of_hours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_speech.corpora.audio.MAX_SECONDS", 0.5)
    soundfile.write(tmp_path / "a.flac", tone(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(DataError, match="two hours"):
        load_audio(tmp_path / "a.flac")
    with pytest.raises(DataError, match="two hours"):
        audio_duration(tmp_path / "a.flac")


def test_check_audio() -> None:
    assert check_audio(tone(SAMPLE_RATE)) is None
    assert check_audio(0.01 * tone(SAMPLE_RATE)) is None
    assert "silent" in (check_audio(np.zeros(SAMPLE_RATE, np.float32)) or "")
    assert "silent" in (check_audio(0.001 * tone(SAMPLE_RATE)) or "")
    assert "shorter" in (check_audio(tone(SAMPLE_RATE)[: WINDOW_LENGTH - 1]) or "")
    assert "NaN" in (check_audio(np.full(SAMPLE_RATE, np.nan, np.float32)) or "")


@pytest.mark.parametrize("n_samples", [1, 100, 159, 160, 161, 400, 16_000])
def test_number_of_frames(n_samples: int) -> None:
    frames = log_mel(tone(SAMPLE_RATE)[:n_samples])
    assert frames.shape == (1 + n_samples // HOP_LENGTH, MEL_BANDS)
    assert frames.dtype == torch.float32
    assert torch.isfinite(frames).all()


def test_frame_i_is_centred_at_i_hops() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[30 * HOP_LENGTH] = 1
    energy = log_mel(click).exp().sum(dim=1)
    assert int(energy.argmax()) == 30
    torch.testing.assert_close(energy[29], energy[31])


def test_a_frame_is_what_the_definition_says() -> None:
    """Frame 50 by hand in double precision: Hann window, power spectrum, Slaney triangles of unit area."""
    librosa = pytest.importorskip("librosa")
    wave = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    centre = 50 * HOP_LENGTH
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)
    piece = wave[centre - WINDOW_LENGTH // 2 : centre + WINDOW_LENGTH // 2].astype(np.float64) * window
    power = np.abs(np.fft.rfft(piece, FFT_SIZE)) ** 2
    filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FFT_SIZE, n_mels=MEL_BANDS, fmin=20, fmax=7600)
    np.testing.assert_allclose(log_mel(wave)[50].numpy(), np.log(filters @ power), atol=1e-3)


def test_silence_is_at_the_floor_and_batches_are_single_waves() -> None:
    torch.testing.assert_close(log_mel(np.zeros(1600, np.float32)), torch.full((11, MEL_BANDS), float(np.log(1e-10))))
    waves = torch.from_numpy(np.stack([tone(SAMPLE_RATE), tone(SAMPLE_RATE, frequency=1000)]))
    both = log_mel(waves[:, None])
    assert both.shape == (2, 1, 101, MEL_BANDS)
    torch.testing.assert_close(both[1, 0], log_mel(waves[1]))
    assert int(both[0, 0, 50].argmax()) < int(both[1, 0, 50].argmax())


@pytest.mark.parametrize("n_samples", [50, 400, 5_000, SAMPLE_RATE, 300_000])
def test_streamed_frames_are_those_of_the_whole(n_samples: int, tmp_path: Path) -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, n_samples).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    streamed = torch.cat(list(stream_mel(stream_audio(tmp_path / "a.wav"), log_mel)))
    torch.testing.assert_close(streamed, log_mel(load_audio(tmp_path / "a.wav")), rtol=0, atol=1e-3)
    for size in (100, 1_700, 40_000):
        blocks = [wave[i : i + size] for i in range(0, n_samples, size)]
        torch.testing.assert_close(torch.cat(list(stream_mel(blocks, log_mel))), log_mel(wave), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_streamed_samples_are_those_of_the_whole(rate: int, tmp_path: Path) -> None:
    wave = 0.3 * np.random.default_rng(2).normal(0, 0.1, (15 * rate, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    blocks = list(stream_audio(tmp_path / "a.wav"))
    whole = load_audio(tmp_path / "a.wav")
    assert len(blocks) > 1 and sum(map(len, blocks)) == len(whole)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-4)


def test_a_stream_of_a_broken_file_says_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.1, np.nan], dtype=np.float32), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        list(stream_audio(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "b.wav", np.zeros(0, dtype=np.float32), SAMPLE_RATE)
    with pytest.raises(DataError, match="no samples"):
        list(stream_audio(tmp_path / "b.wav"))


# NIST SPHERE

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
