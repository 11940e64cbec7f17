"""A folder of audio and labels becomes a corpus; what is wrong in it is named by file, tier, interval and reason."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from pympi import Elan

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.corpora import ctm, reading, timit
from mtl_speech.corpora import folder as folder_module
from mtl_speech.corpora.corpus import Corpus, Segment
from mtl_speech.corpora.reading import language_folders, read_corpus, validate
from mtl_speech.corpora.textgrid import write_textgrid
from mtl_speech.phonology.languages import canonical

Span = tuple[float, float, str]
PLAIN: list[Span] = [(0.1, 0.3, "p"), (0.3, 0.5, "a")]


def audio(path: Path, seconds: float = 1.0, rate: int = 16_000, peak: float = 0.3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = peak * np.sin(np.arange(round(rate * seconds)) / 7)
    soundfile.write(path, wave, rate)
    return path


def raw_textgrid(path: Path, spans: list[Span], tier: str = "phones", duration: float = 1.0) -> None:
    """A TextGrid with whatever intervals, sound or not."""
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{duration}", "<exists>", "1"]
    body = ['"IntervalTier"', f'"{tier}"', "0", f"{duration}", f"{len(spans)}"]
    body += [part for start, end, label in spans for part in (f"{start}", f"{end}", f'"{label}"')]
    path.write_text("\n".join([*head, *body]).replace("inf", "1e999"), encoding="utf-8")


def one(folder: Path, spans: list[Span], **options: Any) -> Corpus:
    """The corpus of a single recording of one second with these intervals."""
    audio(folder / "s1" / "a.wav")
    raw_textgrid(folder / "s1" / "a.TextGrid", spans)
    return read_corpus(folder, **options)


def reasons(corpus: Corpus) -> list[tuple[int | None, str, bool]]:
    return [(problem.interval, problem.reason, problem.used) for problem in corpus.problems]


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


def test_overlapping_intervals(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.3, "p"), (0.2, 0.4, "a"), (0.4, 0.5, "t"), (0.49, 0.6, "i"), (0.5995, 0.7, "k")])
    segments = corpus.utterances[0].segments
    assert [segment.phoneme for segment in segments] == ["t", "i", "k"]
    assert segments[0].end == segments[1].start == pytest.approx(0.495)
    assert segments[1].end == segments[2].start == 0.5995
    told = reasons(corpus)
    assert [(place, used) for place, _, used in told] == [(1, False), (2, False), (4, True)]
    assert "'p' overlaps 'a' (interval 2)" in told[0][1]
    assert "10 ms" in told[2][1]


def test_an_interval_over_everything_makes_all_doubtful(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.0, 0.9, "a"), (0.1, 0.2, "p"), (0.5, 0.6, "t"), (0.9, 0.95, "k")])
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["k"]
    assert [place for place, _, used in reasons(corpus) if not used] == [1, 2, 3]


def test_intervals_out_of_order_are_sorted(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.5, 0.6, "a"), (0.1, 0.2, "p")])
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p", "a"]
    assert corpus.problems == ()


def test_intervals_past_the_end(tmp_path: Path) -> None:
    spans = [(0.1, 0.2, "p"), (0.9, 1.0004, "a"), (1.1, 1.2, "t")]
    corpus = one(tmp_path, spans)
    assert corpus.utterances[0].segments[-1] == Segment("a", 0.9, 1.0)
    assert [(place, used) for place, _, used in reasons(corpus)] == [(3, False)]
    assert "past the end of the audio at 1.000 s" in corpus.problems[0].reason
    for end, used in ((1.019, True), (1.021, False)):
        corpus = one(tmp_path, [(0.1, 0.2, "p"), (0.9, end, "a")])
        assert [(place, told) for place, _, told in reasons(corpus)] == [(2, used)]
        assert len(corpus.utterances[0].segments) == 1 + used
        assert all(segment.end <= 1.0 for segment in corpus.utterances[0].segments)


def test_an_interval_wholly_past_the_end_is_left_out_however_short(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.2, "p"), (1.005, 1.015, "a")])
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p"]
    assert [(place, used) for place, _, used in reasons(corpus)] == [(2, False)]


def test_labels_of_another_recording_are_suspected(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    for duration, n_problems in ((1.0, 0), (1.09, 0), (0.95, 0), (1.3, 1), (0.6, 1)):
        raw_textgrid(tmp_path / "a.TextGrid", PLAIN, duration=duration)
        problems = read_corpus(tmp_path).problems
        assert len(problems) == n_problems
        assert all("the recording has 1.00 s" in problem.reason and problem.used for problem in problems)


def test_intervals_that_cannot_be(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.2, "p"), (0.3, 0.3, "a"), (0.5, 0.4, "t"), (-0.5, 0.05, "k"), (0.7, np.inf, "s")])
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p"]
    assert [place for place, _, _ in reasons(corpus)] == [2, 3, 4, 5]
    assert "before the audio begins" in corpus.problems[2].reason
    assert "not a finite number" in corpus.problems[3].reason
    assert not any(problem.used for problem in corpus.problems)


def test_a_label_that_is_no_phoneme_is_named(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.2, "p"), (0.2, 0.3, "X9"), (0.3, 0.4, "word")])
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p"]
    first, second = corpus.problems
    assert (first.file.name, first.tier, first.interval, first.used) == ("a.TextGrid", "phones", 2, False)
    assert "'X9'" in first.reason
    assert "'word' is more than one" in second.reason


def test_silence_is_no_problem(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0, 0.1, ""), (0.1, 0.2, "p"), (0.2, 0.3, "spn"), (0.3, 1.0, "SIL")])
    assert len(corpus.utterances[0].segments) == 1
    assert corpus.problems == ()


def test_silence_past_the_end_is_no_problem_either(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.5, "a"), (0.5, 1.05, ""), (0.05, 0.04, "sil")])
    assert not corpus.problems
    assert [s.phoneme for s in corpus.utterances[0].segments] == ["a"]


def test_a_detached_modifier_joins_its_phoneme(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.2, "kː"), (0.2, 0.25, "ʰ"), (0.25, 0.4, "a"), (0.5, 0.6, "ʰ")])
    assert corpus.utterances[0].segments == (Segment("kʰː", 0.1, 0.25), Segment("a", 0.25, 0.4))
    assert [(place, used) for place, _, used in reasons(corpus)] == [(2, True), (4, False)]


def test_nothing_usable_leaves_the_recording_out(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.0, 1.0, "sil")])
    assert corpus.utterances == ()
    assert "no usable phoneme" in corpus.problems[0].reason


def test_partners_that_are_missing(tmp_path: Path) -> None:
    audio(tmp_path / "no-labels.wav")
    raw_textgrid(tmp_path / "no-audio.TextGrid", PLAIN)
    audio(tmp_path / "no-tier.wav")
    raw_textgrid(tmp_path / "no-tier.TextGrid", PLAIN, tier="notes")
    audio(tmp_path / "twice.flac")
    audio(tmp_path / "twice.wav")
    raw_textgrid(tmp_path / "twice.TextGrid", PLAIN)
    (tmp_path / "phone.m4a").write_bytes(b"x")
    corpus = read_corpus(tmp_path)
    assert [u.audio.name for u in corpus.utterances] == ["twice.flac"]
    told = {problem.file.name: problem.reason for problem in corpus.problems}
    assert set(told) == {"no-labels.wav", "no-audio.TextGrid", "no-tier.TextGrid", "twice.wav", "phone.m4a"}
    assert "no labels" in told["no-labels.wav"]
    assert "without a recording" in told["no-audio.TextGrid"]
    assert "no 'phones' tier (interval tiers: 'notes')" in told["no-tier.TextGrid"]
    assert "twice.flac is used" in told["twice.wav"]
    assert "convert" in told["phone.m4a"]


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
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["cut", "good", "nan", "silent"]
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


def test_the_order_in_which_the_disk_lists_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.wav", "a.flac", "s/b.wav", "s-1/b.wav", "s.2/b.wav"):
        audio(tmp_path / name)
        raw_textgrid((tmp_path / name).with_suffix(".TextGrid"), PLAIN)
    forwards = read_corpus(tmp_path)
    walk = os.walk
    monkeypatch.setattr(
        "os.walk",
        lambda *args, **options: ((root, dirs, sorted(names)[::-1]) for root, dirs, names in walk(*args, **options)),
    )
    assert read_corpus(tmp_path) == forwards
    assert forwards.utterances[0].audio.name == "a.flac"
    assert [u.id for u in forwards.utterances] == sorted(u.id for u in forwards.utterances)


def test_a_link_that_leads_back_does_not_loop(tmp_path: Path) -> None:
    audio(tmp_path / "s1" / "a.wav")
    raw_textgrid(tmp_path / "s1" / "a.TextGrid", PLAIN)
    (tmp_path / "s1" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["s1/a"]


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


TIMIT_PHN = (
    "0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 4800 ih\n4800 5600 tcl\n5600 8000 s\n8000 9600 ax-h\n9600 16000 h#\n"
)


@pytest.mark.parametrize("upper", [True, False])
def test_timit(tmp_path: Path, upper: bool) -> None:
    def cased(name: str) -> str:
        return name.upper() if upper else name

    folder = tmp_path / "dr1" / "fcjf0"
    folder.mkdir(parents=True)
    wave = 0.3 * np.sin(np.arange(16_000) / 7)
    soundfile.write(folder / cased("sa1.wav"), wave, 16_000, format="NIST", subtype="PCM_16")
    (folder / cased("sa1.phn")).write_text(TIMIT_PHN)
    (folder / cased("sa1.wrd")).write_text("1600 8000 jits\n")
    (folder / cased("sa1.txt")).write_text("0 16000 Jits.\n")
    corpus = read_corpus(tmp_path, "en")
    (utterance,) = corpus.utterances
    assert corpus.problems == ()
    assert utterance.speaker == "fcjf0"
    expected = [("d͡ʒ", 0.1, 0.2), ("ɪ", 0.2, 0.3), ("t", 0.3, 0.35), ("s", 0.35, 0.5), ("ə̥", 0.5, 0.6)]
    assert [(s.phoneme, s.start, s.end) for s in utterance.segments] == expected
    assert utterance.words == (("jits", 0.1, 0.5),)


def test_timit_copies_with_two_suffixes(tmp_path: Path) -> None:
    audio(tmp_path / "SA1.WAV.wav")
    (tmp_path / "SA1.PHN").write_text(TIMIT_PHN)
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["SA1"]


def test_a_closure_apart_from_its_release_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.phn"
    path.write_text("0 800 dcl\n900 1600 d\n1600 2400 tcl\n2400 3200 k\n")
    assert [phone.label for phone in timit.read_labels(path).phones] == ["dcl", "d", "tcl", "k"]


def test_bad_lines_of_timit(tmp_path: Path) -> None:
    path = tmp_path / "a.phn"
    path.write_text("0 1600 b\nx y z\n\n1600 3200\n3200 4800 iy\n")
    labels = timit.read_labels(path)
    assert [(phone.label, phone.number) for phone in labels.phones] == [("b", 1), ("iy", 5)]
    assert [problem.interval for problem in labels.problems] == [2, 4]
    path.write_text("hello\n")
    with pytest.raises(DataError, match="first-sample"):
        timit.read_labels(path)
    with pytest.raises(DataError, match="cannot be read"):
        timit.read_labels(tmp_path / "none.phn")


CTM = ";; comment\na 1 0.10 0.20 P_B 0.9\na 1 0.30 0.20 AA1_E\nb A 0.00 0.50 K\nc 1 0 0.1 T\nb A 0.9 nan T\nb A 0.95\n"


def test_ctm(tmp_path: Path) -> None:
    for name in ("a", "b"):
        audio(tmp_path / "s1" / f"{name}.wav")
    audio(tmp_path / "s1" / "d.wav")
    (tmp_path / "phones.ctm").write_text(CTM)
    (tmp_path / "words.ctm").write_text("a 1 0.1 0.4 pa\n")
    corpus = read_corpus(tmp_path, "en")
    assert {u.id: [s.phoneme for s in u.segments] for u in corpus.utterances} == {"s1/a": ["p", "ɑ"], "s1/b": ["k"]}
    assert corpus.utterances[0].segments[1] == Segment("ɑ", 0.3, 0.5)
    assert corpus.utterances[0].words == (("pa", 0.1, 0.5),)
    told = [str(problem).removeprefix(f"{tmp_path}/") for problem in corpus.problems]
    dropped = "positions in the word (_B, _I, _E, _S) of labels are dropped"
    assert len(told) == 6
    assert told[0].startswith("phones.ctm: names the recording 'c'")
    assert told[1].startswith("phones.ctm, interval 7: 'b A 0.95' is not")
    assert told[2] == f"phones.ctm, tier 'a', interval 2: {dropped}"
    assert told[3] == f"phones.ctm, tier 'a', interval 3: stress digits and {dropped}"
    assert told[4].startswith("phones.ctm, tier 'b', interval 6: 'T' has a time that is not a finite number")
    assert told[5].startswith("s1/d.wav: no labels")


def test_ctm_names_by_path_where_names_repeat(tmp_path: Path) -> None:
    for name in ("s1/a", "s2/a"):
        audio(tmp_path / f"{name}.wav")
    (tmp_path / "all.ctm").write_text("s1/a 1 0.1 0.2 p\na 1 0.1 0.2 p\n")
    corpus = read_corpus(tmp_path)
    assert [u.id for u in corpus.utterances] == ["s1/a"]
    assert any("recording 'a'" in problem.reason for problem in corpus.problems)
    (tmp_path / "all.ctm").write_text("nothing\n")
    with pytest.raises(DataError, match="start duration label"):
        ctm.read_labels(tmp_path / "all.ctm")
    assert "no line of the form" in read_corpus(tmp_path).problems[0].reason


def test_textgrid_is_preferred_and_that_is_told(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN)
    (tmp_path / "a.phn").write_text("0 8000 t\n")
    corpus = read_corpus(tmp_path)
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p", "a"]
    assert ["a.TextGrid is used" in problem.reason for problem in corpus.problems] == [True]


def eaf(path: Path, tier: str = "phones", label: str = "t") -> Path:
    made = Elan.Eaf()
    made.add_tier(tier)
    made.add_annotation(tier, 100, 300, label)
    made.to_file(str(path))
    return path


def test_labels_of_elan_are_read(tmp_path: Path) -> None:
    audio(tmp_path / "s1" / "a.wav")
    eaf(tmp_path / "s1" / "a.eaf")
    corpus = validate(tmp_path)
    assert corpus.problems == ()
    assert corpus.utterances[0].segments == (Segment("t", 0.1, 0.3),)


def test_of_a_textgrid_and_an_eaf_it_is_said_which_is_used(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    eaf(tmp_path / "a.eaf")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN)
    corpus = read_corpus(tmp_path)
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p", "a"]
    (problem,) = corpus.problems
    assert (problem.file.name, problem.used) == ("a.TextGrid", True)
    assert "is used; a.eaf, which has a tier 'phones' too, is not" in problem.reason


def test_the_one_with_phones_is_used_where_the_other_has_none(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    eaf(tmp_path / "a.eaf")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN, tier="notes")
    corpus = read_corpus(tmp_path)
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["t"]
    assert [(p.file.name, p.used) for p in corpus.problems] == [("a.TextGrid", True)]
    assert corpus.problems[0].reason.endswith("; a.eaf is used")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN)
    eaf(tmp_path / "a.eaf", "phones-pred")
    corpus = read_corpus(tmp_path)
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p", "a"]
    assert [(p.file.name, p.used) for p in corpus.problems] == [("a.eaf", True)]
    assert corpus.problems[0].reason.endswith("; a.TextGrid is used")


def test_machine_labels_are_never_taken_for_checked_ones(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        audio(tmp_path / f"{name}.wav")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN, tier="phones-pred")
    eaf(tmp_path / "b.eaf", "phones-pred")
    (tmp_path / "phones-pred.ctm").write_text("c 1 0.1 0.2 p 0.9\n")
    corpus = read_corpus(tmp_path)
    assert corpus.utterances == ()
    told = {problem.file.name: (problem.reason, problem.used) for problem in corpus.problems}
    for name in ("a.TextGrid", "b.eaf"):
        assert told[name] == (
            "the tier 'phones-pred' holds machine labels: check them and rename the tier to 'phones'",
            False,
        )
    assert "machine labels" in told["phones-pred.ctm"][0]
    assert "no labels" in told["c.wav"][0] and set(told) == {"a.TextGrid", "b.eaf", "c.wav", "phones-pred.ctm"}
    (tmp_path / "phones-pred.ctm").rename(tmp_path / "phones.ctm")
    assert [u.id for u in read_corpus(tmp_path).utterances] == ["c"]


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


def test_labels_apart_are_found_by_name_in_place_of_those_beside(tmp_path: Path) -> None:
    audio(tmp_path / "data" / "x" / "a.wav")
    audio(tmp_path / "data" / "x" / "b.wav")
    audio(tmp_path / "data" / "y" / "b.wav")
    raw_textgrid(tmp_path / "data" / "x" / "a.TextGrid", [(0.0, 0.5, "beside")])
    for name in ("other/a", "x/b", "b", "c"):  # by its name alone, by its path, and two of no one recording
        path = tmp_path / "labels" / f"{name}.TextGrid"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw_textgrid(path, PLAIN)
    corpus = read_corpus(tmp_path / "data", "en", labels=tmp_path / "labels")
    assert [u.id for u in corpus.utterances] == ["x/a", "x/b"]
    assert corpus.utterances[0].segments == corpus.utterances[1].segments
    texts = [str(problem).removeprefix(f"{tmp_path}/") for problem in corpus.problems]
    assert len(texts) == 2 and texts[0].startswith("data/y/b.wav: no labels")
    assert (
        texts[1] == "labels: label files that are of no recording, or not of one alone: 2, such as b.TextGrid; left out"
    )


def test_a_reader_stands_in_for_that_of_a_suffix(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    (tmp_path / "a.PHN").write_text(TIMIT_PHN)
    read = {".phn": timit.read_folded_labels}
    (plain,), (folded,) = (read_corpus(tmp_path, "en", "timit", readers=r).utterances for r in (None, read))
    assert [s.phoneme for s in plain.segments] == ["d͡ʒ", "ɪ", "t", "s", "ə̥"]
    assert [(s.phoneme, s.start) for s in folded.segments] == [("d͡ʒ", 0.15), ("ɪ", 0.2), ("s", 0.35), ("ə", 0.5)]
