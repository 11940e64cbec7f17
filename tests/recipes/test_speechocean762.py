"""The English encoder and strategy, made small: from recordings to packs whose scores can be found again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus, Utterance
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.model.strategy import BaseModel, load_base, load_learner
from mtl_speech.scoring.metrics import score
from mtl_speech.training.episodes import EpisodeSampler
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.training.pretrain import pretrain
from tests.helpers import PHONEMES
from tests.recipes.running import RECIPES, loaded, log_lines, place_of, read_json, recording, run

RECIPE = RECIPES / "speechocean762"
HEAR = BaseModel.hear
LABELS = ("AA1", "B", "D", "EH0", "IY2", "K", "M", "N", "OW1", "S", "T", "UW0")  # of PHONEMES, in ARPAbet
N_TEST_FOLDER, N_TRAIN_FOLDER = 30, 4  # speakers
SMALL = {
    "n_threads": 1,
    "n_augmented_views": 1,
    "epochs": 2,
    "encoder": "{channels: 8, blocks: 1, embedding_size: 12}",
    "pretrain": "{crop_lengths: [64, 96], batch_frames: 512}",
}
SMALL_META = {
    "n_threads": 1,
    "meta_steps": 2,
    "max_segments": 150,
    "meta": "{n_way: [5], n_shot: [1, 2], n_query: 2, meta_batch: 2, validate_every: 1}",
}


def speakers(corpus: Corpus) -> set[str]:
    return {utterance.speaker for utterance in corpus.utterances}


def expected_test(test_folder: Sequence[str]) -> set[str]:
    return {speaker for place, speaker in enumerate(sorted(test_folder)) if place % 5 == 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """{train,test}/<speaker>/<utterance>.wav with TextGrids, one recording a speaker, each phoneme once in each."""
    folder = tmp_path_factory.mktemp("data") / "speechocean762"
    names = [("test", f"{7 * n:04}") for n in range(N_TEST_FOLDER)] + [
        ("train", f"{7 * n + 1:04}") for n in range(N_TRAIN_FOLDER)
    ]
    for seed, (part, speaker) in enumerate(names):
        order = torch.randperm(len(PHONEMES), generator=torch.Generator().manual_seed(seed)).tolist()
        path = folder / part / speaker / f"{speaker}0001.wav"
        recording(path, [PHONEMES[i] for i in order], [LABELS[i] for i in order], seed)
    return folder


@pytest.fixture(scope="module")
def splits(data: Path) -> dict[str, Corpus]:
    with loaded(RECIPE / "prepare.py") as module:
        found: dict[str, Corpus] = module.prepare(data)
    return found


def stores_of(*values: Any) -> list[SegmentStore]:
    """The stores among values, also in lists."""
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]
    return [value for value in flat if isinstance(value, SegmentStore)]


@dataclass
class Watch:
    """Notes who was heard: the speakers of the recordings that were read and of the stores that were learned from."""

    read: list[set[str]] = field(default_factory=list)
    learned: list[set[str]] = field(default_factory=list)
    n_segments: list[int] = field(default_factory=list)  # of the stores that were learned from
    divided_by: list[str] = field(default_factory=list)

    def build_store(self, corpora: Sequence[Corpus], *args: Any, **options: Any) -> SegmentStore:
        self.read.append({name for corpus in corpora for name in speakers(corpus)})
        return build_store(corpora, *args, **options)

    def hear(self, base: BaseModel, corpora: Sequence[Corpus], *args: Any) -> SegmentStore:
        self.read.append({name for corpus in corpora for name in speakers(corpus)})
        return HEAR(base, corpora, *args)

    def note(self, *stores: SegmentStore) -> None:
        for store in stores:
            self.n_segments.append(len(store))
            self.learned.append({store.speakers[i].split("/")[-1] for i in store.speaker.unique().tolist()})

    def pretrain(self, *args: Any, **options: Any) -> Any:
        self.note(*stores_of(*args))
        return pretrain(*args, **options)

    def meta_trainer(self, learner: Any, store: SegmentStore, config: Any, by: str = "utterance") -> MetaTrainer:
        self.note(store)
        return MetaTrainer(learner, store, config, by)


@dataclass
class Trained:
    """What a run of train.py left."""

    output: Path
    watch: Watch
    pack: Pack
    history: dict[str, Any]


def train(data: Path, output: Path, **settings: object) -> Trained:
    watch = Watch()
    patches = {"build_store": watch.build_store, "pretrain": watch.pretrain}
    options = {**SMALL, "data_folder": data, "output_folder": output, **settings}
    run(RECIPE / "hparams" / "train.yaml", options, patches)
    history = read_json(output / "history.json")
    return Trained(output, watch, load_pack(output / "english", "encoder"), history)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    second = {"second_test_folder": data / "train", "second_test_name": "others"}
    return train(data, tmp_path_factory.mktemp("train"), **second)


# prepare


def test_prepare_divides_by_speaker_as_it_says(data: Path, splits: dict[str, Corpus]) -> None:
    test_folder = sorted(path.name for path in (data / "test").iterdir())
    test, valid = speakers(splits["test"]), speakers(splits["valid"])
    assert test == expected_test(test_folder)
    assert len(valid) == 12 and valid <= set(test_folder) - test
    everybody = {path.parent.name for path in data.rglob("*.wav")}
    assert speakers(splits["train"]) == everybody - test - valid
    assert sum(len(split.utterances) for split in splits.values()) == len(list(data.rglob("*.wav")))


def test_prepare_refuses_another_layout(data: Path) -> None:
    with loaded(RECIPE / "prepare.py") as module, pytest.raises(DataError, match="expected folders train/<speaker>"):
        module.prepare(data / "train")


def test_prepare_divides_the_real_corpus(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """213, 12 and 25 speakers. The labels are not read: who speaks stands in the paths."""
    folder = corpora / "speechocean762"
    if not folder.is_dir():
        pytest.skip(f"no speechocean762 in {corpora}")

    def named(folder: Path, language: str, *args: object) -> Corpus:
        paths = [(path, path.relative_to(folder).with_suffix("").as_posix()) for path in folder.rglob("*.TextGrid")]
        return Corpus(
            folder.name, tuple(Utterance(id, path, language, path.parent.name, 1.0, ()) for path, id in paths)
        )

    with loaded(RECIPE / "prepare.py") as module:
        monkeypatch.setattr(module, "read_corpus", named)
        splits = module.prepare(folder)
    counts = {part: len(speakers(split)) for part, split in splits.items()}
    assert counts == {"train": 213, "valid": 12, "test": 25}
    assert speakers(splits["test"]) == expected_test([path.name for path in (folder / "test").iterdir()])
    assert len(set.union(*map(speakers, splits.values()))) == 250
    assert sum(len(split.utterances) for split in splits.values()) == len(list(folder.rglob("*.TextGrid")))


# train.py


def test_pretraining_never_hears_the_test_speakers(trained: Trained, splits: dict[str, Corpus]) -> None:
    """Two views of the training recordings and the validation recordings are all that it is given."""
    train_speakers, valid_speakers = speakers(splits["train"]), speakers(splits["valid"])
    assert trained.watch.learned == [train_speakers, train_speakers, valid_speakers]
    assert trained.watch.read[0] == valid_speakers
    assert trained.watch.read[1:] == [speakers(splits["test"]), {f"{7 * n + 1:04}" for n in range(N_TRAIN_FOLDER)}]


def test_scores_of_the_card_are_those_of_the_saved_encoder(
    trained: Trained, data: Path, splits: dict[str, Corpus]
) -> None:
    base = load_base(trained.output / "english")
    scores = trained.pack.value("scores", dict)
    assert scores == trained.history["scores"]
    tests = {"speechocean762 test speakers": splits["test"], "others": read_corpus(data / "train", "en", "arpabet")}
    assert list(scores) == list(tests)
    for name, corpus in tests.items():
        store = build_store([corpus], base.phonemes)
        found = score([str(int(i)) for i in store.label], [str(int(i)) for i in base.predict(store)], n_bootstrap=1)
        assert scores[name]["accuracy"] == pytest.approx(found.accuracy, abs=1e-4)
        assert scores[name]["macro_f1"] == pytest.approx(found.macro_f1, abs=1e-4)


def test_card_and_history_of_the_encoder(trained: Trained) -> None:
    card, epochs = trained.pack.card, trained.history["epochs"]
    assert card["phonemes"] == sorted("ɑ b d ɛ i k m n oʊ s t u".split())
    assert (card["name"], card["language"]) == ("english", "en")
    assert "CC BY 4.0" in str(card["licence"]) and "speechocean762" in str(card["attribution"])
    assert [row["epoch"] for row in epochs] == [1.0, 2.0]
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    assert card["validation"] == {k: round(epochs[-1][k], 4) for k in ("valid_accuracy", "valid_macro_f1")}


def test_log_of_pretraining_tells_each_step_in_order(trained: Trained) -> None:
    lines = log_lines(trained.output)
    starts = ["train: ", "valid: 12 speakers", "test: 6 speakers", "features ready", "pretraining epoch 1,"]
    starts += ["pretraining epoch 2,", "speechocean762 test speakers: phone accuracy", "others: ", "done in "]
    places = [place_of(lines, start) for start in starts]
    assert places == sorted(places)


def test_same_seed_gives_the_same_encoder_and_another_seed_another(
    data: Path, trained: Trained, tmp_path: Path
) -> None:
    again, other = (train(data, tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1))
    assert pack_hash(again.pack) == pack_hash(trained.pack) != pack_hash(other.pack)
    name = "speechocean762 test speakers"
    assert again.history["scores"][name] == trained.history["scores"][name]
    losses = [[row["train_loss"] for row in each.history["epochs"]] for each in (trained, again, other)]
    assert losses[0] == losses[1] != losses[2]


# meta_train.py


@dataclass
class Strategy:
    """What a run of meta_train.py left."""

    output: Path
    watch: Watch
    pack: Pack
    history: dict[str, Any]


def meta_train(data: Path, base: Path, output: Path) -> Strategy:
    watch = Watch()
    patches = {"MetaTrainer": watch.meta_trainer}
    options = {**SMALL_META, "data_folder": data, "output_folder": output, "base": base}
    start = EpisodeSampler.__init__

    def noted(self: EpisodeSampler, store: SegmentStore, by: str = "utterance") -> None:
        watch.divided_by.append(by)
        start(self, store, by)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeSampler, "__init__", noted)
        patch.setattr(BaseModel, "hear", lambda base, *given: watch.hear(base, *given))
        run(RECIPE / "hparams" / "meta_train.yaml", options, patches)
    history = read_json(output / "history.json")
    return Strategy(output, watch, load_pack(output / "english-strategy", "strategy"), history)


@pytest.fixture(scope="module")
def strategy(data: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Strategy:
    return meta_train(data, trained.output / "english", tmp_path_factory.mktemp("meta"))


def test_tasks_divide_speakers_and_never_hear_the_test(strategy: Strategy, splits: dict[str, Corpus]) -> None:
    assert strategy.watch.read == [speakers(splits["train"]), speakers(splits["valid"])]
    (learned,) = strategy.watch.learned
    assert learned <= speakers(splits["train"])
    assert strategy.watch.n_segments == [SMALL_META["max_segments"]]
    assert len(strategy.watch.divided_by) == 2 and set(strategy.watch.divided_by) == {"speaker"}


def test_strategy_builds_on_its_base_and_tells_its_scores(trained: Trained, strategy: Strategy) -> None:
    base = load_base(trained.output / "english")
    learner, config = load_learner(strategy.pack, base)
    assert learner.phonemes == base.phonemes and config.meta_steps == 2
    scores = strategy.pack.value("validation", dict)
    assert scores == strategy.history["scores"]
    assert set(scores) == {"5w1s", "5w5s", "full_k1", "full_k5", "mean"}
    assert scores["mean"] == pytest.approx(sum(v for k, v in scores.items() if k != "mean") / 4, abs=1e-3)
    assert [row["round"] for row in strategy.history["validations"]] == [0, 1, 2]
    assert scores["mean"] == round(max(row["score"] for row in strategy.history["validations"]), 4)
    assert strategy.history["rounds"][0]["hard"] == 0.0
    lines = log_lines(strategy.output)
    assert place_of(lines, "meta-training round 2") < place_of(lines, "validation speakers: ") < place_of(lines, "done")


def test_same_seed_gives_the_same_strategy(data: Path, trained: Trained, strategy: Strategy, tmp_path: Path) -> None:
    again = meta_train(data, trained.output / "english", tmp_path)
    assert again.history == strategy.history
    assert pack_hash(again.pack) == pack_hash(strategy.pack)


def test_no_log_stays_open(strategy: Strategy) -> None:
    handlers = logging.getLogger("mtl_speech").handlers
    assert not [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


# segmenter.py


def test_the_segmenter_is_trained_on_a_base_that_keeps_its_encoder(
    data: Path, trained: Trained, tmp_path: Path
) -> None:
    base = trained.output / "english"
    watch = Watch()
    settings = {"data_folder": data, "base": base, "output_folder": tmp_path, "seed": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, "hear", lambda base, *given: watch.hear(base, *given))
        run(RECIPE / "hparams" / "segmenter.yaml", settings)
    before, after = load_base(base), load_base(tmp_path / "english")
    moved = {k for k, v in before.pack.tensors.items() if not torch.equal(v, after.pack.tensors[k])}
    assert "segmenter.first.weight" in moved and all(name.startswith("segmenter.") for name in moved)
    assert after.pack.card["scores"] == before.pack.card["scores"]
    scores = read_json(tmp_path / "segmenter.json")["validation"]
    assert all(0.0 <= scores[name] <= 1.0 for name in ("speech_accuracy", "boundary_f1"))
    learned, judged = watch.read
    tests = expected_test([path.name for path in (data / "test").iterdir()])
    assert not learned & judged and not (learned | judged) & tests
