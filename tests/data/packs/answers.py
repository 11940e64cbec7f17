"""What the packs beside this file answer to windows that no generator of random numbers draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.features.front_end import WINDOW_FRAMES
from mtl_speech.model.language_pack import load_language
from mtl_speech.model.pack import load_pack, pack_hash
from mtl_speech.model.strategy import load_base, load_learner

N = 3  # segments


def windows() -> tuple[Tensor, Tensor]:
    """Windows (N, WINDOW_FRAMES, MEL_BANDS) and the spans (N, 2) of their segments."""
    place = torch.arange(N * WINDOW_FRAMES * MEL_BANDS, dtype=torch.float64)
    spans = torch.tensor([[10.0, 30.25], [20.5, 24.0], [0.0, 48.0]])
    return torch.sin(place.square() / 7000.0).view(N, WINDOW_FRAMES, MEL_BANDS).float(), spans


def answers(folder: Path) -> dict[str, Any]:
    """The hashes of the packs in `folder`, and what each makes of `windows`.

    The segmenter, which is large, is that of the English encoder that ships.
    """
    base = load_base(folder / "encoder")
    strategy, language = load_pack(folder / "strategy"), load_pack(folder / "language")
    learner, config = load_learner(strategy, base)
    model = load_language(language, base)
    features, spans = windows()
    english = load_base()
    assert base.head is not None and english.segmenter is not None
    with torch.no_grad():
        frames = english.encoder.frames(features[:1])
        found = {
            "encoder": base.head(base.encoder(features, spans)),
            "strategy": learner.embed(features, spans)[:, :4],
            "guess": learner.guess @ learner.theta[:, :2],
            "language": model.probabilities(model.learner.encoder(features, spans)),
            "segmenter": english.segmenter(frames, features[:1])[0, ::12],
        }
    return {
        "sha256": {pack.name: pack_hash(pack) for pack in (base.pack, strategy, language)},
        "phonemes": learner.phonemes,
        "theta_init": config.theta_init,
        "zero_shot": model.zero_shot,
        "classes": model.classes,
        **{name: [[round(value, 5) for value in row] for row in rows.tolist()] for name, rows in found.items()},
    }
