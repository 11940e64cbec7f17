"""Φ: scale-and-shift weights on the frozen layers of an encoder.

Sun, Liu, Chua, Schiele (2019), Meta-Transfer Learning for Few-Shot Learning, eq. 5: SS(x; W, b; Φ) = (W ⊙ Φ_S1) x + (b + Φ_S2),
with Φ_S1 = 1 and Φ_S2 = 0 at the start, so that an untrained Φ gives the pretrained model. Here every adapted layer has both a
scale and a shift (in the paper's public code most layers have no bias, hence no shift).
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mtl_speech.core.errors import UsageError
from mtl_speech.model.encoder import FrameConv, as_image

E = TypeVar("E", bound=nn.Module)
GRANULARITIES = ("channel", "kernel")
SMALLEST_SCALE = 0.05  # a layer with a smaller one is not divided by its scale in the reverse pass


class _ScaledFrameConv(torch.autograd.Function):
    """A frozen `FrameConv` with a scale per channel: z = (s ⊙ W) * x + c, and its reverse pass without a weight gradient.

    Only z is kept, which the activation that follows keeps anyway: W * x is (z − c) / s, so the gradient of s is
    Σ dz (z − c) / s, and that of c is Σ dz. Batch-norm with fixed statistics (mean c, standard deviation s) has the same two
    sums; its reverse pass takes them in one pass over z and dz.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, layer: FrameConv) -> Tensor:
        weight = layer.weight * scale.view(-1, 1, 1)
        z = layer.convolve(x, weight, offset)
        ctx.layer, ctx.x_shape = layer, x.shape
        ctx.save_for_backward(z, weight, scale, offset)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, scale, offset = ctx.saved_tensors
        dz = gradients[0].contiguous()
        ones = torch.ones_like(scale)
        _, of_scale, of_offset = torch.ops.aten.native_batch_norm_backward(
            as_image(dz), as_image(z), ones, offset, ones, None, None, False, 0.0, [False, True, True]
        )
        dx = ctx.layer.input_gradient(dz, weight, ctx.x_shape) if ctx.needs_input_grad[0] else None
        return dx, of_scale / scale, of_offset, None


class ScaleShift(nn.Module):
    """One frozen Conv or Linear layer with its Φ.

    granularity "channel": scale (out,), one per output channel (needs no gradient with respect to the weights);
    "kernel": scale (out, in), shared over the taps of a kernel (the paper's). shift: (out,) in both.
    """

    def __init__(self, layer: nn.Module, granularity: str) -> None:
        super().__init__()
        if granularity not in GRANULARITIES:
            raise UsageError(f"granularity '{granularity}' is unknown; choose one of {', '.join(GRANULARITIES)}")
        weight = cast(Tensor, layer.weight)
        self.layer = layer
        self.granularity = granularity
        n_out, n_in = weight.shape[:2]
        self.shift = nn.Parameter(weight.new_zeros(n_out))
        self.scale = nn.Parameter(weight.new_ones((n_out,) if granularity == "channel" else (n_out, n_in)))

    def forward(self, x: Tensor) -> Tensor:
        """SS(x; W, b; Φ), of the same shape as the layer's own output."""
        weight, bias = cast(Tensor, self.layer.weight), cast("Tensor | None", self.layer.bias)
        if self.granularity == "channel":  # the gradient of the scale needs no weight gradient
            if isinstance(self.layer, FrameConv) and float(self.scale.detach().abs().min()) >= SMALLEST_SCALE:
                return cast(Tensor, _ScaledFrameConv.apply(x, self.scale, self._bias(), self.layer))
            y = apply_layer(self.layer, x, weight, bias)
            offset = self.shift if bias is None else self._bias() - bias * self.scale  # exactly 0 at the identity
            is_last = isinstance(self.layer, nn.Linear | FrameConv)
            shape = (-1,) if is_last else (-1,) + (1,) * (weight.dim() - 2)
            return torch.addcmul(offset.view(shape), y, self.scale.view(shape))
        return apply_layer(self.layer, x, self._weight(), self._bias())

    def _weight(self) -> Tensor:
        """W ⊙ Φ_S1."""
        weight = cast(Tensor, self.layer.weight)
        return weight * self.scale.view(self.scale.shape + (1,) * (weight.dim() - self.scale.dim()))

    def _bias(self) -> Tensor:
        """b + Φ_S2."""
        bias = cast("Tensor | None", self.layer.bias)
        return self.shift if bias is None else bias + self.shift

    def merged(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of a plain layer that gives the same output."""
        return self._weight().detach(), self._bias().detach()


def apply_layer(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of `layer` with other weights of the same shape."""
    if isinstance(layer, FrameConv):
        return layer.convolve(x, weight, bias)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer._conv_forward(x, weight, bias)
    raise TypeError(f"Φ serves Conv1d, Conv2d and Linear layers, not {type(layer).__name__}")


def attach(encoder: E, granularity: str = "channel", patterns: Sequence[str] = ("*",)) -> E:
    """A copy of `encoder` whose Conv and Linear layers carry Φ. The frozen weights are shared with the original, not copied.

    `encoder` itself is left as it was, so the pretrained model is there whenever Φ is not wanted. Every parameter of `encoder`
    is frozen; the trainable parameters of the copy are Φ alone. `patterns` chooses layers by name, as in a shell.

    Raises UsageError when no layer matches, or for an unknown granularity.
    """
    encoder.requires_grad_(False)
    shared: dict[int, Tensor] = {id(t): t for t in [*encoder.parameters(), *encoder.buffers()]}
    adapted = copy.deepcopy(encoder, cast("dict[int, object]", shared))
    names = [
        name
        for name, module in adapted.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and any(fnmatch.fnmatchcase(name, p) for p in patterns)
    ]
    if not names:
        raise UsageError(f"no Conv or Linear layer of the encoder matches {', '.join(patterns)}")
    for name in names:
        adapted.set_submodule(name, ScaleShift(adapted.get_submodule(name), granularity))
    return adapted


def scale_shift_layers(encoder: nn.Module) -> dict[str, ScaleShift]:
    """The layers of `encoder` that carry Φ, by name."""
    return {name: m for name, m in encoder.named_modules() if isinstance(m, ScaleShift)}


def is_identity(encoder: nn.Module) -> bool:
    """Whether no layer of `encoder` carries a Φ that changes its output."""
    layers = scale_shift_layers(encoder).values()
    return all(bool((each.scale == 1.0).all()) and not bool(each.shift.any()) for each in layers)


def phi_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Φ by name, without Θ."""
    layers = scale_shift_layers(encoder)
    return {f"{n}.{k}": p.detach() for n, m in layers.items() for k, p in m.named_parameters(recurse=False)}


def distance_from_identity(layers: Iterable[ScaleShift]) -> Tensor:
    """Squared distance of Φ from the identity, summed over its entries: what a decay towards the identity penalises."""
    return torch.stack([(each.scale - 1.0).square().sum() + each.shift.square().sum() for each in layers]).sum()


def merge(encoder: E) -> E:
    """A plain copy of an encoder made by `attach`, with Φ merged into its weights: same output, no extra cost."""
    merged = copy.deepcopy(encoder)
    for name, module in scale_shift_layers(merged).items():
        weight, bias = module.merged()
        module.layer.weight, module.layer.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        merged.set_submodule(name, module.layer)
    return merged
