"""The whole recording or an error: several recordings in one file, lengths that headers do not tell or tell wrongly, and damage."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import AUDIO_SUFFIXES, SAMPLE_RATE, audio_duration, load_audio, stream_audio
from mtl_speech.corpora.folder import UNREADABLE_SUFFIXES
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.reading import read_corpus, validate
from mtl_speech.corpora.sound.parts import TAIL
from tests.command_line import run

MADE = Path(__file__).parents[1] / "data" / "audio"
ID3 = b"ID3\4\0\0\0\0\1\0" + b"TIT2\0\0\0\x0a\0\0\0field 01\0".ljust(128, b"\0")
COVER = b"ID3\3\0\0\0\0\x4e\x10" + bytes(range(1, 251)) * 40
ID3V1 = b"TAGfield 01".ljust(128, b"\0")
APE = (
    b"APETAGEX"
    + struct.pack("<IIII", 2000, 2000, 1, 0xA0000000)
    + bytes(8)
    + b"\x20\0\0\0\0\0\0\0Title\0x".ljust(1968, b"y")
)
APE += b"APETAGEX" + struct.pack("<IIII", 2000, 2000, 1, 0x80000000) + bytes(8)
FORMS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
FFMPEG = {
    "vbr-pipe.mp3": 1.584,
    "no-xing.mp3": 1.584,
    "cover.mp3": 1.584,
    "xing-and-tags.mp3": 1.5,
    "pipe.flac": 0.75,
    "pipe.caf": 0.5,
    "vorbis.ogg": 1.5,
    "opus.opus": 1.5,
}
UNPACKED = ("wav", "float.wav", "aiff", "au", "caf", "w64", "rf64", "sph")


def sound(seconds: float, seed: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A tone, noise and a tone: no two frames are alike, so an MP3 of variable rate varies."""
    n = round(seconds * rate)
    tone = 0.3 * np.sin(2 * np.pi * (300 + 50 * seed) * np.arange(n) / rate)
    noise = np.random.default_rng(seed).normal(0, 0.1, n)
    return np.where(np.arange(n) // (n // 3) == 1, noise, tone).astype(np.float32)


def written(samples: np.ndarray, form: str, rate: int = SAMPLE_RATE, **options: object) -> bytes:
    stream = io.BytesIO()
    kind, subtype = FORMS[form]
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype, **options)
    return stream.getvalue()


def vbr(seconds: float = 3.0, seed: int = 1) -> bytes:
    """An MP3 of variable rate with its Xing frame."""
    return written(sound(seconds, seed), "mp3", bitrate_mode="VARIABLE", compression_level=0.5)


def bare(mp3: bytes) -> bytes:
    """The frames of an MP3 alone, without its Xing frame."""
    at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    sync = mp3[mp3.rfind(b"\xff", 0, at) :]
    return sync[sync.index(mp3[mp3.rfind(b"\xff", 0, at) :][:2], 4) :]


def read(path: Path, content: bytes) -> tuple[np.ndarray, list[str]]:
    """The samples of a file of these bytes, whose header agrees on their number, and what is told."""
    path.write_bytes(content)
    notes: list[str] = []
    samples = load_audio(path, notes)
    assert audio_duration(path) == pytest.approx(len(samples) / SAMPLE_RATE, abs=1e-3)
    return samples, notes


# Several recordings in one file


@pytest.mark.parametrize("form", FORMS)
def test_recordings_joined_end_to_end_are_all_read(form: str, tmp_path: Path) -> None:
    contents = [written(sound(seconds, i), form) for i, seconds in enumerate((0.7, 0.9, 0.3))]
    alone = [read(tmp_path / f"a.{form}", content)[0] for content in contents]
    samples, notes = read(tmp_path / f"b.{form}", b"".join(contents))
    np.testing.assert_array_equal(samples, np.concatenate(alone))
    assert notes == ["3 recordings, one after another: all are read"]


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
def test_joined_recordings_may_differ_in_rate_and_channels(form: str, tmp_path: Path) -> None:
    both = np.stack((sound(1.0, 2, 32_000), sound(1.0, 3, 32_000)), axis=1)
    contents = [written(sound(0.7, 1), form), written(both, form, 32_000)]
    alone = [read(tmp_path / f"a.{form}", content)[0] for content in contents]
    samples, _ = read(tmp_path / f"b.{form}", b"".join(contents))
    np.testing.assert_array_equal(samples, np.concatenate(alone))


@pytest.mark.parametrize("between", [b"", ID3, ID3V1, APE, bytes(500), ID3V1 + ID3, COVER])
def test_what_stands_between_joined_mp3_is_no_sound(between: bytes, tmp_path: Path) -> None:
    first, second = (written(sound(1.0, i), "mp3") for i in range(2))
    samples, _ = read(tmp_path / "a.mp3", first + between + second)
    assert len(samples) == 2 * SAMPLE_RATE


def test_recordings_of_two_kinds_in_one_file_are_refused(tmp_path: Path) -> None:
    wav, flac = written(sound(0.5, 1), "wav"), written(sound(0.5, 1), "flac")
    for content in (wav + flac, flac + flac[:8000], wav + wav[:100]):
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(DataError, match="a.wav: "):
            load_audio(tmp_path / "a.wav")
    with pytest.raises(DataError, match=f"at byte {len(wav):,} a second recording begins"):
        read(tmp_path / "a.wav", wav + flac)


def test_two_streams_of_sound_at_once_are_refused(tmp_path: Path) -> None:
    one, other = (written(sound(0.5, i), "ogg") for i in range(2))
    second = one.index(b"OggS", 4)
    (tmp_path / "a.ogg").write_bytes(one[:second] + other[: other.index(b"OggS", 4)] + one[second:])
    with pytest.raises(DataError, match=f"at byte {second:,}, a second stream of sound"):
        load_audio(tmp_path / "a.ogg")


# MP3


@pytest.mark.parametrize(
    "around", [(b"", b""), (ID3, b""), (COVER, ID3V1), (b"", APE), (ID3, APE + ID3V1), (b"", bytes(300))]
)
def test_an_mp3_of_variable_rate_is_as_long_as_its_frames(around: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Neither the library's estimate nor the tags count, with the encoder's own count and without."""
    whole = vbr()
    samples, notes = read(tmp_path / "a.mp3", around[0] + whole + around[1])
    assert len(samples) == 3 * SAMPLE_RATE and notes == []
    samples, notes = read(tmp_path / "b.mp3", around[0] + bare(whole) + around[1])
    assert 3.0 < len(samples) / SAMPLE_RATE < 3.2 and notes == []
    np.testing.assert_allclose(samples[1105 : 1105 + 40_000], load_audio(tmp_path / "a.mp3")[:40_000], atol=1e-3)


def test_the_library_alone_would_cut_such_an_mp3(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(bare(vbr()))
    assert len(soundfile.read(tmp_path / "a.mp3")[0]) != len(load_audio(tmp_path / "a.mp3"))


@pytest.mark.parametrize(
    ("name", "seconds"),
    FFMPEG.items(),
)
def test_what_ffmpeg_writes_is_read_to_its_end(name: str, seconds: float, tmp_path: Path) -> None:
    """The lengths are those that ffmpeg decodes."""
    content = (MADE / name).read_bytes()
    samples, notes = read(tmp_path / name, content)
    assert len(samples) / SAMPLE_RATE == pytest.approx(seconds, abs=1e-3) and notes == []
    assert np.abs(samples[-4000:-2000]).max() > 0.02
    twice, _ = read(tmp_path / name, content * 2) if not name.startswith("pipe.caf") else (np.tile(samples, 2), [])
    assert len(twice) == 2 * len(samples)


def test_junk_within_an_mp3_is_told_with_its_place(tmp_path: Path) -> None:
    mp3 = bare(written(sound(3.0, 1), "mp3", bitrate_mode="CONSTANT"))
    half = mp3.index(mp3[:2], len(mp3) // 2)
    (tmp_path / "a.mp3").write_bytes(mp3[:half] + b"\x55" * 700 + mp3[half:])
    with pytest.raises(DataError, match=r"at 1.\d\d s, byte [\d,]+, [\d,]+ bytes are no frame of audio"):
        load_audio(tmp_path / "a.mp3")
    with pytest.raises(DataError, match="are no frame"):
        audio_duration(tmp_path / "a.mp3")


def test_an_mp3_that_ends_before_its_count_is_refused(tmp_path: Path) -> None:
    whole = vbr()
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) * 3 // 4])
    for reader in (load_audio, audio_duration):
        with pytest.raises(DataError, match=r"cut short: \d\.\d\d s of the 3\.\d\d s that its header claims"):
            reader(tmp_path / "a.mp3")


def test_a_broken_first_and_last_frame_of_a_broadcast_are_told(tmp_path: Path) -> None:
    samples, notes = read(tmp_path / "a.mp3", bare(vbr())[100:-50])
    assert len(samples) / SAMPLE_RATE == pytest.approx(3.0, abs=0.1)
    assert ["first" in notes[0], "last frame is not whole" in notes[1]] == [True, True]


def test_the_decoder_says_nothing_that_names_no_file(tmp_path: Path) -> None:
    """Not even of sound files, and what others write to the standard error meanwhile is not lost."""
    (tmp_path / "a.mp3").write_bytes(COVER + vbr() + vbr(2.0, 2))
    for name in ("cover.mp3", "no-xing.mp3"):
        (tmp_path / name).write_bytes((MADE / name).read_bytes())
    code = (
        "import os; from pathlib import Path; from mtl_speech.corpora.audio import load_audio\n"
        "from mtl_speech.corpora.sound.decoder_talk import without_talk\n"
        f"for path in Path({str(tmp_path)!r}).glob('*.mp3'): print(len(load_audio(path)))\n"
        "with without_talk(True): os.write(2, b'Warning: Xing stream size off\\nheard\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "heard\n" and len(done.stdout.split()) == 3
    shell = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code.rpartition("with ")[0]]
    closed = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert closed.stdout == done.stdout


# Lengths in headers


@pytest.mark.parametrize("form", UNPACKED)
@pytest.mark.parametrize("missing", [0.023, 0.068])
def test_a_recording_without_its_last_moment_is_used_and_told(form: str, missing: float, tmp_path: Path) -> None:
    content = written(sound(1.0, 1), form)
    width = 4 if "float" in form else 2
    cut = content[: len(content) - round(missing * SAMPLE_RATE) * width]
    samples, notes = read(tmp_path / f"a.{form}", cut)
    assert len(samples) == pytest.approx((1 - missing) * SAMPLE_RATE, abs=120)  # the library writes chunks behind some
    assert len(notes) == 1 and "are missing" in notes[0]
    cut = content[: len(content) - round(2 * TAIL * SAMPLE_RATE) * width]
    (tmp_path / f"a.{form}").write_bytes(cut)
    for reader in (load_audio, audio_duration):
        with pytest.raises(DataError, match=r"cut short: 0\.\d\d s of the 1\.0\d s.*ends at byte"):
            reader(tmp_path / f"a.{form}")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF])
@pytest.mark.parametrize("form", ["wav", "float.wav", "aiff"])
def test_a_length_that_was_not_known_is_found(form: str, size: int, tmp_path: Path) -> None:
    content = bytearray(written(sound(1.0, 1), form))
    at = content.index(b"SSND" if form == "aiff" else b"data") + 4
    n = struct.unpack_from(">I" if form == "aiff" else "<I", content, at)[0]
    struct.pack_into(">I" if form == "aiff" else "<I", content, at, size)
    samples, _ = read(tmp_path / f"a.{form}", bytes(content[: at + 4 + n]))
    assert len(samples) == SAMPLE_RATE


@pytest.mark.parametrize("form", ["wav", "aiff", "au", "caf", "w64", "sph"])
def test_a_header_that_counts_too_few_samples_is_refused(form: str, tmp_path: Path) -> None:
    content = bytearray(written(sound(1.0, 1), form))
    places = {
        "wav": (b"data", 4, "<I", 16_000),
        "aiff": (b"SSND", 4, ">I", 16_008),
        "au": (b".snd", 8, ">I", 16_000),
        "caf": (b"data", 4, ">q", 16_004),
        "w64": (b"data\xf3\xac", 16, "<Q", 16_024),
    }
    if form == "sph":
        content = bytearray(bytes(content).replace(b"sample_count -i 16000", b"sample_count -i 8000\n", 1))
    else:
        mark, offset, kind, value = places[form]
        struct.pack_into(kind, content, content.index(mark) + offset, value)
    (tmp_path / f"a.{form}").write_bytes(content)
    for reader in (load_audio, audio_duration):
        with pytest.raises(
            DataError, match=r"its header counts \d\.\d0 s, up to byte [\d,]+, but 1\d,\d{3} bytes follow"
        ):
            reader(tmp_path / f"a.{form}")


@pytest.mark.parametrize(
    "after", [b"\0" * 9000, b"LIST\4\0\0\0INFO", ID3V1, ID3, b"\n", b"bext\x20\x03\0\0" + b"x" * 800]
)
def test_what_is_no_sound_after_the_samples_does_no_harm(after: bytes, tmp_path: Path) -> None:
    samples, notes = read(tmp_path / "a.wav", written(sound(1.0, 1), "wav") + after)
    assert len(samples) == SAMPLE_RATE and notes == []


def test_samples_in_two_places_are_refused(tmp_path: Path) -> None:
    content = written(sound(1.0, 1), "wav")
    (tmp_path / "a.wav").write_bytes(content + content[content.index(b"data") :])
    with pytest.raises(DataError, match="two places, the second at byte"):
        load_audio(tmp_path / "a.wav")


# Ogg


@pytest.mark.parametrize("form", ["ogg", "opus"])
def test_damaged_and_missing_pages_are_told(form: str, tmp_path: Path) -> None:
    content = written(sound(4.0, 1), form)
    starts = [i for i in range(len(content)) if content.startswith(b"OggS", i)]
    page = starts[-2]
    for bad, said in (
        (content[: page + 200] + b"\x55" + content[page + 201 :], f"page of bytes {page:,} to .* is damaged"),
        (content[:page] + content[starts[-1] :], f"before byte {page:,}, pages are missing"),
        (content[: starts[-1] + 40], f"ends at byte {starts[-1] + 40:,}, within a page"),
        (content[:page] + b"junk" + content[page:], f"at byte {page:,} of .*, where a page should begin"),
        (content[starts[1] :], "begun|beginning of the file is missing"),
    ):
        (tmp_path / f"a.{form}").write_bytes(bad)
        for reader in (load_audio, audio_duration):
            with pytest.raises(DataError, match=said):
                reader(tmp_path / f"a.{form}")


def test_an_ogg_without_its_last_page_is_used_and_told(tmp_path: Path) -> None:
    content = written(sound(4.0, 1), "ogg")
    samples, notes = read(tmp_path / "a.ogg", content[: content.rindex(b"OggS")])
    assert len(samples) > SAMPLE_RATE and len(notes) == 1 and "not marked as the last" in notes[0]


# Whatever is cut off


@pytest.mark.parametrize("form", FORMS)
def test_wherever_a_file_is_cut_it_is_refused_or_nearly_whole(form: str, tmp_path: Path) -> None:
    """A page or a frame of MP3 may end just there; then, if the file does not count its frames, that it goes on is unknown."""
    content = written(sound(1.0, 1), form)

    @settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.integers(0, len(content) - 1))
    def check(n: int) -> None:
        path = tmp_path / f"a.{form}"
        path.write_bytes(content[:n])
        notes: list[str] = []
        try:
            samples = load_audio(path, notes)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            return
        if len(samples) < SAMPLE_RATE:
            assert notes and (len(samples) >= (1 - TAIL) * SAMPLE_RATE - 1 or "not marked as the last" in notes[0])

    check()


# Channels and peaks


@pytest.mark.parametrize("form", ["wav", "float.wav", "flac"])
def test_the_better_channel_is_taken_where_the_mean_cancels(form: str, tmp_path: Path) -> None:
    wave = sound(1.0, 1)
    samples, notes = read(tmp_path / f"a.{form}", written(np.stack((0.8 * wave, -wave), axis=1)[:, ::-1], form))
    assert np.abs(samples).max() < 0.1 or notes  # 0.8 to 1 leaves a tenth
    samples, notes = read(tmp_path / f"b.{form}", written(np.stack((wave, -0.95 * wave), axis=1), form))
    np.testing.assert_allclose(samples, wave, atol=1e-4)
    assert notes == ["its channels cancel each other in their mean (opposite phase); channel 1 of 2 alone is used"]
    alone, _ = read(tmp_path / f"c.{form}", written(np.stack((wave, -0.95 * wave), axis=1), form) * 2)
    np.testing.assert_array_equal(alone, np.tile(samples, 2))


@pytest.mark.parametrize("channels", [2, 4])
def test_one_dead_channel_is_no_silence(channels: int, tmp_path: Path) -> None:
    both = np.zeros((SAMPLE_RATE, channels), dtype=np.float32)
    both[:, -1] = sound(1.0, 1)
    samples, notes = read(tmp_path / "a.wav", written(both, "wav"))
    np.testing.assert_allclose(samples, both[:, -1] / channels, atol=1e-4)
    assert notes == []
    both *= 0.0011 / np.abs(both).max()
    samples, notes = read(tmp_path / "b.wav", written(both, "wav"))
    assert np.abs(samples).max() >= 1e-3 and f"channel {channels} of {channels} alone is used" in notes[0]


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "FLOAT"), ("WAV", "PCM_24"), ("AIFF", "DOUBLE"), ("FLAC", "PCM_24")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_quiet_file_is_scaled_by_its_own_peak(kind: str, subtype: str, channels: int, tmp_path: Path) -> None:
    wave, path = sound(1.0, 1), tmp_path / f"a.{kind.lower()}"
    wave /= np.abs(wave).max()
    soundfile.write(path, np.stack([1e-4 * wave] * channels, axis=1), SAMPLE_RATE, format=kind, subtype=subtype)
    notes: list[str] = []
    np.testing.assert_allclose(load_audio(path, notes), wave, atol=2e-3)
    assert notes == ["quiet: its peak is 1.0e-04 of full scale; scaled by it"]
    write_textgrid(path.with_suffix(".TextGrid"), 1.0, {"phones": [(0.1, 0.3, "a"), (0.3, 0.6, "s")]})
    corpus = validate(tmp_path)
    assert len(corpus.utterances) == 1 and [problem.used for problem in corpus.problems] == [True]


def test_three_steps_of_16_bits_are_silent(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 1e-4 * np.sign(sound(1.0, 1)), SAMPLE_RATE)
    write_textgrid(tmp_path / "a.TextGrid", 1.0, {"phones": [(0.1, 0.3, "a")]})
    assert ["silent" in problem.reason for problem in validate(tmp_path).problems] == [True]


def test_where_nothing_is_odd_the_samples_are_the_mean_as_ever(tmp_path: Path) -> None:
    both = np.stack((sound(1.0, 1), 0.2 * sound(1.0, 5)), axis=1)
    samples, notes = read(tmp_path / "a.wav", written(both, "float.wav"))
    np.testing.assert_array_equal(samples, both.mean(axis=1, dtype=np.float32))
    assert notes == []


# What is no recording

GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n0\n'
OTHERS = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "a pointer of git-annex": b"/annex/objects/SHA256E-s31390--f50d7ac4c6b9031379986bc362fcef.wav\n",
    "a web page": b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n",
    "a web page ": b"\xef\xbb\xbf\n  <html lang='pa'>",
    "a Praat file": GRID.encode(),
    "a Praat file ": b"\xff\xfe" + GRID.encode("utf-16-le"),
    "an ELAN file": b'<?xml version="1.0"?>\n<ANNOTATION_DOCUMENT>',
    "a JSON file": b'{"error": "not found"}',
    "a PDF": b"%PDF-1.5\n%\xbf\xf7",
    "a ZIP archive": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(90),
    "a picture (JPEG)": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(200),
    "M4A audio": b"\0\0\0\x20ftypM4A \0\0\0\0",
    "Windows Media": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "WebM": b"\x1aE\xdf\xa3\x9fB\x86\x81",
    "AMR audio": b"#!AMR\n<\x91",
    "a video (AVI)": b"RIFF\x10\0\0\0AVI LIST" + bytes(40),
    "nothing but zeros": bytes(5000),
    "a text file": "ਇਹ ਇੱਕ ਲਿਖਤ ਹੈ।\n".encode() * 300,
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
def test_what_is_no_recording_is_called_what_it_is(what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(OTHERS[what])
    for reader in (load_audio, audio_duration):
        with pytest.raises(DataError, match="copy|convert|unpack|run `git|rename") as caught:
            reader(path)
        assert what.strip() in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_an_m4a_is_named_with_the_advice_to_convert(tmp_path: Path) -> None:
    for name in ("a.m4a", "b.wav"):
        (tmp_path / name).write_bytes((MADE / "refused.m4a").read_bytes())
    (tmp_path / "c.wav").write_bytes(written(sound(1.0, 1), "wav"))
    for name in "abc":
        write_textgrid(tmp_path / f"{name}.TextGrid", 1.0, {"phones": [(0.1, 0.3, "a")]})
    corpus = read_corpus(tmp_path)
    told = {problem.file.name: problem.reason for problem in corpus.problems}
    assert [u.id for u in corpus.utterances] == ["c"]
    assert "convert it" in told["a.m4a"] and "M4A" in told["b.wav"] and "convert it" in told["b.wav"]


# Suffixes


@pytest.mark.parametrize(
    ("name", "kind", "subtype"),
    [
        ("a.au", "AU", "PCM_16"),
        ("a.snd", "AU", "ULAW"),
        ("a.aifc", "AIFF", "ULAW"),
        ("a.nist", "NIST", "PCM_16"),
        ("a.nis", "NIST", "PCM_16"),
        ("a.CAF", "CAF", "ALAC_16"),
        ("a.w64", "W64", "PCM_16"),
        ("a.rf64", "RF64", "PCM_24"),
        ("a.voc", "VOC", "PCM_16"),
        ("a.8svx", "SVX", "PCM_16"),
        ("a.ircam", "IRCAM", "PCM_16"),
        ("a.avr", "AVR", "PCM_16"),
        ("a.paf", "PAF", "PCM_16"),
        ("a.pvf", "PVF", "PCM_16"),
        ("a.wave", "WAVEX", "PCM_16"),
    ],
)
def test_whatever_the_library_reads_is_read(name: str, kind: str, subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / name, sound(1.0, 1), SAMPLE_RATE, format=kind, subtype=subtype)
    write_textgrid(tmp_path / "a.TextGrid", 1.0, {"phones": [(0.1, 0.3, "a"), (0.3, 0.6, "s")]})
    for corpus in (read_corpus(tmp_path), validate(tmp_path)):
        assert corpus.problems == () and [u.duration for u in corpus.utterances] == [1.0]


def test_no_suffix_is_both_read_and_not(tmp_path: Path) -> None:
    assert not set(AUDIO_SUFFIXES) & set(UNREADABLE_SUFFIXES)


# Where it is told


def test_what_is_used_though_odd_is_told_by_validate(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(written(sound(1.0, 1), "wav")[:-1200])
    (tmp_path / "b.ogg").write_bytes(written(sound(0.5, 1), "ogg") + written(sound(0.5, 2), "ogg"))
    for name in "ab":
        write_textgrid(tmp_path / f"{name}.TextGrid", 1.0, {"phones": [(0.1, 0.3, "a"), (0.6, 0.9, "s")]})
    for corpus in (read_corpus(tmp_path), validate(tmp_path)):
        assert {p.file.name: p.used for p in corpus.problems if p.file.suffix != ".TextGrid"} == {
            "a.wav": True,
            "b.ogg": True,
        }
    said = run("validate", tmp_path, "-o", tmp_path / "out").output
    assert "changed: " in said and "its last 38 ms are missing" in said and "2 recordings, one after another" in said


@pytest.mark.parametrize("form", ["mp3", "ogg", "wav", "flac"])
def test_a_long_recording_is_streamed_in_little_memory(form: str, tmp_path: Path) -> None:
    """Of joined files too, which are read piece by piece."""
    minute = written(np.tile(sound(1.0, 1), 60), form)
    path = tmp_path / f"a.{form}"
    path.write_bytes(minute * 10)
    tracemalloc.start()
    try:
        assert sum(map(len, stream_audio(path))) == pytest.approx(600 * SAMPLE_RATE, rel=0.01)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000  # bytes; all samples would be 38 million


def test_a_stream_gives_what_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(bare(vbr(20.0)) + ID3 + vbr(20.0))
    blocks = list(stream_audio(tmp_path / "a.mp3"))
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(tmp_path / "a.mp3"))
