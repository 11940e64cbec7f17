"""Phonemes held back: how well rows that are guessed from articulation recognise them, and what they cost the other phonemes.

python recipes/VoxAngeles/zero_shot.py recipes/VoxAngeles/hparams/zero_shot.yaml --data_folder DIR/voxangeles
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from prepare import prepare
from torch import Tensor

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.options import AdaptConfig
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.model.learner import MetaLearner, embed_segments, extend, row_of
from mtl_speech.model.strategy import BaseModel, load_learner
from mtl_speech.phonology.articulation import articulatory_features, articulatory_regression
from mtl_speech.scoring.bootstrap import paired_difference
from mtl_speech.scoring.metrics import episode_class_f1
from mtl_speech.training.base_learning import Examples, Weigh, add_unheard, choose_steps, learn_head
from mtl_speech.training.folds import make_folds

logger = logging.getLogger("mtl_speech.recipes")

REGRESSION, MEAN, NEAREST, RANDOM = (
    "regression on articulation",
    "mean of three nearest",
    "nearest row",
    "three by chance",
)
WITHOUT, LEARNED, PRIOR = "no row", "learned from its examples", "guess by frequency"
N_NEAR = 3


@dataclass(frozen=True)
class Language:
    """The examples of a language, embedded once. labels: (n,) classes; rows: (n_classes,) rows of θ; fold: (n,) where tested."""

    name: str
    learner: MetaLearner
    z: Tensor
    labels: Tensor
    recordings: Tensor
    fold: Tensor
    rows: Tensor
    phonemes: tuple[str, ...]


def load(corpus: Corpus, base: BaseModel, strategy: MetaLearner, seed: int) -> Language:
    """The examples of a corpus, divided as `adapt` divides them. θ does not move: only base learning is measured."""
    store = base.hear([corpus])
    learner = copy.deepcopy(strategy)
    extend(learner, store.phonemes)
    fold = torch.zeros(len(store), dtype=torch.long)
    for number, each in enumerate(make_folds(corpus, None, AdaptConfig(lang=corpus.name, seed=seed), base)):
        held = {each.test.utterance_ids[int(i)] for i in each.test.utterance}
        fold[torch.tensor([name in held for name in store.utterance_ids])[store.utterance]] = number
    z = learner.standardise(embed_segments(learner, store)).detach()
    return Language(corpus.name, learner, z, store.label, store.utterance, fold, row_of(learner, store), store.phonemes)


def closest(n: int) -> Weigh:
    """The mean of the n known phonemes that are nearest in articulation."""

    def weigh(known: Sequence[str], counts: Sequence[float], new: Sequence[str]) -> np.ndarray:
        distance = np.abs(articulatory_features(new)[:, None] - articulatory_features(known)[None]).sum(2)
        found = np.zeros(distance.shape)
        np.put_along_axis(found, np.argsort(distance, axis=1, kind="stable")[:, :n], 1 / n, axis=1)
        return found

    return weigh


def by_chance(seed: int) -> Weigh:
    """The mean of known phonemes drawn by chance: where a phoneme could be, for all that is known of it."""
    rng = np.random.default_rng(seed)

    def weigh(known: Sequence[str], counts: Sequence[float], new: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(new), len(known)))
        for row in found:
            row[rng.choice(len(known), N_NEAR, replace=False)] = 1 / N_NEAR
        return found

    return weigh


def ways(seed: int) -> dict[str, Weigh]:
    """The ways to guess a row that are compared. The bias of each is chosen by leaving out phonemes, as `add_unheard` does."""
    return {REGRESSION: articulatory_regression, MEAN: closest(N_NEAR), NEAREST: closest(1), RANDOM: by_chance(seed)}


def recognise(language: Language, held: Sequence[int], guesses: Mapping[str, Weigh], seed: int) -> dict[str, Tensor]:
    """What each system takes each example for, cross-validated: (n,) classes. No system learns from the classes `held`."""
    found = {name: torch.empty_like(language.labels) for name in (WITHOUT, *guesses)}
    names, added = [language.phonemes[i] for i in held], torch.tensor(held, dtype=torch.long)
    for number in language.fold.unique():
        tested = language.fold == number
        train = ~tested & ~torch.isin(language.labels, added)
        present, labels = language.labels[train].unique(return_inverse=True)
        rows, recordings = language.rows[present], language.recordings[train]
        examples = Examples(language.learner, language.z[train], labels, recordings, rows, seed)
        choice = choose_steps(examples)
        head = learn_head(examples, choice)
        heads = {name: add_unheard(examples, head, choice, names, weigh)[0] for name, weigh in guesses.items()}
        for name, each in {WITHOUT: head, **heads}.items():
            best = each.logits(language.z[tested].unsqueeze(0))[0].argmax(1)
            found[name][tested] = torch.cat((present, added))[best]
    return found


def f1_of(language: Language, predicted: Tensor) -> np.ndarray:
    """F1 of each class, (n_classes,)."""
    return episode_class_f1(language.labels[None], predicted[None], len(language.phonemes))[0]


def measure(language: Language, size: int, min_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Hold back every phoneme with `min_tokens` examples, `size` of them at a time: a row of scores for each phoneme."""
    learned = f1_of(language, recognise(language, (), {}, seed)[WITHOUT])
    counts = torch.bincount(language.labels, minlength=len(language.phonemes))
    often = np.flatnonzero(counts.numpy() >= min_tokens)
    order = np.random.default_rng(seed).permutation(often).tolist()
    met = [bool(language.learner.met[int(row)]) for row in language.rows]
    rows: list[dict[str, Any]] = []
    for held in (order[i : i + size] for i in range(0, len(order), size)):
        f1 = {name: f1_of(language, p) for name, p in recognise(language, held, ways(seed), seed).items()}
        others = np.setdiff1d(np.arange(len(language.phonemes)), held)
        for i in held:
            share = float(counts[i] / counts.sum())  # the F1 of guessing it as often as it comes
            zero_shot = {LEARNED: float(learned[i]), PRIOR: share} | {name: float(v[i]) for name, v in f1.items()}
            rows.append(
                {
                    "language": language.name,
                    "phoneme": language.phonemes[i],
                    "n": int(counts[i]),
                    "in_strategy": met[i],
                    "f1": zero_shot,
                    "others": {name: float(v[others].mean()) for name, v in f1.items()},
                    "all": {name: float(v.mean()) for name, v in f1.items()},
                }
            )
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over phonemes with 95 % intervals, bootstrap over languages and over phonemes within them."""
    parts = {
        "f1": rows,
        "f1_in_strategy": [row for row in rows if row["in_strategy"]],
        "f1_not_in_strategy": [row for row in rows if not row["in_strategy"]],
    }
    systems: dict[str, dict[str, Any]] = {}
    for name in (REGRESSION, MEAN, NEAREST, RANDOM, PRIOR, LEARNED):
        systems[name] = {part: _mean([row["f1"][name] for row in of], of) for part, of in parts.items() if of}
        if name not in (PRIOR, LEARNED):
            for key in ("others", "all"):
                systems[name][key] = _mean([row[key][name] - row[key][WITHOUT] for row in rows], rows)
    others = (MEAN, NEAREST, RANDOM, PRIOR)
    gains = {name: _mean([row["f1"][REGRESSION] - row["f1"][name] for row in rows], rows) for name in others}
    return {"systems": systems, "gain_of_regression": gains}


def _mean(values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = paired_difference(values, [0.0] * len(values), [row["language"] for row in rows])
    return {"mean": found.mean, "ci95": list(found.ci95), "n": found.n}


COLUMNS = {
    "f1": "F1",
    "f1_in_strategy": "F1, in the strategy",
    "f1_not_in_strategy": "F1, not in the strategy",
    "others": "macro-F1 of the others",
    "all": "macro-F1 of all",
}


def markdown(data: Mapping[str, Any]) -> str:
    """The tables of the README."""
    lines = []
    for size, found in data["held_back"].items():
        sizes = {
            column: next((s[column]["n"] for s in found["systems"].values() if column in s), 0) for column in COLUMNS
        }
        heads = [f"{title} (n = {sizes[column]})" for column, title in COLUMNS.items()]
        lines += [f"| held back: {size} at a time | {' | '.join(heads)} |", "|---|" + "---:|" * len(COLUMNS)]
        for name, entry in found["systems"].items():
            cells = [_cell(entry.get(column), column in ("others", "all")) for column in COLUMNS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        gains = [f"{name} {_cell(gain, True)}" for name, gain in found["gain_of_regression"].items()]
        lines += ["", f"F1 of the regression minus that of: {'; '.join(gains)}.", ""]
    return "\n".join(lines)


def _cell(value: Mapping[str, Any] | None, signed: bool) -> str:
    if value is None:
        return ""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(value["mean"], *value["ci95"])


def main(arguments: list[str]) -> None:
    """Measure on the validation languages."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    seed = hparams["seed"]
    names = yaml.safe_load(Path(hparams["languages_file"]).read_text(encoding="utf-8"))["valid"]
    base = recipe.base()
    pack = recipe.strategy()
    strategy, _ = load_learner(pack, base)
    held_back: dict[str, Any] = {}
    phonemes: dict[str, Any] = {}
    corpora = prepare(Path(hparams["data_folder"]), names, "valid")
    languages = [load(corpus, base, strategy, seed) for corpus in corpora]
    for size in hparams["held_back"]:
        rows = []
        for language in progress(languages, f"{size} held back"):
            rows += measure(language, size, hparams["min_tokens"], seed)
            logger.info("%s, %d held back: done after %.0f s", language.name, size, time.perf_counter() - started)
        held_back[str(size)], phonemes[str(size)] = summary(rows), rows
    facts = {"command": "python " + " ".join(sys.argv), "seed": seed, "languages": names, "strategy": pack.name}
    data = {**facts, "min_tokens": hparams["min_tokens"], "held_back": held_back, "phonemes": phonemes}
    data["seconds"] = round(time.perf_counter() - started)
    atomic_write(output / "zero_shot.json", json_text(plain(data)))
    atomic_write(output / "zero_shot.md", markdown(data))
    print(markdown(data))
    logger.info("done in %.0f s", time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
