"""What a run leaves behind: `results/<experiment>/<seed>/` with the language pack, the report and the log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_speech.core.files import atomic_write, plain
from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.core.settings import as_dict
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.language_pack import language_pack
from mtl_speech.model.pack import PACK, save_pack
from mtl_speech.model.strategy import BaseModel
from mtl_speech.phonology.languages import display_name
from mtl_speech.report.clips import cut_clips
from mtl_speech.report.findings import Details, Size
from mtl_speech.report.tables import write_report
from mtl_speech.scoring.metrics import Scores
from mtl_speech.scoring.tokens import score_tokens
from mtl_speech.training.adapt import Ablation, Adaptation, Learned, pooled
from mtl_speech.training.folds import NONE_TO_TEST_ON
from mtl_speech.training.forgetting import compare_base
from mtl_speech.training.learning_curve import LearningCurve
from mtl_speech.training.meta_train import MetaHistory


def pooled_scores(runs: Sequence[Adaptation], seed: int) -> Scores:
    """The scores of one fold, or of all test segments of a cross-validation together."""
    if len(runs) == 1:
        return runs[0].scores
    tokens = pooled(runs)
    n_train: dict[str, int] = {}
    for run in runs:
        for item in run.scores.phonemes:
            n_train[item.phoneme] = max(n_train.get(item.phoneme, 0), item.n_train or 0)
    scored = {token.true for token in tokens}
    # Of a fold that could not score a phoneme, and one that had none to test on, the first tells why it is not scored.
    each = sorted((m for run in runs for m in run.scores.not_scored), key=lambda m: m.reason != NONE_TO_TEST_ON)
    missing = {m.phoneme: m for m in each if m.phoneme not in scored}
    return score_tokens(tokens, n_train, tuple(missing[p] for p in sorted(missing)), seed)


def write_results(
    folder: Path,
    runs: Sequence[Adaptation],
    base: BaseModel,
    config: AdaptConfig,
    meta: MetaTrainConfig,
    *,
    command: str,
    final: Learned,
    ablation: Ablation | None = None,
    notes: Sequence[str] = (),
    left_out: Sequence[str] = (),
    stamp: str = "",
    extra: Mapping[str, Any] | None = None,
    about: Mapping[str, str] | None = None,
    curve: LearningCurve | None = None,
    heard: SegmentStore | None = None,
    recordings: Mapping[str, Path] | None = None,
) -> tuple[Scores, list[Path]]:
    """Write the pack of `final`, the report of `runs` (the folds) and the history of meta-training into `folder`.

    `left_out` are notes that name recordings: they go into the report, and not into the pack. For the page: `about` tells what was
    done, `curve` what more examples bring, `heard` has segments to compare the base on, and `recordings` is where the test
    recordings are, by id, to cut clips from (None: no clips).

    Raises PackError, DataError or OSError; each file is written whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = pooled_scores(runs, config.seed)
    details = _details(runs, base, meta, final, scores, about or {}, curve, heard, recordings)
    settings = {"adapt": as_dict(config), "meta_train": as_dict(meta)}
    card = {
        "name": f"{config.lang}-{config.seed}",
        "language_name": display_name(config.lang),
        "stamp": stamp,
        "scores": {"macro_f1": round(scores.macro_f1, 4), "micro_f1": round(scores.micro_f1, 4), "n": scores.n},
        "examples": final.n_train,
        "phoneme_f1": {item.phoneme: round(item.f1, 4) for item in scores.phonemes},
        "notes": list(notes),
    }
    paths = [save_pack(language_pack(final.model, base, meta, config.lang, card), folder / PACK)]
    history = {
        "base_learning": [
            {"steps": c.steps, "rate": c.rate, "macro_f1": c.macro_f1} for c in (run.learned.choice for run in runs)
        ],
        "meta_training": [_history(run.learned.history) for run in runs],
    }
    paths += write_report(
        folder,
        scores,
        ablation.rows if ablation is not None else None,
        settings=settings,
        command=command,
        notes=[*left_out, *notes],
        extra=dict(extra or {}),
        stamp=stamp,
        details=details,
    )
    paths.append(atomic_write(folder / "history.json", json.dumps(plain(history), indent=1, ensure_ascii=False)))
    return scores, paths


def _details(
    runs: Sequence[Adaptation],
    base: BaseModel,
    meta: MetaTrainConfig,
    final: Learned,
    scores: Scores,
    about: Mapping[str, str],
    curve: LearningCurve | None,
    heard: SegmentStore | None,
    recordings: Mapping[str, Path] | None,
) -> Details:
    tokens = pooled(runs)
    n_frozen = sum(parameter.numel() for parameter in base.encoder.parameters())
    return Details(
        about=about,
        tokens=tokens,
        temperature=final.model.temperature,
        curve=curve,
        history=[run.learned.history.hard_classes for run in runs],
        curriculum=meta.hard_ratio > 0,
        size=Size(final.trainable_parameters, n_frozen, sum(final.n_train.values())),
        base=None if heard is None else compare_base(base, final.model.learner, heard),
        clips=None if recordings is None else cut_clips(scores, tokens, recordings),
    )


def _history(history: MetaHistory) -> dict[str, Any]:
    hard = [[f"{language}:{phoneme}" for language, phoneme in entered] for entered in history.hard_classes]
    return {"rounds": history.rounds, "validations": history.validations, "hard_classes": hard}
