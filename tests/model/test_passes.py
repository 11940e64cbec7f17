"""One pass over each recording: every frame once, however it is cut and batched, and what a store holds is what a pass gives."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtl_speech.commands.target import load_start
from mtl_speech.core.cache import FeatureCache
from mtl_speech.core.options import EncoderConfig, WhisperConfig
from mtl_speech.corpora.audio import SAMPLE_RATE, load_audio
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.front_end import LOG_MEL, MARGIN, RAW, RAW_NORMALISED, FrontEnd, whisper_front_end
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model import passes
from mtl_speech.model.closed_form import class_averages
from mtl_speech.model.encoder import N_PARTS, ConvEncoder, FrameEncoder, part_weights, pooled_parts
from mtl_speech.model.passes import Stretch, embeddings_of, frames_of, n_frames_of, stretches_of, with_heard
from mtl_speech.model.scale_shift import attach, scale_shift_layers
from mtl_speech.model.whisper import WhisperEncoder
from tests.helpers import make_store, seeded, tiny_encoder, tone, toy_corpus, toy_store


class Counting(FrameEncoder):
    """A frame is the mean of its rows. `cut_off` frames of the end are missing, as where a frame hears many rows."""

    channels = 80

    def __init__(
        self, hop: float = 1.0, stretch: int = 3_000, context: int = 100, margin: int = 0, cut_off: int = 0
    ) -> None:
        super().__init__()
        self.hop, self.stretch, self.context, self.margin, self.cut_off = hop, stretch, context, margin, cut_off
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.fingerprint = f"counting {hop}"
        self.heard: list[torch.Size] = []

    def frames(self, rows: Tensor) -> Tensor:
        self.heard.append(rows.shape)
        n = math.ceil(rows.shape[1] / self.hop) - self.cut_off
        at = (torch.arange(n) * self.hop).floor().long()
        return rows[:, at] * self.weight


def conv(stride: int) -> ConvEncoder:
    """A random convolutional encoder of a stride."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stride)
        encoder = ConvEncoder(EncoderConfig(channels=8, blocks=1, embedding_size=12, stride=stride)).fold_batch_norm()
    encoder.fingerprint = f"conv {stride}"
    return encoder.requires_grad_(False)


def tiny_whisper() -> WhisperEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = WhisperEncoder(WhisperConfig(bands=80, size=16, heads=2, layers=2))
    encoder.fingerprint = "tiny"
    return encoder.requires_grad_(False).eval()


ENCODERS = {
    "whisper": tiny_whisper(),
    "of 20 ms": Counting(2.0, 1_500),
    "of 5 ms": Counting(0.5, 700),
    "of 15 ms": Counting(1.5, 700, 33),
    "of 2.5 ms": Counting(0.25, 400, 7, 48),
    **{f"conv {stride}": conv(stride) for stride in (1, 2, 3, 5, 7)},
}


# Stretches


@given(n_rows=st.integers(1, 12_000), name=st.sampled_from(sorted(ENCODERS)))
def test_stretches_cover_every_row_and_frame_exactly_once(n_rows: int, name: str) -> None:
    encoder = ENCODERS[name]
    found = list(stretches_of(3, n_rows, encoder))
    at = 0
    for low, high in ((s.low, s.high) for s in found):
        assert low == at < high
        at = high
    assert at == n_rows
    places = [round(s.low / encoder.hop) + i for s in found for i in range(s.n_frames)]
    assert places == list(range(n_frames_of(n_rows, encoder)))
    for s in found:
        assert s.recording == 3 and s.begin <= s.low and s.end - s.begin <= encoder.stretch
        assert s.begin >= -MARGIN and s.end <= n_rows + 2 * MARGIN
        assert ((s.low - s.begin) / encoder.hop).is_integer() and s.skip == (s.low - s.begin) / encoder.hop
        assert s.skip + s.n_frames <= math.ceil((s.end - s.begin) / encoder.hop)
        assert s.end >= min(s.high + encoder.context - 10, n_rows), "its frames hear what comes after"


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_longest_recording_that_is_heard_whole(name: str) -> None:
    encoder = ENCODERS[name]
    most = encoder.stretch - 2 * encoder.margin
    assert len(list(stretches_of(0, most, encoder))) == 1
    several = list(stretches_of(0, 2 * most, encoder))
    assert len(several) > 1
    for one, other in pairwise(several):
        assert other.begin <= one.high - encoder.context / 2 and one.end >= other.low + encoder.context / 2


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("n_rows", [1, 2, 9, 160, 1_503, 6_700])
def test_each_frame_is_made_of_its_own_rows(name: str, n_rows: int) -> None:
    """The number of a row, kept by an encoder that does nothing else, comes back in its place."""
    like = ENCODERS[name]
    encoder = Counting(like.hop, like.stretch, like.context, like.margin)
    track: dict[int, float] = {}

    def read(stretch: Stretch) -> Tensor:
        return torch.arange(stretch.begin, stretch.end).float().unsqueeze(1).expand(-1, 80)

    for stretch, (frames,) in frames_of(encoder, stretches_of(0, n_rows, encoder), read):
        for number in range(stretch.n_frames):
            place = round(stretch.low / encoder.hop) + number
            assert place not in track
            track[place] = float(frames[stretch.skip + number, 0])
    assert track == {i: math.floor(i * encoder.hop) for i in range(n_frames_of(n_rows, encoder))}


def test_frames_that_are_missing_at_the_end_are_the_last_one_again() -> None:
    encoder = Counting(2.0, cut_off=2)
    rows = torch.randn(21, 80, generator=seeded(0))
    stretch = Stretch(0, 0, 21, 0, 21, 0, 11)
    ((_, (frames,)),) = frames_of(encoder, [stretch], lambda _: rows)
    assert torch.equal(frames, rows[[0, 2, 4, 6, 8, 10, 12, 14, 16, 16, 16]])


# Pooling


@given(data=st.data())
def test_pooled_parts_are_the_weights_times_the_frames(data: st.DataObject) -> None:
    n_frames = data.draw(st.integers(1, 60))
    edges = st.floats(-10, 80, width=32)
    pairs = data.draw(st.lists(st.tuples(edges, edges), min_size=1, max_size=20))
    spans = torch.tensor([sorted(pair) for pair in pairs])
    frames = torch.randn(n_frames, 5, generator=seeded(n_frames))
    found = pooled_parts(frames, spans)
    assert found.shape == (len(pairs), N_PARTS, 5)
    torch.testing.assert_close(found, part_weights(spans, n_frames) @ frames, rtol=1e-4, atol=1e-4)


def test_no_segment_has_no_parts() -> None:
    assert pooled_parts(torch.randn(7, 5), torch.zeros(0, 2)).shape == (0, N_PARTS, 5)


# Batches


def long_store(n: int = 9) -> SegmentStore:
    """Recordings of different lengths, in no order."""
    draw = np.random.default_rng(0)
    return make_store([draw.integers(0, 12, size=3 + 11 * i % 23).tolist() for i in range(n)])


def heard_by(encoder: FrameEncoder, store: SegmentStore) -> tuple[Tensor, Tensor]:
    """The embeddings and the frames of a pass."""
    heard = with_heard(store, encoder).heard
    assert heard is not None and heard.track is not None
    return heard.embeddings[encoder.layer].clone(), heard.track.frames.clone()


@pytest.mark.parametrize("name", ["whisper", "conv 1", "conv 2", "conv 5"])
def test_batches_do_not_change_what_is_heard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, store = ENCODERS[name], long_store()
    expected = heard_by(encoder, store)
    for rows, segments in ((1, 1), (500, 3), (100_000, 10_000)):
        monkeypatch.setattr(passes, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(passes, "SEGMENTS_AT_ONCE", segments)
        found = heard_by(encoder, store)
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(found[1].float(), expected[1].float(), rtol=0, atol=2e-3)  # of half precision


def test_recordings_of_one_length_pass_together(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Counting()
    with_heard(make_store([[0, 1]] * 7 + [[0, 1, 2]] * 2), encoder)  # 28 rows, and 36
    assert encoder.heard == [(7, 30, 80), (2, 40, 80)], "each length is filled up to tens"
    monkeypatch.setattr(passes, "ROWS_AT_ONCE", 90)
    encoder.heard.clear()
    with_heard(make_store([[0, 1]] * 7), encoder)
    assert encoder.heard == [(3, 30, 80), (3, 30, 80), (1, 30, 80)]


# A stretch and the whole


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_convolutional_encoder_hears_a_stretch_as_the_whole(stride: int) -> None:
    """Its frames see less than the context, so nothing changes."""
    encoder, store = conv(stride), make_store([[i % 12 for i in range(70)]] * 2)
    expected = heard_by(encoder, store)
    encoder.stretch = 200
    assert len(list(stretches_of(0, int(store.length[0]), encoder))) >= 5
    found = heard_by(encoder, store)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1].float(), expected[1].float(), rtol=0, atol=2e-3)


def test_what_a_stretch_changes_for_the_encoder_that_ships_is_small(tmp_path: Path) -> None:
    """Frames know their number in the stretch. What tells classes apart knows little of it: of the distance between segments, a
    third on average, and next to nothing of what is nearest."""
    start = load_start(None, None)
    learner, encoder = start.learner(None).requires_grad_(False), start.base.encoder  # type: ignore[arg-type]
    store = build_store([toy_corpus(tmp_path, 1, 1, ["a", "k", "s", "u", "m"] * 50)], front_end=encoder.front_end)
    cut = encoder.at_layer(encoder.layer)
    cut.stretch = 1_000
    counts = [len(list(stretches_of(0, int(store.length[0]), each))) for each in (encoder, cut)]
    assert counts == [1, 4]
    whole, pieces = (learner.standardise(embeddings_of(each, store)) for each in (encoder, cut))
    off = (pieces - whole).norm(dim=1) / torch.pdist(whole).mean()
    means, _ = class_averages(whole, store.label)
    nearest = [torch.cdist(z.double(), means).argmin(1) for z in (whole, pieces)]
    same = float((nearest[0] == nearest[1]).float().mean())
    assert 0 < float(off.mean()) < 0.45 and same > 0.98, (float(off.mean()), float(off.max()), same)
    assert float((nearest[0] == store.label).float().mean()) > 0.98


# Front ends

ENDS = {
    "log-mel": LOG_MEL,
    "whisper": whisper_front_end(),
    "whisper of 128 bands": whisper_front_end(128),
    "samples": RAW,
    "samples, normalised": RAW_NORMALISED,
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("n", [50, 400, 1_599, 16_000, 50_123])
def test_a_recording_in_blocks_is_that_which_is_held(name: str, n: int) -> None:
    end: FrontEnd = ENDS[name]
    waveform = tone(n / SAMPLE_RATE, 170.0)[:n] + 0.01 * np.random.default_rng(0).standard_normal(n).astype(np.float32)
    whole = end.make(waveform)
    assert whole.dtype == torch.float16 and whole.shape[1] == end.width
    for sizes in ((160,), (1, 7, 4_000), (333, 12_000), (n,)):
        pieces, at = [], 0
        while at < n:
            size = sizes[len(pieces) % len(sizes)]
            pieces.append(waveform[at : at + size])
            at += size
        rows = end.rows()
        found = rows.finish(torch.cat(list(rows.blocks(pieces))))
        # Energies on the border of two steps count as either; float16 keeps three digits.
        torch.testing.assert_close(found, whole.float(), rtol=2e-3, atol=4e-3)


# What a store holds


class Deaf(Exception):
    """An encoder was asked again."""


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no recording passes through an encoder."""

    def refuse(*_: object, **__: object) -> None:
        raise Deaf

    monkeypatch.setattr(passes, "frames_of", refuse)


@pytest.mark.parametrize("name", ["whisper", "conv 2"])
def test_the_embeddings_of_a_store_are_used_and_equal_a_fresh_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, plain = ENCODERS[name], long_store()
    fresh, store = embeddings_of(encoder, plain), with_heard(plain, encoder)
    some = store.select(torch.tensor([5, 3, 60, 3]))
    deaf(monkeypatch)
    torch.testing.assert_close(embeddings_of(encoder, store), fresh, rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings_of(encoder, some), fresh[[5, 3, 60, 3]], rtol=0, atol=1e-5)
    mask = store.select(store.label == 4).select(torch.tensor([1, 0]))
    torch.testing.assert_close(embeddings_of(encoder, mask), fresh[store.label == 4][[1, 0]], rtol=0, atol=1e-5)
    with pytest.raises(Deaf):
        embeddings_of(encoder, plain)


def test_those_of_another_encoder_or_with_a_moved_phi_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_whisper()
    store = with_heard(toy_store(), encoder)
    adapted = attach(encoder, "channel", encoder.phi_patterns)
    before = embeddings_of(adapted, store)
    with torch.no_grad():
        for layer in scale_shift_layers(adapted).values():
            layer.shift += 0.5
    assert float((embeddings_of(adapted, store) - before).abs().max()) > 0.1
    torch.testing.assert_close(embeddings_of(adapted, store), embeddings_of(adapted, toy_store()))
    other, nameless, lower = tiny_whisper(), tiny_whisper(), encoder.at_layer(1)
    other.fingerprint, nameless.fingerprint = "another", ""
    deaf(monkeypatch)
    for each in (adapted, other, nameless, lower):
        with pytest.raises(Deaf):
            embeddings_of(each, store)
    assert torch.equal(embeddings_of(encoder, store), before)


def test_all_layers_are_heard_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, plain = tiny_whisper(), long_store()
    expected = {layer: embeddings_of(encoder.at_layer(layer), plain) for layer in (1, 2)}
    store = with_heard(plain, encoder, every=True)
    assert store.heard is not None and store.heard.track is None and sorted(store.heard.embeddings) == [1, 2]
    deaf(monkeypatch)
    for layer, each in expected.items():
        torch.testing.assert_close(embeddings_of(encoder.at_layer(layer), store), each, rtol=0, atol=1e-4)
    assert not torch.allclose(expected[1], expected[2], atol=0.05)


def test_numbers_that_do_not_fit_what_was_heard_are_refused() -> None:
    store = with_heard(toy_store(), tiny_whisper())
    with pytest.raises(ValueError, match="of other segments"):
        replace(store, number=store.number[:3])


def test_what_is_heard_lies_in_files_of_the_cache_without_a_name(tmp_path: Path) -> None:
    with_heard(toy_store(), tiny_whisper(), FeatureCache(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Segments at the edges


@pytest.mark.parametrize("name", ["whisper", "of 15 ms", "conv 1", "conv 2", "conv 5"])
def test_segments_at_the_edges_of_recordings_and_stretches(name: str) -> None:
    """At the very beginning and end, beyond them, of no length, and where one stretch hands over to the next."""
    encoder = ENCODERS[name] if name != "whisper" else tiny_whisper()
    plain = make_store([[0, 1, 2] * 60, [3]])
    encoder = encoder.at_layer(encoder.layer) if name == "whisper" else encoder
    stretch = encoder.stretch
    try:
        encoder.stretch = 400
        n_rows = int(plain.length[0])
        seams = [s.low for s in stretches_of(0, n_rows, encoder)][1:]
        assert len(seams) >= 3
        places = [(0, 8), (-3, 4), (0, 0), (n_rows - 8, n_rows), (n_rows - 2, n_rows + 5), (n_rows, n_rows)]
        places += [(at - 4, at + 4) for at in seams] + [(at - 40, at + 41) for at in seams] + [(at, at) for at in seams]
        places += [(at - 60, at - 52) for at in seams] + [(at + 50, at + 58) for at in seams]
        spans = torch.tensor(places, dtype=torch.float64) + plain.first[0]
        n = len(places)
        store = replace(
            plain,
            start=spans[:, 0],
            end=spans[:, 1],
            **{
                key: getattr(plain, key)[torch.zeros(n, dtype=torch.long)]
                for key in ("label", "utterance", "language", "speaker")
            },
            number=torch.arange(n),
        )
        found, (kept, track) = embeddings_of(encoder, store), heard_by(encoder, store)
        assert bool(torch.isfinite(found).all()) and bool(found.any(1).all())
        torch.testing.assert_close(kept, found)
        pooled = encoder.pool(track[: n_frames_of(n_rows, encoder)].float(), (spans - plain.first[0]).float())
        # Those that end in the last rows, or in two stretches of an encoder that knows positions, are of other frames too.
        ends = [n_rows - 10, *(seams if name == "whisper" else ())]
        inside = torch.tensor(
            [0 <= low < high < low + 60 and not any(low <= end <= high for end in ends) for low, high in places]
        )
        assert int(inside.sum()) >= (1 if name == "whisper" else 7)
        torch.testing.assert_close(found[inside], pooled[inside], rtol=5e-3, atol=2e-2)
    finally:
        encoder.stretch = stretch


def test_a_stretch_without_a_segment_is_no_fault() -> None:
    """As where only the first minute of a recording is labelled."""
    encoder, store = Counting(), make_store([[0, 1, 2] * 60])
    encoder.stretch = 400
    expected = embeddings_of(encoder, store)
    some = torch.cat((torch.arange(10), torch.arange(170, 180)))
    torch.testing.assert_close(embeddings_of(encoder, store.select(some)), expected[some])
    torch.testing.assert_close(heard_by(encoder, store.select(some))[0], expected[some])


def test_a_recording_without_a_segment_is_not_heard() -> None:
    encoder = Counting()
    store = make_store([[0, 1], [2, 3], [4]])
    heard = with_heard(store.select(store.utterance != 1), encoder).heard
    assert sum(shape[0] for shape in encoder.heard) == 2
    assert heard is not None and heard.track is not None
    first = heard.track.first.tolist()
    assert first == [0, 28, 56, 76] and not bool(heard.track.frames[28:56].any())
    assert bool(heard.track.frames[:28].any(1).all()) and bool(heard.track.frames[56:].any(1).all())


def test_a_store_without_segments_is_empty() -> None:
    store = toy_store().select(torch.zeros(0, dtype=torch.long))
    assert embeddings_of(tiny_encoder(), store).shape == (0, 12)
    heard = with_heard(store, tiny_encoder()).heard
    assert heard is not None and heard.embeddings[1].shape == (0, 12)


# Real recordings, from the file to the embedding


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_segment_of_a_recording_is_that_of_its_samples(stride: int, tmp_path: Path) -> None:
    """Whatever way it went: as part of a corpus on the disk, or by hand."""
    encoder = conv(stride)
    corpus: Corpus = toy_corpus(tmp_path, 2, 1)
    found = embeddings_of(encoder, build_store([corpus], front_end=encoder.front_end))
    expected = []
    for utterance in corpus.utterances:
        rows = LOG_MEL.with_margins(LOG_MEL.make(load_audio(utterance.audio))).float()
        rows = rows[MARGIN - encoder.margin // stride * stride :]
        frames = encoder.frames(rows.unsqueeze(0))[0]
        spans = torch.tensor([[s.start, s.end] for s in utterance.segments]) * 100 + encoder.margin // stride * stride
        expected.append(encoder.pool(frames, spans))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-3, atol=1e-3)
