"""The command `transcribe`: what it writes where, what it never replaces, and what it says of recordings that it cannot read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
from praatio import textgrid as praat
from pympi import Elan

from mtl_speech.commands.transcribe import Outputs
from mtl_speech.corpora.folder import find_recordings
from mtl_speech.corpora.label_files import label_lines
from mtl_speech.corpora.label_files.textgrid import read_whole
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.transcription.transcript import Phone, Transcription
from tests.command_line import labelled_folder, run, save_recogniser

FOUND = Transcription(
    0.8, (Phone("", 0.0, 0.1, 0.9), Phone("a", 0.1, 0.25, 0.8), Phone("b", 0.25, 0.8, 0.6, zero_shot=True))
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ and pack/ (of random weights), recordings/ (4 of 2 speakers, with labels): only read by tests."""
    folder = tmp_path_factory.mktemp("shared")
    labelled_folder(folder / "recordings", 4, 2)
    save_recogniser(folder, {"pack": {}})
    return folder


@pytest.fixture
def recordings(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recordings in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shared / "recordings", tmp_path / "rec")
    return Path("rec")


def arguments(shared: Path, *places: object) -> list[object]:
    return ["transcribe", shared / "pack", *places, "--base", shared / "base"]


def tier_names(path: Path) -> list[str]:
    return [tier.name for tier in read_whole(path).tiers]


def rename_tier(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert f'"{old}"' in text
    path.write_text(text.replace(f'"{old}"', f'"{new}"'), encoding="utf-8")


# The command


def test_a_folder_is_mirrored_in_every_format(shared: Path, recordings: Path) -> None:
    before = {path: path.read_bytes() for path in recordings.rglob("*") if path.is_file()}
    said = run(*arguments(shared, recordings), "--format", "textgrid,ctm,json,eaf", "-o", "out").stdout
    names = {f"s{n % 2}/u{n:02}{suffix}" for n in range(4) for suffix in (".TextGrid", ".json", ".eaf")}
    written = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    assert written == names | {"phones-pred.ctm", "log.txt", "transcribed.sha256"}
    assert "4 recordings, 0.1 minutes" in said and "written to out: " in said
    grid = praat.openTextgrid("out/s0/u00.TextGrid", includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == ("phones", "phones-pred", "confidence")
    phones = [tuple(entry) for entry in grid.getTier("phones-pred").entries]
    spans = [(entry.start, entry.end) for entry in grid.getTier("confidence").entries]
    assert spans == [(start, end) for start, end, _ in phones]
    data = json.loads(Path("out/s0/u00.json").read_text())
    assert (data["recording"], data["pack"]) == ("s0/u00", "sw-0")
    spoken = [(p["start"], p["end"], p["phoneme"]) for p in data["phones"] if p["phoneme"]]
    assert [label for *_, label in spoken] == [label for *_, label in phones]
    eaf = Elan.Eaf("out/s0/u00.eaf")
    assert len(eaf.get_annotation_data_for_tier("phones-pred")) == len(phones)
    assert eaf.get_linked_files()[0]["RELATIVE_MEDIA_URL"] == "../../rec/s0/u00.wav"
    lines = Path("out/phones-pred.ctm").read_text().splitlines()
    assert sum(line.startswith("s0/u00 1 ") for line in lines) == len(phones)
    assert {path: path.read_bytes() for path in recordings.rglob("*") if path.is_file()} == before


def test_files_and_label_files_are_given_as_a_shell_does(shared: Path, recordings: Path) -> None:
    run(*arguments(shared, *sorted((recordings / "s0").iterdir()), recordings / "s1" / "u01.wav"), "-q")
    folder = Path("results/transcribe-sw-0/0")
    assert {path.name for path in folder.glob("*.TextGrid")} == {"u00.TextGrid", "u01.TextGrid", "u02.TextGrid"}


def test_what_cannot_be_read_is_named_and_the_others_go_on(shared: Path, recordings: Path) -> None:
    (recordings / "s0" / "bad.wav").write_bytes(b"no audio")
    (recordings / "s0" / "phone.m4a").write_bytes(b"x")
    (recordings / "s0" / "u00.TextGrid").write_text("not whole")
    result = run(*arguments(shared, recordings, "nowhere"), "--format", "textgrid,json", "-o", "out", code=1)
    assert "left out: rec/s0/bad.wav: " in result.stdout
    assert "left out: rec/s0/phone.m4a: is no audio that can be read" in result.stdout
    assert (
        "used: rec/s0/u00.TextGrid: the transcription is written without its tiers: cannot be kept whole"
        in result.stdout
    )
    assert "left out: nowhere: no such file or folder" in result.stdout
    assert "3 things could not be done" in result.stderr
    written = {path.relative_to("out").as_posix() for path in Path("out").rglob("u*")}
    assert written == {f"s{n % 2}/u{n:02}{s}" for n in range(4) for s in (".TextGrid", ".json")}
    assert (recordings / "s0" / "u00.TextGrid").read_text() == "not whole"


def test_two_recordings_of_one_name(shared: Path, recordings: Path) -> None:
    shutil.copy(recordings / "s1" / "u01.wav", recordings / "s0" / "u01.wav")
    said = run(*arguments(shared, recordings / "s0" / "u01.wav", recordings / "s1"), "-o", "out", code=1).stdout
    assert "left out: rec/s1/u01.wav: its results would have the name 'u01', as those of rec/s0/u01.wav have" in said
    assert {path.name for path in Path("out").glob("*.TextGrid")} == {"u01.TextGrid", "u03.TextGrid"}


@pytest.mark.parametrize(
    ("place", "said"), [("nowhere", "no such file or folder"), ("empty", "no audio files"), ("x.m4a", "is no audio")]
)
def test_nothing_to_transcribe(shared: Path, recordings: Path, place: str, said: str) -> None:
    Path("empty").mkdir()
    Path("x.m4a").write_bytes(b"x")
    assert said in run(*arguments(shared, place), "-o", "out", code=1).stderr
    assert not Path("out").exists()


def test_a_broken_elan_file_does_not_cost_a_transcription(shared: Path, recordings: Path) -> None:
    beside = recordings / "s0" / "u00.eaf"
    beside.write_text("half of a file", encoding="utf-8")
    said = run(*arguments(shared, recordings), "--format", "eaf", "-o", "out").stdout
    assert "used: rec/s0/u00.eaf: the transcription is written without its tiers: " in said
    assert Path("out/s0/u00.eaf").is_file() and beside.read_text(encoding="utf-8") == "half of a file"


def test_scores_are_told_and_written(shared: Path, recordings: Path) -> None:
    (recordings / "s0" / "u00.TextGrid").unlink()
    text = (recordings / "s0" / "u02.TextGrid").read_text()
    (recordings / "s0" / "u02.TextGrid").write_text(text.replace('text = "a"', 'text = "xyz9"'))
    rename_tier(recordings / "s1" / "u01.TextGrid", "phones", "Phones")
    said = run(*arguments(shared, recordings), "--score", "-o", "out").stdout
    assert "phone error rate" in said and "boundary R-value" in said
    assert "not scored: rec/s0/u00.wav: no labels beside it" in said
    assert "scored without it: rec/s0/u02.TextGrid, tier 'phones', interval" in said
    data = json.loads(Path("out/scores.json").read_text())
    assert data["format"] == "mtl_speech.transcription-scores/1" and len(data["not_scored"]) == 1
    scores = data["scores"]
    assert (scores["n_recordings"], scores["n_phones"], scores["n_boundaries"], scores["tolerance"]) == (
        3,
        17,
        21,
        0.02,
    )
    errors = scores["substitutions"] + scores["deletions"] + scores["insertions"]
    assert scores["phone_error_rate"]["value"] == pytest.approx(errors / 17)
    assert len(scores["reliability"]) == 15 and data["outside_inventory"] == {}


def test_scores_need_labels(shared: Path, recordings: Path) -> None:
    rename_tier(recordings / "s0" / "u00.TextGrid", "phones", "phones-pred")
    result = run(*arguments(shared, recordings / "s0" / "u00.wav"), "--score", "-o", "out", code=1)
    assert "holds machine labels" in result.stdout
    assert "beside no recording lies" in result.stderr
    assert Path("out/u00.TextGrid").exists()


def test_results_in_the_folder_of_the_recordings_are_put_into_the_files_there(shared: Path, recordings: Path) -> None:
    before = {path: read_whole(path).tiers for path in recordings.rglob("*.TextGrid")}
    for _ in range(2):
        run(*arguments(shared, recordings), "-o", recordings, "-q")
        for path, tiers in before.items():
            assert read_whole(path).tiers[:1] == tiers and tier_names(path) == ["phones", "phones-pred", "confidence"]
    assert len(list(recordings.rglob("*.TextGrid"))) == 4
    assert len(read_corpus(recordings).utterances) == 4


def test_a_video_and_a_lossy_copy_are_no_fault(shared: Path, recordings: Path) -> None:
    samples, rate = soundfile.read(recordings / "s0" / "u00.wav")
    soundfile.write(recordings / "s0" / "u00.mp3", samples, rate)
    (recordings / "s0" / "u02.mp4").write_bytes(b"x")
    said = run(*arguments(shared, recordings), "--score", "-o", "out").stdout
    assert "used: rec/s0/u00.mp3: is passed over: 'u00.wav'" in said
    assert "used: rec/s0/u02.mp4: is passed over: 'u02.wav'" in said
    assert "4 recordings" in said and "left out" not in said and "not scored" not in said


def test_labels_under_a_name_that_praat_changed_are_scored_and_kept(shared: Path, recordings: Path) -> None:
    folder = recordings / "s0"
    (folder / "u00.wav").rename(folder / "list 1 (new).wav")
    (folder / "u00.TextGrid").rename(folder / "list_1__new_.TextGrid")
    (folder / "u02.TextGrid").rename(folder / "u02 (2).TextGrid")
    said = run(*arguments(shared, folder), "--score", "-o", "out").stdout
    assert "list_1__new_.TextGrid: is taken as the labels of 'list 1 (new).wav'" in said and "not scored" not in said
    assert json.loads(Path("out/scores.json").read_text())["scores"]["n_recordings"] == 2
    assert tier_names(Path("out/list 1 (new).TextGrid")) == ["phones", "phones-pred", "confidence"]
    run(*arguments(shared, folder), "-o", folder, "-q")
    assert tier_names(folder / "list_1__new_.TextGrid") == ["phones", "phones-pred", "confidence"]
    assert not (folder / "list 1 (new).TextGrid").exists()


def test_labels_that_may_be_of_two_recordings_are_told_once(shared: Path, recordings: Path) -> None:
    folder = recordings / "s0"
    (folder / "u00.wav").rename(folder / "list 1.wav")
    (folder / "u02.wav").rename(folder / "list.1.wav")
    (folder / "u00.TextGrid").rename(folder / "list_1.TextGrid")
    (folder / "u02.TextGrid").unlink()
    said = run(*arguments(shared, recordings), "--score", "-o", "out").stdout
    assert said.count("not scored") == said.count("perhaps these belong together: 'list 1.wav', 'list.1.wav'") == 1


# Outputs


def test_what_was_changed_since_is_never_replaced(recordings: Path) -> None:
    (recording,) = find_recordings([recordings / "s0" / "u00.wav"])[0]
    out = Path("out")
    out.mkdir()
    formats = ("textgrid", "json", "eaf")
    assert Outputs(out, formats, "p").write(recording, FOUND) == []
    assert Outputs(out, formats, "p").write(recording, FOUND) == []  # its own, unchanged
    rename_tier(out / "u00.TextGrid", "phones-pred", "checked")
    corrected = (out / "u00.TextGrid").read_bytes()
    (problem,) = Outputs(out, formats, "p").write(recording, FOUND)
    assert "was changed since it was written or comes from elsewhere" in str(problem)
    assert (out / "u00.TextGrid").read_bytes() == corrected
    (out / "transcribed.sha256").unlink()
    assert len(Outputs(out, formats, "p").write(recording, FOUND)) == 3


def test_a_correction_in_the_folder_of_the_recordings_is_not_replaced(recordings: Path) -> None:
    folder, path = recordings / "s0", recordings / "s0" / "u00.TextGrid"

    def write() -> list[str]:
        (recording,) = find_recordings([folder / "u00.wav"])[0]
        return [str(problem) for problem in Outputs(folder, ("textgrid",), "p").write(recording, FOUND)]

    path.unlink()
    assert write() == [] and tier_names(path) == ["phones-pred", "confidence"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('text = "a"', 'text = "o"'), encoding="utf-8")
    (problem,) = write()
    assert "has a tier 'phones-pred' that may have been corrected: rename it to 'phones'" in problem
    assert '"o"' in path.read_text(encoding="utf-8")
    rename_tier(path, "phones-pred", "phones")
    assert write() == [] and tier_names(path) == ["phones", "phones-pred", "confidence"]
    (utterance,) = read_corpus(folder).filter(lambda u: u.id == "u00").utterances
    assert [segment.phoneme for segment in utterance.segments] == ["o", "b"]


def test_transcriptions_come_back_as_labels_when_their_tier_is_renamed(recordings: Path) -> None:
    folder = recordings / "s0"
    for path in folder.glob("*.TextGrid"):
        path.unlink()
    found, _ = find_recordings([folder])
    outputs = Outputs(folder, ("textgrid", "eaf", "ctm"), "p")
    for recording, formats in zip(found, (("textgrid",), ("eaf",)), strict=True):
        outputs.formats = (*formats, "ctm")
        assert outputs.write(recording, FOUND) == []
    assert outputs.finish() == []
    assert len(label_lines.read_ctm(folder / "phones-pred.ctm")[0]) == 2
    result = run("validate", folder, code=1)
    assert result.stdout.count("holds machine labels: check them and rename the tier to 'phones'") == 2
    rename_tier(folder / "u00.TextGrid", "phones-pred", "phones")
    rename_tier(folder / "u02.eaf", "phones-pred", "phones")
    said = run("validate", folder).stdout
    assert "recordings: 2" in said and "phonemes:   2, 4 examples" in said


def test_a_name_with_a_blank_is_no_name_in_ctm(recordings: Path) -> None:
    shutil.copy(recordings / "s0" / "u00.wav", "my own.wav")
    (recording,) = find_recordings([Path("my own.wav")])[0]
    Path("out").mkdir()
    (problem,) = Outputs(Path("out"), ("ctm", "textgrid"), "p").write(recording, FOUND)
    assert "no ctm: 'my own' has a blank" in str(problem)
    assert Path("out/my own.TextGrid").exists()


# Recordings


def test_the_same_recording_given_twice_is_taken_once(recordings: Path) -> None:
    path = recordings / "s0" / "u00.wav"
    found, problems = find_recordings([path, path, Path.cwd() / path])
    assert [recording.name for recording in found] == ["u00"] and problems == []
    assert found[0].labels == {".textgrid": path.with_suffix(".TextGrid")}


def test_labels_belong_to_the_recording_of_their_folder(recordings: Path) -> None:
    found, _ = find_recordings([recordings])
    assert [recording.name for recording in found] == ["s0/u00", "s0/u02", "s1/u01", "s1/u03"]
    for recording in found:
        assert recording.labels == {".textgrid": recording.audio.with_suffix(".TextGrid")}
