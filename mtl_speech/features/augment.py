"""Augmentation through speechbrain.augment (speed, noise, room, channel, SpecAugment), and views of a training corpus with it.

A view has tables of its recordings and segments and no frames: these come from the cache, recording by recording, and are made
when they are first asked for. So memory does not grow with the corpus, and training does not wait for all of them.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.augment.time_domain import AddNoise, DropFreq, SpeedPerturb
from torch import Tensor
from torch.nn import functional as F

from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.errors import DataError, Problem, problem_of
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import HOP_LENGTH, MEL_BANDS, SAMPLE_RATE
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import Found, FrameSource, SegmentStore, assemble, audio_content, owned_utterances, place

SPEEDS = (85, 90, 95, 100, 105, 110, 115)  # per cent
SNR_RANGE = (3.0, 35.0)  # dB
NOTCH_TAPS = 101  # samples of the filter of speechbrain's DropFreq
AUGMENT_VERSION = 1  # of what `WaveformAugment` does: raised with every change that its key does not tell of


def fast_size(n: int) -> int:
    """The next power of two: transforms of other sizes can be ten times slower."""
    return 1 << (n - 1).bit_length()


def coloured_noise(waveform: Tensor) -> Tensor:
    """Noise of the shape of `waveform` (batch, samples) whose spectrum falls by 0 to 6 dB an octave (white to brown)."""
    n = waveform.shape[-1]
    size = fast_size(n)
    spectrum = torch.fft.rfft(torch.randn(len(waveform), size))
    slope = float(torch.rand(()))
    frequency = torch.arange(spectrum.shape[-1], dtype=waveform.dtype).clamp_min(1.0)
    noise = torch.fft.irfft(spectrum / frequency**slope, n=size)[:, :n]
    return noise / noise.std().clamp_min(1e-9)


def room(waveform: Tensor) -> Tensor:
    """`waveform` (1, samples) in a random small room: a direct path and exponentially decaying noise (T60 0.1 to 0.5 s)."""
    decay = 0.1 + 0.4 * float(torch.rand(()))  # seconds
    n = int(decay * SAMPLE_RATE)
    tail = torch.randn(n) * torch.exp(-6.9 * torch.arange(n) / n)
    tail *= (0.1 + 0.5 * float(torch.rand(()))) / tail.norm()
    tail[0] = 1.0
    size = fast_size(waveform.shape[-1] + n - 1)
    wet = torch.fft.irfft(torch.fft.rfft(waveform, n=size) * torch.fft.rfft(tail, n=size), n=size)
    return wet[..., : waveform.shape[-1]]


class DropBands(DropFreq):
    """speechbrain's DropFreq with its filter applied by a Fourier transform, which is ten times faster; the draws are the same."""

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) -> the same shape."""
        impulse = torch.zeros(1, 2 * NOTCH_TAPS - 1)
        impulse[0, NOTCH_TAPS - 1] = 1.0
        kernel = super().forward(impulse)[
            0, NOTCH_TAPS // 2 : -(NOTCH_TAPS // 2)
        ]  # of NOTCH_TAPS samples, in the middle
        n = waveforms.shape[-1]
        size = fast_size(n + NOTCH_TAPS - 1)
        whole = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * torch.fft.rfft(kernel, n=size), n=size)
        return whole[..., NOTCH_TAPS // 2 : NOTCH_TAPS // 2 + n]


class WaveformAugment:
    """Random speed, room, noise and dropped frequencies; one draw a recording. The same seed gives the same draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.speed = [SpeedPerturb(SAMPLE_RATE, [speed]) for speed in SPEEDS]
        self.noise = AddNoise(snr_low=SNR_RANGE[0], snr_high=SNR_RANGE[1], noise_funct=coloured_noise)
        self.drop = DropBands(drop_freq_count_high=2, drop_freq_width=0.03)
        libraries = {name: version(name) for name in ("speechbrain", "torchaudio")}
        self.key = repr(("WaveformAugment", AUGMENT_VERSION, seed, SPEEDS, SNR_RANGE, libraries))  # names what it does

    def speed_of(self, number: int) -> float:
        """The speed that recording `number` gets."""
        generator = torch.Generator().manual_seed(self._seed_of(number))
        return SPEEDS[int(torch.randint(len(SPEEDS), (), generator=generator))] / 100.0

    def _seed_of(self, number: int) -> int:
        return self.seed * 1_000_003 + number

    def __call__(self, waveform: np.ndarray, number: int) -> tuple[np.ndarray, float]:
        """Augment recording `number` (samples,); returns it and its speed (1.1: a tenth faster, so times shrink by 1.1)."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self._seed_of(number))
            signal = torch.from_numpy(waveform).unsqueeze(0)
            choice = int(torch.randint(len(SPEEDS), ()))
            signal = self.speed[choice](signal)
            if float(torch.rand(())) < 0.4:
                signal = room(signal)
            if float(torch.rand(())) < 0.7:
                signal = self.noise(signal, torch.ones(1))
            if float(torch.rand(())) < 0.3:
                signal = self.drop(signal)
        return signal.squeeze(0).numpy(), SPEEDS[choice] / 100.0


class SpecAugment(torch.nn.Module):
    """Random band and frame drops and a smooth random channel, on normalised log-mel features.

    Park et al. (2019), SpecAugment, without time warping; the drops are speechbrain's.
    """

    def __init__(self, channel_std: float = 0.3) -> None:
        super().__init__()
        self.channel_std = channel_std  # in units of the normalised features
        self.time = SpectrogramDrop(drop_length_low=2, drop_length_high=8, drop_count_low=0, drop_count_high=3, dim=1)
        self.frequency = SpectrogramDrop(
            drop_length_low=2, drop_length_high=12, drop_count_low=0, drop_count_high=2, dim=2
        )

    def forward(self, features: Tensor, index: Tensor | None = None, n: int | None = None) -> Tensor:
        """(batch, frames, MEL_BANDS) -> the same shape.

        With `index` (batch,) they are these rows of a batch of n, and are changed as they would be in all of it.
        """
        whole = len(features) if index is None or n is None else n
        knots = torch.randn(whole, 1, 6) * self.channel_std
        channel = F.interpolate(knots, size=MEL_BANDS, mode="linear", align_corners=True)
        if whole == len(features):
            dropped: Tensor = self.frequency(self.time(features + channel.to(features)))
            return dropped
        kept = self.frequency(self.time(features.new_ones(whole, *features.shape[1:])))
        return (features + channel[index].to(features)) * kept[index]


BLOCK = 64  # recordings that a process reads at a time


@dataclass(frozen=True)
class View(SegmentStore):
    """A store whose frames come from the cache: `frames` is empty, `take` gives what another store has in it.

    content: the `audio_content` of each recording. The margins hold its edge frames; where an augmented recording is
    a frame shorter than `length` says, so does that frame.
    """

    content: tuple[str, ...] = ()
    source: FrameSource = field(default_factory=FrameSource)
    checked: np.ndarray = field(
        default_factory=lambda: np.zeros(0, dtype=bool)
    )  # entries that this process has checked

    def take(self, rows: Tensor) -> Tensor:
        """The frames in `rows`, of any shape: (..., MEL_BANDS) float32. Raises DataError where a recording cannot be read."""
        flat = rows.flatten()
        owner = torch.searchsorted(self.first - MARGIN, flat, right=True) - 1
        found = torch.empty(len(flat), MEL_BANDS)
        for number in owner.unique().tolist():
            mine = owner == number
            frames = self._frames(number)
            found[mine] = frames[(flat[mine] - self.first[number]).clamp(0, len(frames) - 1)].float()
        return found.view(*rows.shape, MEL_BANDS)

    def _frames(self, number: int) -> Tensor:
        check = not self.checked[number]
        self.checked[number] = True
        return self.source.frames_of(self.audio[number], self.content[number], number, check)[0]


def make_views(
    corpus: Corpus,
    phonemes: Sequence[str],
    n_views: int,
    n_workers: int,
    seed: int,
    cache: FeatureCache | None = None,
) -> list[View]:
    """All views; the first is the recordings as they are, whose features are made here, by `n_workers` processes.

    `phonemes` fixes the label indices. What is made does not depend on `n_workers`. Raises DataError as `build_store` does.
    """
    kept = cache if cache is not None else FeatureCache()
    owned = owned_utterances([corpus])
    found: list[Found] = []
    contents: list[str] = []
    problems: list[Problem] = []
    read = _read_all([u.audio for _, u in owned], kept, n_workers)
    for (owner, utterance), (content, n_frames, fault) in zip(owned, progress(read, "features"), strict=True):
        if fault:
            problems.append(problem_of(utterance.audio, DataError(fault)))
        else:
            found.append(Found(owner, utterance, n_frames, 1.0))
            contents.append(content)
    kept.prune()
    store = assemble([corpus], found, phonemes, problems, lambda: torch.empty(0, MEL_BANDS, dtype=torch.float16), kept)
    tables = {f.name: getattr(store, f.name) for f in fields(SegmentStore)}
    told: dict[str, Any] = {**tables, "content": tuple(contents)}
    views = [View(**told, source=FrameSource(kept), checked=np.zeros(len(found), dtype=bool))]
    for number in range(1, n_views):
        augment = WaveformAugment(seed * 1000 + number)
        own = place(_at_speed(found, augment), kept) | {"checked": np.zeros(len(found), dtype=bool)}
        views.append(replace(views[0], **own, source=FrameSource(kept, augment)))  # labels and names are there once
    return views


def _at_speed(found: Sequence[Found], augment: WaveformAugment) -> list[Found]:
    """The recordings as long as their augmentation makes them, to within a frame."""
    speeds = [augment.speed_of(number) for number in range(len(found))]
    lengths = [1 + int((f.n_frames - 0.5) * HOP_LENGTH / s) // HOP_LENGTH for f, s in zip(found, speeds, strict=True)]
    return [Found(f.corpus, f.utterance, n, s) for f, n, s in zip(found, lengths, speeds, strict=True)]


def _read_all(paths: Sequence[Path], cache: FeatureCache, n_workers: int) -> Iterable[tuple[str, int, str]]:
    """Content, number of frames and fault of each recording, in order; its features are then in the cache."""
    blocks = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    n_workers = min(n_workers, len(blocks))
    if n_workers <= 1:
        yield from chain.from_iterable(_read_block(block, cache) for block in blocks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_start_worker) as pool:
        yield from chain.from_iterable(pool.map(partial(_read_block, cache=cache), blocks))


def _read_block(paths: Sequence[Path], cache: FeatureCache) -> list[tuple[str, int, str]]:
    found = []
    for path in paths:
        content = audio_content(path)
        try:
            found.append((content, len(FrameSource(cache).frames_of(path, content, 0)[0]), ""))
        except DataError as error:
            found.append((content, 0, str(error)))
    return found


def _start_worker() -> None:
    """One thread a process; an interrupt ends it without a word."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
