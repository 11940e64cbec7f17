"""Labels and recordings that belong together although their names differ, and recordings in several formats."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_speech.core.errors import Problem, kind_of
from mtl_speech.corpora import pairing
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.folder import find_recordings
from mtl_speech.corpora.label_files import media_links
from mtl_speech.corpora.labels import Interval, Labels
from mtl_speech.corpora.partners import EmptyPhones, require_phones
from mtl_speech.corpora.reading import read_corpus, validate
from tests.command_line import run
from tests.corpora.label_folders import PLAIN, audio, eaf, raw_textgrid

OTHER = [(0.1, 0.3, "k"), (0.3, 0.5, "o")]


def grid(path: Path, spans: list[tuple[float, float, str]] = PLAIN, tier: str = "phones") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw_textgrid(path, spans, tier)
    return path


def linked(path: Path, *media: str) -> Path:
    """An .eaf with these attributes of MEDIA_DESCRIPTOR."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = eaf(path).read_text(encoding="utf-8")
    descriptors = "".join(f'<MEDIA_DESCRIPTOR MIME_TYPE="audio/*" {each}/>' for each in media)
    header = f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">{descriptors}</HEADER>'
    text, n = re.subn("<HEADER[^>]*/>|<HEADER.*?</HEADER>", lambda _: header, text, count=1, flags=re.DOTALL)
    assert n == 1
    path.write_text(text, encoding="utf-8")
    return path


def phones(corpus: Corpus) -> dict[str, str]:
    return {each.id: "".join(segment.phoneme for segment in each.segments) for each in corpus.utterances}


def only(corpus: Corpus) -> Problem:
    (problem,) = corpus.problems
    return problem


# Names


@pytest.mark.parametrize(
    ("recording", "labels"),
    [
        ("list 2.1 (retake).flac", "list_2_1__retake_.TextGrid"),
        ("a.b.wav", "a_b.TextGrid"),
        ("mother's [old] {x}.wav", "mother_s__old___x_.TextGrid"),
        ("a,b;c&d#e@f!g%h$i+j=k-l.wav", "a_b_c_d_e_f_g_h_i+j=k-l.TextGrid"),
        ("two  blanks\u00a0here.wav", "two__blanks_here.TextGrid"),
        ("Take 1.wav", "take_1.TextGrid"),
        ("TAKE1.WAV", "take1.textgrid"),
        ("ÉTÉ.wav", unicodedata.normalize("NFD", "été.TextGrid")),
        (unicodedata.normalize("NFD", "été (2).wav"), "été__2_.TextGrid"),
        ("ਘਰ 1.wav", "ਘਰ_1.eaf"),
        ("word.wav", "word - phones.TextGrid"),
        ("word.wav", "phones@word.TextGrid"),
        ("word.wav", "word (2).TextGrid"),
        ("word.wav", "word - Copy (2).TextGrid"),
        ("word.wav", "Copy of word.TextGrid"),
        ("my word.wav", "my_word_aligned.TextGrid"),
        ("word.wav", "word-ELAN.eaf"),
    ],
)
def test_a_name_that_a_tool_has_changed_is_that_of_its_recording(tmp_path: Path, recording: str, labels: str) -> None:
    path, audio_file = tmp_path / "s" / labels, audio(tmp_path / "s" / recording.replace("WAV", "wav"))
    audio_file = audio_file.rename(tmp_path / "s" / recording)
    grid(tmp_path / "s" / "x.TextGrid").rename(path) if path.suffix != ".eaf" else eaf(path)
    audio(tmp_path / "s" / "another.wav")
    grid(tmp_path / "s" / "another.TextGrid")
    corpus = read_corpus(tmp_path)
    assert len(corpus.utterances) == 2
    problem = only(corpus)
    assert problem.used and problem.file == path and f"'{audio_file.name}'" in problem.reason


def test_of_one_kind_the_reasons_are_of_one_kind(tmp_path: Path) -> None:
    for number in range(3):
        audio(tmp_path / f"a {number}.wav")
        grid(tmp_path / f"a_{number}.TextGrid")
    corpus = read_corpus(tmp_path)
    assert len(corpus.utterances) == 3 and len({kind_of(each.reason) for each in corpus.problems}) == 1


def test_what_is_not_unique_is_asked_once(tmp_path: Path) -> None:
    for name in ("list 2.1.wav", "list 2 1.wav"):
        audio(tmp_path / name)
    grid(tmp_path / "list_2_1.TextGrid")
    corpus = read_corpus(tmp_path)
    problem = only(corpus)
    assert corpus.utterances == () and not problem.used
    assert problem.file.name == "list_2_1.TextGrid"
    assert problem.reason.startswith("perhaps these belong together: 'list 2 1.wav', 'list 2.1.wav' and this file")


def test_two_label_files_of_one_recording_are_asked_about_once(tmp_path: Path) -> None:
    audio(tmp_path / "list 1.wav")
    grid(tmp_path / "list_1.TextGrid")
    grid(tmp_path / "list.1.TextGrid", OTHER)
    problem = only(read_corpus(tmp_path))
    assert "perhaps these belong together: 'list 1.wav', 'list_1.TextGrid' and this file" in problem.reason
    grid(tmp_path / "list.1.TextGrid", [])  # an empty twin: the other is the only one
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"list 1": "pa"} and all(each.used for each in corpus.problems)


def test_exact_names_come_first(tmp_path: Path) -> None:
    for name in ("a b", "a_b", "A_B", "a (2)", "a"):
        audio(tmp_path / f"{name}.wav")
    for name, label in (("a_b", "p"), ("A_B", "t"), ("a (2)", "k"), ("a", "m")):
        grid(tmp_path / f"{name}.TextGrid", [(0.1, 0.3, label)])
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a_b": "p", "A_B": "t", "a (2)": "k", "a": "m"}
    assert only(corpus).file.name == "a b.wav" and "no labels" in only(corpus).reason


def test_where_all_names_are_the_same_no_header_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio(tmp_path / "a.wav")
    linked(tmp_path / "a.eaf", 'RELATIVE_MEDIA_URL="./b.wav"')
    audio(tmp_path / "b.wav")
    grid(tmp_path / "b.TextGrid")
    monkeypatch.setattr(pairing, "media_links", None)
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "t", "b": "pa"} and corpus.problems == ()


# Links


@pytest.mark.parametrize(
    "media",
    [
        'MEDIA_URL="file:///C:/Users/field/VC1-Tr 1.wav" RELATIVE_MEDIA_URL="./VC1-Tr 1.wav"',
        'MEDIA_URL="file:///C:/Users/field/VC1-Tr%201.wav"',
        r'MEDIA_URL="C:\Users\field\VC1-Tr 1.wav"',
        'MEDIA_URL="file://server/share/VC1-Tr 1.mp4" RELATIVE_MEDIA_URL="../../elsewhere/VC1-Tr 1.mp4"',
        'RELATIVE_MEDIA_URL="../item/VC1-Tr 1.wav"',
        'RELATIVE_MEDIA_URL="./vc1-tr_1.WAV"',
    ],
)
def test_the_link_of_an_eaf_is_followed(tmp_path: Path, media: str) -> None:
    audio(tmp_path / "item" / "VC1-Tr 1.wav")
    audio(tmp_path / "item" / "VC1-Tr 2.wav")
    grid(tmp_path / "item" / "VC1-Tr 2.TextGrid")
    linked(tmp_path / "item" / "interview.eaf", media)
    corpus = validate(tmp_path)
    assert phones(corpus) == {"item/VC1-Tr 1": "t", "item/VC1-Tr 2": "pa"}
    problem = only(corpus)
    assert problem.used and problem.file.name == "interview.eaf" and "'VC1-Tr 1.wav': it links" in problem.reason


def test_a_link_leads_to_another_folder_of_those_read_and_to_none_outside(tmp_path: Path) -> None:
    audio(tmp_path / "data" / "wav" / "a1.wav")
    audio(tmp_path / "outside.wav")
    linked(tmp_path / "data" / "eaf" / "x.eaf", 'RELATIVE_MEDIA_URL="../wav/a1.wav"')
    linked(tmp_path / "data" / "eaf" / "y.eaf", 'RELATIVE_MEDIA_URL="../../outside.wav"')
    corpus = read_corpus(tmp_path / "data")
    assert phones(corpus) == {"wav/a1": "t"}
    told = {each.file.name: each for each in corpus.problems}
    assert told["x.eaf"].used and "'wav/a1.wav': it links" in told["x.eaf"].reason
    assert not told["y.eaf"].used and "labels without a recording" in told["y.eaf"].reason


def test_a_link_to_a_recording_of_another_folder_by_its_name_alone_is_a_question(tmp_path: Path) -> None:
    audio(tmp_path / "wav" / "a1.wav")
    path = linked(tmp_path / "eaf" / "x.eaf", 'MEDIA_URL="file:///D:/old/a1.wav"')
    problem = only(read_corpus(tmp_path))
    assert problem.file == path and problem.reason.startswith("perhaps these belong together: 'wav/a1.wav' and this")


def test_a_link_to_several_recordings_is_asked_about(tmp_path: Path) -> None:
    for name in ("one", "two"):
        audio(tmp_path / f"{name}.wav")
    linked(tmp_path / "x.eaf", 'MEDIA_URL="file:///one.wav"', 'MEDIA_URL="file:///two.wav"')
    problem = only(read_corpus(tmp_path))
    assert problem.reason.startswith("perhaps these belong together: 'one.wav', 'two.wav' and this file")


def test_a_link_with_an_offset_is_refused(tmp_path: Path) -> None:
    audio(tmp_path / "one.wav")
    linked(tmp_path / "x.eaf", 'MEDIA_URL="file:///one.wav" TIME_ORIGIN="2000"')
    corpus = read_corpus(tmp_path)
    assert corpus.utterances == ()
    assert any("begins with an offset" in each.reason and not each.used for each in corpus.problems)


@pytest.mark.parametrize(
    "text", ["", "<a", "\0\0", '<!DOCTYPE x [<!ENTITY e "v">]><HEADER>&e;</HEADER>', "<a>" * 10_000]
)
def test_what_is_no_eaf_has_no_links(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.eaf"
    path.write_text(text)
    assert media_links.media_links(path) == ()
    assert media_links.media_links(tmp_path) == ()


# Several label files


def test_an_empty_twin_is_passed_over(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    grid(tmp_path / "a.TextGrid", [(0.0, 1.0, "")])
    eaf(tmp_path / "a.eaf")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "t"}
    assert only(corpus).used and only(corpus).reason == "has no phone in it; a.eaf is used"
    (tmp_path / "a.TextGrid").write_bytes(b"")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "t"}
    assert only(corpus).used and only(corpus).reason == "is an empty file; a.eaf is used"


def test_labels_of_which_one_speaker_is_silent_are_not_empty() -> None:
    silent, speaks = (Labels(Path("a.eaf"), "phones", (Interval(0.0, 0.5, label, 1),)) for label in ("", "a"))
    require_phones(replace(silent, more=(speaks,)))
    with pytest.raises(EmptyPhones):
        require_phones(replace(silent, more=(silent,)))


def test_an_empty_file_alone_is_told(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    grid(tmp_path / "a.TextGrid", [])
    assert "no usable phoneme" in only(read_corpus(tmp_path)).reason
    (tmp_path / "a.TextGrid").write_bytes(b"")
    assert only(read_corpus(tmp_path)).reason == "is an empty file" and not only(read_corpus(tmp_path)).used


@pytest.mark.parametrize("kind", ["empty", "other tier"])
def test_a_copy_with_phones_beside_one_without(tmp_path: Path, kind: str) -> None:
    audio(tmp_path / "a.wav")
    grid(tmp_path / "a.TextGrid", *([[]] if kind == "empty" else [PLAIN, "notes"]))
    grid(tmp_path / "a (2).TextGrid", OTHER)
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "ko"}
    assert {each.file.name: each.used for each in corpus.problems} == {"a.TextGrid": True, "a (2).TextGrid": True}
    grid(tmp_path / "a.TextGrid")
    grid(tmp_path / "a (2).TextGrid", OTHER, "notes")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "pa"}
    assert only(corpus).used and only(corpus).reason.endswith("; 'a.TextGrid' is used for 'a.wav'")


def test_a_copy_that_is_the_same_is_no_question(tmp_path: Path) -> None:
    for name in ("a b", "c d"):
        audio(tmp_path / f"{name}.wav")
    grid(tmp_path / "a b.TextGrid")
    for name in ("a_b", "a b (2)", "c_d", "c_d - Copy"):
        grid(tmp_path / f"{name}.TextGrid")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a b": "pa", "c d": "pa"}
    assert all(each.used for each in corpus.problems)


def test_a_second_file_with_phones_is_asked_about(tmp_path: Path) -> None:
    audio(tmp_path / "a b.wav")
    grid(tmp_path / "a b.TextGrid")
    grid(tmp_path / "a_b.TextGrid", OTHER)
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a b": "pa"}
    problem = only(corpus)
    assert not problem.used and problem.file.name == "a_b.TextGrid"
    assert problem.reason.startswith("perhaps these belong together: 'a b.wav' and this file; 'a b.TextGrid' is used")


@pytest.mark.parametrize(
    ("recording", "labels"),
    [
        ("VC1-20190811-Tr1.wav", "VC1-20190811-ELAN2.TextGrid"),
        ("session_16k.wav", "session.TextGrid"),
        ("session.wav", "session_final.TextGrid"),
        ("wav/session.wav", "labels/session.TextGrid"),
        ("a-b-c.wav", "a_b_c.TextGrid"),
        ("café.wav", "cafe.TextGrid"),
    ],
)
def test_what_is_only_likely_is_one_question(tmp_path: Path, recording: str, labels: str) -> None:
    audio(tmp_path / recording)
    grid(tmp_path / labels)
    corpus = read_corpus(tmp_path)
    assert corpus.utterances == () and not only(corpus).used
    assert only(corpus).file == tmp_path / labels
    assert only(corpus).reason.startswith(f"perhaps these belong together: '{recording}' and this file")


def test_what_has_nothing_in_common_is_told_as_it_is(tmp_path: Path) -> None:
    audio(tmp_path / "list-1.wav")
    grid(tmp_path / "list-2.TextGrid")
    reasons = [each.reason for each in read_corpus(tmp_path).problems]
    assert len(reasons) == 2 and not any("perhaps" in each for each in reasons)


# CTM


def test_one_ctm_for_each_recording(tmp_path: Path) -> None:
    for name in ("a", "password", "c d"):
        audio(tmp_path / "s" / f"{name}.wav")
    (tmp_path / "s" / "a.ctm").write_text("a 1 0.1 0.2 p\n")
    (tmp_path / "s" / "a.words.ctm").write_text("a 1 0.1 0.4 pa\n")
    (tmp_path / "s" / "password.ctm").write_text("utterance-1 1 0.1 0.2 t\n")
    (tmp_path / "s" / "c_d.ctm").write_text("/data/c_d.wav 1 0.1 0.2 k\n")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"s/a": "p", "s/password": "t", "s/c d": "k"}
    assert {each.id: each.words for each in corpus.utterances}["s/a"] == (("pa", 0.1, 0.5),)
    assert [(each.file.name, each.used) for each in corpus.problems] == [("c_d.ctm", True), ("password.ctm", True)]


def test_a_ctm_beside_each_recording_where_names_repeat(tmp_path: Path) -> None:
    for speaker, label in (("s1", "p"), ("s2", "k")):
        audio(tmp_path / speaker / "a.wav")
        (tmp_path / speaker / "a.ctm").write_text(f"a 1 0.1 0.2 {label}\n")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"s1/a": "p", "s2/a": "k"} and corpus.problems == ()


def test_of_two_ctm_files_of_a_recording_the_first_is_used(tmp_path: Path) -> None:
    for name in ("a", "b"):
        audio(tmp_path / f"{name}.wav")
    (tmp_path / "first.ctm").write_text("a 1 0.1 0.2 p\n")
    (tmp_path / "second.ctm").write_text("a 1 0.1 0.2 t\nb 1 0.1 0.2 k\n")
    corpus = read_corpus(tmp_path)
    assert phones(corpus) == {"a": "p", "b": "k"}
    assert only(corpus).reason == "labels of 1 recordings, such as 'a', are left out: 'first.ctm' is used"


# Labels in another folder


def test_labels_apart_are_found_by_changed_names_links_and_ctm(tmp_path: Path) -> None:
    for name in ("x/a b", "x/c", "y/d", "y/e"):
        audio(tmp_path / "data" / f"{name}.wav")
    grid(tmp_path / "labels" / "deep" / "a_b.TextGrid")
    linked(tmp_path / "labels" / "c-ELAN-3.eaf", 'MEDIA_URL="file:///C:/c.wav"')
    (tmp_path / "labels" / "all.ctm").write_text("d 1 0.1 0.2 k\n")
    grid(tmp_path / "labels" / "E.TextGrid", OTHER)
    corpus = read_corpus(tmp_path / "data", labels=tmp_path / "labels")
    assert phones(corpus) == {"x/a b": "pa", "x/c": "t", "y/d": "k", "y/e": "ko"}
    assert sorted((each.file.name, each.used) for each in corpus.problems) == [
        ("E.TextGrid", True),
        ("a_b.TextGrid", True),
        ("c-ELAN-3.eaf", True),
    ]


def test_labels_apart_are_found_by_the_last_parts_of_their_path(tmp_path: Path) -> None:
    for speaker, label in (("s1", "p"), ("s2", "t"), ("s3", "k"), ("s4", "m")):
        audio(tmp_path / "wav" / speaker / "0 1.wav")
        audio(tmp_path / "wav" / speaker / "02.wav")
        grid(tmp_path / "tg" / speaker / "0_1.TextGrid", [(0.1, 0.3, label)])
        grid(tmp_path / "tg" / speaker / "02.TextGrid", [(0.1, 0.3, label)])
    corpus = read_corpus(tmp_path, labels=tmp_path / "tg")
    assert "".join(phones(corpus).values()) == "ppttkkmm"
    assert [each.used for each in corpus.problems] == [True] * 4
    corpus = read_corpus(tmp_path)
    assert corpus.utterances == () and len(corpus.problems) == 8
    assert all("perhaps these belong together" in each.reason and "--labels" in each.reason for each in corpus.problems)


def test_validate_takes_labels_from_another_folder(tmp_path: Path) -> None:
    audio(tmp_path / "data" / "a.wav")
    grid(tmp_path / "labels" / "a.TextGrid")
    assert "recordings: 0" in run("validate", tmp_path / "data", code=1).output
    said = run("validate", tmp_path / "data", "--labels", tmp_path / "labels").output
    assert "recordings: 1" in said and "nothing is left out" in said
    assert "no such folder" in run("validate", tmp_path / "data", "--labels", tmp_path / "none", code=1).output


# Formats


def test_the_version_without_loss_is_used(tmp_path: Path) -> None:
    for name in ("a.flac", "a.wav", "b.mp3", "b.wav", "c.ogg", "c.flac", "d.mp3", "d.ogg"):
        audio(tmp_path / name)
    for name in "abcd":
        grid(tmp_path / f"{name}.TextGrid")
    corpus = validate(tmp_path)
    assert [each.audio.name for each in corpus.utterances] == ["a.flac", "b.wav", "c.flac", "d.mp3"]
    told = {each.file.name: each.reason for each in corpus.problems if each.used}
    assert list(told) == ["a.wav", "b.mp3", "c.ogg", "d.ogg"] and len(corpus.problems) == 4
    assert "'b.wav', the same recording without loss" in told["b.mp3"]
    found, problems = find_recordings([tmp_path])
    assert [each.audio.name for each in found] == ["a.flac", "b.wav", "c.flac", "d.mp3"]
    assert {each.file.name: each.reason for each in problems if each.used} == told and len(problems) == 4
    assert [each.audio.name for each in find_recordings([tmp_path / "b.mp3"])[0]] == ["b.mp3"]


def test_a_damaged_version_is_not_used(tmp_path: Path) -> None:
    audio(tmp_path / "a.mp3")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    grid(tmp_path / "a.TextGrid")
    corpus = read_corpus(tmp_path)
    assert [each.audio.name for each in corpus.utterances] == ["a.mp3"]
    assert not only(corpus).used and only(corpus).reason.endswith("; 'a.mp3' is used in its place")


def test_two_recordings_of_one_format_need_not_be_the_same(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    audio(tmp_path / "b.wav").rename(tmp_path / "a.wav.wav")
    grid(tmp_path / "a.TextGrid")
    corpus = read_corpus(tmp_path)
    assert only(corpus).reason.startswith("a second recording of 'a', left out") and not only(corpus).used


@pytest.mark.parametrize("suffix", [".mp4", ".m4a", ".MP4", ".wma"])
def test_a_video_beside_a_recording_is_no_fault(tmp_path: Path, suffix: str) -> None:
    audio(tmp_path / "a.wav")
    grid(tmp_path / "a.TextGrid")
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert "nothing is left out" in run("validate", tmp_path).output
    assert only(read_corpus(tmp_path)).used
    assert [(each.file.suffix, each.used) for each in find_recordings([tmp_path])[1]] == [(suffix, True)]


def test_a_video_alone_is_told_once_with_its_labels(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    grid(tmp_path / "a.TextGrid")
    (tmp_path / "b.mp4").write_bytes(b"x")
    grid(tmp_path / "b.TextGrid")
    problem = only(read_corpus(tmp_path))
    assert problem.file.name == "b.mp4" and not problem.used
    assert "convert it to WAV or FLAC" in problem.reason and "'b.TextGrid'" in problem.reason


# Recordings to transcribe


def test_labels_of_recordings_to_transcribe_are_paired_in_the_same_way(tmp_path: Path) -> None:
    for name in ("a b", "c", "d 1", "d.1", "e"):
        audio(tmp_path / "s" / f"{name}.wav")
    paths = [grid(tmp_path / "s" / f"{name}.TextGrid") for name in ("a_b", "d_1", "e (2)")]
    link = linked(tmp_path / "eaf" / "x.eaf", 'RELATIVE_MEDIA_URL="../s/c.wav"')
    found, problems = find_recordings([tmp_path])
    by_name = {each.name: each for each in found}
    assert by_name["s/a b"].labels == {".textgrid": paths[0]} and by_name["s/c"].labels == {".eaf": link}
    assert by_name["s/d 1"].labels == {} and "perhaps these belong together" in str(by_name["s/d 1"].doubt)
    assert by_name["s/d 1"].doubt == by_name["s/d.1"].doubt
    assert [match.path for match in by_name["s/e"].more] == [paths[2]]
    assert sorted((each.file.name, each.used) for each in problems) == [("a_b.TextGrid", True), ("x.eaf", True)]
    (alone,), _ = find_recordings([tmp_path / "s" / "a b.wav"])
    assert alone.labels == {".textgrid": paths[0]}
