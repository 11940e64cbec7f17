"""Models of other makers, each with one face: samples in, frames of its transformer layers out. `hub` loads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from mtl_speech.features.front_end import RAW, RAW_NORMALISED, FrontEnd

# Names of the layers that may carry Φ.
ATTENTION = "*.attention.*_proj"
WAV2VEC2 = ("*.conv_layers.*.conv", "*.feature_projection.projection", "*.feed_forward.*_dense")


class Backbone(nn.Module):
    """A model of another maker.

    front_end: what it hears. size: numbers a frame. hop, receptive: samples from frame to frame, and that one frame hears. phi: the
    names of the layers that may carry Φ. layers_at: the name of its transformer layers in it.
    """

    phi: tuple[str, ...]
    front_end: FrontEnd = RAW
    hop: int
    receptive: int
    size: int
    layers_at: str

    @property
    def layers(self) -> nn.ModuleList:
        """Its transformer layers, first to last."""
        return cast(nn.ModuleList, self.get_submodule(self.layers_at))

    def run(self, waveforms: Tensor) -> None:
        """Pass waveforms (n, samples) at 16 kHz through the whole model."""
        raise NotImplementedError

    def forward(self, waveforms: Tensor, every: bool) -> list[Tensor]:
        """What its last layer gives for waveforms (n, samples), or with `every` each of its layers: (n, n_frames, size) each.

        It is taken where it leaves the layer, before any norm that comes after the last one, so that a model that is cut at a layer
        gives what the whole one gives there.
        """
        found: list[Tensor] = []
        listened = list(self.layers) if every else [self.layers[-1]]
        hooks = [layer.register_forward_hook(lambda *of: found.append(_tensor(of[-1]))) for layer in listened]
        try:
            self.run(waveforms)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _hears(self, kernels: Sequence[int], strides: Sequence[int]) -> None:
        """Set `hop` and `receptive` from the convolutions, first to last."""
        self.hop, self.receptive = math.prod(strides), 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            self.receptive = (self.receptive - 1) * stride + kernel


def _tensor(output: object) -> Tensor:
    """The frames that a layer gave, alone or before other things."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


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

    def run(self, waveforms: Tensor) -> None:
        """As `Backbone` says."""
        self.model(waveforms)


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

    def run(self, waveforms: Tensor) -> None:
        """As `Backbone` says."""
        self.model.extract_features(waveforms)
