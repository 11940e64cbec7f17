"""The built-in Punjabi corpus: synthetic, offline, made on the spot. The demo runs the ablation on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.reading import language_folders, read_corpus
from mtl_speech.corpora.synthetic import make_punjabi_corpus
from mtl_speech.features.store import LOG_MEL, FrontEnd
from mtl_speech.training.folds import Fold, fold_of_parts

STAMP = "synthetic speech"
CAVEAT = (
    "The Punjabi voice is synthetic (espeak-ng): these figures compare methods on a machine's voice and show nothing about how "
    "well human Punjabi is recognised."
)


def punjabi_fold(folder: Path, seed: int, n_words: int, front_end: FrontEnd = LOG_MEL) -> Fold:
    """The synthetic Punjabi words as training, validation and test examples; no word is in two of them.

    The corpus is written to `folder` and left there, to be looked at in Praat; one that is there already is used again.
    Raises MtlSpeechError when espeak-ng is not installed, DataError when the folder holds another corpus.
    """
    _make_once(folder, seed, n_words)
    corpora = {path.name: read_corpus(path, "pa", "ipa") for path in language_folders(folder)}
    counts = [len({u.words[0][0] for u in corpora[name].utterances}) for name in ("train", "valid", "test")]
    how = "words: {} to learn from, {} to choose by, {} to test on, no word twice".format(*counts)
    return fold_of_parts(corpora, how, front_end)


def is_synthetic(folder: Path) -> bool:
    """Whether a folder, or the one that it lies in, says in its manifest that its speech is synthetic."""
    return any(_manifest(path).get("synthetic") is True for path in (folder, folder.resolve().parent))


def _make_once(folder: Path, seed: int, n_words: int) -> None:
    found = _manifest(folder)
    if not found:
        try:
            make_punjabi_corpus(folder, seed, n_words)
        except OSError as error:
            error.filename = str(folder)  # not a file of those that are removed again
            raise
    elif (found.get("seed"), found.get("n_words")) != (seed, n_words):
        raise DataError(
            f"{folder} holds another corpus ({found.get('n_words')} words, seed {found.get('seed')}): "
            "remove it, or choose another --output-dir"
        )


def _manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json in the folder says; nothing where there is none of ours."""
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
