"""TIMIT on a small copy of its layout: upper and lower case, SPHERE and RIFF, from the label files to the phone report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.audio import load_audio
from mtl_speech.corpora.manifest import Counts, Prepared, speakers_of
from mtl_speech.phonology.phone_sets import IPA_48_TO_39
from tests.corpora_like import timit
from tests.recipes.running import RECIPES, loaded, markdown_tables, read_json, run

RECIPE = RECIPES / "TIMIT"
README = (RECIPE / "README.md").read_text(encoding="utf-8")
SMALL = {
    "n_threads": 1,
    "n_augmented_views": 1,
    "epochs": 3,
    "encoder": "{channels: 24, blocks: 1, embedding_size: 24}",
    "pretrain": "{crop_lengths: [64, 96], batch_frames: 512}",
}


@pytest.fixture(scope="module")
def upper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree in upper case, with SPHERE audio."""
    return timit.make(tmp_path_factory.mktemp("upper"))


def prepare(folder: Path, output: Path, **published: Counts) -> Prepared:
    with loaded(RECIPE / "prepare.py") as module:
        module.PUBLISHED.update(published)
        found: Prepared = module.prepare(folder, output)
    return found


@pytest.fixture(scope="module")
def prepared(upper: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(upper, tmp_path_factory.mktemp("prepared"))


def test_splits_are_the_standard_ones(prepared: Prepared) -> None:
    splits = prepared.splits
    assert speakers_of(splits["train"]) == {speaker.lower() for _, speaker in timit.SPEAKERS["TRAIN"]}
    assert speakers_of(splits["valid"]) == {"faks0", "fadg0"}
    assert speakers_of(splits["test"]) == {"mdab0", "felc0"}  # and mahh0 is in none
    names = {u.id.rpartition("/")[2] for split in splits.values() for u in split.utterances}
    assert names == {"SI648", "SX37", "SX127", "SX217"}


def test_the_speakers_of_the_standard_splits() -> None:
    with loaded(RECIPE / "prepare.py") as module:
        core, dev = module.CORE_TEST_SPEAKERS, module.DEV_SPEAKERS
    assert (len(core), len(dev)) == (24, 50)
    assert sum(speaker.startswith("f") for speaker in core) == 8
    assert not core & dev


def test_phones_are_folded_to_the_48(prepared: Prepared) -> None:
    """ "book" is b uh k with its closures as silence; "only" and "button" lose their glottal stops."""
    utterance = prepared.splits["test"].utterances[0]
    said = {
        word: [s.phoneme for s in utterance.segments if start <= s.start < end] for word, start, end in utterance.words
    }
    assert said["book"] == ["b", "ʊ", "k"] and said["only"] == ["oʊ", "n", "l", "i"]
    assert said["button"] == ["b", "ʌ", "n̩"] and said["shoe"] == ["ʃ", "u"] and said["hat"] == ["h", "æ"]
    assert said["put"] == ["p", "ə", "t"] and said["winner"] == ["w", "ɪ", "n", "ɝ"]
    (start,) = [start for word, start, _ in utterance.words if word == "book"]
    (b,) = [s for s in utterance.segments if start <= s.start < start + 0.1 and s.phoneme == "b"]
    assert b.start == pytest.approx(start + 500 / 16_000)  # the release alone


def test_lower_case_and_riff_give_the_same(prepared: Prepared, tmp_path: Path) -> None:
    corpus = timit.make(tmp_path, upper=False, sphere=False)
    found = prepare(corpus.parent, tmp_path)  # the folder above will do
    for name, split in prepared.splits.items():
        pairs = list(zip(split.utterances, found.splits[name].utterances, strict=True))
        assert pairs and all(a.id.lower() == b.id and a.speaker == b.speaker for a, b in pairs)
        assert all(a.segments == b.segments and a.words == b.words for a, b in pairs)
    a, b = pairs[0]
    np.testing.assert_array_equal(load_audio(a.audio), load_audio(b.audio))


def test_audio_that_cannot_be_read_is_named_with_what_to_do(upper: Path, tmp_path: Path) -> None:
    shutil.copytree(upper, tmp_path / "TIMIT")
    path = tmp_path / "TIMIT" / "TEST" / "DR1" / "MDAB0" / "SI648.WAV"
    samples = path.read_bytes()[1024:]
    header = timit.sphere_header(len(samples) // 2, "mdab0_si648", "pcm,embedded-shorten-v2.00")
    path.write_bytes(header + b"ajkg\x02" + samples[:4000])
    found = prepare(tmp_path, tmp_path)
    assert "mdab0" in speakers_of(found.splits["test"]) and len(found.splits["test"].utterances) == 7
    problems = (tmp_path / "problems.txt").read_text(encoding="utf-8")
    assert "MDAB0/SI648.WAV: a SPHERE file whose samples are compressed" in problems and "sph2pipe -f wav" in problems


def test_another_layout_is_refused(upper: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one folder TRAIN of TIMIT in it, found 0"):
        prepare(upper / "TRAIN", tmp_path)
    (upper.parent / "again" / "TRAIN").mkdir(parents=True)
    with pytest.raises(DataError, match="expected one folder TRAIN of TIMIT in it, found 2"):
        prepare(upper.parent, tmp_path)
    shutil.copytree(upper, tmp_path / "TIMIT", ignore=shutil.ignore_patterns("MDAB0", "FELC0"))
    with pytest.raises(DataError, match="no recording with labels is in the split 'test'"):
        prepare(tmp_path, tmp_path)
    shutil.copytree(upper / "TEST" / "DR1" / "FELC0", tmp_path / "TIMIT" / "TEST" / "DR1" / "FELC0")
    shutil.copytree(upper / "TEST" / "DR1" / "FELC0", tmp_path / "TIMIT" / "TRAIN" / "DR1" / "FELC0")
    with pytest.raises(DataError, match="speaker felc0 is in the splits 'train' and 'test'"):
        prepare(tmp_path, tmp_path)


def test_counts_are_held_against_the_published(upper: Path, tmp_path: Path) -> None:
    found = prepare(upper, tmp_path, train=Counts(5, 20), valid=Counts(2, 8), test=Counts(3, 24))
    assert found.notes == (
        "test: 2 speakers, 1 fewer than the 3 published",
        "test: 8 recordings, 16 fewer than the 24 published",
    )
    (shown,) = [table for table in markdown_tables(README) if table[""][0] == "part"]
    with loaded(RECIPE / "prepare.py") as module:
        assert {name: [f"{c.speakers:,}", f"{c.recordings:,}"] for name, c in module.PUBLISHED.items()} == {
            name: cells for name, cells in shown.items() if name
        }
        assert all(c.recordings == 8 * c.speakers for c in module.PUBLISHED.values())


def test_training_reports_39_phones_on_the_core_test_set(upper: Path, prepared: Prepared, tmp_path: Path) -> None:
    run(RECIPE / "hparams" / "train.yaml", {**SMALL, "data_folder": upper, "output_folder": tmp_path})
    scores = read_json(tmp_path / "history.json")["scores"]["core test set"]
    report = read_json(tmp_path / "core-test-set" / "report.json")
    counts = prepared.splits["test"].phoneme_counts()
    scored = {item["phoneme"]: item["n"] for item in report["scores"]["phonemes"]}
    assert set(scored) == {IPA_48_TO_39.get(phoneme, phoneme) for phoneme in counts} and not set(scored) & set(
        IPA_48_TO_39
    )
    assert scored["ʌ"] == counts["ʌ"] + counts["ə"] and scored["ʃ"] == counts["ʃ"] + counts["ʒ"]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.splitlines()[0] in README
    row = markdown_tables(text)[0]["core test set"]
    assert row[0] == str(sum(counts.values())) and row[1] == f"{scores['accuracy']:.3f}" and row[3] == str(len(scored))
    assert scores["accuracy"] > 0.5  # it is learnable, of 25 phones
    folded = {item["phoneme"]: item["n_train"] for item in report["scores"]["phonemes"]}
    learned = prepared.splits["train"].phoneme_counts()
    assert folded["ʌ"] == learned["ʌ"] + learned["ə"]
