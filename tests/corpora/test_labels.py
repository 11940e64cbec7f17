"""Labelled intervals become segments; those that cannot be used are named with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.labels import Interval, Labels, check_labels
from mtl_speech.corpora.reading import read_corpus
from tests.corpora.label_folders import PLAIN, audio, one, raw_textgrid, reasons


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
    corpus = one(tmp_path, [(0, 0.1, ""), (0.1, 0.2, "p"), (0.2, 0.3, "breath"), (0.3, 1.0, "SIL")])
    assert len(corpus.utterances[0].segments) == 1
    assert corpus.problems == () and corpus.utterances[0].unknown == ()


@pytest.mark.parametrize("label", ["spn", "<unk>", "xxx", "[noise]", "Laughter", "UNK"])
def test_what_sounds_and_is_no_phoneme_is_unknown_and_told_once(tmp_path: Path, label: str) -> None:
    corpus = one(tmp_path, [(0, 0.1, label), (0.1, 0.2, "p"), (0.2, 0.3, label), (0.3, 1.0, "")])
    assert corpus.utterances[0].unknown == ((0.0, 0.1), (0.2, 0.3))
    (problem,) = corpus.problems
    assert problem.used and problem.count == 2 and f"'{label}': what sounds there is neither" in problem.reason


@pytest.mark.parametrize("label", ["o?", "(a)", "[a]", "a*", "xyz9", "?"])
def test_what_is_left_out_is_unknown(tmp_path: Path, label: str) -> None:
    corpus = one(tmp_path, [(0, 0.1, "p"), (0.1, 0.25, label), (0.25, 0.4, "a"), (0.4, 1.0, "")])
    assert corpus.utterances[0].unknown == ((0.1, 0.25),)
    assert [problem.used for problem in corpus.problems] == [False]


def test_intervals_that_cannot_be_used_are_unknown_where_they_lie_in_the_recording() -> None:
    """Overlapping ones with what both cover, one that runs out with what is inside, one without an extent with nothing."""
    spans = [
        (0.0, 0.1, "p"),
        (0.2, 0.4, "t"),
        (0.3, 0.5, "k"),
        (0.6, 0.6, "a"),
        (0.9, 1.4, "s"),
        (float("nan"), 0.8, "a"),
    ]
    intervals = [Interval(start, end, label, n) for n, (start, end, label) in enumerate(spans, 1)]
    found = check_labels(Labels(Path("a.TextGrid"), "phones", intervals), 1.0, "ipa")
    assert [(s.phoneme, s.start, s.end) for s in found.segments] == [("p", 0.0, 0.1)]
    assert found.unknown == ((0.2, 0.5), (0.9, 1.0))


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 90), st.integers(1, 20), st.sampled_from(["p", "a", "spn", "o?", ""])), max_size=9
    )
)
def test_labelled_time_is_in_a_segment_or_unknown(spans: list[tuple[int, int, str]]) -> None:
    """Each hundredth of a second that a label covers, silence apart; and nothing is in both."""
    intervals = [Interval(s / 100, (s + n) / 100, label, i) for i, (s, n, label) in enumerate(spans, 1)]
    found = check_labels(Labels(Path("a.TextGrid"), "phones", intervals), 1.0, "ipa")
    for place in (i / 100 + 0.003 for i in range(100)):
        said = any(each.start < place < each.end and each.label for each in intervals)
        known = any(segment.start < place < segment.end for segment in found.segments)
        unknown = any(start < place < end for start, end in found.unknown)
        assert (known or unknown) == said and not (known and unknown)
    assert list(found.unknown) == sorted(found.unknown)


def test_silence_past_the_end_is_no_problem_either(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.5, "a"), (0.5, 1.05, ""), (0.05, 0.04, "sil")])
    assert not corpus.problems
    assert [s.phoneme for s in corpus.utterances[0].segments] == ["a"]


def test_a_detached_modifier_joins_its_phoneme(tmp_path: Path) -> None:
    corpus = one(tmp_path, [(0.1, 0.2, "kː"), (0.2, 0.25, "ʰ"), (0.25, 0.4, "a"), (0.5, 0.6, "ʰ")])
    assert corpus.utterances[0].segments == (Segment("kʰː", 0.1, 0.25), Segment("a", 0.25, 0.4))
    assert [(place, used) for place, _, used in reasons(corpus)] == [(2, True), (4, False)]
