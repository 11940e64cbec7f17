"""Makes the packs beside it, and what they answer, in the form of today: run it only where the form of packs changes on purpose.

From the root of the repository: `python -m tests.data.packs.make`. It writes below the folder of this file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.language_pack import LanguageModel, language_pack
from mtl_speech.model.learner import Head, extend
from mtl_speech.model.pack import save_pack
from mtl_speech.model.strategy import new_learner, strategy_pack
from tests.data.packs.answers import answers
from tests.helpers import PHONEMES, meta_config, seeded, shake, tiny_base, toy_store

FOLDER = Path(__file__).parent


def main() -> None:
    """Write the three packs and answers.json."""
    base = tiny_base()
    config = meta_config(granularity="kernel", theta_init="posterior")
    learner = new_learner(base, PHONEMES, config)
    prepare_learner(learner, toy_store(), config)
    extend(learner, ("z",))
    shake(learner)
    head = Head(torch.randn(1, 3, 12, generator=seeded(0)), torch.randn(1, 3, generator=seeded(1)))
    model = LanguageModel(learner.eval(), head, ("m", "a", "ɖ"), 1.25, {"ɖ": {"d": 0.75, "t": 0.25}})
    card = {"licence": "CC0-1.0"}
    save_pack(replace(base.pack, card={**base.pack.card, **card, "name": "encoder"}), FOLDER / "encoder")
    named = replace(base, pack=replace(base.pack, card={**base.pack.card, "name": "encoder"}))
    save_pack(strategy_pack(learner, named, config, {**card, "name": "strategy"}), FOLDER / "strategy")
    save_pack(language_pack(model, named, config, "pa", {**card, "name": "language"}), FOLDER / "language")
    (FOLDER / "answers.json").write_text(json.dumps(answers(FOLDER), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
