"""Augmentation: the same draws for the same seed, times that follow the speed, and drops that are drops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from speechbrain.augment.time_domain import DropFreq

from mtl_speech.corpora.audio import MEL_BANDS, SAMPLE_RATE
from mtl_speech.features import augment
from mtl_speech.features.augment import SPEEDS, DropBands, SpecAugment, WaveformAugment, coloured_noise, fast_size, room
from tests.helpers import seeded, tone


def click_at(seconds: float, total: float = 0.8) -> np.ndarray:
    """Faint noise with a short loud tone around a time."""
    samples = 0.002 * np.random.default_rng(0).standard_normal(round(total * SAMPLE_RATE)).astype(np.float32)
    begin = round((seconds - 0.01) * SAMPLE_RATE)
    burst = tone(0.02, 1000.0)
    samples[begin : begin + len(burst)] += burst
    return samples


def centre_of_power(samples: np.ndarray) -> float:
    power = samples.astype(np.float64) ** 4
    return float((power * np.arange(len(power))).sum() / power.sum() / SAMPLE_RATE)


def test_times_and_length_follow_the_speed_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without room and noise the click shows to a millisecond where a time has gone.
    transform = WaveformAugment(0)
    transform.noise = transform.drop = lambda signal, *_: signal  # type: ignore[assignment]
    monkeypatch.setattr(augment, "room", lambda signal: signal)
    samples = click_at(0.5)
    seen = set()
    for number in range(30):
        out, speed = transform(samples, number)
        seen.add(round(100 * speed))
        assert abs(len(out) - len(samples) / speed) <= 1
        assert abs(centre_of_power(out) - 0.5 / speed) < 0.001
    assert seen == set(SPEEDS)


def test_the_same_seed_and_number_give_the_same_recording_and_others_another() -> None:
    samples = click_at(0.3)
    state = torch.random.get_rng_state()
    first = [WaveformAugment(5)(samples, number) for number in range(4)]
    torch.manual_seed(1)
    backwards = [WaveformAugment(5)(samples, number) for number in (3, 2, 1, 0)][::-1]
    for (one, fast), (other, too) in zip(first, backwards, strict=True):
        assert fast == too and np.array_equal(one, other)
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], WaveformAugment(6)(samples, 0)[0])
    torch.random.set_rng_state(state)
    WaveformAugment(5)(samples, 0)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator moved"


def test_every_kind_of_augmentation_happens_and_stays_finite() -> None:
    samples = click_at(0.4)
    same_speed = [out for out, speed in (WaveformAugment(1)(samples, n) for n in range(40)) if speed == 1.0]
    changed = [float(np.abs(out[: len(samples)] - samples[: len(out)]).max()) for out in same_speed]
    assert len(changed) > 2 and max(changed) > 0.02
    assert all(np.isfinite(out).all() for out in same_speed)


def test_fast_size_is_the_next_power_of_two() -> None:
    assert [fast_size(n) for n in (1, 2, 3, 1024, 1025)] == [1, 2, 4, 1024, 2048]


def test_coloured_noise_is_as_loud_as_said_and_falls_by_up_to_six_decibels_an_octave() -> None:
    slopes = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(12):
            torch.manual_seed(seed)
            noise = coloured_noise(torch.zeros(1, 32_768))
            assert noise.shape == (1, 32_768)
            assert abs(float(noise.std()) - 1) < 1e-3
            power = torch.fft.rfft(noise[0]).abs().square()
            low, high = power[256:512].mean(), power[8192:16384].mean()  # five octaves apart
            slopes.append(10 * float(torch.log10(low / high)) / 5)
    assert min(slopes) > -0.5 and max(slopes) < 6.5
    assert max(slopes) - min(slopes) > 3


def test_a_room_keeps_the_direct_path_and_adds_a_decaying_tail_behind_it() -> None:
    impulse = torch.zeros(1, SAMPLE_RATE)
    impulse[0, 100] = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wet = room(impulse)[0]
    assert wet.shape == (SAMPLE_RATE,)
    assert abs(float(wet[100]) - 1) < 1e-4 and float(wet[:100].abs().max()) < 1e-4
    tail = wet[101:]
    assert 0.09 < float(tail.norm()) < 0.61
    n = int(torch.nonzero(tail.abs() > 1e-5)[-1])
    assert float(tail[: n // 4].square().sum()) > 10 * float(tail[n // 2 : n].square().sum())


def test_spec_augment_drops_stretches_of_frames_and_bands() -> None:
    features = 5 + torch.rand(8, 96, MEL_BANDS, generator=seeded(0))
    before = features.clone()
    augmented = SpecAugment(channel_std=0.0)
    kinds = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(20):
            out = augmented(features)
            dropped = out == 0
            assert out.shape == features.shape and torch.equal(out[~dropped], features[~dropped])
            whole_frames, whole_bands = dropped.all(2), dropped.all(1)
            explained = whole_frames.unsqueeze(2) | whole_bands.unsqueeze(1)
            assert torch.equal(dropped, explained)
            assert int(whole_frames.sum(1).max()) <= 3 * 7 and int(whole_bands.sum(1).max()) <= 2 * 11
            kinds |= {"frames"} if bool(whole_frames.any()) else set()
            kinds |= {"bands"} if bool(whole_bands.any()) else set()
    assert kinds == {"frames", "bands"}
    assert torch.equal(features, before), "the features given were changed in place"


def test_spec_augment_adds_a_smooth_channel_that_is_the_same_in_every_frame() -> None:
    features = torch.zeros(16, 20, MEL_BANDS)
    augmented = SpecAugment(channel_std=0.5)
    augmented.time = augmented.frequency = torch.nn.Identity()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channel = augmented(features)
    assert torch.equal(channel, channel[:, :1].expand_as(channel))
    assert 0.3 < float(channel[:, 0].std()) < 0.6
    assert not torch.allclose(channel[0], channel[1])
    steps = channel[:, 0].diff(dim=1).abs().max()
    assert float(steps) < 0.5 * 6 / (MEL_BANDS / 5)  # six knots over all bands: no step is large


def test_dropped_frequencies_are_those_of_speechbrain() -> None:
    signal = torch.randn(1, 4001, generator=torch.Generator().manual_seed(0))
    settings = {"drop_freq_count_high": 2, "drop_freq_width": 0.03}
    for seed in range(6):
        found = []
        for cls in (DropFreq, DropBands):
            torch.manual_seed(seed)
            found.append((cls(**settings)(signal), torch.rand(())))
        (theirs, after), (ours, ours_after) = found
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert after == ours_after, "the draws are the same"
    short = torch.randn(1, 60)
    assert DropBands(**settings)(short).shape == short.shape


def test_the_speed_of_a_recording_is_known_without_it() -> None:
    made = WaveformAugment(5)
    waveform = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    speeds = [made.speed_of(number) for number in range(12)]
    assert speeds == [made(waveform, number)[1] for number in range(12)] and len(set(speeds)) > 2
    assert made.key != WaveformAugment(6).key and made.key == WaveformAugment(5).key
