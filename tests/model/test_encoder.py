"""The encoder: its layers are what they stand for, and a segment is pooled where it lies."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtl_speech.core.options import EncoderConfig
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.model.encoder import N_PARTS, ConvEncoder, ConvNorm, FrameBatchNorm, FrameConv, part_weights
from tests.helpers import frozen_bytes, seeded, tiny_encoder

# Layers


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(1, 1, True), (3, 1, True), (3, 2, True), (5, 2, False)])
@pytest.mark.parametrize("n_frames", [7, 12])
def test_frame_conv_is_conv1d_over_the_last_but_one_dimension(
    kernel: int, stride: int, bias: bool, n_frames: int
) -> None:
    plain = nn.Conv1d(6, 5, kernel, stride, padding=kernel // 2, bias=bias).double()
    ours = FrameConv(6, 5, kernel, stride, padding=kernel // 2, bias=bias).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, n_frames, 6, dtype=torch.float64, generator=seeded(0))
    torch.testing.assert_close(ours(x), plain(x.transpose(1, 2)).transpose(1, 2), rtol=0, atol=1e-12)


def test_frame_batch_norm_takes_its_statistics_over_batch_and_frames() -> None:
    norm = FrameBatchNorm(4).double()
    x = 3 + 2 * torch.randn(5, 9, 4, dtype=torch.float64, generator=seeded(1))
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.var((0, 1), unbiased=False), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-4)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean((0, 1)))


# Folding


def test_folded_batch_norm_gives_the_same_output_in_evaluation_mode() -> None:
    encoder = tiny_encoder(channels=10, blocks=2, folded=False).double()
    before = frozen_bytes(encoder)
    windows = torch.randn(4, 48, MEL_BANDS, dtype=torch.float64, generator=seeded(2))
    spans = torch.tensor([[10.0, 20.0], [22.5, 24.0], [0.0, 48.0], [30.0, 31.0]], dtype=torch.float64)
    folded = encoder.fold_batch_norm()
    torch.testing.assert_close(folded(windows, spans), encoder(windows, spans), rtol=1e-10, atol=1e-12)
    assert frozen_bytes(encoder) == before, "folding changed the encoder that it copied"


def test_a_folded_encoder_has_biases_and_no_statistics() -> None:
    encoder = tiny_encoder(folded=False).train()
    folded = encoder.fold_batch_norm()
    assert not any(isinstance(m, FrameBatchNorm) for m in folded.modules())
    assert not list(folded.buffers())
    assert all(m.conv.bias is not None for m in folded.modules() if isinstance(m, ConvNorm))
    assert encoder.training and not any(m.training for m in folded.modules() if isinstance(m, nn.Dropout))
    assert frozen_bytes(folded.fold_batch_norm()) == frozen_bytes(folded)


# Frames and pooling


@pytest.mark.parametrize("n_frames", [1, 2, 47, 48])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_frame_rate_is_lowered_by_the_stride(n_frames: int, stride: int) -> None:
    encoder = ConvEncoder(EncoderConfig(channels=4, blocks=1, embedding_size=3, stride=stride)).eval()
    assert encoder.frames(torch.zeros(2, n_frames, MEL_BANDS)).shape == (2, math.ceil(n_frames / stride), 4)


def test_part_weights_by_hand() -> None:
    # From 3 to 9: the centres of the thirds are 4, 6, 8, the triangles reach 2 frames to either side.
    weights = part_weights(torch.tensor([[3.0, 9.0]]), 12)[0]
    for part, centre in enumerate((4, 6, 8)):
        expected = torch.zeros(12)
        expected[[centre - 1, centre, centre + 1]] = torch.tensor([0.25, 0.5, 0.25])
        torch.testing.assert_close(weights[part], expected)
    # A tenth of a frame long: all three parts are the same one frame wide, between frames 5 and 6.
    weights = part_weights(torch.tensor([[5.2, 5.3]]), 12)[0]
    for part, centre in enumerate((5.2 + 0.1 / 6, 5.25, 5.3 - 0.1 / 6)):
        expected = torch.zeros(12)
        expected[5], expected[6] = 6 - centre, centre - 5
        torch.testing.assert_close(weights[part], expected)


@given(
    start=st.floats(-5, 60), length=st.floats(0, 80), n_frames=st.integers(1, 50)
)  # in and out of the window, down to nothing
def test_part_weights_always_sum_to_one(start: float, length: float, n_frames: int) -> None:
    weights = part_weights(torch.tensor([[start, start + length]], dtype=torch.float64), n_frames)
    assert weights.shape == (1, N_PARTS, n_frames)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(2), torch.ones(1, N_PARTS, dtype=torch.float64))


@given(start=st.floats(8, 12), length=st.floats(3, 24))
def test_part_weights_are_centred_on_their_third_and_stay_within_reach(start: float, length: float) -> None:
    n_frames = 60
    weights = part_weights(torch.tensor([[start, start + length]], dtype=torch.float64), n_frames)[0]
    frame = torch.arange(n_frames, dtype=torch.float64)
    for part in range(N_PARTS):
        centre = start + length * (2 * part + 1) / 6
        assert float((weights[part] * frame).sum()) == pytest.approx(centre, abs=0.35)
        reached = frame[weights[part] > 0]
        assert float((reached - centre).abs().max()) < max(1.0, length / 3) + 1e-9


def test_pool_reads_onset_middle_offset_and_log_duration_in_input_frames() -> None:
    config = EncoderConfig(channels=2, blocks=1, embedding_size=N_PARTS * 2 + 1, stride=2)
    encoder = ConvEncoder(config).eval()
    with torch.no_grad():
        encoder.embedding.weight.copy_(torch.eye(7))
        encoder.embedding.bias.zero_()
    # Feature 0 of output frame j is j, feature 1 is 100 + j; the segment lies from input frame 12 to 24: output 6 to 12.
    frames = torch.stack((torch.arange(20.0), 100 + torch.arange(20.0)), dim=1)
    pooled = encoder.pool(frames, torch.tensor([[12.0, 24.0]]))[0]
    expected = [7.0, 107.0, 9.0, 109.0, 11.0, 111.0, math.log(12.0 / 10.0)]
    torch.testing.assert_close(pooled, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    shortest = encoder.pool(frames, torch.tensor([[12.0, 12.0], [12.0, 12.5]]))
    torch.testing.assert_close(shortest[:, -1], torch.full((2,), math.log(0.1)))  # never below one frame


def test_a_window_and_the_whole_recording_give_the_same_embedding() -> None:
    """Training cuts crops and few-shot tasks cut windows: the weights must mean the same in both."""
    encoder = tiny_encoder()
    recording = torch.randn(1, 160, MEL_BANDS, generator=seeded(4))
    start, end = 80.0, 88.0
    whole = encoder(recording, torch.tensor([[start, end]]))
    for left in (60, 62):  # more context than the encoder sees to either side; even, as its stride is 2
        window = recording[:, left : left + 48]
        part = encoder(window, torch.tensor([[start - left, end - left]]))
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)
