"""English → Punjabi, made small: from words that a machine speaks to the table over the number of examples."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.voice.espeak import espeak_available
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.language_pack import load_language, true_labels
from mtl_speech.model.pack import load_pack, pack_hash, save_pack
from mtl_speech.model.strategy import load_base, load_learner, new_learner, strategy_pack
from mtl_speech.report import results
from mtl_speech.training import base_learning
from mtl_speech.training.adapt import Ablation, ablate, baseline_learner
from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.folds import Fold, few_shot_index
from mtl_speech.training.meta_train import MetaTrainer
from tests.helpers import meta_config, tiny_base, toy_store
from tests.recipes.running import RECIPES, log_lines, markdown_tables, numbers, read_json, run, write_base

HPARAMS = RECIPES / "English-Punjabi" / "hparams" / "train.yaml"
SYSTEMS = ["baseline", "+ meta-transfer", "+ curriculum"]
SHOTS = [1, 2]
N_WORDS = 60
SMALL = {
    "n_threads": 1,
    "n_words": N_WORDS,
    "shots": SHOTS,
    "meta_steps": 4,
    "meta": "{n_way: [3], n_shot: [1], n_query: 2, meta_batch: 6, validate_every: 2}",
}


@dataclass
class Finished:
    """What a run left, and what each of its ablations was given to learn from."""

    output: Path
    reports: dict[int, dict[str, Any]]
    markdown: str
    folds: dict[int, Fold]


def write_packs(folder: Path) -> tuple[Path, Path]:
    """A tiny base and a strategy on it, hardly trained."""
    base, meta = tiny_base(), meta_config(meta_steps=2)
    store = toy_store(2, 6, 8)
    learner = new_learner(base, store.phonemes, meta)
    prepare_learner(learner, store, meta)
    MetaTrainer(learner, store, meta).train()
    packed = strategy_pack(learner, base, meta, {"name": "tiny-strategy"})
    return write_base(folder / "base"), save_pack(packed, folder / "strategy")


def train(packs: tuple[Path, Path], output: Path, pictures: bool = True) -> Finished:
    folds: dict[int, Fold] = {}

    def watched(base: Any, strategy: Any, given: Sequence[Fold], config: Any, *args: Any) -> Ablation:
        (folds[config.shots],) = given
        return ablate(base, strategy, given, config, *args)

    options = {**SMALL, "base": packs[0], "strategy": packs[1], "output_folder": output}
    with pytest.MonkeyPatch.context() as patch:  # for the sake of time: fewer numbers of steps to choose among
        patch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))
        if not pictures:
            patch.setattr(results, "png", lambda figure: b"")
        run(HPARAMS, options, {"ablate": watched})
    reports = {k: read_json(output / f"k{k}" / "report.json") for k in SHOTS}
    return Finished(output, reports, (output / "table.md").read_text(encoding="utf-8"), folds)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def finished(packs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    if not espeak_available():
        pytest.skip("espeakng-loader is not installed: pip install 'mtl_speech[synthetic]'")
    return train(packs, tmp_path_factory.mktemp("punjabi"))


def words_of(folder: Path) -> set[str]:
    return {utterance.words[0][0] for utterance in read_corpus(folder, "pa", "ipa").utterances}


def test_no_word_is_in_two_parts(finished: Finished) -> None:
    parts = {part: words_of(finished.output / "corpus" / part) for part in ("train", "valid", "test")}
    assert {part: len(words) for part, words in parts.items()} == {"train": 30, "valid": 10, "test": 20}
    assert len(set.union(*parts.values())) == N_WORDS


def test_every_system_sees_k_examples_of_a_phoneme_and_no_more(finished: Finished) -> None:
    """Means of embeddings, too, are learned from these alone: the fold holds nothing else to learn from."""
    for k, fold in finished.folds.items():
        assert max(Counter(true_labels(fold.train)).values()) == k
        assert {p["n_train"] for p in finished.reports[k]["scores"]["phonemes"]} == {k}
        assert fold.valid is not None
        parts = [{store.utterance_ids[i].split("/")[0] for i in store.utterance} for store in (fold.train, fold.valid)]
        assert parts == [{"train"}, {"valid"}]
        assert {fold.test.utterance_ids[i].split("/")[0] for i in fold.test.utterance} == {"test"}


def test_reports_have_three_systems_and_say_that_the_voice_is_synthetic(finished: Finished) -> None:
    for k, found in finished.reports.items():
        rows = found["ablation"]
        assert [row["name"] for row in rows] == SYSTEMS
        assert found["stamp"] == "synthetic speech"
        assert any("show nothing about how well human Punjabi is recognised" in note for note in found["notes"])
        assert found["settings"]["adapt"]["shots"] == k
        assert found["scores"]["macro_f1"] == rows[-1]["macro_f1"]
        for before, row in pairwise(rows):
            gain = row["difference_to_previous"]
            assert gain["mean"] == pytest.approx(row["macro_f1"] - before["macro_f1"])
            assert gain["ci95"][0] - 1e-9 <= gain["mean"] <= gain["ci95"][1] + 1e-9
        for row in rows:
            assert row["macro_f1_ci95"][0] <= row["macro_f1"] <= row["macro_f1_ci95"][1]


def test_markdown_has_the_figures_of_the_reports(finished: Finished) -> None:
    (table,) = markdown_tables(finished.markdown)
    assert table[""] == ["system", *(f"K = {k}" for k in SHOTS)]
    gains = [f"gain of {name} over the row before" for name in SYSTEMS[1:]]
    assert list(table)[1:] == [*SYSTEMS, *gains, "phonemes scored (with K examples)"]
    for column, of_k in enumerate(finished.reports.values()):
        for name, row in zip(SYSTEMS, of_k["ablation"], strict=True):
            assert numbers(table[name][column]) == pytest.approx([row["macro_f1"], *row["macro_f1_ci95"]], abs=5.1e-4)
        for name, row in zip(gains, of_k["ablation"][1:], strict=True):
            found = row["difference_to_previous"]
            assert numbers(table[name][column]) == pytest.approx([found["mean"], *found["ci95"]], abs=5.1e-4)
        assert numbers(table["phonemes scored (with K examples)"][column]) == [len(of_k["scores"]["phonemes"])]
    assert "synthetic speech" in finished.markdown


def test_one_example_gives_no_task_and_more_give_hard_rounds(finished: Finished) -> None:
    """With one example a phoneme there is nothing to draw a query from: the strategy is used as it came."""
    rows = finished.reports[1]["ablation"]
    assert rows[1]["macro_f1"] == rows[2]["macro_f1"] and rows[2]["difference_to_previous"]["ci95"] == [0, 0]
    histories = [read_json(finished.output / f"k{k}" / "history.json") for k in SHOTS]
    rounds = [history["meta_training"][0]["rounds"] for history in histories]
    assert rounds[0] == []
    assert [row["hard"] for row in rounds[1]] == [0, 1, 0, 1]


def test_packs_load_and_the_log_tells_each_system(packs: tuple[Path, Path], finished: Finished) -> None:
    base = load_base(packs[0])
    for k in SHOTS:
        pack = load_pack(finished.output / f"k{k}" / "pack", "language")
        assert pack.card["stamp"] == "synthetic speech" and pack.card["language"] == "pa"
        scored = [p["phoneme"] for p in finished.reports[k]["scores"]["phonemes"]]
        assert set(scored) <= set(load_language(pack, base).classes)
    for name in ("report.csv", "confusion.png", "ablation.png", "history.json"):
        assert (finished.output / "k2" / name).stat().st_size > 0
    lines = log_lines(finished.output)
    assert lines[0].startswith("words: 30 to learn from, 10 to choose by, 20 to test on")
    told = [line.split(": macro-F1")[0] for line in lines if line.startswith("K = ")]
    assert told == [f"K = {k}: {name}" for k in SHOTS for name in SYSTEMS]


def figures(of_k: dict[str, Any]) -> list[Any]:
    return [of_k["scores"], *({k: v for k, v in row.items() if k != "seconds"} for row in of_k["ablation"])]


def test_same_seed_gives_the_same_figures(packs: tuple[Path, Path], finished: Finished, tmp_path: Path) -> None:
    """The corpus is that of the first run: that its bytes depend on the seed alone is tested where it is made."""
    shutil.copytree(finished.output / "corpus", tmp_path / "corpus")
    again = train(packs, tmp_path, pictures=False)
    assert [figures(r) for r in again.reports.values()] == [figures(r) for r in finished.reports.values()]
    assert again.markdown == finished.markdown
    one, other = (load_pack(output / "k2" / "pack", "language") for output in (finished.output, tmp_path))
    assert pack_hash(one) == pack_hash(other)


# What makes the comparison fair


def test_baseline_is_trained_where_one_example_leaves_nothing_to_choose_by() -> None:
    """Cross-validation cannot rank anything then, since what is held out was not learned: no choice, but not no training."""
    store = toy_store(1, 6, 8, noise=0.2)
    fold = Fold(store, store, "all")
    learner, _ = baseline_learner(tiny_base(), fold, meta_config())
    few = few_shot_index(store.label, 1, 0)
    z = torch.randn(len(few), 12, generator=torch.Generator().manual_seed(0))
    rows, labels = store.label[few].unique(return_inverse=True)
    examples = base_learning.Examples(learner, z, labels, store.utterance[few], rows)
    choice = base_learning.choose_steps(examples)
    assert choice.steps == len(learner.rates) == 100
    assert "nothing to choose by" in str(choice)
    head = base_learning.learn_head(examples, choice)
    assert head.logits(z.unsqueeze(0))[0].argmax(1).tolist() == labels.tolist()


def test_a_strategy_that_was_loaded_can_be_trained_on(packs: tuple[Path, Path]) -> None:
    """On a language without a new phoneme, and with tasks that treat phonemes as never met."""
    learner, meta = load_learner(load_pack(packs[1], "strategy"), load_base(packs[0]))
    store = toy_store(1, 6, 8)
    assert meta.guess_share > 0 and meta.theta_init == "posterior" and EpisodeSampler(store).feasible(3, 1)
    history = MetaTrainer(learner, store, meta).train()
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in history.rounds)
    assert all(bool(torch.isfinite(p).all()) for p in learner.parameters())
