"""What is told of where something was made and of whom: by a pack nothing, by a report and a log no folder above the recordings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtl_speech.commands import inspect
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.pack import save_pack
from mtl_speech.model.segmenter import new_segmenter
from mtl_speech.model.strategy import base_pack
from tests.command_line import run
from tests.helpers import PHONEMES, tiny_base, toy_recording

# Every name that could give someone away is made of these words, none of which the package has of its own.
HOME, DISK, CORPUS, SPEAKERS, RECORDING = (
    "zarathustra",
    "Quetzal Coatl (2)",
    "Tlaloc's Field",
    ("xochi", "pilli"),
    "tezcat",
)
FOLDERS = (HOME, "Quetzal", "Coatl")
NAMES = (*FOLDERS, "Tlaloc", *SPEAKERS, RECORDING)


def named_folder(folder: Path, n: int = 8) -> Path:
    """Recordings under tell-tale names, one of them with a label that is no phoneme."""
    for number in range(n):
        path = folder / SPEAKERS[number % 2] / f"{RECORDING}_{number}.wav"
        segments = toy_recording(path, [PHONEMES[(number + i) % 6] for i in range(6)], seed=number)
        phones = [(s.start, s.end, s.phoneme) for s in segments] + ([(0.72, 0.78, "%%")] if number == 0 else [])
        write_textgrid(path.with_suffix(".TextGrid"), 0.8, {"phones": phones})
    return folder


def bare_folder(folder: Path) -> Path:
    """Recordings without labels, under tell-tale names."""
    for number in range(2):
        toy_recording(folder / SPEAKERS[0] / f"{RECORDING}_bare_{number}.wav", PHONEMES[:5], seed=number + 100)
    return folder


def save_base_that_transcribes(folder: Path) -> Path:
    """A tiny random encoder with a segmenter, as a pack."""
    base = tiny_base()
    segmenter = new_segmenter(base.encoder)
    return save_pack(base_pack(base.encoder, base.head, base.phonemes, {"name": "tiny"}, segmenter), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a user, where every command has been run on a corpus elsewhere: results in out/."""
    top = tmp_path_factory.mktemp("top")
    home, corpus = top / HOME, named_folder(top / DISK / CORPUS)
    (home / "work").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(home / "work")
        base, out = save_base_that_transcribes(top / DISK / "base"), top / DISK / "out"
        run("adapt", "--lang", "pa", "--data", corpus, "--base", base, "--meta-steps", 0, "-o", out / "adapt")
        pack = out / "adapt" / "pack"
        for name, clips in (("evaluate", "--no-clips"), ("heard", "--clips")):
            run("evaluate", pack, "--data", corpus, "--base", base, "-o", out / name, clips)
        score = ("--format", "json,ctm,eaf,textgrid", "--score")
        run("transcribe", pack, corpus, "--base", base, "-o", out / "transcribe", *score)
        run("suggest", pack, "--pool", bare_folder(top / DISK / "pool"), "--base", base, "-o", out / "suggest")
        run("validate", corpus, "-o", out / "validate", code=1)
        run("compare", out / "evaluate", out / "heard", "-o", out / "compare")
        run("info", pack, "--base", base, "-o", out / "info")
        run("verify", pack, "--base", base, "-o", out / "verify")
        run("verify", out / "nothing there", "--base", base, "-o", out / "failed", code=1)
        yield out


def found_in(data: bytes, words: tuple[str, ...]) -> list[str]:
    """The words that are in the data, in any case, as UTF-8 or UTF-16."""
    lowered = data.lower()
    forms = ("utf-8", "utf-16-le", "utf-16-be")
    return [word for word in words if any(word.lower().encode(form) in lowered for form in forms)]


def test_a_search_finds_what_it_looks_for() -> None:
    for form in ("utf-8", "utf-16-le", "utf-16-be"):
        assert found_in(b"\0\1" + f"x{HOME.upper()}".encode(form), NAMES) == [HOME]


def test_a_pack_names_no_speaker_recording_or_folder(place: Path) -> None:
    files = [path for path in (place / "adapt" / "pack").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"card.json", "weights.safetensors"}
    for path in files:
        data = path.read_bytes()
        assert found_in(data, NAMES) == []
        assert b"RIFF" not in data and not re.search(rb"/(home|tmp|Users|root)/", data)


def test_nothing_that_is_written_names_a_folder_above_the_recordings(place: Path) -> None:
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {"log.txt", "report.json", "report.html", "problems.csv", "scores.json", "compare.json"} <= {
        p.name for p in files
    }
    leaks = {f"{path.relative_to(place)}": found for path in files if (found := found_in(path.read_bytes(), FOLDERS))}
    assert leaks == {}


def test_a_report_has_the_names_that_the_page_says_and_clips_only_where_asked(place: Path) -> None:
    for name in ("tokens.csv", "report.json"):
        assert found_in((place / "adapt" / name).read_bytes(), (RECORDING,)) == [RECORDING]
    pages = [(place / name / "report.html").read_text(encoding="utf-8") for name in ("adapt", "heard")]
    assert ["data:audio" in page for page in pages] == [False, True]


def test_a_traceback_in_the_log_has_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = named_folder(tmp_path / HOME / DISK / CORPUS, 1)
    monkeypatch.setenv("HOME", str(tmp_path / HOME))

    def fails(*_: object) -> None:
        raise RuntimeError(f"{corpus}/{SPEAKERS[0]}/a.wav: went wrong")

    monkeypatch.setattr(inspect, "summary", fails)
    said = run("validate", corpus, "-o", tmp_path / "out", code=1).output
    assert "unexpected RuntimeError" in said
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert "Traceback" in log and "went wrong" in log
    assert found_in(log.encode(), (HOME,)) == []
    assert not re.search(r"(?<![\w~…/.])/\w+/\w+", log)
