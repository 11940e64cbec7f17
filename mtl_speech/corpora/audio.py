"""Audio files to log-mel frames. The audio constants of the whole project stand here, once, with their units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_speech.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import soundfile
    import torch

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = SAMPLE_RATE * 25 // 1000  # samples: 25 ms
HOP_LENGTH = SAMPLE_RATE * 10 // 1000  # samples: 10 ms
FFT_SIZE = 512  # samples
MEL_BANDS = 80
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH  # 100
MEL_LOW, MEL_HIGH = 20.0, 7600.0  # Hz: the edges of the mel filterbank
POWER_FLOOR = 1e-10  # power below it counts as it, so that the logarithm is finite
SILENT_PEAK = 1e-3  # full scale is 1: a recording whose peak is below this (-60 dB) is silent
MIN_SOURCE_RATE, MAX_SOURCE_RATE = 4_000, 768_000  # Hz: a header outside is not believed
MAX_SECONDS = 2 * 3600.0  # longer recordings are refused: cut them
MAX_CHANNELS = 64
AUDIO_SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".sph")
_BLOCK = 1 << 18  # samples read at once, so that an absurd header costs no memory
# Bytes that a WAV header claims when it was written to a pipe and the length was not known: SoX, and ffmpeg.
_UNKNOWN_SIZES = (range(0x7FFFF000, 0x80000000), range(0xFFFFFF00, 0x100000000))
_HELP = "convert it to WAV or FLAC"
_SPHERE_MAGIC = b"NIST_1A\n"
_MAX_SPHERE_HEADER = 1 << 16  # bytes; the header of nearly all SPHERE files has 1,024


def load_audio(path: Path) -> np.ndarray:
    """A recording as mono samples at 16 kHz.

    Any rate is resampled (soxr, high quality) and channels are averaged. Reads WAV, FLAC, Opus, Ogg, MP3 and AIFF.

    Returns:
        float32 array (n_samples,), full scale 1.

    Raises:
        DataError: unreadable, empty, cut short, longer than two hours, or with samples that are not numbers.
    """
    import numpy as np

    return np.concatenate(list(stream_audio(path)))


def stream_audio(path: Path) -> Iterator[np.ndarray]:
    """The samples of `load_audio` in blocks, float32 (n_samples,), so that a long recording needs no more memory than a short one.

    Raises:
        DataError: as `load_audio`, some of it only after blocks have been given.
    """
    import numpy as np
    import soxr

    total = 0
    with _opened(path) as file:
        resampler = (
            None
            if file.samplerate == SAMPLE_RATE
            else soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )
        for block in _blocks(file, path):
            total += len(block)
            if not np.isfinite(block).all():
                raise DataError(f"{path}: has samples that are not finite numbers (NaN or infinity): export it again")
            yield block if resampler is None else resampler.resample_chunk(block)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if total == 0:
        raise DataError(f"{path}: no samples: record it again or leave it out")


def audio_duration(path: Path) -> float:
    """Seconds of audio by the header, without decoding it.

    Raises:
        DataError: unreadable, empty, or the header is absurd.
    """
    with _opened(path) as file:
        seconds = file.frames / file.samplerate
    if seconds <= 0:
        raise DataError(f"{path}: no samples: record it again or leave it out")
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{path}: its header claims {seconds / 3600:.1f} hours: cut it into recordings under two hours, "
            "or convert it again if it is not that long"
        )
    return seconds


def check_audio(waveform: np.ndarray) -> str | None:
    """Why a waveform of shape (n_samples,) at 16 kHz is of no use, or None if it is sound."""
    import numpy as np

    if len(waveform) < WINDOW_LENGTH:
        return f"shorter than one analysis window ({1000 * len(waveform) / SAMPLE_RATE:.0f} of 25 ms)"
    if not np.isfinite(waveform).all():
        return "has samples that are not finite numbers (NaN or infinity)"
    peak = float(np.abs(waveform).max())
    if peak < SILENT_PEAK:
        return f"silent: its peak is {peak:.1e} of full scale, below {SILENT_PEAK:.0e}"
    return None


def log_mel(waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Log-mel frames; frame i is centred at sample i * HOP_LENGTH.

    Hann window of 25 ms, 512-point FFT, 80 Slaney mel bands of 20 to 7600 Hz, natural logarithm of the power (at least
    1e-10).

    Args:
        waveform: (..., n_samples) at 16 kHz.

    Returns:
        float32 tensor (..., 1 + n_samples // HOP_LENGTH, MEL_BANDS).
    """
    import torch

    samples = torch.as_tensor(waveform, dtype=torch.float32)
    leading = samples.shape[:-1]
    window = torch.hann_window(WINDOW_LENGTH, device=samples.device)
    spectrum = torch.stft(
        samples.reshape(-1, samples.shape[-1]),
        n_fft=FFT_SIZE,
        hop_length=HOP_LENGTH,
        win_length=WINDOW_LENGTH,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.abs().square().transpose(1, 2)  # (n, n_frames, FFT_SIZE // 2 + 1)
    mel = power @ mel_filters().to(samples.device)
    return mel.clamp(min=POWER_FLOOR).log().reshape(*leading, -1, MEL_BANDS)


def stream_log_mel(blocks: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    """The frames that `log_mel` gives all the blocks of a waveform together, block by block: (n_frames, MEL_BANDS)."""
    import numpy as np
    import torch

    overlap = -(-FFT_SIZE // 2 // HOP_LENGTH)  # frames at either end of a block that its neighbour is needed for
    held, n_before = np.zeros(0, dtype=np.float32), 0  # samples not yet done with, and frames of them that were given
    for block in blocks:
        held = np.concatenate((held, block))
        n_ready = len(held) // HOP_LENGTH - overlap
        if n_ready > n_before:
            yield log_mel(torch.from_numpy(held))[n_before:n_ready]
            drop = max(0, n_ready - overlap)
            held, n_before = held[drop * HOP_LENGTH :], n_ready - drop
    yield log_mel(torch.from_numpy(held))[n_before:]


@lru_cache(maxsize=1)
def mel_filters() -> torch.Tensor:
    """The mel filterbank, (FFT_SIZE // 2 + 1, MEL_BANDS)."""
    from torchaudio.functional import melscale_fbanks

    bins = FFT_SIZE // 2 + 1
    filters: torch.Tensor = melscale_fbanks(
        bins, MEL_LOW, MEL_HIGH, MEL_BANDS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return filters


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """An open sound file whose header is plausible; every failure of the library as a DataError that names the file."""
    import soundfile

    if not path.is_file():
        raise DataError(f"{path}: no such audio file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: empty file: record it again or leave it out")
    try:
        with soundfile.SoundFile(path) as file:
            if not MIN_SOURCE_RATE <= file.samplerate <= MAX_SOURCE_RATE or file.channels > MAX_CHANNELS:
                claim = f"{file.samplerate} Hz and {file.channels} channels"
                raise DataError(f"{path}: its header claims {claim}, which is absurd: {_HELP}")
            yield file
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError) as error:
        # The library's words for an MP3 without a frame speak of a pipe.
        reason = "no frame of audio is found" if "possibly a pipe" in str(error) else error
        told = why_unreadable(path) or f"cannot be read as audio ({reason}): {_HELP}"
        raise DataError(f"{path}: {told}") from error


def _blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    """All samples, channels averaged, block by block: no more memory than there is audio.

    Raises:
        DataError: damaged, shorter than the header claims, or longer than two hours.
    """
    import numpy as np
    import soundfile

    total = 0
    try:
        while True:
            block = file.read(max(_BLOCK // file.channels, 1), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            total += len(block)
            if total > MAX_SECONDS * file.samplerate:
                raise DataError(f"{path}: longer than two hours: cut it into shorter recordings")
            yield block.mean(axis=1, dtype=np.float32)
        broken = ""
    except soundfile.LibsndfileError as error:
        broken = f" ({error})"
    claimed = _claimed_frames(file)
    slack = claimed // 20 if file.format == "MP3" else 1  # the length of an MP3 can be an estimate
    if broken or claimed - total > slack:
        seconds = f"{total / file.samplerate:.2f} s of the {claimed / file.samplerate:.2f} s that its header claims"
        raise DataError(f"{path}: damaged or cut short: {seconds} can be read{broken}: copy it again")


def _claimed_frames(file: soundfile.SoundFile) -> int:
    """Frames by the header. For WAV and AIFF libsndfile corrects the number silently, but its log tells; for SPHERE it does not."""
    if file.format == "NIST":
        claimed = (sphere_header(Path(file.name)) or {}).get("sample_count", "")
        return int(claimed) if claimed.isdecimal() else int(file.frames)
    found = re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", file.extra_info)
    if not found or any(int(found[1]) in sizes for sizes in _UNKNOWN_SIZES):
        return int(file.frames)
    return round(file.frames * int(found[1]) / max(int(found[2]), 1))


def sphere_header(path: Path) -> dict[str, str] | None:
    """The fields of a SPHERE file's header by name, such as "sample_count"; None for a file that is none."""
    with open(path, "rb") as file:
        head = file.read(_MAX_SPHERE_HEADER)
    if not head.startswith(_SPHERE_MAGIC):
        return None
    text = head.partition(b"end_head")[0].decode("latin-1")
    return dict(re.findall(r"^(\w+) -(?:i|r|s\d+) (.*?)\s*$", text, re.MULTILINE))


def why_unreadable(path: Path) -> str | None:
    """Why a SPHERE file cannot be read, and what to do; None where its header does not tell, or for a file that is none."""
    try:
        coding = (sphere_header(path) or {}).get("sample_coding", "pcm")
    except OSError:
        return None
    if "shorten" in coding:
        return (
            f"a SPHERE file whose samples are compressed ({coding}): convert it with `sph2pipe -f wav {path.name} OUT.wav` "
            "(SoX cannot read this compression)"
        )
    if coding != "pcm":
        return f"a SPHERE file with samples in {coding}: convert it with `sox -t sph {path.name} OUT.wav`"
    return None
