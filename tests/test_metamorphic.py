"""What must not matter does not: the order of recordings, classes, tasks and examples, their names, and how audio is stored."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.audio_changes import CHANGES, LANGUAGES, Change, compare
from mtl_speech.commands.target import load_start
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model import passes
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.learner import Head, MetaLearner, embed_segments
from mtl_speech.model.strategy import new_learner
from mtl_speech.scoring.metrics import score
from mtl_speech.training import base_learning
from mtl_speech.training.base_learning import (
    Examples,
    StepChoice,
    choose_steps,
    examples_of,
    fit_temperature,
    learn_head,
)
from mtl_speech.training.episodes import EpisodeSampler, full_inventory, stack
from mtl_speech.training.meta_test import predict_episodes, score_episodes
from mtl_speech.training.meta_train import meta_forward
from tests.command_line import labelled_folder, report, run, save_base
from tests.helpers import meta_config, seeded, shake, tiny_base, tiny_learner, toy_store


@pytest.fixture
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short list of numbers of steps to choose from, for speed."""
    monkeypatch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))


@pytest.fixture
def store() -> SegmentStore:
    return toy_store(n_languages=1, n_phonemes=6, n_utterances=9, noise=1.5)


@pytest.fixture
def learner(store: SegmentStore) -> MetaLearner:
    # At higher rates the steps of descent overshoot, and what rounding differs by grows from step to step.
    found = tiny_learner(store, theta_init="posterior", inner_lr=0.05)
    shake(found)
    return found


def orders(*lengths: int) -> list[Tensor]:
    """A random order of each of so many things."""
    draw = seeded(0)
    return [torch.randperm(n, generator=draw) for n in lengths]


# Scores


def some_tokens(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.integers(8, size=n)
    return true, np.where(rng.random(n) < 0.6, true, rng.integers(10, size=n)), rng.integers(40, size=n)


def test_the_order_of_the_tokens_does_not_change_a_score() -> None:
    true, predicted, groups = (values.astype(str) for values in some_tokens())
    order = np.random.default_rng(1).permutation(len(true))
    for given in (groups, None):
        before = score(true.tolist(), predicted.tolist(), None if given is None else given.tolist())
        after = score(true[order].tolist(), predicted[order].tolist(), None if given is None else given[order].tolist())
        assert after == before
        np.testing.assert_array_equal(after.confusion, before.confusion)


def test_other_names_of_classes_and_recordings_give_the_same_figures() -> None:
    """Names set the order of classes and recordings. It may move only what is drawn by chance: the ends of intervals."""
    true, predicted, groups = some_tokens()
    name = np.array(["s", "p", "a", "z", "k", "i", "o", "b", "u", "t"])
    other = np.random.default_rng(2).permutation(40)
    given = [[*map(str, values)] for values in (true, predicted, groups)]
    before = score(*given, n_bootstrap=4000)
    after = score(
        [name[i] for i in true], [name[i] for i in predicted], [str(other[i]) for i in groups], n_bootstrap=4000
    )
    assert after.macro_f1 == pytest.approx(before.macro_f1, abs=1e-12)
    assert (after.micro_f1, after.accuracy, after.n_groups) == (before.micro_f1, before.accuracy, before.n_groups)
    renamed = {item.phoneme: item for item in after.phonemes}
    for item in before.phonemes:
        found = renamed[name[int(item.phoneme)]]
        assert (found.n, found.f1, found.precision, found.recall) == (item.n, item.f1, item.precision, item.recall)
        np.testing.assert_allclose(found.f1_ci95, item.f1_ci95, atol=0.01)
    places = [after.labels.index(name[int(label)]) for label in before.labels]
    np.testing.assert_array_equal(after.confusion[np.ix_(places, places)], before.confusion)
    for key in ("macro_f1_ci95", "micro_f1_ci95"):
        np.testing.assert_allclose(getattr(after, key), getattr(before, key), atol=0.005)


# Learning


def assert_same_head(one: Head, other: Head) -> None:
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.bias, other.bias, rtol=1e-4, atol=1e-5)


def renumbered(examples: Examples, classes: Tensor) -> Examples:
    """The same examples, their classes in another order."""
    return replace(examples, labels=classes.argsort()[examples.labels], rows=examples.rows[classes])


@pytest.mark.parametrize("n_steps", [0, 20])
def test_the_order_of_examples_and_classes_does_not_change_what_is_learned(
    learner: MetaLearner, store: SegmentStore, n_steps: int
) -> None:
    examples, choice = examples_of(learner, store, embed_segments(learner, store)), StepChoice(n_steps)
    head = learn_head(examples, choice)
    order, classes = orders(len(store), 6)
    assert_same_head(learn_head(examples.select(order), choice), head)
    found = learn_head(renumbered(examples, classes), choice)
    assert_same_head(found, Head(head.weight[:, classes], head.bias[:, classes]))


@pytest.mark.usefixtures("few_choices")
def test_the_order_of_examples_and_classes_does_not_change_what_is_chosen(
    learner: MetaLearner, store: SegmentStore
) -> None:
    examples = examples_of(learner, store, embed_segments(learner, store))
    before = choose_steps(examples)
    order, classes = orders(len(store), 6)
    after = choose_steps(renumbered(examples, classes).select(order))
    assert 0 < before.macro_f1 < 1, "there must be something to choose by"
    assert replace(after, temperature=1.0, macro_f1=0.0) == replace(before, temperature=1.0, macro_f1=0.0)
    assert after.macro_f1 == pytest.approx(before.macro_f1)
    assert after.temperature == pytest.approx(before.temperature, rel=1e-4)


def test_the_order_of_examples_and_classes_does_not_change_the_temperature() -> None:
    logits, labels = 2 * torch.randn(300, 5, generator=seeded(1)), torch.randint(5, (300,), generator=seeded(2))
    examples, classes = orders(300, 5)
    found = fit_temperature(logits[examples][:, classes], classes.argsort()[labels[examples]])
    assert found == pytest.approx(fit_temperature(logits, labels), rel=1e-5)


def test_the_order_of_segments_does_not_change_their_embeddings(
    learner: MetaLearner, store: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "ROWS_AT_ONCE", 200)
    (order,) = orders(len(store))
    moved, found = embed_segments(learner, store.select(order)), embed_segments(learner, store)
    torch.testing.assert_close(moved, found[order], rtol=1e-5, atol=1e-6)


def test_the_order_of_tasks_does_not_change_their_scores_or_the_step(learner: MetaLearner, store: SegmentStore) -> None:
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    tasks = [sampler.random(rng, 3, 2, 4) for _ in range(7)]
    order = rng.permutation(len(tasks))
    embeddings = embed_segments(learner, store)
    before = score_episodes(learner, embeddings, tasks)
    np.testing.assert_array_equal(score_episodes(learner, embeddings, [tasks[i] for i in order]), before[order])
    assert len(set(before.tolist())) > 2
    gradients = []
    for each in (tasks, [tasks[i] for i in order]):
        learner.zero_grad()
        meta_forward(learner, store, stack(each))[0].backward()
        gradients.append([p.grad.clone() for p in learner.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_all_tokens_are_tested_in_whatever_order_they_stand(learner: MetaLearner, store: SegmentStore) -> None:
    """The support of a task is drawn; what is scored on it may not depend on the order of the queries."""
    episode = full_inventory(np.random.default_rng(0), EpisodeSampler(store), 0, 2)
    assert episode is not None
    (order,) = orders(len(episode.query))
    other = replace(episode, query=episode.query[order], query_labels=episode.query_labels[order])
    embeddings = embed_segments(learner, store)
    ((_, one),) = predict_episodes(learner, embeddings, [episode])
    ((_, two),) = predict_episodes(learner, embeddings, [other])
    assert torch.equal(two[0], one[0][order])


# Commands


def adapted(folder: Path, output: Path, base: Path) -> tuple[bytes, bytes, dict[str, object]]:
    """The weights and the tokens of `adapt`, and its scores."""
    run("adapt", "--lang", "pa", "--data", folder, "--base", base, "--meta-steps", 2, "--output-dir", output, "-q")
    files = [(output / name).read_bytes() for name in ("pack/weights.safetensors", "tokens.csv")]
    return files[0], files[1], report(output)["scores"]


@pytest.mark.usefixtures("few_choices")
def test_where_files_lie_and_how_the_disk_lists_them_does_not_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    before = adapted(labelled_folder(tmp_path / "one" / "words", 12, 2), tmp_path / "first", base)
    elsewhere = labelled_folder(tmp_path / "two" / "words", 12, 2)
    walk = os.walk

    def disordered(*args: object, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for root, folders, names in walk(*args, **options):  # type: ignore[call-overload]
            random.Random(len(names)).shuffle(names)
            folders.reverse()
            yield root, folders, names

    monkeypatch.setattr("os.walk", disordered)
    after = adapted(elsewhere, tmp_path / "second", base)
    assert after[0] == before[0]
    assert after[1:] == before[1:]


@pytest.mark.usefixtures("few_choices")
def test_other_names_of_recordings_do_not_change_how_a_pack_scores_them(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    folder = labelled_folder(tmp_path / "words", 12, 2)
    adapted(folder, tmp_path / "learned", base)
    found = []
    for name in ("before", "after"):
        run("evaluate", tmp_path / "learned" / "pack", "--data", folder, "--base", base, "-o", tmp_path / name, "-q")
        found.append(report(tmp_path / name)["scores"])
        for number, path in enumerate(sorted(folder.rglob("*.wav"), key=lambda p: p.stem[::-1])):
            for each in (path, path.with_suffix(".TextGrid")):
                each.rename(folder / f"n{number:02}{each.suffix}")  # of one speaker then, too
    assert found[0]["macro_f1"] < 1, "there must be mistakes"
    for key in ("macro_f1", "micro_f1", "n", "confusion"):
        assert found[1][key] == found[0][key]


# Audio

EXACT = ("as 32-bit WAV", "as FLAC", "as stereo of two equal channels")


@pytest.mark.usefixtures("few_choices")
def test_changes_of_the_audio_hardly_change_toy_predictions(tmp_path: Path) -> None:
    corpus = read_corpus(labelled_folder(tmp_path / "toy", 10, 2), "pa", "ipa")
    meta = meta_config(theta_init="posterior")
    base = tiny_base()
    strategy = new_learner(base, sorted(corpus.phoneme_counts()), meta)
    prepare_learner(strategy, build_store([corpus]), meta)
    changes = {name: change for name, change in CHANGES.items() if change != Change(rate=8_000)}
    found = compare(base, strategy, corpus, changes, tmp_path / "changed")
    assert 0.3 < found["as it is"]["macro_f1"] < 1
    for name in changes:
        bound = 0.0 if name in EXACT else 0.05
        assert all(abs(difference) <= bound for difference in found[name].values()), (name, found[name])


@pytest.mark.slow
def test_changes_of_the_audio_hardly_change_predictions_of_real_languages(corpora: Path, tmp_path: Path) -> None:
    """The bounds stand in docs/reliability.md; benchmarks/audio_changes.py gives the figures."""
    start = load_start(None, None)
    strategy = start.learner(None)  # type: ignore[arg-type]
    for language in LANGUAGES:
        corpus = read_corpus(corpora / "voxangeles" / language, language, "ipa")
        found = compare(start.base, strategy, corpus, CHANGES, tmp_path / language)
        for name in CHANGES:
            if name != "at 8 kHz":
                # The encoder knows when something is said and hears all of a recording at once, so silence moves predictions.
                bound = 0.0 if name in EXACT else 0.04 if "silence" in name else 0.02
                for key in ("tested_f1", "both_f1"):
                    assert abs(found[name][key]) <= bound, (language, name, key, found[name])
