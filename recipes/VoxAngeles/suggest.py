"""What to label next: labels revealed as `mtl-speech suggest` asks for them, against random choice.

python recipes/VoxAngeles/suggest.py recipes/VoxAngeles/hparams/suggest.yaml --data_folder DIR/voxangeles
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prepare import prepare
from torch import Tensor

from mtl_speech.commands.recipe import begin_recipe
from mtl_speech.commands.suggest import probabilities, with_stand_ins
from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.learner import MetaLearner, embed_segments, extend, row_of
from mtl_speech.model.segmenter import learn_timing
from mtl_speech.model.strategy import BaseModel, load_learner
from mtl_speech.scoring.bootstrap import paired_difference
from mtl_speech.scoring.metrics import episode_class_f1, episode_macro_f1
from mtl_speech.training.base_learning import (
    Examples,
    StepChoice,
    fit_temperature,
    held_out_logits,
    learn_head,
)
from mtl_speech.training.suggest import Candidate, Inventory, Weights, choose
from mtl_speech.transcription.transcribe import Transcriber

logger = logging.getLogger("mtl_speech.recipes")

RANDOM, LONGEST, DEFAULT, WORDS = "random", "most phones", "suggest --pool", "suggest --words"
LABELLED, TRANSCRIBED = "spans as labelled", "spans as transcribed"
BUDGETS = ("recordings", "phones")
DEFAULTS = Weights()


@dataclass(frozen=True)
class Language:
    """The examples of a language, embedded once. z: (n, dim) standardised; rows: (n_phonemes,) of θ. Recordings are numbers."""

    corpus: Corpus
    store: SegmentStore
    base: BaseModel
    learner: MetaLearner
    z: Tensor
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        """The phoneme of each example, (n,)."""
        return self.store.label

    def of(self, recordings: Sequence[int]) -> Tensor:
        """The examples in recordings."""
        return torch.nonzero(torch.isin(self.store.utterance, torch.tensor(recordings))).squeeze(1)


@dataclass(frozen=True)
class Known:
    """What is known after some recordings have been labelled: as a language pack has it."""

    model: LanguageModel
    inventory: Inventory
    classes: Tensor  # (n_classes,) those of the language's phonemes that have an example


Heard = Mapping[int, Tensor]  # standardised embeddings of the phones of each recording, (n_phones, dim)
Method = Callable[[Language, Known, Heard, Sequence[int], int, int], list[int]]


def load(corpus: Corpus, base: BaseModel, strategy: MetaLearner) -> Language:
    """The examples of a corpus. θ does not move: only base learning is simulated."""
    store = base.hear([corpus])
    learner = copy.deepcopy(strategy)
    extend(learner, store.phonemes)
    z = learner.standardise(embed_segments(learner, store)).detach()
    return Language(corpus, store, base, learner, z, row_of(learner, store))


def learn(language: Language, recordings: Sequence[int], choice: StepChoice) -> Known:
    """What base learning on some recordings gives: the head, and by cross-validation over them its temperature and F1."""
    index = language.of(recordings)
    classes, labels = language.labels[index].unique(return_inverse=True)
    z, recordings, rows = language.z[index], language.store.utterance[index], language.rows[classes]
    examples = Examples(language.learner, z, labels, recordings, rows)
    with torch.no_grad():
        head = learn_head(examples, choice)
        fold = examples.folds()
        assert fold is not None, "three recordings at least"
        logits = held_out_logits(examples, fold, choice)
    f1 = episode_class_f1(labels[None], logits.argmax(1)[None], len(classes))[0]
    phonemes = examples.phonemes
    model = LanguageModel(language.learner, head, phonemes, fit_temperature(logits, labels))
    counts = torch.bincount(labels, minlength=len(classes)).double().numpy()
    return Known(model, Inventory(phonemes, counts, f1), classes)


def macro_f1(language: Language, known: Known, test: Sequence[int]) -> float:
    """Macro-F1 on recordings, over all phonemes that occur in them: one never labelled has F1 0."""
    index = language.of(test)
    best = known.model.head.logits(language.z[index].unsqueeze(0))[0].argmax(1)
    true, predicted = language.labels[index], known.classes[best]
    return float(episode_macro_f1(true[None], predicted[None], len(language.store.phonemes))[0])


# The ways to choose


def at_random(language: Language, known: Known, heard: Heard, pool: Sequence[int], n: int, seed: int) -> list[int]:
    """Recordings drawn by chance."""
    return np.random.default_rng(seed).permutation(pool)[:n].tolist()


def longest(language: Language, known: Known, heard: Heard, pool: Sequence[int], n: int, seed: int) -> list[int]:
    """The recordings in which the most phones are heard."""
    return sorted(pool, key=lambda u: (-len(heard[u]), u))[:n]


def least_sure(language: Language, known: Known, heard: Heard, pool: Sequence[int], n: int, seed: int) -> list[int]:
    """The recordings whose phones have the largest entropy in sum."""

    def entropy(recording: int) -> float:
        p = probabilities(known.model.head, heard[recording], known.model.temperature)
        return float(-(p * np.log(p + 1e-12)).sum())

    return sorted(pool, key=lambda u: (-entropy(u), u))[:n]


def by_suggestion(weights: Weights = DEFAULTS, stand_ins: bool = True, per_phone: bool = False) -> Method:
    """As `mtl-speech suggest --pool` chooses, with `weights` as its default or others, with or without rows that stand in."""

    def chosen(language: Language, known: Known, heard: Heard, pool: Sequence[int], n: int, seed: int) -> list[int]:
        head, others = with_stand_ins(known.model) if stand_ins else (known.model.head, ())
        candidates = [
            Candidate(str(u), probabilities(head, heard[u], known.model.temperature), heard[u].numpy()) for u in pool
        ]
        found = choose(candidates, _with(known.inventory, others), n, weights, per_phone, seed)
        return [int(each.candidate.id) for each in found]

    return chosen


def by_words(weights: Weights = DEFAULTS, per_phone: bool = False) -> Method:
    """As `mtl-speech suggest --words` chooses, from the true pronunciations."""

    def chosen(language: Language, known: Known, heard: Heard, pool: Sequence[int], n: int, seed: int) -> list[int]:
        spoken = {u: [language.store.phonemes[int(i)] for i in language.labels[language.of([u])]] for u in pool}
        new = sorted({p for phones in spoken.values() for p in phones} - set(known.inventory.phonemes))
        inventory = _with(known.inventory, new)
        place, eye = {p: i for i, p in enumerate(inventory.phonemes)}, np.eye(len(inventory.phonemes))
        candidates = [
            Candidate(str(u), eye[[place[p] for p in spoken[u]]], np.empty((len(spoken[u]), 0))) for u in pool
        ]
        return [int(each.candidate.id) for each in choose(candidates, inventory, n, weights, per_phone, seed)]

    return chosen


def _with(inventory: Inventory, others: Sequence[str]) -> Inventory:
    """The inventory and after it phonemes without an example."""
    return Inventory(
        (*inventory.phonemes, *others),
        np.concatenate((inventory.examples, np.zeros(len(others)))),
        np.concatenate((inventory.f1, np.full(len(others), np.nan))),
    )


def methods() -> dict[str, Method]:
    """All that is compared, by name."""
    return {
        RANDOM: at_random,
        LONGEST: longest,
        "uncertainty alone": least_sure,
        "coverage alone, without stand-ins": by_suggestion(replace(DEFAULTS, diversity=0.0), stand_ins=False),
        "coverage alone": by_suggestion(replace(DEFAULTS, diversity=0.0)),
        "diversity alone": by_suggestion(replace(DEFAULTS, coverage=0.0)),
        DEFAULT: by_suggestion(),
        f"{DEFAULT}, 2 λ": by_suggestion(replace(DEFAULTS, diversity=DEFAULTS.diversity * 2)),
        f"{DEFAULT}, all phonemes alike": by_suggestion(replace(DEFAULTS, hardness=0.0)),
        f"{DEFAULT}, by gain per phone": by_suggestion(per_phone=True),
        WORDS: by_words(),
        f"{WORDS}, by gain per phone": by_words(per_phone=True),
    }


# The simulation


@dataclass(frozen=True)
class Plan:
    """Recordings: `start` labelled at first, then `batch` more, `n_batches` times; a share of them is held out to test on."""

    start: int
    batch: int
    n_batches: int
    test_share: float


@dataclass(frozen=True)
class Curve:
    """Macro-F1 (n_batches + 1,) after each batch, and the phones (n_batches + 1,) that had been labelled by then."""

    macro_f1: np.ndarray
    phones: np.ndarray


@dataclass(frozen=True)
class Start:
    """What all methods of one seed have in common: recordings to test on, those labelled at first, and the pool as it is heard."""

    test: Sequence[int]
    labelled: Sequence[int]
    pool: Sequence[int]
    known: Known
    heard: Heard


def begin(language: Language, plan: Plan, choice: StepChoice, seed: int, own_spans: bool) -> Start:
    """Draw the recordings to test on and those labelled at first; with `own_spans` the pool's phones are not known."""
    n = len(language.store.utterance_ids)
    order = np.random.default_rng((seed, n)).permutation(n).tolist()
    n_test = round(plan.test_share * n)
    test, labelled, pool = order[:n_test], order[n_test : n_test + plan.start], order[n_test + plan.start :]
    known = learn(language, labelled, choice)
    heard = hear(language, known, labelled, pool) if own_spans else {u: language.z[language.of([u])] for u in pool}
    return Start(test, labelled, pool, known, heard)


def simulate(language: Language, start: Start, method: Method, plan: Plan, choice: StepChoice, seed: int) -> Curve:
    """Label what `method` asks for, batch by batch, and score on recordings that it never sees."""
    known, labelled = start.known, list(start.labelled)
    scores, phones = [macro_f1(language, known, start.test)], [len(language.of(labelled))]
    for number in range(plan.n_batches):
        pool = [u for u in start.pool if u not in labelled]
        labelled += method(language, known, start.heard, pool, plan.batch, 1000 * seed + number)
        known = learn(language, labelled, choice)
        scores.append(macro_f1(language, known, start.test))
        phones.append(len(language.of(labelled)))
    return Curve(np.array(scores), np.array(phones, dtype=np.float64))


def hear(language: Language, known: Known, labelled: Sequence[int], pool: Sequence[int]) -> dict[int, Tensor]:
    """The phones of recordings as the transcriber finds them that the first labelled recordings make."""
    base = language.base
    assert base.segmenter is not None, "the base has no segmenter"
    timing = learn_timing(
        base.segmenter, base.encoder, language.store.select(language.of(labelled)), known.model.classes
    )
    transcriber = Transcriber(replace(known.model, timing=timing), base, timing)
    corpus, ids = language.corpus, language.store.utterance_ids
    audio = {f"{corpus.name}/{utterance.id}": utterance.audio for utterance in corpus.utterances}
    return {u: transcriber.examine(audio[ids[u]]).embeddings for u in pool}


def area(curve: Curve, budget: str, phones: tuple[float, float]) -> float:
    """Mean macro-F1 over a budget: all recordings from the first to the last, or `phones` (from, to) labelled."""
    if budget == "recordings":
        return float(np.trapezoid(curve.macro_f1) / (len(curve.macro_f1) - 1))
    grid = np.linspace(*phones, 200)
    return float(np.interp(grid, curve.phones, curve.macro_f1).mean())


def measure(
    languages: Sequence[Language],
    compared: Mapping[str, Method],
    plan: Plan,
    choice: StepChoice,
    n_seeds: int,
    own_spans: bool = False,
) -> list[dict[str, Any]]:
    """A row for each language, seed and method: areas over both budgets. Methods of one seed share its start and its test."""
    rows: list[dict[str, Any]] = []
    for language in languages:
        for seed in progress(range(n_seeds), language.corpus.name):
            start = begin(language, plan, choice, seed, own_spans)
            curves = {name: simulate(language, start, m, plan, choice, seed) for name, m in compared.items()}
            phones = curves[RANDOM].phones[0], min(curve.phones[-1] for curve in curves.values())
            for name, curve in curves.items():
                row = {"language": language.corpus.name, "seed": seed, "method": name}
                row |= {budget: area(curve, budget, phones) for budget in BUDGETS}
                rows.append(row | {"macro_f1": curve.macro_f1.tolist(), "labelled_phones": curve.phones.tolist()})
    return rows


# The tables


def summary(rows: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> dict[str, Any]:
    """The mean areas of each method on some languages, and their paired differences to random choice with 95 % intervals."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own, drawn = ([r for r in rows if r["method"] == m and r["language"] in languages] for m in (name, RANDOM))
        entry: dict[str, Any] = {"n": len(own), "n_phones": float(np.mean([row["labelled_phones"][-1] for row in own]))}
        of = [row["language"] for row in own]
        for budget in BUDGETS:
            values = [row[budget] for row in own]
            gains = np.subtract(values, [row[budget] for row in drawn])
            gain = paired_difference(values, [row[budget] for row in drawn], of)
            entry[budget] = {"area": float(np.mean(values)), "gain": gain.mean, "ci95": list(gain.ci95)}
            entry[budget]["gain_by_language"] = {
                language: float(gains[[each == language for each in of]].mean()) for language in languages
            }
        found[name] = entry
    return found


def markdown(data: Mapping[str, Any]) -> str:
    """The tables of the README: a column of areas and of gains for each budget, and the gains where the weights were chosen."""
    lines = []
    for title, parts in data["spans"].items():
        heads = [title]
        for part in parts:
            names = " ".join(data["languages"][part])
            heads += [part_of for budget in BUDGETS for part_of in (f"{names}: area over {budget}", "gain")]
        lines += [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
        for name in next(iter(parts.values())):
            cells = []
            for entry in (entries[name][budget] for entries in parts.values() for budget in BUDGETS):
                gain = f"{entry['gain']:+.3f} [{entry['ci95'][0]:+.3f}, {entry['ci95'][1]:+.3f}]"
                cells += [f"{entry['area']:.3f}", "" if name == RANDOM else gain]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Simulate on the validation languages."""
    started = time.perf_counter()
    recipe = begin_recipe(arguments)
    hparams, output = recipe.hparams, recipe.output
    base = recipe.base()
    pack = recipe.strategy()
    strategy, _ = load_learner(pack, base)
    names = {"report": hparams["report_on"], "choose": hparams["choose_on"]}
    corpora = prepare(Path(hparams["data_folder"]), [*names["report"], *names["choose"]], "valid")
    languages = [load(corpus, base, strategy) for corpus in corpora]
    plan, choice = Plan(**hparams["plan"]), StepChoice(**hparams["base_learning"])
    given = (plan, choice, hparams["n_seeds"])
    facts = {"command": "python " + " ".join(sys.argv), "strategy": pack.name, "base": base.pack.name}
    facts |= {key: hparams[key] for key in ("n_seeds", "plan", "base_learning")}
    rows: dict[str, list[dict[str, Any]]] = {}
    spans: dict[str, Any] = {}

    def finish(title: str, parts: Sequence[str]) -> None:
        """Write what is measured so far."""
        spans[title] = {part: summary(rows[title], names[part]) for part in parts}
        seconds = round(time.perf_counter() - started)
        data = plain({**facts, "languages": names, "weights": DEFAULTS, "spans": spans, "seconds": seconds})
        atomic_write(output / "suggest.json", json_text(data))
        atomic_write(output / "curves.json", json_text(plain(rows)))
        atomic_write(output / "suggest.md", markdown(data))
        logger.info("%s: done after %d s", title, seconds)

    rows[LABELLED] = measure(languages, methods(), *given)
    finish(LABELLED, ["report", "choose"])
    if base.segmenter is None:
        logger.warning("the base has no segmenter: nothing is measured on spans as transcribed")
    else:
        few = {name: methods()[name] for name in (RANDOM, LONGEST, DEFAULT)}
        reported = [language for language in languages if language.corpus.name in names["report"]]
        rows[TRANSCRIBED] = measure(reported, few, *given, own_spans=True)
        finish(TRANSCRIBED, ["report"])
    print((output / "suggest.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
