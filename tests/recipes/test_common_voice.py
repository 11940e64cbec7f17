"""Common Voice on a small copy of its layout: TSV lists, MP3 clips and TextGrids, from the archive to the ablation's table."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.corpora.folder import key_of
from mtl_speech.corpora.manifest import Counts, Prepared, read_clips, speakers_of
from mtl_speech.report import results
from mtl_speech.training import base_learning
from tests.corpora_like import common_voice
from tests.corpora_like.common_voice import NEW, NO_CLIP, OLD, SPEAKERS, UNALIGNED, client_id
from tests.recipes.running import RECIPES, loaded, log_lines, markdown_tables, place_of, read_json, run
from tests.recipes.test_english_punjabi import write_packs

RECIPE = RECIPES / "CommonVoice-pa"
README = (RECIPE / "README.md").read_text(encoding="utf-8")


def prepare(corpus: Path, output: Path, split: str = "auto", **published: Counts) -> Prepared:
    output.mkdir(exist_ok=True)
    with loaded(RECIPE / "prepare.py") as module:
        if published:
            module.PUBLISHED["17.0"] = published
        found: Prepared = module.prepare(corpus, str(corpus.parent.parent / "textgrids"), "pa", split, 0, output)
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return common_voice.make(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    output = tmp_path_factory.mktemp("prepared")
    return prepare(corpus, output), output


def test_official_parts_are_taken_where_they_share_no_speaker(prepared: tuple[Prepared, Path]) -> None:
    splits = prepared[0].splits
    for part, official in (("train", "train"), ("valid", "dev"), ("test", "test")):
        assert speakers_of(splits[part]) == {client_id(speaker) for speaker in SPEAKERS[official]}
    assert [len(split.utterances) for split in splits.values()] == [4 * 3 - 1, 2 * 3, 3 * 3]
    assert not any("split anew" in note for note in prepared[0].notes)


def test_labels_are_ipa_in_one_spelling_without_silence(prepared: tuple[Prepared, Path]) -> None:
    found = {phoneme for split in prepared[0].splits.values() for phoneme in split.phoneme_counts()}
    assert found == {unicodedata.normalize("NFD", phoneme) for phoneme in common_voice.PHONEMES}


def test_what_is_missing_is_named_and_clips_that_are_not_validated_are_not(prepared: tuple[Prepared, Path]) -> None:
    lines = (prepared[1] / "problems.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines if "no labels" in line] == [f"clips/{UNALIGNED}.mp3"]
    assert f"validated.tsv: there is no clip {NO_CLIP}" in lines
    assert [line for line in lines if "of no recording" in line and common_voice.STRAY in line]
    assert not any("27777" in line for line in lines)
    assert any("tier 'gita" not in line and "is taken as the tier 'phones'" in line for line in lines)
    assert any("2 of 28 validated clips have no labels of use" in note for note in prepared[0].notes)


def test_sentences_with_tabs_quotes_and_line_breaks_lose_no_clip(corpus: Path) -> None:
    held = read_clips(corpus / "validated.tsv")
    assert len(held.speakers) == 28 and len(set(held.speakers.values())) == 9
    clips = {key_of(corpus / "clips", path) for path in (corpus / "clips").glob("*.mp3")}
    assert set(held.speakers) - {NO_CLIP} == clips - {"common_voice_pa-IN_27777"}
    told = [problem for problem in held.problems if "is no client_id" in problem.reason]
    assert len(told) == 9 and not any(problem.used for problem in told)  # the rest of a sentence, once for each speaker
    odd = [problem.reason for problem in held.problems if problem.used]
    assert len(odd) == 18 and any("14 cells in place of 13" in reason for reason in odd)


@pytest.mark.parametrize("columns", [OLD, NEW])
def test_columns_are_found_by_name(columns: list[str], tmp_path: Path) -> None:
    path = tmp_path / "validated.tsv"
    values = {"client_id": "a" * 128, "path": "x.mp3", "sentence": "ਕੀ"}
    path.write_text(
        "\t".join(columns) + "\r\n" + "\t".join(values.get(c, "") for c in columns) + "\r\n", encoding="utf-8"
    )
    assert read_clips(path).speakers == {"x": "a" * 128} and not read_clips(path).problems


def test_lists_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "validated.tsv"
    with pytest.raises(DataError, match="part of Common Voice's archive"):
        read_clips(path)
    path.write_bytes(b"client_id\tpath\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_clips(path)
    path.write_text("path\tsentence\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column client_id"):
        read_clips(path)
    rows = [("a" * 128, "x.mp3"), ("b" * 128, "x.mp3"), ("c" * 128, ""), ("nobody", "y.mp3")]
    path.write_text("client_id\tpath\n" + "".join(f"{a}\t{b}\n" for a, b in rows) + "\n", encoding="utf-8")
    found = read_clips(path)
    assert found.speakers == {"x": "a" * 128}
    assert [str(problem).split(": ", 1)[1] for problem in found.problems] == [
        "line 3: x.mp3 stands there with another client_id; left out",
        "line 4: no path of a clip; left out",
        "line 5: 'nobody' is no client_id; left out",
    ]


def test_a_speaker_in_two_official_parts_makes_a_split_by_client_id(tmp_path: Path) -> None:
    corpus = common_voice.make(tmp_path, shared=True)
    with pytest.raises(DataError, match="is in the splits 'train' and 'test'"):
        prepare(corpus, tmp_path / "a", "official")
    found = prepare(corpus, tmp_path / "b")
    (note,) = [
        note for note in found.notes if note.startswith("split anew by client_id, seed 0: 1 speakers are in two")
    ]
    assert client_id("gita")[:12] in note
    assert [len(speakers_of(split)) for split in found.splits.values()] == [6, 1, 2]
    again = prepare(corpus, tmp_path / "c", "client_id")
    assert {name: speakers_of(split) for name, split in again.splits.items()} == {
        name: speakers_of(split) for name, split in found.splits.items()
    }
    (corpus / "dev.tsv").write_text("\t".join(NEW) + "\n", encoding="utf-8")
    assert any("the official part 'valid' has no recording" in note for note in prepare(corpus, tmp_path / "d").notes)
    with pytest.raises(UsageError, match="use auto, official or client_id"):
        prepare(corpus, tmp_path / "e", "speaker")


def test_counts_are_held_against_the_published(corpus: Path, tmp_path: Path) -> None:
    right = {"train": Counts(None, 12), "valid": Counts(None, 7), "test": Counts(None, 90)}
    notes = prepare(corpus, tmp_path, validated=Counts(None, 28, 1.0), **right).notes
    assert "valid: 6 recordings, 1 fewer than the 7 published" in notes
    assert "test: a sample, 9 of 90 recordings; its counts are not checked" in notes
    assert any(note.startswith("validated: 0.0 hours with labels, 1.0 fewer than the 1.0") for note in notes)
    assert not any(note.startswith("train") for note in notes)
    (shown,) = [table for table in markdown_tables(README) if table[""][0] == "release"]
    with loaded(RECIPE / "prepare.py") as module:
        found = {
            release: [*(f"{parts[name].recordings:,}" for name in module.LISTS), f"{parts['validated'].hours:.2f}"]
            for release, parts in module.PUBLISHED.items()
        }
        assert found == {release: cells for release, cells in shown.items() if release}
        assert all(
            parts["validated"].recordings == sum(parts[name].recordings for name in module.SPLITS)
            for parts in module.PUBLISHED.values()
        )


def test_examples_of_each_phoneme_are_counted(prepared: tuple[Prepared, Path]) -> None:
    with open(prepared[1] / "phonemes.csv", encoding="utf-8-sig", newline="") as file:
        rows: dict[str, Any] = {row.pop("phoneme"): row for row in csv.DictReader(file)}
    for name, split in prepared[0].splits.items():
        assert {phoneme: int(row[name]) for phoneme, row in rows.items() if row[name] != "0"} == split.phoneme_counts()


def test_the_ablation_is_over_numbers_of_examples_of_unheard_speakers(
    corpus: Path, prepared: Any, tmp_path: Path
) -> None:
    base, strategy = write_packs(tmp_path)
    settings = {
        "n_threads": 1, "data_folder": corpus, "alignments": corpus.parent.parent / "textgrids", "output_folder": tmp_path / "out",
        "base": base, "strategy": strategy, "shots": "[1, null]", "meta_steps": 2, "inventory": "ɖ k",
        "meta": "{n_way: [3], n_shot: [1], n_query: 2, meta_batch: 2, validate_every: 1}",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # for the sake of time
        patch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))
        patch.setattr(results, "png", lambda figure: b"")
        output, _ = run(RECIPE / "hparams" / "train.yaml", settings)
    text = (output / "table.md").read_text(encoding="utf-8")
    (table,) = markdown_tables(text)
    assert table[""] == ["system", "K = 1", "K = all"] and "3 test speakers" in text and "validated: a sample" in text
    reports = {name: read_json(output / name / "report.json") for name in ("k1", "k-all")}
    for cell, found in zip(table["+ curriculum"], reports.values(), strict=True):
        assert cell.startswith(f"{found['scores']['macro_f1']:.3f} [")
    counts = prepared[0].splits
    assert {p["phoneme"]: p["n_train"] for p in reports["k-all"]["scores"]["phonemes"]} == counts[
        "train"
    ].phoneme_counts()
    assert {p["phoneme"]: p["n"] for p in reports["k1"]["scores"]["phonemes"]} == counts["test"].phoneme_counts()
    assert {p["n_train"] for p in reports["k1"]["scores"]["phonemes"]} == {1}
    assert reports["k-all"]["scores"]["macro_f1"] > 0.2  # it is learnable, of 19 phones
    assert any(note.startswith("ɖ ←") for note in reports["k-all"]["notes"])
    place_of(log_lines(output), "test: 3 speakers, 9 recordings")
