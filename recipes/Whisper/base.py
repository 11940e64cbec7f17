"""A base pack: the first layers of Whisper's encoder as Θ, and a card that says whose weights they are."""

from __future__ import annotations

from pathlib import Path

import torch
from sources import ENGLISH, Source, size_of

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.options import WhisperConfig
from mtl_speech.model.pack import Pack
from mtl_speech.model.strategy import base_pack
from mtl_speech.model.whisper import POSITIONS, WhisperEncoder, sinusoids

LICENCE = Path(__file__).parent / "LICENSE"
ROUNDED = 1e-3  # positions are published in half precision
PAPER = (
    "Radford, A., Kim, J. W., Xu, T., Brockman, G., McLeavey, C. and Sutskever, I. (2022), Robust Speech Recognition via "
    "Large-Scale Weak Supervision, arXiv:2212.04356"
)
ENGLISH_DATA = (
    "trained by OpenAI on the 438,000 hours of English speech with English text among 680,000 hours from the web"
)
ALL_DATA = (
    "trained by OpenAI on 680,000 hours from the web: 438,000 of English, 117,000 of 96 other languages, and 126,000 of other "
    "languages with a translation into English"
)


def encoder_pack(source: Source, layers: int) -> Pack:
    """The first `layers` layers of the encoder, float16.

    Raises UsageError where there are not as many, DataError where it is not built as Whisper's.
    """
    encoder, config = source.model.model.encoder, source.model.config
    if not 1 <= layers <= config.encoder_layers:
        raise UsageError(
            f"--layers {layers}: the encoder has {config.encoder_layers} layers: give 1 to {config.encoder_layers}"
        )
    size, places = config.d_model, encoder.embed_positions.weight
    # Neither is in a pack: they are those that every Whisper has.
    if config.encoder_ffn_dim != 4 * size or places.shape != (POSITIONS, size):
        raise DataError(
            f"{source.file}: its layers have {config.encoder_ffn_dim:,} hidden channels and it knows {len(places):,} positions, "
            f"where {4 * size:,} and {POSITIONS:,} are due"
        )
    if (sinusoids(POSITIONS, size) - places.float()).abs().max() > ROUNDED:
        raise DataError(f"{source.file}: its positions are not the sinusoids of Whisper: it has been changed")
    kept = WhisperEncoder(WhisperConfig(config.num_mel_bins, size, config.encoder_attention_heads, layers)).eval()
    state = encoder.state_dict()
    with torch.no_grad():
        kept.load_state_dict({name: state[name].float() for name in kept.state_dict()})
    return base_pack(kept, None, (), card_of(source, layers))


def card_of(source: Source, layers: int) -> dict[str, object]:
    """What the card says: whose weights they are, of which file, what they have heard, and the licence."""
    config, size = source.model.config, size_of(source.model)
    english, known = config.vocab_size == ENGLISH, source.size is not None
    what = f"the first {layers} of {config.encoder_layers} layers of the encoder of Whisper {size}, in half precision"
    data = ENGLISH_DATA if english else ALL_DATA
    notes = (
        [what, f"{data} ({PAPER})"]
        if known
        else [what, "which weights these are is not known here: ask who made the file"]
    )
    ours = f"Whisper {size} by OpenAI (openai/whisper), {PAPER}. Changes made: {layers} layers of the encoder kept, no decoder."
    return {
        "name": f"whisper-{size}-{layers}",
        "language": "en" if english else "mul",
        "attribution": ours if known else f"A Whisper from the file {source.file}.",
        "licence": "MIT" if known else "that of the weights given",
        "recipe": "recipes/Whisper",
        "notes": notes,
        "provenance": {
            "project": "openai/whisper" if known else "not known",
            "size": size,
            "file": source.file,
            "sha256": source.sha256,
            "layers": layers,
        },
        **({"licence_text": LICENCE.read_text(encoding="utf-8")} if known else {}),
    }
