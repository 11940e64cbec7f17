"""Train the segmenter anew on the frames of an encoder that is there already, and write the pack with it.

python recipes/speechocean762/segmenter.py recipes/speechocean762/hparams/segmenter.yaml --data_folder DIR/speechocean762
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import torch
from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.core.files import atomic_write
from mtl_speech.features.store import SegmentStore, Track
from mtl_speech.model.pack import save_pack
from mtl_speech.model.segmenter import Segmenter, frame_targets, train_segmenter
from mtl_speech.model.strategy import base_pack
from mtl_speech.scoring.sequences import matches

logger = logging.getLogger("mtl_speech")


PEAK = 0.3  # probability from which on a local maximum counts as a boundary


def segmenter_scores(segmenter: Segmenter, store: SegmentStore, track: Track) -> dict[str, float]:
    """Share of frames told right as speech or silence, and F1 of boundaries at ±20 ms, of single peaks without any decoding."""
    targets, weights = frame_targets(store)
    right, n_matched, n_true, n_found = 0.0, 0, 0, 0
    for u in store.utterance.unique().tolist():
        first, frames = int(store.first[u]), track.frames[track.first[u] : track.first[u + 1]].float()
        span = slice(first, first + segmenter.stride * len(frames))
        with torch.inference_mode():
            p = torch.sigmoid(segmenter(frames.unsqueeze(0), store.frames[span].float().unsqueeze(0)))[0]
        right += float((((p[:, 1] > 0.5) == (targets[span, 1] > 0.5)).float() * weights[span]).sum())
        boundary = p[:, 0]
        peak = (boundary[1:-1] > PEAK) & (boundary[1:-1] >= boundary[:-2]) & (boundary[1:-1] > boundary[2:])
        found = (torch.nonzero(peak).squeeze(1) + 1 + first).tolist()
        own = store.utterance == u
        true = torch.cat((store.start[own], store.end[own])).mul(10).round().unique().div(10).tolist()
        n_matched += matches(true, found, tolerance=2.0)
        n_true, n_found = n_true + len(true), n_found + len(found)
    return {"speech_accuracy": right / float(weights.sum()), "boundary_f1": 2 * n_matched / max(n_true + n_found, 1)}


def main(arguments: list[str]) -> None:
    """Train on the training speakers, score on the validation speakers, save."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    base = recipe.base()
    splits = prepare(Path(hparams["data_folder"]))
    train, valid = (base.hear([splits[name]], base.phonemes or None) for name in ("train", "valid"))
    segmenter = train_segmenter(base.encoder, train, hparams["seed"])
    assert valid.heard is not None and valid.heard.track is not None
    found = segmenter_scores(segmenter, valid, valid.heard.track)
    scores = {name: round(value, 4) for name, value in found.items()}
    logger.info("validation speakers: %s", ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    added = {"format_version", "kind", "package_version", "sha256", "weights"}
    card = {key: value for key, value in base.pack.card.items() if key not in added}
    card["attribution"] = " ".join((base.pack.value("attribution", str), hparams["attribution"]))
    card["segmenter"] = {"recipe": "recipes/speechocean762", "validation": scores}
    save_pack(base_pack(base.encoder, base.head, base.phonemes, card, segmenter), output / "english")
    atomic_write(output / "segmenter.json", json.dumps({"validation": scores}, indent=1))
    logger.info("done in %.0f s: %s", time.perf_counter() - started, output / "english")


if __name__ == "__main__":
    main(sys.argv[1:])
