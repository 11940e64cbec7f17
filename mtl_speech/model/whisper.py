"""The first layers of Whisper's encoder as Θ (Radford et al. 2023, Robust Speech Recognition via Large-Scale Weak Supervision).

Weights have the names that the package transformers gives them. A recording is heard as long as it is, not padded to 30 s.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.options import WhisperConfig
from mtl_speech.features.front_end import whisper_front_end
from mtl_speech.model.encoder import FrameConv, FrameEncoder, SharedEncoder
from mtl_speech.model.scale_shift import scale_shift_layers

POSITIONS = 1_500  # frames of 20 ms that have a position of their own: 30 s
WAVELENGTH = 10_000.0  # the longest wave of the positions, in units of 2π frames
# All that is linear but the keys: attention ignores a shift of these.
PHI = ("conv1", "conv2", "layers.*.self_attn.[qvo]*_proj", "layers.*.fc?")


class WhisperEncoder(SharedEncoder):
    """Two convolutions, of which the second halves the frame rate, and transformer layers that normalise first."""

    hop, stretch, context = 2.0, 2 * POSITIONS, 100
    phi_patterns = PHI

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end, self.channels = whisper_front_end(config.bands), config.size
        self.n_layers = self.layer = config.layers
        self.conv1 = FrameConv(config.bands, config.size, 3, padding=1)
        self.conv2 = FrameConv(config.size, config.size, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(_Layer(config.size, config.heads) for _ in range(config.layers))
        self.positions: Tensor = nn.Buffer(sinusoids(POSITIONS, config.size), persistent=False)

    def frames(self, rows: Tensor) -> Tensor:
        """Log-mel (batch, n_rows, bands), of 30 s at most -> frames of the last layer (batch, ceil(n_rows / 2), size)."""
        x = self._stem(rows)
        for layer in self.layers:
            x = layer(x)
        return x

    def all_layers(self, rows: Tensor) -> list[Tensor]:
        """As `FrameEncoder` says."""
        found = [self._stem(rows)]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return found[1:]

    def at_layer(self, layer: int) -> WhisperEncoder:
        """As `FrameEncoder` says."""
        cut = copy.deepcopy(self)
        cut.layers, cut.layer = cut.layers[:layer], layer
        return cut

    def split(self) -> tuple[WhisperEncoder, FrameEncoder] | None:
        """As `FrameEncoder` says."""
        names = list(scale_shift_layers(self))
        if not names or any(name.startswith("conv") for name in names):
            return None
        lowest = min(int(name.split(".")[1]) for name in names)
        return self.at_layer(lowest), _Upper(self, lowest)

    def _stem(self, rows: Tensor) -> Tensor:
        """What the first transformer layer takes: (batch, n_frames, size)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(rows))))
        return x + self.positions[: x.shape[1]]


class _Upper(FrameEncoder):
    """The layers of a Whisper from number `lowest` on, which hear the frames of those below."""

    def __init__(self, whole: WhisperEncoder, lowest: int) -> None:
        super().__init__()
        self.layers, self.channels, self.row_length = whole.layers[lowest:], whole.channels, whole.hop

    def frames(self, rows: Tensor) -> Tensor:
        """(batch, n_frames, size) -> the same shape."""
        for layer in self.layers:
            rows = layer(rows)
        return rows


class _Layer(nn.Module):
    """Self-attention and two linear layers, each added to what it was given."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(size)
        self.self_attn = _Attention(size, heads)
        self.final_layer_norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, 4 * size)
        self.fc2 = nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_frames, size) -> the same shape."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return cast(Tensor, x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))


class _Attention(nn.Module):
    """Multi-head self-attention, whose keys have no bias."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(size, size) for _ in range(3))
        self.k_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_frames, size) -> the same shape."""
        n_batch, n_frames, size = x.shape
        q, k, v = (
            project(x).view(n_batch, n_frames, self.heads, size // self.heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.out_proj(mixed.transpose(1, 2).reshape(n_batch, n_frames, size)))


def sinusoids(length: int, size: int) -> Tensor:
    """The positions of Whisper's encoder, (length, size): sines in the first half, cosines in the second.

    They are rounded to half precision, in which OpenAI published them: in float32 alone they would differ by 3e-4.
    """
    step = math.log(WAVELENGTH) / max(size // 2 - 1, 1)
    waves = np.arange(length)[:, None] * np.exp(-step * np.arange(size // 2))
    places = np.concatenate((np.sin(waves), np.cos(waves)), axis=1).astype(np.float32).astype(np.float16)
    return torch.from_numpy(places.astype(np.float32))  # NumPy's, so that a module without memory has them too
