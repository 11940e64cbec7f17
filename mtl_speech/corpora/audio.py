"""Audio files to log-mel frames. The audio constants of the whole project stand here, once, with their units."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.sound.decoder_talk import without_talk
from mtl_speech.corpora.sound.layout import layout_of
from mtl_speech.corpora.sound.mixing import SILENT_PEAK as SILENT_PEAK
from mtl_speech.corpora.sound.mixing import Mix, find_mix, may_be_odd
from mtl_speech.corpora.sound.parts import TAIL, Layout, Part, Spliced
from mtl_speech.corpora.sound.sphere import why_unreadable

if TYPE_CHECKING:
    import numpy as np
    import soundfile
    import torch

SAMPLE_RATE = 16_000  # Hz
WINDOW_LENGTH = SAMPLE_RATE * 25 // 1000  # samples: 25 ms
HOP_LENGTH = SAMPLE_RATE * 10 // 1000  # samples: 10 ms
FFT_SIZE = 512  # samples
MEL_BANDS = 80
WHISPER_BANDS = 80  # of Whisper's own log-mel; its large third version has 128
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH  # 100
MEL_LOW, MEL_HIGH = 20.0, 7600.0  # Hz: the edges of the mel filterbank
POWER_FLOOR = 1e-10  # power below it counts as it, so that the logarithm is finite
MIN_SOURCE_RATE, MAX_SOURCE_RATE = 4_000, 768_000  # Hz: a header outside is not believed
MAX_SECONDS = 2 * 3600.0  # longer recordings are refused: cut them
MAX_CHANNELS = 64
# Whatever libsndfile reads, by its usual names. Those of raw samples are not among them: nothing tells their rate.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".opus", ".ogg", ".oga", ".mp3", ".mp2", ".mpga"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".sph", ".nist", ".nis", ".caf"),
    *(".voc", ".ircam", ".paf", ".pvf", ".8svx", ".svx", ".avr"),
)

_BLOCK = 1 << 18  # samples read at once, so that an absurd header costs no memory
_MIN_LACKING = 1e-3  # seconds at the end of a recording that are worth a word
_HELP = "convert it to WAV or FLAC"
_SPHERE_MAGIC = b"NIST_1A\n"
_MAX_SPHERE_HEADER = 1 << 16  # bytes; the header of nearly all SPHERE files has 1,024


def load_audio(path: Path, notes: list[str] | None = None) -> np.ndarray:
    """A recording as mono samples at 16 kHz.

    Any rate is resampled (soxr, high quality) and channels are averaged, unless they cancel each other: then the better one is
    taken. A recording that is quiet, in a format as fine as float, is scaled by its own peak. Of several recordings in one file
    all are read, one after another.

    Args:
        path: WAV, FLAC, Opus, Ogg, MP3, AIFF or whatever else libsndfile reads.
        notes: where what is odd, and yet used, is added in words.

    Returns:
        float32 array (n_samples,), full scale 1.

    Raises:
        DataError: unreadable, empty, cut short, longer than two hours, or with samples that are not numbers.
    """
    import numpy as np

    return np.concatenate(list(stream_audio(path, notes)))


def stream_audio(path: Path, notes: list[str] | None = None) -> Iterator[np.ndarray]:
    """The samples of `load_audio` in blocks, float32 (n_samples,), so that a long recording needs no more memory than a short one.

    Raises:
        DataError: as `load_audio`, some of it only after blocks have been given.
    """
    told = [] if notes is None else notes
    mixes: tuple[Mix, ...] = ()
    seconds = 0.0
    with _found(path) as (file, layout):
        told.extend(_notes(layout))
        for number, part in enumerate(layout.parts):
            with _opened(path, file, part) as sound:
                if not mixes and may_be_odd(sound):
                    mixes = _mixes(path, _stamp(path))
                    told.extend(dict.fromkeys(note for mix in mixes for note in mix.notes))
                mix = mixes[number] if mixes else Mix()
                blocks = _blocks(sound, path, part, seconds)
                seconds += yield from _at_our_rate(map(mix.apply, blocks), sound.samplerate, path)
    if not seconds:
        raise DataError(f"{path}: no samples: record it again or leave it out")


def _at_our_rate(blocks: Iterator[np.ndarray], rate: int, path: Path) -> Generator[np.ndarray, None, float]:
    """Blocks of mono samples at `rate` Hz, resampled to SAMPLE_RATE. Returns their seconds; raises DataError for NaN."""
    import numpy as np
    import soxr

    resampler = (
        None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    )
    total = 0
    for block in blocks:
        total += len(block)
        if not np.isfinite(block).all():
            raise DataError(f"{path}: has samples that are not finite numbers (NaN or infinity): export it again")
        yield block if resampler is None else resampler.resample_chunk(block)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    return total / rate


def audio_duration(path: Path, notes: list[str] | None = None) -> float:
    """Seconds of audio by the headers, without decoding it; those of MP3 and Ogg are read to the end of the file.

    Args:
        path: as in `load_audio`.
        notes: where what is odd, and yet used, is added in words, as far as headers tell.

    Raises:
        DataError: unreadable, empty, cut short, or the header is absurd.
    """
    seconds = 0.0
    with _found(path) as (file, layout):
        for part in layout.parts:
            with _opened(path, file, part) as sound:
                seconds += (sound.frames if part.samples is None else part.samples) / sound.samplerate
                _require_whole(path, part, seconds)
    if notes is not None:
        notes.extend(_notes(layout))
    if seconds <= 0:
        raise DataError(f"{path}: no samples: record it again or leave it out")
    if seconds > MAX_SECONDS:
        raise DataError(
            f"{path}: its header claims {seconds / 3600:.1f} hours: cut it into recordings under two hours, "
            "or convert it again if it is not that long"
        )
    return seconds


def audio_notes(path: Path) -> tuple[str, ...]:
    """What is odd about a recording that can be used, in words.

    Raises:
        DataError: as `load_audio`, but of what only decoding shows.
    """
    with _found(path) as (file, layout), _opened(path, file, layout.parts[0]) as sound:
        mixes = _mixes(path, _stamp(path)) if may_be_odd(sound) else ()
        return (*_notes(layout), *dict.fromkeys(note for mix in mixes for note in mix.notes))


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


def whisper_mel(waveform: np.ndarray | torch.Tensor, bands: int = WHISPER_BANDS) -> torch.Tensor:
    """The mel frames of Whisper (Radford et al. 2023, section 2.2), not scaled; frame i is centred at sample i * HOP_LENGTH.

    Hann window of 25 ms, 400-point FFT, Slaney mel bands up to 8000 Hz, logarithm to the base 10 of the power (at least 1e-10).

    Args:
        waveform: (n_samples,) at 16 kHz.
        bands: 80, or 128 for the large third version.

    Returns:
        float32 tensor (1 + n_samples // HOP_LENGTH, bands).
    """
    import torch

    samples = torch.as_tensor(waveform, dtype=torch.float32)
    edges = "reflect" if len(samples) > WINDOW_LENGTH // 2 else "constant"  # as Whisper's own, where there is enough
    window = torch.hann_window(WINDOW_LENGTH, device=samples.device)
    spectrum = torch.stft(samples, WINDOW_LENGTH, HOP_LENGTH, window=window, pad_mode=edges, return_complex=True)
    mel = spectrum.abs().square().T @ whisper_filters(bands).to(samples.device)
    return mel.clamp(min=POWER_FLOOR).log10()


def stream_mel(blocks: Iterable[np.ndarray], make: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[torch.Tensor]:
    """The frames that `make` (`log_mel` or `whisper_mel`) gives all the blocks of a waveform together, block by block:
    (n_frames, bands)."""
    import numpy as np
    import torch

    overlap = -(-FFT_SIZE // 2 // HOP_LENGTH)  # frames at either end of a block that its neighbour is needed for
    held, n_before = np.zeros(0, dtype=np.float32), 0  # samples not yet done with, and frames of them that were given
    for block in blocks:
        held = np.concatenate((held, block))
        n_ready = len(held) // HOP_LENGTH - overlap
        if n_ready > n_before:
            yield make(torch.from_numpy(held))[n_before:n_ready]
            drop = max(0, n_ready - overlap)
            held, n_before = held[drop * HOP_LENGTH :], n_ready - drop
    yield make(torch.from_numpy(held))[n_before:]


@lru_cache(maxsize=4)
def whisper_filters(bands: int) -> torch.Tensor:
    """The mel filterbank of Whisper, (WINDOW_LENGTH // 2 + 1, bands)."""
    from torchaudio.functional import melscale_fbanks

    filters: torch.Tensor = melscale_fbanks(
        WINDOW_LENGTH // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return filters


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
def _found(path: Path) -> Iterator[tuple[IO[bytes], Layout]]:
    """An audio file and the recordings in it, as `layout_of` gives them; what the system refuses as a DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such audio file")
    try:
        with open(path, "rb", buffering=1 << 14) as file:
            yield file, layout_of(file, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): copy it again") from error


@contextmanager
def _opened(path: Path, file: IO[bytes], part: Part) -> Iterator[soundfile.SoundFile]:
    """A recording whose header is plausible; every failure of the library as a DataError that names the file."""
    import soundfile

    try:
        with without_talk(part.talkative):
            sound = soundfile.SoundFile(path if part.whole else Spliced(file, part))
        with sound:
            if not MIN_SOURCE_RATE <= sound.samplerate <= MAX_SOURCE_RATE or sound.channels > MAX_CHANNELS:
                claim = f"{sound.samplerate} Hz and {sound.channels} channels"
                raise DataError(f"{path}: its header claims {claim}, which is absurd: {_HELP}")
            if sound.format == "MP3" and not part.talkative:
                raise DataError(f"{path}: cannot be read as audio (no frame of audio is found): {_HELP}")
            yield sound
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError) as error:
        # The library's words for an MP3 without a frame speak of a pipe.
        reason = "no frame of audio is found" if "possibly a pipe" in str(error) else error
        told = why_unreadable(path) or f"cannot be read as audio ({reason}): {_HELP}"
        raise DataError(f"{path}: {told}") from error


def _blocks(sound: soundfile.SoundFile, path: Path, part: Part, before: float) -> Iterator[np.ndarray]:
    """All samples (n, channels) block by block: no more memory than there is audio. `before` are seconds of parts before this one.

    Raises:
        DataError: damaged, shorter than the header claims, or longer than two hours.
    """
    import soundfile

    total, broken = 0, ""
    try:
        while True:
            with without_talk(part.talkative):
                block = sound.read(max(_BLOCK // sound.channels, 1), dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            total += len(block)
            if before + total / sound.samplerate > MAX_SECONDS:
                raise DataError(f"{path}: longer than two hours: cut it into shorter recordings")
            yield block
    except soundfile.LibsndfileError as error:
        broken = f" ({error})"
    claimed = sound.frames if part.samples is None else part.samples
    if broken or claimed - total > (TAIL * sound.samplerate if part.talkative else 1):
        seconds = f"{before + total / sound.samplerate:.2f} s"
        claim = f"{before + claimed / sound.samplerate + part.lacking:.2f} s that its header claims"
        raise DataError(f"{path}: damaged or cut short: {seconds} of the {claim} can be read{broken}: copy it again")
    _require_whole(path, part, before + total / sound.samplerate)


def _require_whole(path: Path, part: Part, seconds: float) -> None:
    """Raise DataError where a recording lacks more at its end, after `seconds`, than can be passed over."""
    if part.lacking > min(TAIL, seconds / 4):
        claim = f"{seconds:.2f} s of the {seconds + part.lacking:.2f} s that its header claims"
        end = f"the file ends at byte {path.stat().st_size:,}"
        raise DataError(f"{path}: damaged or cut short: {claim} can be read; {end}: copy it again")


def _notes(layout: Layout) -> tuple[str, ...]:
    """What is odd about the recordings of a file, but for their channels and peak."""
    lacking = [part.lacking for part in layout.parts if part.lacking > _MIN_LACKING]
    said = [
        f"its last {1000 * seconds:.0f} ms are missing: its header claims them; the rest is used" for seconds in lacking
    ]
    return (*layout.notes, *said)


@lru_cache(maxsize=1 << 12)
def _mixes(path: Path, stamp: tuple[int, int]) -> tuple[Mix, ...]:
    """How the channels of each recording in a file are mixed; `stamp` tells whether the file has changed."""
    with _found(path) as (file, layout):
        mixes = []
        for part in layout.parts:
            with _opened(path, file, part) as sound:
                mixes.append(find_mix(_blocks(sound, path, part, 0.0), sound.subtype))
        return tuple(mixes)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
