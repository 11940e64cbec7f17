"""The variables of a CTranslate2 model as the Whisper of the package transformers, its encoder and its decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtl_speech.core.errors import DataError

if TYPE_CHECKING:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

# The parts of a layer, and what they are in transformers; several are joined in one, row after row.
BLOCK = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
CROSS = {
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
}
END_OF_TEXT = {51_864: 50_256, 51_865: 50_257, 51_866: 50_257}  # by the number of tokens; the first is English alone
SIDES = ("encoder", "decoder")


@dataclass(frozen=True)
class _Variables:
    """What is left of the variables of a file: each is taken once."""

    path: Path
    left: dict[str, Tensor]

    def take(self, name: str, rank: int | None = None) -> Tensor:
        """A weight, checked on its own. Raises DataError."""
        found = self.left.pop(name, None)
        if found is None:
            raise DataError(f"{self.path}: has no '{name}': it is not a whole Whisper")
        if not found.is_floating_point():
            what = str(found.dtype).removeprefix("torch.")
            raise DataError(
                f"{self.path}: '{name}' is {what}: quantised models are not read; take one of float16 or float32"
            )
        if found.ndim == 0 or (rank is not None and found.ndim != rank):
            raise DataError(f"{self.path}: '{name}' has the shape {list(found.shape)}, which no Whisper has")
        if not torch.isfinite(found).all():
            raise DataError(f"{self.path}: '{name}' holds values that are not finite: do not use this model")
        return found

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a weight, which stays. Raises DataError."""
        found = self.take(name, rank)
        self.left[name] = found
        return tuple(found.shape)

    def heads(self, side: str) -> int:
        """The heads of attention of the encoder or the decoder. Raises DataError."""
        found = self.left.pop(f"{side}/num_heads", torch.tensor(0))
        if found.ndim or found.is_floating_point() or found < 1:
            raise DataError(f"{self.path}: '{side}/num_heads' does not say how many heads there are")
        return int(found)


def whisper_of(variables: Mapping[str, Tensor], path: Path) -> WhisperForConditionalGeneration:
    """The model, its weights in the precision of the file. `path` is for messages.

    Raises DataError: it is no Whisper, not whole, or quantised.
    """
    from transformers import WhisperForConditionalGeneration

    held = _Variables(path, dict(variables))
    config = _config(held)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    state = {f"model.{name}": value for side in SIDES for name, value in _side(held, side, config).items()}
    weights = [name for name, value in held.left.items() if value.ndim]
    strangers = [name for name in weights if not name.startswith("decoder/alignment_")]
    if strangers:
        raise DataError(f"{path}: has '{strangers[0]}', which no Whisper has")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    for name, value in model.state_dict().items():
        if state[name].shape != value.shape:
            raise DataError(f"{path}: '{name}' has the shape {list(state[name].shape)}, and {list(value.shape)} is due")
    model.load_state_dict({name: value.to(config.dtype) for name, value in state.items()}, assign=True)
    model.tie_weights()
    return model.eval()


def _config(held: _Variables) -> WhisperConfig:
    """The shape of the model, read from that of its weights. Raises DataError."""
    from transformers import WhisperConfig

    layers = {
        side: len({found[1] for name in held.left if (found := re.match(rf"{side}/layer_(\d+)/", name))})
        for side in SIDES
    }
    heads = {side: held.heads(side) for side in SIDES}
    size, bands, _ = held.shape("encoder/conv1/weight", 3)
    n_tokens, _ = held.shape("decoder/embeddings/weight", 2)
    hidden = {side: held.shape(f"{side}/layer_0/ffn/linear_0/weight", 2)[0] for side in SIDES}
    positions = {side: held.shape(f"{side}/position_encodings/encodings", 2)[0] for side in SIDES}
    if n_tokens not in END_OF_TEXT:
        known = ", ".join(f"{n:,}" for n in END_OF_TEXT)
        raise DataError(f"{held.path}: knows {n_tokens:,} tokens, where a Whisper has one of {known}")
    if any(size % n for n in heads.values()) or size % 2:
        raise DataError(f"{held.path}: {size} channels cannot be divided among its heads")
    end = END_OF_TEXT[n_tokens]
    types = {value.dtype for value in held.left.values() if value.is_floating_point()}
    return WhisperConfig(
        vocab_size=n_tokens,
        num_mel_bins=bands,
        d_model=size,
        **{f"{side}_layers": layers[side] for side in SIDES},
        **{f"{side}_attention_heads": heads[side] for side in SIDES},
        **{f"{side}_ffn_dim": hidden[side] for side in SIDES},
        max_source_positions=positions["encoder"],
        max_target_positions=positions["decoder"],
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        decoder_start_token_id=end + 1,
        dtype=types.pop() if len(types) == 1 else torch.float32,
    )


def _side(held: _Variables, side: str, config: WhisperConfig) -> dict[str, Tensor]:
    """The weights of the encoder or the decoder by their names in transformers. Raises DataError."""
    found = {f"{side}.embed_positions.weight": held.take(f"{side}/position_encodings/encodings")}
    plain: dict[str, tuple[str, ...]] = {f"{side}/layer_norm": (f"{side}.layer_norm",)}
    if side == "encoder":
        plain |= {f"encoder/{name}": (f"encoder.{name}",) for name in ("conv1", "conv2")}
    else:
        found["decoder.embed_tokens.weight"] = held.take("decoder/embeddings/weight")
    for n in range(getattr(config, f"{side}_layers")):
        for name, parts in (BLOCK if side == "encoder" else BLOCK | CROSS).items():
            plain[f"{side}/layer_{n}/{name}"] = tuple(f"{side}.layers.{n}.{part}" for part in parts)
    for name, parts in plain.items():
        ends = (
            {"weight": "gamma", "bias": "beta"} if name.endswith("layer_norm") else {"weight": "weight", "bias": "bias"}
        )
        for end, there in ends.items():
            values = held.take(f"{name}/{there}").tensor_split(len(parts))
            found |= {f"{part}.{end}": value.contiguous() for part, value in zip(parts, values, strict=True)}
    for name in [name for name in found if name.endswith("k_proj.bias")]:
        if found.pop(name).any():
            raise DataError(f"{held.path}: the keys of '{name}' have a bias, and those of Whisper have none")
    return found
