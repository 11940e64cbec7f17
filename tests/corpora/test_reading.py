"""A folder of audio and labels becomes a corpus; what is wrong in it is named by file, tier, interval and reason."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.corpora import folder as folder_module
from mtl_speech.corpora import reading
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.reading import language_folders, read_corpus, validate
from mtl_speech.phonology.languages import canonical
from tests.corpora.label_folders import PLAIN, audio, one, raw_textgrid, reasons


def test_a_folder_is_read(tmp_path: Path) -> None:
    for name in ("s2/b", "s1/a", "s1/c"):
        audio(tmp_path / f"{name}.wav", rate=44_100)
        words = [(0.1, 0.5, "ਪਾ")]
        write_textgrid(tmp_path / f"{name}.TextGrid", 1.0, {"words": words, "phones": PLAIN})
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "s1" / "._a.wav").write_bytes(b"Finder's")
    corpus = read_corpus(tmp_path, "pan-Guru")
    assert corpus.name == tmp_path.name
    assert corpus.problems == ()
    assert [u.id for u in corpus.utterances] == ["s1/a", "s1/c", "s2/b"]
    first = corpus.utterances[0]
    assert (first.language, first.speaker, first.duration) == ("pa", "s1", 1.0)
    assert first.audio == tmp_path / "s1" / "a.wav"
    assert first.segments == (Segment("p", 0.1, 0.3), Segment("a", 0.3, 0.5))
    assert first.words == (("ਪਾ", 0.1, 0.5),)
    assert validate(tmp_path, "pan-Guru") == corpus


def test_a_flat_folder_is_one_speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio(tmp_path / "anna" / "a.wav")
    raw_textgrid(tmp_path / "anna" / "a.textgrid", PLAIN)
    monkeypatch.chdir(tmp_path / "anna")
    (utterance,) = read_corpus(Path(".")).utterances
    assert (utterance.id, utterance.speaker, utterance.language) == ("a", "anna", "und")


def test_phone_set_is_guessed_over_the_whole_folder(tmp_path: Path) -> None:
    for name, label in (("a", "AA1"), ("b", "T"), ("c", "sil"), ("d", "CH")):
        audio(tmp_path / f"{name}.wav")
        raw_textgrid(tmp_path / f"{name}.TextGrid", [(0.1, 0.2, label)])
    assert dict(read_corpus(tmp_path).phoneme_counts()) == {"ɑ": 1, "t": 1, "t͡ʃ": 1}
    assert not read_corpus(tmp_path, phone_set="ipa").utterances
    with pytest.raises(UsageError, match="sampa"):
        read_corpus(tmp_path, phone_set="sampa")
    with pytest.raises(UsageError, match="unknown language"):
        read_corpus(tmp_path, "zz")


def test_nothing_usable_leaves_the_recording_out(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.0, 1.0, "sil")])
    assert corpus.utterances == ()
    assert "no usable phoneme" in corpus.problems[0].reason


def test_validate_decodes_what_read_takes_on_trust(tmp_path: Path) -> None:
    for name in ("good", "silent", "nan", "cut", "short"):
        audio(tmp_path / f"{name}.wav", peak=0 if name == "silent" else 0.3)
        raw_textgrid(tmp_path / f"{name}.TextGrid", PLAIN)
    wave = np.where(np.arange(16_000) == 5, np.nan, 0.3)
    soundfile.write(tmp_path / "nan.wav", wave, 16_000, subtype="FLOAT")
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) * 2 // 3])
    soundfile.write(tmp_path / "short.wav", wave[6:100], 16_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    raw_textgrid(tmp_path / "empty.TextGrid", PLAIN)
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["good", "nan", "silent"]
    checked = validate(tmp_path)
    assert [u.id for u in checked.utterances] == ["good"]
    told = {problem.file.name: problem.reason for problem in checked.problems}
    said = {
        "silent.wav": "silent",
        "nan.wav": "NaN",
        "cut.wav": "cut short",
        "short.wav": "shorter",
        "empty.wav": "empty",
    }
    assert all(word in told[name] for name, word in said.items())
    assert set(told) == set(said)
    assert not any(problem.used for problem in checked.problems)


def test_validate_opens_recordings_without_labels_too(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav", peak=0)
    assert {problem.reason.split(":")[0] for problem in validate(tmp_path).problems} == {"no labels", "silent"}


def test_folders_that_are_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    raw_textgrid(tmp_path / "empty" / "a.TextGrid", PLAIN)
    for folder, said in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "no audio files"),
        (file, "not a folder"),
    ):
        for read in (read_corpus, validate):
            with pytest.raises(DataError, match=f"{said}.*expected audio files"):
                read(folder)
        with pytest.raises(DataError):
            language_folders(folder)


def test_language_folders(tmp_path: Path) -> None:
    for name in ("pan", "hin", ".cache"):
        audio(tmp_path / name / "s1" / "a.wav")
    (tmp_path / "docs").mkdir()
    audio(tmp_path / "stray.wav")
    assert language_folders(tmp_path) == [tmp_path / "hin", tmp_path / "pan"]


def test_the_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    names = [f"s{number}/u{number}" for number in range(12)]
    corpora = []
    for seed in (1, 2):
        random.Random(seed).shuffle(names)
        folder = tmp_path / str(seed) / "corpus"
        for name in names:
            audio(folder / f"{name}.wav")
            raw_textgrid(folder / f"{name}.TextGrid", [*PLAIN, (0.4, 0.6, "X")])
        corpora.append(read_corpus(folder))
    first, second = corpora
    assert [(u.id, u.segments) for u in first.utterances] == [(u.id, u.segments) for u in second.utterances]
    assert reasons(first) == reasons(second)


def test_progress_sees_every_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def progress(iterable: Iterable[Any], description: str) -> Iterable[Any]:
        items = list(iterable)
        seen.append((description, len(items)))
        return items

    for name in "abc":
        audio(tmp_path / f"{name}.wav")
        raw_textgrid(tmp_path / f"{name}.TextGrid", PLAIN)
    plain = read_corpus(tmp_path)
    monkeypatch.setattr(folder_module, "progress", progress)
    monkeypatch.setattr(reading, "progress", progress)
    assert read_corpus(tmp_path) == plain
    assert [count for _, count in seen] == [3, 3]
    assert all(tmp_path.name in description for description, _ in seen)


def test_one_language_of_voxangeles(corpora: Path, tmp_path: Path) -> None:
    source = corpora / "voxangeles"
    if not source.is_dir():
        pytest.skip(f"{source} is missing")
    folders = language_folders(source)
    assert len(folders) == 34
    assert all(canonical(folder.name) != "und" for folder in folders)
    shutil.copytree(source / "ewe", tmp_path / "ewe")
    corpus = validate(tmp_path / "ewe", "ewe")
    assert corpus.problems == ()
    assert len(corpus.utterances) == 38
    assert sum(corpus.phoneme_counts().values()) == 135
    assert {u.language for u in corpus.utterances} == {"ee"}


def test_speechocean_reads_whole_and_fast(corpora: Path) -> None:
    source = corpora / "speechocean762" / "test"
    if not source.is_dir():
        pytest.skip(f"{source} is missing")
    begin = time.process_time()
    corpus = read_corpus(source, "en")
    assert time.process_time() - begin < 15
    assert corpus.problems == ()
    assert len(corpus.utterances) == 2468
    assert len({u.speaker for u in corpus.utterances}) == 125
    assert len(corpus.phoneme_counts()) == 39
    assert all(0 <= s.start < s.end <= u.duration for u in corpus.utterances for s in u.segments)
