"""Transcriptions as TextGrid, CTM and JSON: what a person made is kept to the letter, and others can read what is written."""

from __future__ import annotations

import codecs
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid as praat

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.label_files import label_lines
from mtl_speech.corpora.label_files.textgrid import TextGrid, Tier, long_form, read_whole
from mtl_speech.transcription.transcript import Phone, Transcription, ctm_lines, textgrid_text, transcription_json

FOUND = Transcription(
    0.5,
    (
        Phone("", 0.0, 0.1, 0.99),
        Phone("t̪ʰ", 0.1, 0.25, 0.874),
        Phone("ə", 0.25, 0.4, 0.406, zero_shot=True),
        Phone("", 0.4, 0.5, 0.9),
    ),
)
OURS = {
    "phones-pred": [("0", "0.1", ""), ("0.1", "0.25", "t̪ʰ"), ("0.25", "0.4", "ə"), ("0.4", "0.5", "")],
    "confidence": [("0", "0.1", ""), ("0.1", "0.25", "0.87"), ("0.25", "0.4", "0.41 zero-shot"), ("0.4", "0.5", "")],
}
# As careless tools write: two tiers of one name, points, an overlap, an interval without length, quotes, a blank before the name.
ODD = '''File type = "ooTextFile"
Object class = "TextGrid"
0 0.5000 <exists> 5   ! a comment
"IntervalTier" "phones" 0 0.5 3  0 0.10000000000000001 "p ""x""" 0.1 0.2 "a
b" 0.2 0.50 ""
"TextTier" "clicks" 0 0.5 2  1e-1 "x" 0.3 "!"
"IntervalTier" " words" 0 0.49999 2  0 0.3 "là" 0.2 0.4 "over"
"IntervalTier" "phones" 0 0.5 1  .25 .25 "nothing"
"TextTier" "clicks" -0 0.5 0
'''


def tiers(path: Path) -> list[Tier]:
    return list(read_whole(path).tiers)


def saved(folder: Path, content: str | bytes, name: str = "a.TextGrid") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_a_transcription_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, textgrid_text(FOUND))
    assert {tier.name: list(tier.entries) for tier in tiers(path)} == OURS
    grid = praat.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert grid.tierNames == ("phones-pred", "confidence") and grid.maxTimestamp == 0.5
    assert [tuple(entry) for entry in grid.getTier("phones-pred").entries] == [(0.1, 0.25, "t̪ʰ"), (0.25, 0.4, "ə")]
    assert [entry.label for entry in grid.getTier("confidence").entries] == ["0.87", "0.41 zero-shot"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("latin-1"),
        lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode("utf-8"),
    ],
)
def test_all_tiers_beside_are_kept_to_the_letter(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    beside = saved(tmp_path, encode(ODD))
    before = tiers(beside)
    assert [tier.kind for tier in before] == ["IntervalTier", "TextTier", "IntervalTier", "IntervalTier", "TextTier"]
    after = tiers(saved(tmp_path, textgrid_text(FOUND, beside), "out.TextGrid"))
    assert after[:5] == before
    assert before[2] == Tier("IntervalTier", " words", "0", "0.49999", (("0", "0.3", "là"), ("0.2", "0.4", "over")))
    assert before[0].entries[0] == ("0", "0.10000000000000001", 'p "x"')
    assert [tier.name for tier in after[5:]] == ["phones-pred", "confidence"]
    assert after[5].end == after[5].entries[-1][1] == "0.5000"
    again = textgrid_text(FOUND, tmp_path / "out.TextGrid")
    assert again.encode() == (tmp_path / "out.TextGrid").read_bytes()


def test_praatio_finds_the_tiers_beside_and_ours(tmp_path: Path) -> None:
    grid = praat.Textgrid(0.0, 0.5)
    grid.addTier(praat.IntervalTier("words", [(0.1, 0.4, "ਠ")], 0.0, 0.5))
    grid.addTier(praat.PointTier("tones", [(0.2, "H*")], 0.0, 0.5))
    grid.save(str(tmp_path / "a.TextGrid"), format="short_textgrid", includeBlankSpaces=True)
    path = saved(tmp_path, textgrid_text(FOUND, tmp_path / "a.TextGrid"), "out.TextGrid")
    found = praat.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="error")
    assert found.tierNames == ("words", "tones", "phones-pred", "confidence")
    assert found.getTier("tones") == grid.getTier("tones") and found.getTier("words") == grid.getTier("words")


def test_tiers_of_an_earlier_transcription_are_replaced(tmp_path: Path) -> None:
    beside = saved(tmp_path, textgrid_text(FOUND, saved(tmp_path, ODD)))
    new = Transcription(0.5, (Phone("m", 0.0, 0.5, 0.7),))
    after = tiers(saved(tmp_path, textgrid_text(new, beside)))
    assert after[:5] == tiers(saved(tmp_path, ODD))
    assert [(tier.name, *tier.entries) for tier in after[5:]] == [
        ("phones-pred", ("0", "0.5000", "m")),
        ("confidence", ("0", "0.5000", "0.70")),
    ]


def broken(text: str, old: str, new: str) -> bytes:
    assert old in text
    return text.replace(old, new).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (ODD[:300].encode(), "cannot be kept whole"),
        (broken(ODD, "<exists> 5", "<exists> 4"), "the end is expected"),
        (broken(ODD, "<exists> 5", "<exists> 6"), "the file ends"),
        (broken(ODD, "<exists> 5", "<exists> 1e300"), "the file ends"),
        (broken(ODD, "0.1 0.2 ", "0,1 0,2 "), "a number expected"),
        (b"ooBinaryFile\x08TextGrid", "binary"),
        (b"hello", "cannot be kept whole"),
        (ODD.replace("là", "ʃ").encode() + b"\xca", "neither UTF-8"),
        (codecs.BOM_UTF16_LE + ODD.encode("utf-16-le")[:-1], "neither UTF-8"),
        (broken(ODD, "0 0.5000", "0 0.8"), "is it the right one"),
        (broken(ODD, "0 0.5000", "5 5.5"), "is it the right one"),
        (broken(ODD, '" words"', '"confidence"'), "a tier 'confidence' of other content"),
        (broken(ODD, '"phones"', '"phones-pred"'), "2 tiers 'phones-pred'"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    beside = saved(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        textgrid_text(FOUND, beside)
    assert "a.TextGrid" in str(caught.value)


@pytest.mark.parametrize(("end", "last"), [("0.45", "0.45"), ("0.55", "0.55"), ("0.41", "0.41")])
def test_a_textgrid_that_is_a_little_longer_or_shorter_is_filled_to_its_end(
    tmp_path: Path, end: str, last: str
) -> None:
    beside = saved(tmp_path, f'"ooTextFile" "TextGrid" 0 {end} <exists> 1 "IntervalTier" "words" 0 {end} 1 0 {end} "x"')
    own = tiers(saved(tmp_path, textgrid_text(FOUND, beside)))[1]
    times = [(float(start), float(stop)) for start, stop, _ in own.entries]
    assert (times[0][0], own.entries[-1][1]) == (0.0, last)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(times))
    assert [label for *_, label in own.entries if label] == ["t̪ʰ", "ə"]


def beside_of(folder: Path, start: str, end: str, first: str = "x", last: str = "y") -> Path:
    middle = f"{(float(start) + float(end)) / 2:g}"
    tiers = f'"IntervalTier" "words" {start} {end} 2 {start} {middle} "{first}" {middle} {end} "{last}"'
    return saved(
        folder,
        f'"ooTextFile" "TextGrid" {start} {end} <exists> 2 {tiers} "TextTier" "clicks" {start} {end} 1 {middle} "!"',
    )


LATE = Transcription(0.5, (Phone("", 0, 0.45, 1), Phone("a", 0.45, 0.48, 0.5), Phone("k", 0.48, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("end", "reaches"),
    [
        ("0.42", True),
        ("0.401", True),
        ("0.48", True),
        ("0.47", True),
        ("0.495", False),
        ("0.5", False),
        ("0.52", False),
    ],
)
def test_a_phone_outside_the_textgrid_is_kept(tmp_path: Path, end: str, reaches: bool) -> None:
    beside = beside_of(tmp_path, "0", end)
    words, clicks, phones, _ = tiers(saved(tmp_path, textgrid_text(LATE, beside), "out.TextGrid"))
    assert [label for *_, label in phones.entries if label] == ["a", "k"]
    assert [label for *_, label in words.entries] == ["x", "y", ""] if reaches else ["x", "y"]
    assert words.entries[1][1] == end and clicks.entries == tiers(beside)[1].entries
    ends = {tier.end for tier in (words, clicks, phones)} | {words.entries[-1][1], phones.entries[-1][1]}
    assert ends == {"0.5" if reaches else end}
    grid = praat.openTextgrid(str(tmp_path / "out.TextGrid"), includeEmptyIntervals=True, reportingMode="error")
    assert grid.maxTimestamp == float("0.5" if reaches else end)


def test_the_last_silence_is_lengthened(tmp_path: Path) -> None:
    text = textgrid_text(LATE, beside_of(tmp_path, "0", "0.44", last=""))
    assert tiers(saved(tmp_path, text, "out.TextGrid"))[0].entries == (("0", "0.22", "x"), ("0.22", "0.5", ""))


def test_a_phone_before_the_textgrid_is_kept(tmp_path: Path) -> None:
    early = Transcription(0.5, (Phone("a", 0.0, 0.04, 0.5), Phone("k", 0.04, 0.5, 0.5)))
    out = saved(tmp_path, textgrid_text(early, beside_of(tmp_path, "0.05", "0.5")), "out.TextGrid")
    words, _, phones, _ = tiers(out)
    assert [entry[:2] for entry in phones.entries] == [("0", "0.04"), ("0.04", "0.5")]
    assert words.entries[0] == ("0", "0.05", "") and words.entries[1][0] == "0.05"


@pytest.mark.parametrize(("start", "end"), [("12.5", "13"), ("12.5", "12.98"), ("3.25", "3.76"), ("-1", "-0.5")])
def test_beside_a_textgrid_that_begins_late_the_phones_have_its_times(tmp_path: Path, start: str, end: str) -> None:
    _, _, phones, _ = tiers(saved(tmp_path, textgrid_text(FOUND, beside_of(tmp_path, start, end)), "out.TextGrid"))
    found = [(float(first), label) for first, _, label in phones.entries if label]
    assert found == [(pytest.approx(float(start) + 0.1), "t̪ʰ"), (pytest.approx(float(start) + 0.25), "ə")]
    assert (phones.start, phones.end) == (start, end)


@pytest.mark.parametrize(("start", "end"), [("12.5", "14"), ("0.3", "0.5"), ("0", "0.39"), ("0", "0.61")])
def test_a_textgrid_of_another_length_is_refused(tmp_path: Path, start: str, end: str) -> None:
    with pytest.raises(DataError, match="is it the right one"):
        textgrid_text(FOUND, beside_of(tmp_path, start, end))


labels = st.text(st.characters(exclude_characters="\ufffd", exclude_categories=("Cs", "Cc")), max_size=8)
numerals = st.sampled_from(["0", "-0", "1e-3", ".5", "0.30000000000000004", "12.", "7"])
intervals = st.tuples(numerals, numerals, labels)
points = st.tuples(numerals, labels)
any_tier = st.one_of(
    st.builds(Tier, st.just("IntervalTier"), labels, numerals, numerals, st.lists(intervals, max_size=3).map(tuple)),
    st.builds(Tier, st.just("TextTier"), labels, numerals, numerals, st.lists(points, max_size=3).map(tuple)),
)


@given(st.builds(TextGrid, numerals, numerals, st.lists(any_tier, max_size=3).map(tuple)))
def test_any_textgrid_is_written_as_it_was_read(grid: TextGrid) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read_whole(saved(Path(folder), long_form(grid))) == grid


def test_ctm_is_read_back(tmp_path: Path) -> None:
    path = saved(tmp_path, ctm_lines(FOUND, "s1/a"), "a.ctm")
    lines = [";; s1/a: zero-shot: ə", "s1/a 1 0.100 0.150 t̪ʰ 0.874", "s1/a 1 0.250 0.150 ə 0.406"]
    assert path.read_text(encoding="utf-8").splitlines() == lines
    found, problems = label_lines.read_ctm(path)
    assert problems == () and [phone.label for phone in found["s1/a"].phones] == ["t̪ʰ", "ə"]
    with pytest.raises(DataError, match="has a blank"):
        ctm_lines(FOUND, "my recording")


def test_json_has_everything() -> None:
    data = json.loads(transcription_json(FOUND, "s1/a", "sw-0"))
    assert (data["format"], data["recording"], data["pack"]) == ("mtl_speech.transcription/1", "s1/a", "sw-0")
    assert data["duration"] == 0.5 and len(data["phones"]) == 4
    assert data["phones"][2] == {"phoneme": "ə", "start": 0.25, "end": 0.4, "confidence": 0.406, "zero_shot": True}
