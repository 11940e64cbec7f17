"""Φ: the identity at the start, exactly the equation afterwards, and Θ stays what it was to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mtl_speech.core.errors import UsageError
from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.model.encoder import FrameConv
from mtl_speech.model.scale_shift import (
    GRANULARITIES,
    ScaleShift,
    apply_layer,
    attach,
    distance_from_identity,
    merge,
    phi_state,
    scale_shift_layers,
)
from tests.helpers import frozen_bytes, seeded, tiny_encoder

LAYERS = {"stem.conv", "down.conv", "blocks.0.first.conv", "blocks.0.second.conv", "embedding"}
KEYS = ("scale", "shift")
each_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)


def inputs(n: int = 5) -> tuple[Tensor, Tensor]:
    spans = torch.stack((torch.linspace(8, 20, n), torch.linspace(12, 40, n)), dim=1)
    return torch.randn(n, 48, MEL_BANDS, generator=seeded(1)), spans


def shaken(encoder: nn.Module, size: float = 0.2) -> nn.Module:
    """The encoder with a random Φ."""
    draw = seeded(2)
    with torch.no_grad():
        for layer in scale_shift_layers(encoder).values():
            for parameter in layer.parameters(recurse=False):
                parameter += size * torch.randn(parameter.shape, generator=draw).to(parameter)
    return encoder


# What is trainable


@each_granularity
def test_every_conv_and_linear_layer_has_scale_and_shift_and_nothing_else_is_trainable(granularity: str) -> None:
    adapted = attach(tiny_encoder(), granularity)
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable == {f"{layer}.{key}" for layer in LAYERS for key in KEYS}
    kinds = [m for m in adapted.modules() if isinstance(m, nn.Conv1d | nn.Linear)]
    assert len(kinds) == len(LAYERS), "the encoder has other layers than those listed here"


@each_granularity
def test_shapes_of_phi(granularity: str) -> None:
    layers = scale_shift_layers(attach(tiny_encoder(channels=8, size=12), granularity))
    for name, (n_out, n_in) in {"stem.conv": (8, MEL_BANDS), "embedding": (12, 3 * 8 + 1)}.items():
        shapes = {key: tuple(p.shape) for key, p in layers[name].named_parameters(recurse=False)}
        assert shapes == {"scale": (n_out,) if granularity == "channel" else (n_out, n_in), "shift": (n_out,)}


def test_unfolded_batch_norm_is_frozen_too() -> None:
    adapted = attach(tiny_encoder(folded=False), "channel")
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {
        f"{layer}.{key}" for layer in LAYERS for key in KEYS
    }


# At the identity, and without Φ


@each_granularity
@pytest.mark.parametrize("channels", [8, 96])  # the kernels of the CPU take other ways with more channels
@pytest.mark.parametrize("folded", [True, False])
def test_phi_at_the_identity_gives_the_output_of_the_base_to_the_bit(
    granularity: str, channels: int, folded: bool
) -> None:
    encoder = tiny_encoder(channels=channels, folded=folded)
    expected = encoder(*inputs())
    assert torch.equal(attach(encoder, granularity).eval()(*inputs()), expected)


@each_granularity
def test_removing_phi_gives_back_the_output_of_the_base_to_the_bit(granularity: str) -> None:
    encoder = tiny_encoder()
    expected, before = encoder(*inputs()), frozen_bytes(encoder)
    adapted = shaken(attach(encoder, granularity).eval())
    assert not torch.allclose(adapted(*inputs()), expected, atol=1e-2), "Φ has no effect"
    assert torch.equal(encoder(*inputs()), expected)
    assert frozen_bytes(encoder) == before
    again = attach(encoder, granularity).eval()
    assert torch.equal(again(*inputs()), expected)


def test_the_frozen_weights_are_shared_not_copied() -> None:
    encoder = tiny_encoder()
    addresses = {p.data_ptr() for p in encoder.parameters()}
    adapted = attach(encoder, "channel")
    assert {p.data_ptr() for p in adapted.parameters() if not p.requires_grad} == addresses
    assert not scale_shift_layers(encoder), "the encoder given was changed"


# The equation


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    """One layer of each kind, without biases too, and an input for it."""
    draw = seeded(3)
    return {
        "linear": (nn.Linear(6, 5), torch.randn(7, 6, generator=draw)),
        "linear without bias": (nn.Linear(6, 5, bias=False), torch.randn(2, 7, 6, generator=draw)),
        "conv1d": (nn.Conv1d(6, 5, 3, 2, 1), torch.randn(2, 6, 9, generator=draw)),
        "conv2d": (nn.Conv2d(6, 5, 3, padding=1, bias=False), torch.randn(2, 6, 4, 4, generator=draw)),
        "frame conv": (FrameConv(6, 5, 3, 2, 1), torch.randn(2, 9, 6, generator=draw)),
    }


@each_granularity
@pytest.mark.parametrize("kind", list(layers()))
def test_output_is_that_of_the_layer_with_scaled_weights_and_shifted_biases(granularity: str, kind: str) -> None:
    layer, x = layers()[kind]
    adapted = ScaleShift(layer, granularity)
    scale = 1 + 0.5 * torch.randn(5, 1 if granularity == "channel" else 6, generator=seeded(4))
    shift = torch.randn(5, generator=seeded(5))
    with torch.no_grad():
        adapted.shift.copy_(shift)
        adapted.scale.copy_(scale.view_as(adapted.scale))
    reference = copy.deepcopy(layer)
    bias = torch.zeros(5) if layer.bias is None else layer.bias.detach()
    weight = layer.weight.detach()  # type: ignore[union-attr, operator]
    reference.weight = nn.Parameter(weight * scale.view(5, -1, *[1] * (weight.dim() - 2)))
    reference.bias = nn.Parameter(bias + shift)
    torch.testing.assert_close(adapted(x), reference(x), rtol=1e-5, atol=1e-6)
    merged_weight, merged_bias = adapted.merged()
    torch.testing.assert_close(merged_weight, reference.weight.detach())
    torch.testing.assert_close(merged_bias, reference.bias.detach())


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="not Bilinear"):
        apply_layer(nn.Bilinear(2, 2, 2), torch.zeros(1), torch.zeros(1), None)
    with pytest.raises(UsageError, match="'pixel' is unknown; choose one of channel, kernel"):
        attach(tiny_encoder(), "pixel")


@each_granularity
def test_scale_and_shift_of_every_layer_get_a_gradient(granularity: str) -> None:
    """A shift before a batch-norm with batch statistics would get none."""
    adapted = attach(tiny_encoder(folded=False), granularity).eval()
    adapted(*inputs()).square().sum().backward()
    for name, layer in scale_shift_layers(adapted).items():
        for key, parameter in layer.named_parameters(recurse=False):
            assert parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-6, (name, key)


# Patterns, state, merging, distance


def test_patterns_choose_layers_by_name() -> None:
    adapted = attach(tiny_encoder(blocks=2), patterns=["blocks.*.first.*", "embedding"])
    assert set(scale_shift_layers(adapted)) == {"blocks.0.first.conv", "blocks.1.first.conv", "embedding"}
    with pytest.raises(UsageError, match="matches head, tail"):
        attach(tiny_encoder(), patterns=["head", "tail"])


@each_granularity
def test_phi_state_holds_phi_alone(granularity: str) -> None:
    adapted = shaken(attach(tiny_encoder(), granularity).eval())
    state = phi_state(adapted)
    assert set(state) == {f"{layer}.{key}" for layer in LAYERS for key in KEYS}
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(torch.equal(state[name], parameter) for name, parameter in trainable.items())


@each_granularity
def test_merge_gives_the_same_output_without_phi(granularity: str) -> None:
    encoder = tiny_encoder()
    before = frozen_bytes(encoder)
    adapted = shaken(attach(encoder, granularity).eval())
    expected = adapted(*inputs())
    merged = merge(adapted)
    torch.testing.assert_close(merged(*inputs()), expected, rtol=1e-5, atol=1e-5)
    assert not scale_shift_layers(merged) and set(merged.state_dict()) == set(encoder.state_dict())
    assert not any(p.requires_grad for p in merged.parameters())
    assert torch.equal(adapted(*inputs()), expected), "merging changed what it merged"
    assert frozen_bytes(encoder) == before


@each_granularity
def test_distance_from_the_identity(granularity: str) -> None:
    adapted = attach(tiny_encoder(), granularity)
    layers = scale_shift_layers(adapted)
    assert distance_from_identity(layers.values()).item() == 0
    first, second = layers["stem.conv"], layers["embedding"]
    with torch.no_grad():
        first.shift[0] = 3.0
        second.scale[1] = 0.5
        expected = 9.0 + 0.25 * second.scale[1].numel()
    assert float(distance_from_identity(layers.values()).detach()) == pytest.approx(expected, rel=1e-5)


# What channel Φ costs


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smallest", [0.3, 0.0])  # a scale of 0 cannot be divided by
def test_gradients_of_channel_phi_are_those_of_the_plain_formulation(
    kernel: int, stride: int, bias: bool, smallest: float
) -> None:
    conv = FrameConv(6, 5, kernel, stride, padding=kernel // 2, bias=bias).double().requires_grad_(False)
    layer = ScaleShift(conv, "channel")
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([smallest, -0.7, 1.0, 2.5, 1.3]))
        layer.shift.copy_(torch.linspace(-1, 1, 5))
    x = torch.randn(3, 11, 6, dtype=torch.float64, generator=seeded(3)).requires_grad_()
    weight, shift = conv.weight * layer.scale.view(-1, 1, 1), layer.shift
    plain = conv.convolve(x, weight, shift if conv.bias is None else conv.bias + shift)
    found = layer(x)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
    direction = torch.randn(plain.shape, dtype=torch.float64, generator=seeded(4))
    wanted = (x, layer.scale, layer.shift)
    for ours, expected in zip(
        torch.autograd.grad(found, wanted, direction), torch.autograd.grad(plain, wanted, direction), strict=True
    ):
        assert float(expected.abs().max()) > 0.1
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_channel_phi_keeps_its_output_and_not_its_input() -> None:
    layer = ScaleShift(FrameConv(6, 6, 3, padding=1), "channel")
    kept: list[int] = []
    x = torch.randn(4, 50, 6, generator=seeded(5)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        z = layer(x)
    assert z.data_ptr() in kept and x.data_ptr() not in kept
