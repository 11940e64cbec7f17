"""The built-in Punjabi corpus: synthetic, offline, made on the spot. The demo runs the ablation on it."""

from __future__ import annotations

from pathlib import Path

import torch

from mtl_speech.adapt import Fold, Progress
from mtl_speech.corpora import language_folders, read_corpus
from mtl_speech.corpora.synthetic import make_punjabi_corpus
from mtl_speech.features import build_store

STAMP = "synthetic speech"
CAVEAT = (
    "The Punjabi voice is synthetic (espeak-ng): these figures compare methods on a machine's voice and show nothing about how "
    "well human Punjabi is recognised."
)
SPLITS = ("train", "valid", "test")


def punjabi_fold(folder: Path, seed: int, n_words: int, progress: Progress | None = None) -> Fold:
    """The synthetic Punjabi words as training, validation and test examples; no word is in two of them.

    The corpus is written to `folder` and left there, to be looked at in Praat; one that is there already is used again.
    Raises MtlSpeechError when espeak-ng is not installed.
    """
    if not (folder / "manifest.json").is_file():
        make_punjabi_corpus(folder, seed, n_words, progress=progress)
    corpora = {path.name: read_corpus(path, "pa", "ipa") for path in language_folders(folder)}
    store = build_store([corpora[name] for name in SPLITS], progress=progress)
    owner = torch.tensor([SPLITS.index(name.split("/", 1)[0]) for name in store.utterance_ids])[store.utterance]
    train, valid, test = (store.select(torch.nonzero(owner == i).squeeze(1)) for i in range(3))
    counts = [len({u.words[0][0] for u in corpora[name].utterances}) for name in SPLITS]
    return Fold(
        train, test, "words: {} to learn from, {} to choose by, {} to test on, no word twice".format(*counts), valid
    )
