"""Transcribe whole recordings of languages and compare with their human segmentation: phone error rate and boundaries.

python recipes/VoxAngeles/transcribe.py recipes/VoxAngeles/hparams/transcribe.yaml --data_folder DIR/voxangeles

The recordings of each language take turns: a third is transcribed by a model that was learned from the others.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from prepare import prepare

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.commands.target import Start, load_start
from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.options import AdaptConfig
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.corpus import Corpus, Segment, split_by
from mtl_speech.model.language_pack import with_timing
from mtl_speech.scoring.sequences import score_transcriptions
from mtl_speech.training.adapt import adapt_fold
from mtl_speech.training.folds import fold_of
from mtl_speech.transcription.transcribe import Transcriber
from mtl_speech.transcription.transcript import Transcription

logger = logging.getLogger("mtl_speech.recipes")

FIGURES = ("phone_error_rate", "feature_error_rate", "boundary_f1", "r_value", "calibration_error")


@dataclass
class Found:
    """Transcriptions by two systems, their references, and how many phones were labelled right given their true spans."""

    references: list[Sequence[Segment]]
    tuned: list[Transcription]
    untuned: list[Transcription]
    n_right: int = 0
    n: int = 0

    def __add__(self, other: Found) -> Found:
        return Found(
            self.references + other.references,
            self.tuned + other.tuned,
            self.untuned + other.untuned,
            self.n_right + other.n_right,
            self.n + other.n,
        )

    def row(self, seed: int) -> dict[str, Any]:
        """The figures of a table row."""
        scores = score_transcriptions(self.references, self.tuned, seed=seed)
        untuned = score_transcriptions(self.references, self.untuned, seed=seed)
        return {
            "n_recordings": scores.n_recordings,
            "n_phones": scores.n_phones,
            "label_error_given_spans": 1 - self.n_right / self.n,
            **{name: plain(getattr(scores, name)) for name in FIGURES},
            "untuned": {name: plain(getattr(untuned, name)) for name in FIGURES},
        }


def transcribe_language(corpus: Corpus, start: Start, n_folds: int, seed: int) -> Found:
    """Every recording of a language, transcribed by a model that did not learn from it."""
    found = Found([], [], [])
    store = start.base.hear([corpus])
    for part in split_by(corpus, "utterance", [1 / n_folds] * n_folds, seed):
        fold = fold_of(store, {f"{corpus.name}/{u.id}" for u in part.utterances}, f"{n_folds} folds")
        run = adapt_fold(start.learner(fold), fold, AdaptConfig(seed=seed), start.meta)
        model = with_timing(run.learned.model, start.base, fold.train, seed=seed)
        assert model.timing is not None and start.base.segmenter is not None
        timings = (model.timing, replace(model.timing, segmenter=start.base.segmenter))
        tuned, untuned = (Transcriber(model, start.base, timing) for timing in timings)
        found.references += [u.segments for u in part.utterances]
        found.tuned += [tuned.transcribe(u.audio) for u in part.utterances]
        found.untuned += [untuned.transcribe(u.audio) for u in part.utterances]
        found.n_right += sum(token.true == token.predicted for token in run.tokens)
        found.n += len(fold.test)  # a phoneme that was not learned is wrong
    return found


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of the figures, with intervals in the last row."""
    lines = [
        "| language | recordings | phones | error given the spans | PER | feature-weighted PER | boundary F1 | R-value | ECE |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        values = [_cell(row[key], name == "all") for key in FIGURES]
        head = [name, row["n_recordings"], row["n_phones"], _short(row["label_error_given_spans"])]
        lines.append("| " + " | ".join(map(str, [*head, *values])) + " |")
    values = [_cell(rows["all"]["untuned"][key], True) for key in FIGURES]
    lines.append("| " + " | ".join(["all, segmenter not tuned", "", "", "", *values]) + " |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Mapping[str, Any], interval: bool) -> str:
    low, high = estimate["ci95"]
    return _short(estimate["value"]) + (f" [{_short(low)}, {_short(high)}]" if interval else "")


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def main(arguments: list[str]) -> None:
    """Learn, transcribe, compare."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    languages = yaml.safe_load(Path(hparams["languages_file"]).read_text(encoding="utf-8"))[hparams["part"]]
    start = load_start(recipe.base(), None)
    start = replace(start, meta=replace(start.meta, hard_ratio=0.0))
    corpora = prepare(Path(hparams["data_folder"]), languages, hparams["part"])
    found: dict[str, Found] = {}
    for corpus in progress(corpora, "languages"):
        found[corpus.name] = transcribe_language(corpus, start, hparams["n_folds"], hparams["seed"])
    everything = sum(found.values(), Found([], [], []))
    rows = {name: each.row(hparams["seed"]) for name, each in {**found, "all": everything}.items()}
    facts = {"command": "python " + " ".join(sys.argv), "part": hparams["part"], "n_folds": hparams["n_folds"]}
    atomic_write(output / "table.json", json_text(plain({**facts, "rows": rows})))
    atomic_write(output / "table.md", markdown(rows))
    print(markdown(rows))
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
