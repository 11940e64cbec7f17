"""LibriSpeech on a small copy of its layout: from the corpus as distributed, with alignments apart from it, to the tables."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.manifest import Counts, Prepared, speakers_of
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base
from tests.corpora_like import librispeech
from tests.recipes.running import RECIPES, loaded, log_lines, markdown_tables, place_of, read_json, run

RECIPE = RECIPES / "LibriSpeech"
README = (RECIPE / "README.md").read_text(encoding="utf-8")
PARTS = {"train": ["train-clean-100"], "valid": ["dev-clean"], "test": ["test-clean"]}
SMALL = {
    "n_threads": 1,
    "epochs": 4,
    "encoder": "{channels: 24, blocks: 1, embedding_size: 24}",
    "pretrain": "{crop_lengths: [64, 96], batch_frames: 512}",
}
SMALL_META = {
    "n_threads": 1,
    "meta_steps": 2,
    "max_scored_segments": 250,
    "meta": "{n_way: [5], n_shot: [1, 2], n_query: 2, meta_batch: 2, validate_every: 1}",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LibriSpeech and alignments."""
    return librispeech.make(tmp_path_factory.mktemp("copy")).parent


def prepare(folder: Path, output: Path, alignments: Path | str = "", **published: Counts) -> Prepared:
    with loaded(RECIPE / "prepare.py") as module:
        module.PUBLISHED.update({name.replace("_", "-"): counts for name, counts in published.items()})
        found: Prepared = module.prepare(folder / "LibriSpeech", str(alignments), PARTS, output)
    return found


@pytest.fixture(scope="module")
def prepared(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    output = tmp_path_factory.mktemp("prepared")
    return prepare(copy, output, copy / "alignments"), output


def test_splits_are_the_folders_of_the_corpus(prepared: tuple[Prepared, Path]) -> None:
    splits = prepared[0].splits
    of_part = {part: set(speakers) for part, speakers in librispeech.SPEAKERS.items()}
    assert speakers_of(splits["train"]) == of_part["train-clean-100"] - {"8975"}  # none of its recordings is aligned
    assert speakers_of(splits["valid"]) == of_part["dev-clean"]
    assert speakers_of(splits["test"]) == of_part["test-clean"]
    assert [len(splits[name].utterances) for name in ("train", "valid", "test")] == [6 * 4 - 1, 3 * 4, 3 * 4]


def test_silence_and_unknown_words_give_no_phoneme(prepared: tuple[Prepared, Path]) -> None:
    labels = {label.rstrip("012") for word in librispeech.WORDS.values() for label in word.split()}
    phonemes = {phoneme for split in prepared[0].splits.values() for phoneme in split.phoneme_counts()}
    assert len(phonemes) == len(labels) == 15 and {"ʃ", "i", "aʊ", "eɪ", "ʌ"} <= phonemes


def test_what_is_missing_is_named_once(prepared: tuple[Prepared, Path]) -> None:
    lines = (prepared[1] / "problems.txt").read_text(encoding="utf-8").splitlines()
    unaligned = [line.split(":")[0] for line in lines if "no labels" in line]
    bare = [f"train-clean-100/8975/270782/8975-270782-{n:04}.flac" for n in range(4)]
    assert unaligned == [f"{librispeech.UNALIGNED}.flac", *bare]
    changed = [line for line in lines if "times)" in line]
    assert "stress digits of labels are dropped" in changed[0] and "'spn': what sounds there" in changed[1]
    (stray,) = [line for line in lines if "no labels" not in line and line not in changed]
    assert "of no recording" in stray and "84-9-0000.TextGrid" in stray


def test_manifest_has_a_line_for_each_recording(prepared: tuple[Prepared, Path], copy: Path) -> None:
    with open(prepared[1] / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    utterances = [(name, u) for name, split in prepared[0].splits.items() for u in split.utterances]
    assert [(row["split"], row["id"], row["speaker"]) for row in rows] == [(n, u.id, u.speaker) for n, u in utterances]
    assert [int(row["phones"]) for row in rows] == [len(u.segments) for _, u in utterances]
    assert all((copy / "LibriSpeech" / row["audio"]).is_file() for row in rows)


def beside(copy: Path, folder: Path) -> str:
    """As the page of the alignments says: merged with the corpus."""
    shutil.copytree(copy / "alignments", folder / "LibriSpeech", dirs_exist_ok=True)
    return ""


def flat(copy: Path, folder: Path) -> str:
    (folder / "flat").mkdir()
    for path in (copy / "alignments").rglob("*.TextGrid"):
        shutil.copy(path, folder / "flat" / path.name)
    return str(folder / "flat")


def nested(copy: Path, folder: Path) -> str:
    shutil.copytree(copy / "alignments", folder / "unpacked" / "LibriSpeech")
    return str(folder / "unpacked")


@pytest.mark.parametrize("place", [beside, flat, nested])
def test_alignments_are_found_where_people_have_them(
    copy: Path, prepared: tuple[Prepared, Path], tmp_path: Path, place: Any
) -> None:
    shutil.copytree(copy / "LibriSpeech", tmp_path / "LibriSpeech")
    alignments = place(copy, tmp_path)
    (tmp_path / "output").mkdir()
    for name, split in prepare(tmp_path, tmp_path / "output", alignments).splits.items():
        assert content(split) == content(prepared[0].splits[name])


def content(corpus: Corpus) -> list[Any]:
    return [(u.id, u.speaker, u.segments, u.words) for u in corpus.utterances]


def test_transcripts_are_held_against_the_recordings(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "LibriSpeech" / "dev-clean", tmp_path / "dev-clean")
    chapter = tmp_path / "dev-clean" / "84" / "270782"
    (chapter / "84-270782-0002.flac").unlink()
    path = chapter / "84-270782.trans.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[2] == ""
    path.write_text("\n".join([lines[0].split()[0], *lines[2:]]) + "\n", encoding="utf-8")
    with loaded(RECIPE / "prepare.py") as module:
        problems = [str(problem) for problem in module.check_transcripts(tmp_path / "dev-clean")]
    assert [problem.partition("84-270782")[2] for problem in problems] == [
        ".trans.txt: line 1: 84-270782-0000 has no text",
        ".trans.txt: line 3: there is no recording 84-270782-0002.flac",
        "-0001.flac: has no line in a .trans.txt",
    ]


def test_a_speaker_in_two_splits_stops_the_recipe(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    for root in ("LibriSpeech", "alignments"):
        shutil.copytree(tmp_path / root / "test-clean" / "61", tmp_path / root / "train-clean-100" / "61")
    with pytest.raises(DataError, match=r"train-clean-100: speaker 61 belongs to test-clean by SPEAKERS\.TXT"):
        prepare(tmp_path, tmp_path, tmp_path / "alignments")
    (tmp_path / "LibriSpeech" / "SPEAKERS.TXT").unlink()
    with pytest.raises(DataError, match="speaker 61 is in the splits 'train' and 'test'"):
        prepare(tmp_path, tmp_path, tmp_path / "alignments")


def test_a_part_that_is_not_there_is_named(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "LibriSpeech" / "dev-clean", tmp_path / "LibriSpeech" / "dev-clean")
    with pytest.raises(
        DataError, match="train-clean-100: no such folder: the parts of LibriSpeech are train-clean-100, "
    ):
        prepare(tmp_path, tmp_path, copy / "alignments")
    with pytest.raises(DataError, match="nowhere: no such folder: give that of the TextGrids"):
        prepare(copy, tmp_path, "nowhere")


def test_counts_are_held_against_the_published(copy: Path, tmp_path: Path) -> None:
    seconds = prepare(copy, tmp_path, copy / "alignments").splits["valid"].seconds
    right = {"dev_clean": Counts(3, 12, seconds / 3600), "test_clean": Counts(4, 15)}
    found = prepare(copy, tmp_path, copy / "alignments", train_clean_100=Counts(6, 27), **right)
    assert found.notes == (
        "train-clean-100: 28 recordings, 1 more than the 27 published",
        "test-clean: 3 speakers, 1 fewer than the 4 published",
        "test-clean: 12 recordings, 3 fewer than the 15 published",
    )


def test_published_counts_add_up() -> None:
    """To the speakers and recordings that the Montreal Forced Aligner's own card of the corpus gives; the README has the same."""
    with loaded(RECIPE / "prepare.py") as module:
        published = module.PUBLISHED
    (shown,) = [table for table in markdown_tables(README) if table[""][0] == "part"]
    assert {part: [float(cell.replace(",", "")) for cell in cells] for part, cells in shown.items() if part} == {
        part: [counts.speakers, counts.recordings, counts.hours] for part, counts in published.items()
    }
    counts = published.values()
    assert sum(c.speakers for c in counts) == 2_484
    assert sum(c.recordings for c in counts) == 292_367
    assert sum(c.hours for c in counts) == pytest.approx(982.1, abs=0.5)


@pytest.fixture(scope="module")
def trained(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folders = {"data_folder": copy / "LibriSpeech", "alignments": copy / "alignments"}
    output, _ = run(
        RECIPE / "hparams" / "train.yaml", {**SMALL, **folders, "output_folder": tmp_path_factory.mktemp("train")}
    )
    return output


def test_training_gives_a_table_and_a_phone_report(trained: Path, prepared: tuple[Prepared, Path]) -> None:
    scores = read_json(trained / "history.json")["scores"]["test-clean"]
    test = prepared[0].splits["test"]
    text = (trained / "table.md").read_text(encoding="utf-8")
    row = markdown_tables(text)[0]["test-clean"]
    assert [row[0], row[1]] == [str(sum(test.phoneme_counts().values())), f"{scores['accuracy']:.3f}"]
    assert scores["accuracy"] > 0.5  # it is learnable, of 15 phones
    assert text.splitlines()[0] in README
    assert "test-clean: a sample, 3 of 40 speakers" in text
    report = read_json(trained / "test-clean" / "report.json")
    assert {item["phoneme"]: item["n"] for item in report["scores"]["phonemes"]} == test.phoneme_counts()
    learned = prepared[0].splits["train"].phoneme_counts()
    assert {item["phoneme"]: item["n_train"] for item in report["scores"]["phonemes"]} == {
        phoneme: learned[phoneme] for phoneme in test.phoneme_counts()
    }
    assert any("a sample" in note for note in report["notes"])
    assert load_base(trained / "english").pack.value("scores", dict)["test-clean"] == scores


def test_nothing_is_read_of_the_test_before_training_has_ended(trained: Path) -> None:
    lines = log_lines(trained)
    starts = (
        "train: 5 speakers, 23 recordings",
        "features ready",
        "pretraining epoch 4,",
        "test-clean: phone accuracy",
    )
    places = [place_of(lines, start) for start in starts]
    assert places == sorted(places)


def test_meta_training_gives_a_table_of_tasks_of_the_test_speakers(copy: Path, trained: Path, tmp_path: Path) -> None:
    folders = {"data_folder": copy / "LibriSpeech", "alignments": copy / "alignments", "base": trained / "english"}
    run(RECIPE / "hparams" / "meta_train.yaml", {**SMALL_META, **folders, "output_folder": tmp_path})
    table = read_json(tmp_path / "table.json")
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert list(table["rows"]) == ["closed-form start", "+ meta-training"] and text.splitlines()[0] in README
    for name, row in table["rows"].items():
        cells = markdown_tables(text)[0][name]
        assert cells == ["{:.3f} ± {:.3f}".format(*row[kind]) for kind in ("5w1s", "5w5s", "full_k1", "full_k5")]
        assert row["5w1s"][0] > 0.4
    card = load_pack(tmp_path / "english-strategy", "strategy").card
    assert "LibriSpeech" in str(card["attribution"]) and "CC BY 4.0" in str(card["licence"])
    assert card["validation"] == read_json(tmp_path / "history.json")["scores"]
