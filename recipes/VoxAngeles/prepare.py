"""Prepare VoxAngeles: one folder a language, words with hand-checked phones, split by language."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import read_corpus

logger = logging.getLogger("mtl_speech.recipes")


def prepare(data_folder: Path, languages: Sequence[str], part: str) -> list[Corpus]:
    """The corpora of the given languages. Raises DataError when a language's folder is missing."""
    missing = [name for name in languages if not (data_folder / name).is_dir()]
    if missing:
        raise DataError(f"{data_folder}: no folder for {', '.join(missing)} (languages.yaml names them under '{part}')")
    listed = progress(languages, f"reading {part} languages")
    corpora = [read_corpus(data_folder / name, name, "ipa") for name in listed]
    n_phones = sum(sum(c.phoneme_counts().values()) for c in corpora)
    n_words = sum(len(c.utterances) for c in corpora)
    logger.info("%s: %d languages, %d words, %d phones", part, len(corpora), n_words, n_phones)
    for problem in (p for c in corpora for p in c.problems):
        logger.warning("%s", problem)
    return corpora
