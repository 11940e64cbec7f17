"""Θ: the acoustic encoder. Frames of recordings in, one embedding per phoneme segment out.

`FrameEncoder` is what any encoder must be; what builds on Θ asks for no more. The built-in `Encoder` is fully convolutional in
time, so that it serves windows around a segment (few-shot tasks) and whole recordings (pretraining, transcription) with the same
weights. Batch-norm serves pretraining only: `fold_batch_norm` merges it into the convolutions, so Θ as used afterwards is
convolutions with biases, without any running statistic.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.config import EncoderConfig
from mtl_speech.core.distributed import n_processes, total, total_with_gradient
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.store import LOG_MEL, FrontEnd, SegmentStore

N_PARTS = 3  # a segment is pooled over its onset, its middle and its offset
WINDOWS_AT_ONCE = 256
SPANS_AT_ONCE = 512  # of one stretch of a recording, pooled together


class FrameEncoder(nn.Module):
    """What any encoder must be to serve as Θ. A class and not a Protocol, since all that uses Θ takes it for an `nn.Module` too.

    front_end: what a store must be made with to be heard. phi_patterns: names of the layers that may carry Φ, as in a shell.
    config: settings, of which `embedding_size` must be one.
    """

    front_end: FrontEnd = LOG_MEL
    phi_patterns: tuple[str, ...] = ("*",)
    config: Any

    def frames(self, features: Tensor) -> Tensor:
        """Rows of the front end (batch, n_rows, width) -> frame features (batch, n_frames, channels)."""
        raise NotImplementedError

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """A window around each segment (n, n_rows, width) and its span in rows (n, 2) -> (n, embedding_size)."""
        raise NotImplementedError

    def embed_within(self, rows: Tensor, spans: Tensor) -> Tensor:
        """Embeddings (n, embedding_size) of spans (n, 2), in rows, of one stretch of a recording (n_rows, width)."""
        raise NotImplementedError


def as_image(x: Tensor) -> Tensor:
    """(batch, frames, channels) as (batch, channels, 1, frames) in channels-last layout, without a copy."""
    return x.unsqueeze(1).permute(0, 3, 1, 2)


class FrameConv(nn.Conv1d):
    """A 1-d convolution over (batch, frames, channels), with the weights of `nn.Conv1d`.

    It runs as a 1 × k convolution in channels-last layout, which the CPU kernels serve better than `conv1d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, in_channels) -> (batch, frames', out_channels)."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`forward` with other weights of the same shape."""
        y = F.conv2d(as_image(x), weight.unsqueeze(2), bias, (1, self.stride[0]), (0, cast(int, self.padding[0])))
        return y.permute(0, 2, 3, 1).squeeze(1)

    def input_gradient(self, dy: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of `convolve` with respect to its input, which was of `shape`, from that of its output."""
        x = as_image(dy.new_empty(shape))  # its shape counts, it is never read
        stride, padding = (1, self.stride[0]), (0, cast(int, self.padding[0]))
        weight = weight.to(dy.dtype)  # which is bfloat16 under autocast
        dx, _, _ = torch.ops.aten.convolution_backward(
            as_image(dy), x, weight.unsqueeze(2), None, stride, padding, (1, 1), False, (0, 0), 1, [True, False, False]
        )
        return cast(Tensor, dx.permute(0, 2, 3, 1).squeeze(1))


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch-norm over (batch, frames, channels). In training its statistics are of the batches of all processes together."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) -> the same shape."""
        if self.training and n_processes() > 1:
            return self._of_all(x.flatten(0, 1)).view_as(x)
        return super().forward(x.flatten(0, 1)).view_as(x)

    def _of_all(self, rows: Tensor) -> Tensor:
        """(n_rows, channels) -> the same shape. The means and then the variances are summed over processes (Ioffe, Szegedy 2015).

        `nn.SyncBatchNorm` does the same on CUDA alone.
        """
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        values = rows.to(torch.promote_types(rows.dtype, torch.float32))
        n = total(values.new_tensor(float(len(rows))))
        mean = total_with_gradient(values.sum(0)) / n
        centred = values - mean
        variance = total_with_gradient(centred.square().sum(0)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1).clamp_min(1.0)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return (centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(rows.dtype)


class ConvNorm(nn.Module):
    """Convolution and batch-norm; the norm becomes the identity once it is folded."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = FrameConv(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm: nn.Module = FrameBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, in_channels) -> (batch, frames', out_channels)."""
        return cast(Tensor, self.norm(self.conv(x)))

    def fold(self) -> None:
        """Merge the batch-norm, with its running statistics, into the convolution (exact in evaluation mode)."""
        if not isinstance(self.norm, FrameBatchNorm):
            return
        assert self.norm.running_mean is not None and self.norm.running_var is not None and self.conv.bias is not None
        gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        with torch.no_grad():
            self.conv.weight.mul_(gain.view(-1, 1, 1))
            self.conv.bias.copy_((self.conv.bias - self.norm.running_mean) * gain + self.norm.bias)
        self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """x + dropout(conv(gelu(conv(x)))), then gelu."""

    def __init__(self, channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, kernel_size)
        self.second = ConvNorm(channels, channels, kernel_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) -> the same shape."""
        return F.gelu(x + self.dropout(self.second(F.gelu(self.first(x)))))


class Encoder(FrameEncoder):
    """The built-in encoder: a stem, a convolution that halves the frame rate, residual blocks, and a segment embedding."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config: EncoderConfig = config
        self.stem = ConvNorm(MEL_BANDS, config.channels, config.stem_kernel_size)
        self.down = ConvNorm(config.channels, config.channels, config.kernel_size, stride=config.stride)
        self.blocks = nn.ModuleList(
            ResidualBlock(config.channels, config.kernel_size, config.dropout) for _ in range(config.blocks)
        )
        self.embedding = nn.Linear(N_PARTS * config.channels + 1, config.embedding_size)

    def frames(self, features: Tensor) -> Tensor:
        """Normalised log-mel (batch, n_frames, MEL_BANDS) -> frame features (batch, ceil(n_frames / stride), channels)."""
        x = F.gelu(self.stem(features))
        x = F.gelu(self.down(x))
        for block in self.blocks:
            x = block(x)
        return x

    def pool(self, frames: Tensor, spans: Tensor, index: Tensor | None = None) -> Tensor:
        """Segment embeddings from frame features.

        frames: (batch, n_frames', channels); spans: (n_segments, 2), start and end in input frames (10 ms);
        index: (n_segments,), the row of `frames` that each segment lies in, by default one segment per row.
        Returns (n_segments, embedding_size).
        """
        weights = part_weights(spans / self.config.stride, frames.shape[1])
        if index is not None:
            frames = frames[index]
        return cast(Tensor, self.embedding(with_duration(torch.bmm(weights, frames), spans)))

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """(n_segments, n_frames, MEL_BANDS) and (n_segments, 2) -> (n_segments, embedding_size)."""
        return self.pool(self.frames(windows), spans)

    def embed_within(self, rows: Tensor, spans: Tensor) -> Tensor:
        """(n_rows, MEL_BANDS) and (n, 2) -> (n, embedding_size). The stretch passes through the encoder once, as a whole."""
        (frames,) = self.frames(rows.unsqueeze(0))
        parts = spans.split(SPANS_AT_ONCE)
        pooled = [with_duration(part_weights(s / self.config.stride, len(frames)) @ frames, s) for s in parts]
        return torch.cat([self.embedding(each) for each in pooled])

    def fold_batch_norm(self) -> Encoder:
        """A copy with every batch-norm merged into its convolution, in evaluation mode. A folded encoder stays as it is."""
        folded = copy.deepcopy(self).eval()
        for module in folded.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return folded


def part_weights(spans: Tensor, n_frames: int) -> Tensor:
    """How much each frame counts in the onset, middle and offset of each segment.

    spans: (n_segments, 2) in frames of the same rate as `n_frames`. A part is a triangle centred at 1/6, 1/2 or 5/6 of the
    segment, as wide as a third of it to either side and never narrower than one frame, so short segments get all three parts.
    Returns (n_segments, N_PARTS, n_frames); rows sum to 1.
    """
    start, length = spans[:, :1], (spans[:, 1:] - spans[:, :1])
    middle = (torch.arange(N_PARTS, device=spans.device) + 0.5) / N_PARTS
    centre = (start + length * middle).clamp(0.0, n_frames - 1.0)  # (n_segments, N_PARTS)
    width = (length / N_PARTS).clamp_min(1.0).unsqueeze(2)
    frame = torch.arange(n_frames, device=spans.device, dtype=spans.dtype)
    weights = (1.0 - (frame - centre.unsqueeze(2)).abs() / width).clamp_min(0.0)
    return weights / weights.sum(2, keepdim=True)


def with_duration(parts: Tensor, spans: Tensor) -> Tensor:
    """Parts (n, N_PARTS, channels) of spans (n, 2) in rows, and the log-duration: (n, N_PARTS * channels + 1)."""
    log_duration = torch.log((spans[:, 1:] - spans[:, :1]).clamp_min(1.0) / 10.0)
    return torch.cat((parts.flatten(1), log_duration), dim=1)


def over_windows(
    model: Callable[[Tensor, Tensor], Tensor], store: SegmentStore, index: Tensor | None = None, title: str = ""
) -> Tensor:
    """What `model` makes of the windows and spans of segments `index` (n,) of a store, by default of all: (n, ...).

    They pass through it WINDOWS_AT_ONCE at a time, without gradient; under a `title` a bar shows how far they are.
    """
    batches = (torch.arange(len(store)) if index is None else index).split(WINDOWS_AT_ONCE)
    with torch.inference_mode():
        parts = [model(*store.windows(batch)) for batch in (progress(batches, title) if title else batches)]
        return torch.cat(parts)
