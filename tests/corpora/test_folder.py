"""Which labels belong to a recording, and which are used where there are several."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.reading import read_corpus, validate
from tests.corpora.label_folders import PLAIN, audio, eaf, raw_textgrid


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
    assert "'twice.flac' is used" in told["twice.wav"]
    assert "convert" in told["phone.m4a"]


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


def test_textgrid_is_preferred_and_that_is_told(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    raw_textgrid(tmp_path / "a.TextGrid", PLAIN)
    (tmp_path / "a.phn").write_text("0 8000 t\n")
    corpus = read_corpus(tmp_path)
    assert [segment.phoneme for segment in corpus.utterances[0].segments] == ["p", "a"]
    assert ["a.TextGrid is used" in problem.reason for problem in corpus.problems] == [True]


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
