"""Prepare speechocean762: read, check and split the corpus by speaker.

Expects `{train,test}/<speaker>/<utterance>.{opus,wav}` with a TextGrid of the same name beside each recording.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.manifest import log_splits
from mtl_speech.corpora.reading import read_corpus

logger = logging.getLogger("mtl_speech.recipes")

N_VALIDATION_SPEAKERS = 12


def prepare(data_folder: Path) -> dict[str, Corpus]:
    """The corpus as "train", "valid" and "test", without a speaker in two of them.

    Test: every fifth of the sorted speakers of the `test` folder. Validation: 12 others of that folder, every eighth of those
    left. Training: all the rest.

    Raises DataError when the layout is another one.
    """
    corpus = read_corpus(data_folder, "en", "arpabet")
    test_folder = sorted({u.speaker for u in corpus.utterances if u.id.startswith("test/")})
    if len(test_folder) < 5 * (N_VALIDATION_SPEAKERS // 2):
        raise DataError(
            f"{data_folder}: expected folders train/<speaker> and test/<speaker>, found {len(test_folder)} test speakers"
        )
    test = set(test_folder[::5])
    others = [speaker for speaker in test_folder if speaker not in test]
    valid = set(others[:: len(others) // N_VALIDATION_SPEAKERS][:N_VALIDATION_SPEAKERS])
    splits = {
        "train": corpus.filter(lambda u: u.speaker not in test | valid),
        "valid": corpus.filter(lambda u: u.speaker in valid),
        "test": corpus.filter(lambda u: u.speaker in test),
    }
    log_splits(splits)
    for problem in corpus.problems:
        logger.warning("%s", problem)
    return splits
