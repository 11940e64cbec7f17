"""Folds: which labelled examples of a language are learned from, which are held out, and which phonemes can be scored on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import content_hash
from mtl_speech.core.options import AdaptConfig
from mtl_speech.corpora.corpus import Corpus, split_by
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.language_pack import true_labels
from mtl_speech.model.strategy import BaseModel
from mtl_speech.scoring.metrics import NotScored

MIN_SPEAKERS = 5  # from here on whole speakers are held out
MIN_RECORDINGS = 100  # below, cross-validation over recordings
N_FOLDS = 5
NONE_TO_TEST_ON = "no example left to test on"  # why a phoneme is not scored


@dataclass(frozen=True)
class Fold:
    """Training and test examples of one language, from different recordings. `how` says in words how they were divided.

    `valid`, where it is given, chooses the round of meta-training; otherwise a part of the training recordings does.
    `inventory` are the phonemes of the language, where they are known.
    """

    train: SegmentStore
    test: SegmentStore
    how: str
    valid: SegmentStore | None = None
    inventory: tuple[str, ...] = ()

    @property
    def unheard(self) -> tuple[str, ...]:
        """The phonemes of the inventory without a training example."""
        heard = set(true_labels(self.train))
        return tuple(phoneme for phoneme in self.inventory if phoneme not in heard)

    def test_without(self, phonemes: Collection[str]) -> SegmentStore:
        """The test examples, but those of some phonemes."""
        return self.test.select(torch.tensor([p not in phonemes for p in true_labels(self.test)], dtype=torch.bool))


def make_folds(corpus: Corpus, test: Corpus | None, config: AdaptConfig, base: BaseModel) -> list[Fold]:
    """Divide a corpus into training and test: one fold, or N_FOLDS of them (cross-validation) where there is little.

    All recordings pass once through Θ of the base; the folds share what it made of them.

    With `test` that is the test, and a recording that lies in both is an error. Otherwise whole speakers are held out where
    there are MIN_SPEAKERS, else recordings; below MIN_RECORDINGS all recordings take turns.

    Raises DataError when nothing can be held out.
    """
    corpora = [corpus] if test is None else [replace(corpus, name="train"), replace(test, name="test")]
    if test is not None:
        refuse_shared(corpus, test)
    store = base.hear(corpora)
    if test is not None:
        return [fold_of(store, {f"test/{u.id}" for u in test.utterances}, "the test folder")]
    usable = {store.utterance_ids[int(i)] for i in store.utterance.unique()}  # read, and with a phoneme segment
    corpus = corpus.filter(lambda u: f"{corpus.name}/{u.id}" in usable)
    speakers = {u.speaker for u in corpus.utterances}
    n = len(corpus.utterances)
    if n < 2:
        raise DataError(
            f"corpus '{corpus.name}': one recording cannot be both learned from and tested on; add recordings or give --test"
        )
    if len(speakers) < MIN_SPEAKERS and n < MIN_RECORDINGS:
        k = min(N_FOLDS, n)
        parts = split_by(corpus, "utterance", [1 / k] * k, config.seed)
        how = f"{k}-fold cross-validation over {n} recordings"
        return [fold_of(store, _ids(part), how) for part in parts]
    shares = [1 - config.test_share, config.test_share]
    if len(speakers) >= MIN_SPEAKERS:
        _, held = split_by(corpus, "speaker", shares, config.seed)
        how = f"{len({u.speaker for u in held.utterances})} of {len(speakers)} speakers"
    else:
        _, held = split_by(corpus, "utterance", shares, config.seed)
        how = f"{len(held.utterances)} of {n} recordings"
    return [fold_of(store, _ids(held), f"{how} held out, drawn by the seed")]


def _ids(corpus: Corpus) -> set[str]:
    return {f"{corpus.name}/{u.id}" for u in corpus.utterances}


def refuse_shared(train: Corpus, test: Corpus) -> None:
    """Raises DataError when a recording is in both corpora: the same file, or a copy of it under another name."""
    sizes = {u.audio.stat().st_size for u in train.utterances} & {u.audio.stat().st_size for u in test.utterances}
    learned = {content_hash(u.audio): u.audio for u in train.utterances if u.audio.stat().st_size in sizes}
    for path in (u.audio for u in test.utterances if u.audio.stat().st_size in sizes):
        if content_hash(path) in learned:
            raise DataError(
                f"{path} lies in the training and in the test folder (there as {learned[content_hash(path)]}); "
                "a recording cannot be both"
            )


def fold_of(store: SegmentStore, held: set[str], how: str) -> Fold:
    """The fold that tests on the recordings `held`, names in `store.utterance_ids`. Raises DataError if a side is empty."""
    is_held = torch.tensor([name in held for name in store.utterance_ids])[store.utterance]
    train, test = store.select(~is_held), store.select(is_held)
    if len(train) == 0 or len(test) == 0:
        raise DataError(f"{how}: no phoneme segment is left to {'learn from' if len(train) == 0 else 'test on'}")
    return Fold(train, test, how)


def fold_of_parts(parts: Mapping[str, Corpus], how: str, base: BaseModel) -> Fold:
    """The fold of corpora "train", "valid" and "test" that are divided already. Raises DataError when one has no segment."""
    names = ("train", "valid", "test")
    corpora = [replace(parts[name], name=name) for name in names]
    store = base.hear(corpora)
    owner = torch.tensor([names.index(name.split("/", 1)[0]) for name in store.utterance_ids])[store.utterance]
    train, valid, test = (store.select(owner == i) for i in range(3))
    empty = [name for name, each in zip(names, (train, valid, test), strict=True) if len(each) == 0]
    if empty:
        raise DataError(f"{how}: no phoneme segment is left in '{empty[0]}'")
    return Fold(train, test, how, valid)


def divide_for_tasks(store: SegmentStore, seed: int) -> tuple[SegmentStore, SegmentStore]:
    """Training examples to draw tasks of, and a quarter of the recordings, which chooses the round of meta-training."""
    names = store.utterance.unique()
    shuffled = names[torch.from_numpy(np.random.default_rng(seed).permutation(len(names)))]
    held = torch.isin(store.utterance, shuffled[: max(1, len(names) // 4)])
    return store.select(~held), store.select(held)


def too_few(fold: Fold, n_train: Mapping[str, int], shots: int | None) -> list[NotScored]:
    """Phonemes of the fold that cannot be scored: fewer training examples than asked for, or no test example.

    Those of the inventory without a training example are scored all the same, as zero-shot, where they have a test example.
    """
    wanted = shots or 1
    few = "no example" if wanted == 1 else f"fewer than {wanted} examples"
    n_all, n_test = Counter(true_labels(fold.train)), Counter(true_labels(fold.test))
    found, unheard = [], set(fold.unheard)
    for phoneme in sorted({*n_test, *n_all, *unheard}):
        n = n_all[phoneme] + n_test[phoneme]  # `n_train` has at most `shots` of them
        if phoneme in unheard:
            reason = "zero-shot: no example to learn from or to test on"
            found += [] if n else [NotScored(phoneme, 0, reason, zero_shot=True)]
        elif n_train.get(phoneme, 0) < wanted:
            found.append(NotScored(phoneme, n, f"{few} left to learn from"))
        elif n_test[phoneme] == 0:
            found.append(NotScored(phoneme, n, NONE_TO_TEST_ON))
    return found


def few_shots(fold: Fold, config: AdaptConfig) -> Fold:
    """The fold with at most `config.shots` training examples of each phoneme, drawn by the seed."""
    return replace(fold, train=fold.train.select(few_shot_index(fold.train.label, config.shots, config.seed)))


def few_shot_index(labels: Tensor, n_shot: int | None, seed: int) -> Tensor:
    """Indices of at most n_shot random examples of each class (all for None), sorted: (n,)."""
    if n_shot is None:
        return torch.arange(len(labels))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    return torch.from_numpy(np.sort(np.concatenate([shuffled[classes == c][:n_shot] for c in np.unique(classes)])))
