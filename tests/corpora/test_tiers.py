"""Tiers of phones and words by name, pattern or the names of known tools; several speakers in one file; files that begin late."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mtl_speech.core.errors import DataError
from mtl_speech.corpora import spans
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.label_files import elan, textgrid
from mtl_speech.corpora.label_files.clock import from_begin
from mtl_speech.corpora.label_files.tiers import MAX_SPEAKERS, labels_of_tiers, of_all_speakers
from mtl_speech.corpora.labels import Interval, Labels, MissingPhones
from mtl_speech.corpora.reading import read_corpus, validate
from tests.corpora.label_folders import audio
from tests.corpora.test_elan import simple_eaf

Spans = list[tuple[float, float, str]]
PHONES: Spans = [(0.0, 0.1, ""), (0.1, 0.3, "t"), (0.3, 0.5, "a"), (0.5, 1.0, "")]
LATER: Spans = [(0.0, 0.6, ""), (0.6, 0.7, "k"), (0.7, 0.9, "o"), (0.9, 1.0, "")]
WORDS: Spans = [(0.0, 0.1, ""), (0.1, 0.5, "ta"), (0.5, 1.0, "")]
SILENT: Spans = [(0.0, 1.0, "")]
OTHER: Spans = [(0.0, 1.0, "p")]


def grid(path: Path, tiers: dict[str, Spans], begin: float = 0.0, end: float = 1.0) -> Path:
    """A TextGrid with these tiers."""
    made = [
        textgrid.Tier(
            textgrid.INTERVALS, name, f"{begin}", f"{end}", tuple((f"{a}", f"{b}", label) for a, b, label in those)
        )
        for name, those in tiers.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textgrid.long_form(textgrid.TextGrid(f"{begin}", f"{end}", tuple(made))), encoding="utf-8")
    return path


def corpus_of(folder: Path, tiers: dict[str, Spans], tier: str | None = None, phone_set: str = "auto") -> Corpus:
    audio(folder / "s1" / "a.wav")
    grid(folder / "s1" / "a.TextGrid", tiers)
    return read_corpus(folder, "und", phone_set, tier)


def eaf_of(path: Path, tiers: dict[str, Spans]) -> Path:
    return simple_eaf(path, {n: [(int(1000 * a), int(1000 * b), x) for a, b, x in t if x] for n, t in tiers.items()})


def phones(labels: Labels) -> list[str]:
    return [each.label for each in labels.phones if each.label]


@pytest.mark.parametrize(
    ("tool", "tier", "words", "speaker"),
    [
        ("MFA", "phones", "words", ""),
        ("MFA", "anna - phones", "anna - words", "anna"),
        ("WebMAUS", "MAU", "ORT-MAU", ""),
        ("WebMAUS", "MAU", "ORT", ""),
        ("WebMAUS", "MAU", "KAN-MAU", ""),
        ("WebMAUS", "MAU", "KAN", ""),
        ("DoReCo", "ph@A01", "wd@A01", "A01"),
        ("LaBB-CAT", "segment", "word", ""),
        ("LaBB-CAT", "segment - anna", "word - anna", "anna"),
        ("LaBB-CAT", "anna - segment", "anna - word", "anna"),
        ("EasyAlign", "phones", "words", ""),
        ("SPPAS", "PhonAlign", "TokensAlign", ""),
        ("Charsiu", "phones", "words", ""),
        ("none", "Phones", "Words", ""),
        ("none", "phones@anna", "words@anna", "anna"),
    ],
)
def test_the_names_of_known_tools(tmp_path: Path, tool: str, tier: str, words: str, speaker: str) -> None:
    tiers = {"ref": OTHER, words: WORDS, "syll": OTHER, tier: PHONES, "phono": OTHER}
    for labels in (
        textgrid.read_labels(grid(tmp_path / "a.TextGrid", tiers)),
        elan.read_labels(eaf_of(tmp_path / "a.eaf", tiers)),
    ):
        assert phones(labels) == ["t", "a"] and [w.label for w in labels.words if w.label] == ["ta"]
        assert (labels.tier, labels.speaker, labels.more) == (tier, speaker, ())
        told = [problem.reason for problem in labels.problems]
        assert all(problem.used for problem in labels.problems)
        assert bool(told) == (tier != "phones") and all(tier in reason or words in reason for reason in told)
        if tool in ("WebMAUS", "DoReCo", "SPPAS"):
            assert f"a name of {tool}" in told[0] and f"'{words}' is taken as the tier 'words'" in told[1]


def test_a_tier_by_its_name_or_a_pattern(tmp_path: Path) -> None:
    path = grid(tmp_path / "a.TextGrid", {"phones": OTHER, "Laute": PHONES, "L*": LATER, "words": WORDS})
    for tier, found in {
        "Laute": ["t", "a"],
        "L*": ["k", "o"],
        "La*": ["t", "a"],
        "laut?": ["t", "a"],
        "phones": ["p"],
    }.items():
        labels = textgrid.read_labels(path, tier)
        assert phones(labels) == found and labels.more == () and len(labels.words) == 3
        assert len(labels.problems) == (tier not in ("Laute", "L*", "phones"))
    for tier in ("lautschrift", "L", "?", "[L]aute"):
        with pytest.raises(MissingPhones, match=r"no tier '.*' \(interval tiers: 'phones', 'Laute', 'L\*', 'words'\)"):
            textgrid.read_labels(path, tier)


def test_machine_labels_are_never_taken(tmp_path: Path) -> None:
    path = grid(tmp_path / "a.TextGrid", {"phones-pred": PHONES, "confidence": OTHER})
    for tier in (None, "phones-pred"):
        with pytest.raises(MissingPhones, match="machine labels: check them"):
            textgrid.read_labels(path, tier)
    with pytest.raises(MissingPhones, match="no tier 'phones"):
        textgrid.read_labels(path, "phones*")


def test_several_speakers_are_utterances_of_their_own(tmp_path: Path) -> None:
    tiers = {
        "bea - words": SILENT,
        "bea - phones": LATER,
        "anna - words": WORDS,
        "anna - phones": PHONES,
        "eve - phones": SILENT,
    }
    corpus = corpus_of(tmp_path, tiers)
    anna, bea = corpus.utterances
    assert (anna.id, anna.speaker, bea.id, bea.speaker) == ("s1/a@anna", "anna", "s1/a@bea", "bea")
    assert anna.audio == bea.audio and corpus.seconds == 1.0
    assert [s.phoneme for s in anna.segments] == ["t", "a"] and [s.phoneme for s in bea.segments] == ["k", "o"]
    assert [w[0] for w in anna.words] == ["ta"] and bea.words == ()
    assert anna.unknown == ((0.6, 0.9),) and bea.unknown == ((0.1, 0.5),)
    assert [p.used for p in corpus.problems] == [True, True]
    assert validate(tmp_path) == corpus


def test_speakers_of_elan_tiers_and_of_a_pattern(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    eaf_of(tmp_path / "a.eaf", {"Ph_ann": PHONES, "Ph_bo": LATER, "gloss": OTHER})
    with_pattern = read_corpus(tmp_path, tier="Ph_*").utterances
    assert [(u.id, u.speaker) for u in with_pattern] == [("a@ann", "ann"), ("a@bo", "bo")]
    assert not read_corpus(tmp_path).utterances
    eaf_of(tmp_path / "a.eaf", {"ph@ann": PHONES, "ph@bo": LATER, "wd@ann": WORDS})
    both = read_corpus(tmp_path).utterances
    assert [(u.id, len(u.words)) for u in both] == [("a@ann", 1), ("a@bo", 0)]
    (alone,) = read_corpus(tmp_path, tier="ph@bo").utterances
    assert (alone.id, alone.speaker, alone.unknown) == ("a", "bo", ((0.1, 0.5),))


def test_speech_at_once_is_known_to_neither_but_own_phones_are(tmp_path: Path) -> None:
    long: Spans = [(0.2, 0.4, "o"), (0.4, 0.8, "spn")]
    anna, bea = corpus_of(tmp_path, {"phones@anna": PHONES, "phones@bea": long}).utterances
    assert anna.unknown == ((0.5, 0.8),)  # what nobody wrote down is heard too
    assert bea.unknown[0] == (0.1, 0.2) and bea.unknown[-1][1] == 0.8, "her own that nobody wrote down, too"


def test_a_speaker_alone_is_the_tiers(tmp_path: Path) -> None:
    (utterance,) = corpus_of(tmp_path, {"anna - phones": PHONES, "bea - phones": SILENT}).utterances
    assert (utterance.id, utterance.speaker, utterance.unknown) == ("s1/a", "anna", ())
    (utterance,) = corpus_of(tmp_path, {"phones": PHONES}).utterances
    assert (utterance.id, utterance.speaker) == ("s1/a", "s1")


def test_an_empty_twin_is_passed_over_and_told(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, {"phones": SILENT, "phones@anna": PHONES})
    assert [s.phoneme for s in corpus.utterances[0].segments] == ["t", "a"]
    assert any("tier 'phones' has no labels: 'phones@anna' is used" in p.reason for p in corpus.problems)
    corpus = corpus_of(tmp_path, {"phones": PHONES, "phones@anna": OTHER})
    assert [s.phoneme for s in corpus.utterances[0].segments] == ["t", "a"]
    (problem,) = corpus.problems
    assert problem.reason == "tier 'phones' is used, not 'phones@anna': choose by --tier"
    corpus = corpus_of(tmp_path, {"phones@anna": PHONES, "anna - phones": OTHER})
    assert any("a second tier of the speaker 'anna'" in p.reason and not p.used for p in corpus.problems)


def test_a_name_that_another_recording_has_is_not_given_twice(tmp_path: Path) -> None:
    audio(tmp_path / "s1" / "a@anna.wav")
    grid(tmp_path / "s1" / "a@anna.TextGrid", {"phones": PHONES})
    corpus = corpus_of(tmp_path, {"phones@anna": PHONES, "phones@b/c": LATER})
    assert [u.id for u in corpus.utterances] == ["s1/a@anna", "s1/a@b_c"]
    assert any("is the name of another recording" in p.reason and not p.used for p in corpus.problems)


def test_x_sampa_of_tools_that_write_it(tmp_path: Path) -> None:
    sampa: Spans = [(0.1, 0.3, "E"), (0.3, 0.5, "@"), (0.5, 1.0, "<p:>")]
    assert [s.phoneme for s in corpus_of(tmp_path, {"MAU": sampa}).utterances[0].segments] == ["ɛ", "ə"]
    assert [s.phoneme for s in corpus_of(tmp_path, {"ph@A": sampa}).utterances[0].segments] == ["ɛ", "ə"]
    ipa: Spans = [(0.1, 0.3, "ɛ"), (0.3, 0.5, "y"), (0.5, 0.7, "ə")]
    assert [s.phoneme for s in corpus_of(tmp_path, {"MAU": ipa}).utterances[0].segments] == ["ɛ", "y", "ə"]


def test_all_speakers_are_one_for_a_score() -> None:
    first, second = (tuple(Interval(*each, number) for number, each in enumerate(t)) for t in (PHONES[1:3], LATER[1:3]))
    labels = labels_of_tiers(Path("a"), [("phones@b", second), ("phones@a", first)], "tiers")
    assert [p.label for p in of_all_speakers(labels).phones] == ["t", "a", "k", "o"]


def test_a_milliard_of_speakers_is_refused_at_once() -> None:
    begin = time.monotonic()
    one = (Interval(0, 1, "a", 1),)
    with pytest.raises(DataError, match="more than any recording has|tiers are taken"):
        labels_of_tiers(Path("a"), [(f"phones@{n}", one) for n in range(20_000)], "tiers")
    for pattern in ("*a*a*a*a*a*b", "?*?*?*?*"):
        labels_of_tiers(
            Path("a"), [("phones", one), *((f"{'a' * 900}{n}", one) for n in range(3))], "tiers", tier="ph*"
        )
        with pytest.raises((MissingPhones, DataError)):
            labels_of_tiers(Path("a"), [("a" * 5000, one)], "tiers", tier=pattern)
    assert time.monotonic() - begin < 5 and MAX_SPEAKERS < 20_000


# Files that do not begin where their recording does


def shifted(those: Spans, by: float) -> Spans:
    return [(start + by, end + by, label) for start, end, label in those]


def recording(folder: Path, begin: float, end: float, phones: Spans, seconds: float = 1.0) -> Corpus:
    audio(folder / "a.wav", seconds)
    grid(folder / "a.TextGrid", {"words": shifted(WORDS, begin), "phones": phones}, begin, end)
    return read_corpus(folder)


@pytest.mark.parametrize("begin", [12.5, 0.3, -2.0, 1000.25])
def test_a_textgrid_that_begins_late_is_shifted_and_told(tmp_path: Path, begin: float) -> None:
    corpus = recording(tmp_path, begin, begin + 1, shifted(PHONES, begin))
    (utterance,) = corpus.utterances
    assert [(s.phoneme, round(s.start, 6), round(s.end, 6)) for s in utterance.segments] == [
        ("t", 0.1, 0.3),
        ("a", 0.3, 0.5),
    ]
    assert [(word, round(start, 6)) for word, start, _ in utterance.words] == [("ta", 0.1)] and utterance.unknown == ()
    (problem,) = corpus.problems
    assert problem.used and f"begins at {begin:.2f} s, not at 0" in problem.reason and "shifted" in problem.reason


@pytest.mark.parametrize(("begin", "end"), [(12.5, 14.5), (12.5, 13.0), (0.3, 0.6), (-0.5, 1.0)])
def test_a_textgrid_that_begins_late_and_does_not_fit_is_refused_with_that_reason(
    tmp_path: Path, begin: float, end: float
) -> None:
    corpus = recording(tmp_path, begin, end, [(begin, end, "a")])
    assert not corpus.utterances
    (problem,) = corpus.problems
    assert (
        f"begins at {begin:.2f} s, not at 0, and ends at {end:.2f} s, which fits no recording of 1.00 s"
        in problem.reason
    )
    assert problem.file.name == "a.TextGrid" and not problem.used


def test_a_textgrid_of_the_last_part_of_its_recording(tmp_path: Path) -> None:
    corpus = recording(tmp_path, 1.5, 2.5, shifted(PHONES, 1.5), seconds=2.5)
    (utterance,) = corpus.utterances
    assert [(s.phoneme, s.start) for s in utterance.segments] == [("t", 1.6), ("a", 1.8)]
    assert utterance.unknown == ((0.0, 1.5),) and "has no labels" in corpus.problems[0].reason


def test_labels_that_begin_at_0_are_as_they_are() -> None:
    for begin, end in ((0.0, 1.0), (0.0, 5.0), (0.0005, 1.0), (0.05, 1.0), (0.05, 9.0)):
        labels = Labels(Path("a"), "phones", (Interval(0.1, 0.2, "a", 1),), duration=end, begin=begin)
        assert from_begin(labels, 1.0) == labels


def test_a_head_that_says_so_alone_shifts_nothing(tmp_path: Path) -> None:
    """Where the tiers begin at 0 all the same, their times are the recording's."""
    audio(tmp_path / "a.wav")
    path = grid(tmp_path / "a.TextGrid", {"phones": PHONES})
    path.write_text(path.read_text().replace("xmin = 0.0", "xmin = 12.5", 1).replace("xmax = 1.0", "xmax = 13.5", 1))
    (utterance,) = read_corpus(tmp_path).utterances
    assert [s.start for s in utterance.segments] == [0.1, 0.3]


# Stretches of time


def test_stretches_are_joined_and_taken_out() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        one, other = (
            [tuple(sorted(pair)) for pair in draw.integers(0, 30, (n, 2)).tolist()] for n in draw.integers(0, 6, 2)
        )
        inside = [{x for a, b in those for x in range(a, b)} for those in (one, other)]
        joined, apart = spans.union(one), spans.without(spans.union(one), spans.union(other))
        assert {x for a, b in joined for x in range(int(a), int(b))} == inside[0]
        assert {x for a, b in apart for x in range(int(a), int(b))} == inside[0] - inside[1]
        assert all(a[1] < b[0] for a, b in itertools.pairwise(joined)) and list(apart) == sorted(apart)
    assert spans.union([(0, np.nan), (1, 1), (2, np.inf), (0, 1)]) == ((0, 1),)
    assert spans.within([(-1, 0.5), (2, 9)], 3) == ((0, 0.5), (2, 3))


def test_ctm_and_timit_lines_in_any_order(tmp_path: Path) -> None:
    lines = ["a 1 0.3 0.2 a", "a 1 0.7 0.1 o", "a 1 0.1 0.2 t", "a 1 0.6 0.1 k"]
    timit = ["4800 8000 iy", "1600 3200 dcl", "8000 9600 t", "3200 4800 jh"]
    words = ["4800 8000 b", "1600 4800 a"]
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(np.arange(16_000) / 7), 16_000)
    for order in itertools.permutations(range(4)):
        (tmp_path / "x.ctm").write_text("\n".join(lines[i] for i in order))
        assert [s.phoneme for s in read_corpus(tmp_path).utterances[0].segments] == ["t", "a", "k", "o"]
        (tmp_path / "x.ctm").unlink()
        (tmp_path / "a.PHN").write_text("\n".join(timit[i] for i in order))
        (tmp_path / "a.WRD").write_text("\n".join(words))
        (utterance,) = read_corpus(tmp_path, phone_set="timit").utterances
        assert [(s.phoneme, s.start) for s in utterance.segments] == [("d͡ʒ", 0.1), ("i", 0.3), ("t", 0.5)]
        assert [word for word, *_ in utterance.words] == ["a", "b"]
        (tmp_path / "a.PHN").unlink()
