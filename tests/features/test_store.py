"""Features: frames stand where the clock says, levels and channels cancel, and windows hold what they claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import HOP_LENGTH, MEL_BANDS, SAMPLE_RATE, log_mel
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.features.front_end import (
    ACTIVE_RANGE,
    FLOOR_RANGE,
    MARGIN,
    PRIOR_FRAMES,
    SCALE,
    WINDOW_FRAMES,
    normalise,
)
from mtl_speech.features.store import SegmentStore, build_store
from tests.helpers import make_store, seeded, tone, toy_corpus


def speech_like(seed: int = 0, seconds: float = 1.0) -> np.ndarray:
    """Noise whose level and colour change, well above the floor of `log_mel`."""
    rng = np.random.default_rng(seed)
    parts = [
        level * np.convolve(rng.standard_normal(round(seconds * SAMPLE_RATE / 5)), kernel, "same")
        for level, kernel in zip((0.02, 0.1, 0.05, 0.1, 0.02), ([1.0], [1, 1], [1, -1], [1, 0, 1], [1.0]), strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def write(path: Path, samples: np.ndarray, segments: tuple[Segment, ...], name: str = "toy") -> Corpus:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    utterance = Utterance(path.stem, path, "pa", "s0", len(samples) / SAMPLE_RATE, segments)
    return Corpus(name, (utterance,))


# Normalisation


def test_normalise_by_hand() -> None:
    tilt = torch.linspace(-1.0, 1.0, MEL_BANDS)  # its mean is 0
    loud, soft, faint = tilt.clone(), tilt - 5.0, torch.full((MEL_BANDS,), -9.0)  # faint: below 30 dB, above 50 dB
    gone = torch.full((MEL_BANDS,), -40.0)  # below 50 dB: cut off there
    level = (0.0 - 5.0) / 2
    mean = (2 * (tilt - 2.5) + PRIOR_FRAMES * level) / (2 + PRIOR_FRAMES)
    expected = torch.stack((loud - mean, soft - mean, faint - mean, -FLOOR_RANGE - mean)) / SCALE
    torch.testing.assert_close(normalise(torch.stack((loud, soft, faint, gone))), expected)
    assert pytest.approx(6.9078, abs=1e-3) == ACTIVE_RANGE  # 30 dB of power, in nats
    assert pytest.approx(11.513, abs=1e-3) == FLOOR_RANGE


def test_six_decibels_of_gain_change_nothing() -> None:
    samples = speech_like()
    quiet, loud = normalise(log_mel(samples)), normalise(log_mel(2 * samples))
    assert float(quiet.std()) > 0.3, "there is something to compare"
    assert float((quiet - loud).abs().max()) < 1e-4  # float32; 6 dB would be 0.55
    ten_thousandth = normalise(log_mel(1e-2 * samples))
    assert float((quiet - ten_thousandth).abs().max()) < 1e-4


def test_half_precision_frames_differ_by_a_step_at_most_under_gain(tmp_path: Path) -> None:
    samples = speech_like()
    stores = [
        build_store([write(tmp_path / f"{gain}.wav", gain * samples, (Segment("a", 0.1, 0.2),))]) for gain in (1, 2)
    ]
    assert (
        float((stores[0].frames.float() - stores[1].frames.float()).abs().max()) <= 2**-8
    )  # one step of float16 below 8


def test_silence_around_a_recording_only_adds_frames() -> None:
    samples, n_before, n_after = speech_like(1), 30, 17
    padded = np.concatenate((np.zeros(n_before * HOP_LENGTH), samples, np.zeros(n_after * HOP_LENGTH)))
    plain, longer = normalise(log_mel(samples)), normalise(log_mel(padded.astype(np.float32)))
    assert len(longer) == len(plain) + n_before + n_after
    inner = longer[n_before : n_before + len(plain)]
    assert float((inner - plain).abs().max()) < 0.05  # but for frames that lie across the edge
    assert float((inner - plain).abs()[2:-2].max()) < 0.02


@pytest.mark.parametrize("n_frames", [20, 100, 1000])
def test_a_channel_is_taken_off_the_more_the_longer_the_recording(n_frames: int) -> None:
    mel = torch.randn(n_frames, MEL_BANDS, generator=seeded(0)) * 0.3
    channel = torch.sin(torch.arange(MEL_BANDS) / 5.0)
    channel -= channel.mean()
    remainder = normalise(mel + channel) - normalise(mel)
    expected = channel / SCALE * PRIOR_FRAMES / (n_frames + PRIOR_FRAMES)
    torch.testing.assert_close(remainder, expected.expand(n_frames, -1), rtol=1e-3, atol=1e-5)


# Windows


def numbered(store: SegmentStore) -> SegmentStore:
    """The store with the number of its row in every frame (exact in half precision up to 2048)."""
    rows = torch.arange(len(store.frames)).float()
    assert len(rows) <= 2048
    return replace(store, frames=rows.unsqueeze(1).expand(-1, MEL_BANDS).half())


def test_windows_lie_around_the_middle_of_their_segment() -> None:
    store = numbered(make_store([[0, 1, 2], [1, 2]]))
    store = replace(store, start=store.start + 0.25, end=store.end + 0.75)
    windows, spans = store.windows(torch.arange(5))
    assert windows.shape == (5, WINDOW_FRAMES, MEL_BANDS) and windows.dtype == torch.float32
    for segment in range(5):
        rows = windows[segment, :, 0]
        middle = float(store.start[segment] + store.end[segment]) / 2
        assert torch.equal(rows, rows[0] + torch.arange(WINDOW_FRAMES)), "a window is one stretch"
        assert abs(float(rows[WINDOW_FRAMES // 2]) - middle) <= 0.5
        assert float(rows[0] + spans[segment, 0]) == pytest.approx(float(store.start[segment]))
        assert float(rows[0] + spans[segment, 1]) == pytest.approx(float(store.end[segment]))


def test_a_segment_longer_than_its_window_is_cut_to_it() -> None:
    store = numbered(make_store([[0] * 12]))
    store = replace(store, start=store.start[:1], end=store.start[:1] + 80.5, label=store.label[:1])
    windows, spans = store.windows(torch.tensor([0]))
    assert spans.tolist() == [[0, WINDOW_FRAMES]]
    assert abs(float(windows[0, WINDOW_FRAMES // 2, 0]) - float(store.start[0] + 40.25)) <= 0.5


def test_no_window_reaches_into_the_neighbouring_recording() -> None:
    store = make_store([[0], [1], [2]])
    owner = torch.zeros(len(store.frames))
    for number, (first, length) in enumerate(zip(store.first.tolist(), store.length.tolist(), strict=True)):
        owner[first - MARGIN : first + length + MARGIN] = number
    store = replace(store, frames=owner.unsqueeze(1).expand(-1, MEL_BANDS).half())
    last = store.first + store.length
    for start, end in ((store.first, store.first + 1), (last - 1, last), (store.first, last)):
        windows, _ = replace(store, start=start.double(), end=end.double()).windows(torch.arange(3))
        assert torch.equal(windows, torch.arange(3.0).view(3, 1, 1).expand_as(windows))


def test_select_keeps_segments_with_all_that_belongs_to_them() -> None:
    store = make_store([[0, 1, 2], [3, 4]], languages=[0, 1], speakers=[1, 0])
    index = torch.tensor([4, 1])
    part = store.select(index)
    assert len(part) == 2 and part.frames is store.frames and part.phonemes == store.phonemes
    for key, expected in {"label": [4, 1], "utterance": [1, 0], "language": [1, 0], "speaker": [0, 1]}.items():
        assert getattr(part, key).tolist() == expected
    for ours, whole in zip(part.windows(torch.arange(2)), store.windows(index), strict=True):
        assert torch.equal(ours, whole)


# From recordings to a store


def test_segments_lie_where_they_sound(tmp_path: Path) -> None:
    samples = 0.001 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    begin, end = 0.4, 0.5
    samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] += tone(end - begin, 200.0)
    corpus = write(tmp_path / "a.wav", samples, (Segment("a", begin, end),))
    store = build_store([corpus])
    assert float(store.start[0]) == pytest.approx(MARGIN + 40) and float(store.end[0]) == pytest.approx(MARGIN + 50)
    energy = store.frames.float().mean(1)
    sounding = torch.nonzero(energy > (energy.max() + energy.min()) / 2).squeeze(1)
    assert abs(int(sounding[0]) - float(store.start[0])) <= 1.5 and abs(int(sounding[-1]) - float(store.end[0])) <= 1.5


def test_recordings_stand_between_margins_of_their_edge_frames(tmp_path: Path) -> None:
    store = build_store([toy_corpus(tmp_path, 3, 1)])
    assert len(store.frames) == int(store.length.sum()) + 3 * 2 * MARGIN
    assert store.frames.dtype == torch.float16 and store.start.dtype == torch.float64
    row = 0
    for first, length in zip(store.first.tolist(), store.length.tolist(), strict=True):
        assert first == row + MARGIN and length == 1 + round(0.6 * SAMPLE_RATE) // HOP_LENGTH
        for edge, inside in ((slice(row, first), first), (slice(first + length, first + length + MARGIN), -1)):
            inside = first + length - 1 if inside == -1 else inside
            assert torch.equal(store.frames[edge], store.frames[inside : inside + 1].expand(MARGIN, -1))
        assert not torch.equal(store.frames[first], store.frames[first + length // 2])
        row += length + 2 * MARGIN


def test_store_keeps_the_owner_of_each_segment(tmp_path: Path) -> None:
    one = toy_corpus(tmp_path / "1", 3, 2, "ab", name="one")
    two = toy_corpus(tmp_path / "2", 2, 1, "bm", name="two")
    two = replace(two, utterances=tuple(replace(u, language="en") for u in two.utterances))
    store = build_store([one, two])
    wanted = [(c.name, u, s) for c in (one, two) for u in c.utterances for s in u.segments]
    assert len(store) == len(wanted) and store.phonemes == ("a", "b", "m") and store.languages == ("en", "pa")
    for segment, (name, utterance, spoken) in enumerate(wanted):
        number = int(store.utterance[segment])
        assert store.utterance_ids[number] == f"{name}/{utterance.id}"
        assert store.speakers[int(store.speaker[segment])] == f"{name}/{utterance.speaker}"
        assert store.languages[int(store.language[segment])] == utterance.language
        assert store.phonemes[int(store.label[segment])] == spoken.phoneme
        assert float(store.start[segment]) == pytest.approx(int(store.first[number]) + 100 * spoken.start)
        assert float(store.end[segment]) == pytest.approx(int(store.first[number]) + 100 * spoken.end)


def test_times_shrink_with_the_speed_of_the_augmented_recording(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 2, 1)
    seen = []

    def twice_as_fast(waveform: np.ndarray, number: int) -> tuple[np.ndarray, float]:
        seen.append(number)
        return waveform[::2].copy(), 2.0

    store = build_store([corpus], transform=twice_as_fast)
    assert seen == [0, 1]
    assert store.length.tolist() == [1 + round(0.3 * SAMPLE_RATE) // HOP_LENGTH] * 2
    spoken = corpus.utterances[1].segments[2]
    segment = len(corpus.utterances[0].segments) + 2
    assert float(store.start[segment] - store.first[1]) == pytest.approx(50 * spoken.start)
    assert float(store.end[segment] - store.first[1]) == pytest.approx(50 * spoken.end)


def test_unusable_recordings_are_told_and_shift_nothing(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 4, 1)
    soundfile.write(corpus.utterances[0].audio, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    corpus.utterances[2].audio.write_bytes(b"no audio")
    store = build_store([corpus])
    assert store.utterance_ids == ("toy/s0/u1", "toy/s0/u3") and len(store.first) == 2
    assert [p.file for p in store.problems] == [corpus.utterances[0].audio, corpus.utterances[2].audio]
    assert "silent" in store.problems[0].reason and "cannot be read" in store.problems[1].reason
    assert not any(p.reason.startswith(str(p.file)) for p in store.problems)
    alone = build_store([corpus.filter(lambda u: u.id in ("s0/u1", "s0/u3"))])
    assert torch.equal(store.frames, alone.frames) and torch.equal(store.start, alone.start)


def test_nothing_usable_is_an_error_that_says_why(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 1, 1)
    soundfile.write(corpus.utterances[0].audio, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(DataError, match="no usable segment.*silent"):
        build_store([corpus])
    with pytest.raises(DataError, match="no recording"):
        build_store([Corpus("empty", ())])


def test_a_given_table_fixes_the_labels_and_refuses_others(tmp_path: Path) -> None:
    corpus = toy_corpus(tmp_path, 1, 1, "bm")
    store = build_store([corpus], phonemes=("m", "z", "b"))
    assert store.phonemes == ("m", "z", "b")
    assert [store.phonemes[i] for i in store.label] == [s.phoneme for s in corpus.utterances[0].segments]
    with pytest.raises(DataError, match="outside the given table: m"):
        build_store([corpus], phonemes=("b",))
