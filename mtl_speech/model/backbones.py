"""Models of other makers, each with one face: samples in, hidden states of its transformer layers out. `hub` loads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.features.store import RAW, RAW_NORMALISED, FrontEnd

# Names of the layers that may carry Φ.
ATTENTION = "*.attention.*_proj"
WAV2VEC2 = ("*.conv_layers.*.conv", "*.feature_projection.projection", "*.feed_forward.*_dense")
WHISPER = ("*.conv1", "*.conv2", "*.layers.*.fc?", "*.self_attn.*_proj")


class Backbone(nn.Module):
    """A model of another maker.

    `forward(waveforms, every)`, of waveforms (n, samples) at 16 kHz, gives the hidden states of its last layer, or with `every` of
    all its layers: (n, n_frames, size) each.
    """

    phi: tuple[str, ...]
    front_end: FrontEnd = RAW
    hop: int
    receptive: int
    size: int

    layers_at: str  # the name of its transformer layers in it

    @property
    def layers(self) -> nn.ModuleList:
        """Its transformer layers, first to last."""
        return cast(nn.ModuleList, self.get_submodule(self.layers_at))

    def _hears(self, kernels: Sequence[int], strides: Sequence[int]) -> None:
        """Set `hop` and `receptive` from the convolutions, first to last."""
        self.hop, self.receptive = math.prod(strides), 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            self.receptive = (self.receptive - 1) * stride + kernel


class TransformersBackbone(Backbone):
    """wav2vec 2.0, HuBERT or WavLM of the package transformers."""

    layers_at = "model.encoder.layers"

    def __init__(self, model: Any, normalised: bool) -> None:
        super().__init__()
        self.model, self.size = model, model.config.hidden_size
        self.front_end = RAW_NORMALISED if normalised else RAW
        # WavLM's attention reads the weights of its layers itself, so these cannot carry Φ.
        self.phi = WAV2VEC2 if model.config.model_type == "wavlm" else (*WAV2VEC2, ATTENTION)
        self._hears(model.config.conv_kernel, model.config.conv_stride)

    def forward(self, waveforms: Tensor, every: bool) -> list[Tensor]:
        """As `Backbone` says."""
        found = self.model(waveforms, output_hidden_states=every)
        return list(found.hidden_states[1:]) if every else [found.last_hidden_state]


class WhisperBackbone(Backbone):
    """Whisper's encoder, on windows as long as they are: it is not padded to 30 s."""

    phi, layers_at = WHISPER, "encoder.layers"

    def __init__(self, encoder: Any, extractor: Any) -> None:
        super().__init__()
        self.encoder, self.size = encoder, encoder.config.d_model
        self.n_fft, self.step = extractor.n_fft, extractor.hop_length
        filters = torch.as_tensor(extractor.mel_filters, dtype=torch.float32)
        self.filters: Tensor = nn.Buffer(filters.T.contiguous(), persistent=False)
        self.window: Tensor = nn.Buffer(torch.hann_window(self.n_fft), persistent=False)
        self.hop = self.step * encoder.conv1.stride[0] * encoder.conv2.stride[0]
        self.receptive = 0  # frames are centred on their sample

    def forward(self, waveforms: Tensor, every: bool) -> list[Tensor]:
        """As `Backbone` says."""
        x = F.gelu(self.encoder.conv1(self.log_mel(waveforms)))
        x = F.gelu(self.encoder.conv2(x)).transpose(1, 2)
        x = x + self.encoder.embed_positions.weight[: x.shape[1]]
        found = []
        for layer in self.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
            found.append(x)
        return found if every else [self.encoder.layer_norm(x)]

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """(n, samples) -> (n, n_mels, n_frames), as Whisper's own feature extractor scales them."""
        spectrum = torch.stft(waveforms, self.n_fft, self.step, window=self.window, return_complex=True)[..., :-1]
        mel = (self.filters @ spectrum.abs().square()).clamp_min(1e-10).log10()
        return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0


class TorchaudioBackbone(Backbone):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio's pipelines."""

    phi, layers_at = WAV2VEC2, "model.encoder.transformer.layers"

    def __init__(self, model: Any, normalised: bool) -> None:
        super().__init__()
        self.model = model
        self.size = model.encoder.transformer.pos_conv_embed.embed_dim
        self.front_end = RAW_NORMALISED if normalised else RAW
        convolutions = [layer.conv for layer in model.feature_extractor.conv_layers]
        self._hears([c.kernel_size[0] for c in convolutions], [c.stride[0] for c in convolutions])

    def forward(self, waveforms: Tensor, every: bool) -> list[Tensor]:
        """As `Backbone` says."""
        found: list[Tensor] = self.model.extract_features(waveforms, num_layers=len(self.layers))[0]
        return found if every else found[-1:]
