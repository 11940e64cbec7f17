"""Θ: the acoustic encoder. Frames of recordings in, one embedding per phoneme segment out.

`FrameEncoder` is what any encoder must be; what builds on Θ asks for no more. `ConvEncoder` is one that `mtl-speech pretrain` makes
from nothing. Batch-norm serves its pretraining only: `fold_batch_norm` merges it into the convolutions, so Θ as used afterwards is
convolutions with biases, without any running statistic.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.distributed import n_processes, total, total_with_gradient
from mtl_speech.core.options import EncoderConfig
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.front_end import LOG_MEL, MARGIN, FrontEnd

N_PARTS = 3  # a segment is pooled over its onset, its middle and its offset


class FrameEncoder(nn.Module):
    """What any encoder must be to serve as Θ. A class and not a Protocol, since all that uses Θ takes it for an `nn.Module` too.

    Rows are what the front end makes of a recording, one every 10 ms. A frame is what the encoder makes of them.

    front_end: what the encoder hears. hop: rows from frame to frame. centre: the row at which frame 0 is centred. channels: numbers
    a frame. stretch: rows that are heard at once at most; longer recordings are heard in stretches of so many, with `context` rows
    of either neighbour. margin: rows heard before and after a recording. phi_patterns: names of the layers that may carry Φ, as in
    a shell. n_layers: layers that can be chosen from, of which `layer` is the last one that is computed, counted from 1.
    row_length: how many times 10 ms a row is, where it is a frame of another encoder. fingerprint: the hash of the weights as they
    were loaded, by which what the encoder made of a store is known again.
    """

    front_end: FrontEnd = LOG_MEL
    hop: float = 1.0
    centre: float = 0.0
    channels: int
    stretch: int = 3_000
    context: int = 100
    margin: int = 0
    phi_patterns: tuple[str, ...] = ("*",)
    n_layers: int = 1
    layer: int = 1
    row_length: float = 1.0
    fingerprint: str = ""

    def frames(self, rows: Tensor) -> Tensor:
        """Rows of the front end (batch, n_rows, width) -> frames of `layer` (batch, n_frames, channels)."""
        raise NotImplementedError

    def all_layers(self, rows: Tensor) -> list[Tensor]:
        """The frames of the layers 1 to `layer`, in one pass."""
        return [self.frames(rows)]

    def at_layer(self, layer: int) -> FrameEncoder:
        """The encoder up to a layer: a copy that shares what is frozen."""
        return self

    def split(self) -> tuple[FrameEncoder, FrameEncoder] | None:
        """What lies below the lowest layer with Φ, and the rest, whose rows are the frames of the former; None where it is one."""
        return None

    @property
    def embedding_size(self) -> int:
        """Dimensions of the embedding of a segment."""
        return N_PARTS * self.channels + 1

    def embed(self, parts: Tensor, spans: Tensor) -> Tensor:
        """The parts of segments (n, N_PARTS, channels), and their spans (n, 2) in rows -> embeddings (n, embedding_size)."""
        log_duration = torch.log((self.row_length * (spans[:, 1:] - spans[:, :1])).clamp_min(1.0) / 10.0)
        return torch.cat((parts.flatten(1), log_duration), dim=1)

    def places(self, spans: Tensor) -> Tensor:
        """Where spans in rows lie among the frames, of the same shape."""
        return (spans - self.centre) / self.hop

    def forward(self, windows: Tensor, spans: Tensor) -> Tensor:
        """A window around each segment (n, n_rows, width) and its span in rows (n, 2) -> embeddings (n, embedding_size)."""
        frames = self.frames(windows)
        return self.embed(torch.bmm(part_weights(self.places(spans), frames.shape[1]), frames), spans)

    def pool(self, frames: Tensor, spans: Tensor) -> Tensor:
        """Frames of a stretch (n_frames, channels) and spans (n, 2) in its rows -> embeddings (n, embedding_size)."""
        return self.embed(pooled_parts(frames, self.places(spans)), spans)


class SharedEncoder(FrameEncoder):
    """An encoder whose copies share what is frozen: there is one Θ in memory, however many learners build on it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrameEncoder:
        memo |= {id(t): t for t in [*self.parameters(), *self.buffers()] if not t.requires_grad}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied


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


class ConvEncoder(FrameEncoder):
    """A small convolutional encoder: a stem, a convolution that halves the frame rate, residual blocks, and a segment embedding."""

    context = margin = MARGIN

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.hop, self.channels = float(config.stride), config.channels
        self.stem = ConvNorm(MEL_BANDS, config.channels, config.stem_kernel_size)
        self.down = ConvNorm(config.channels, config.channels, config.kernel_size, stride=config.stride)
        self.blocks = nn.ModuleList(
            ResidualBlock(config.channels, config.kernel_size, config.dropout) for _ in range(config.blocks)
        )
        self.embedding = nn.Linear(N_PARTS * config.channels + 1, config.embedding_size)

    @property
    def embedding_size(self) -> int:
        """As `FrameEncoder` says."""
        return self.config.embedding_size

    def frames(self, rows: Tensor) -> Tensor:
        """Normalised log-mel (batch, n_frames, MEL_BANDS) -> frame features (batch, ceil(n_frames / stride), channels)."""
        x = F.gelu(self.stem(rows))
        x = F.gelu(self.down(x))
        for block in self.blocks:
            x = block(x)
        return x

    def embed(self, parts: Tensor, spans: Tensor) -> Tensor:
        """As `FrameEncoder` says, learned in pretraining."""
        return cast(Tensor, self.embedding(super().embed(parts, spans)))

    def fold_batch_norm(self) -> ConvEncoder:
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
    centre, width = _triangles(spans, n_frames)
    frame = torch.arange(n_frames, device=spans.device, dtype=spans.dtype)
    weights = (1.0 - (frame - centre.unsqueeze(2)).abs() / width.unsqueeze(2)).clamp_min(0.0)
    return weights / weights.sum(2, keepdim=True)


def _triangles(spans: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
    """Where the triangles of `part_weights` are centred, and how wide they are to either side, each (n_segments, N_PARTS)."""
    start, length = spans[:, :1], (spans[:, 1:] - spans[:, :1])
    middle = (torch.arange(N_PARTS, device=spans.device) + 0.5) / N_PARTS
    centre = (start + length * middle).clamp(0.0, n_frames - 1.0)
    return centre, (length / N_PARTS).clamp_min(1.0).expand(-1, N_PARTS)


def pooled_parts(frames: Tensor, spans: Tensor) -> Tensor:
    """`part_weights(spans, n_frames) @ frames` without the frames that count nothing: (n_segments, N_PARTS, channels).

    frames: (n_frames, channels); spans: (n_segments, 2) in frames.
    """
    n_frames = len(frames)
    centre, width = (each.flatten().double() for each in _triangles(spans, n_frames))
    low = torch.floor(centre - width).clamp_min(0).long()
    high = (torch.ceil(centre + width).long() + 1).clamp_max(n_frames)
    counts = high - low
    first = counts.cumsum(0) - counts
    index = torch.arange(int(counts.sum()), device=frames.device) + torch.repeat_interleave(low - first, counts)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=frames.device), counts)
    weights = (1.0 - (index - centre[owner]).abs() / width[owner]).clamp_min(0.0)
    weights = (weights / torch.zeros_like(centre).index_add_(0, owner, weights)[owner]).to(frames)
    found = F.embedding_bag(index, frames, first, mode="sum", per_sample_weights=weights)
    return found.view(len(spans), N_PARTS, frames.shape[1])
