"""TextGrids as Praat, the Montreal Forced Aligner and less careful tools write them."""

from __future__ import annotations

import codecs
import random
import resource
import time
from pathlib import Path

import pytest
from praatio import textgrid as praat

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.label_files.textgrid import long_form as written
from mtl_speech.corpora.label_files.textgrid import read_labels, read_textgrid, read_whole, write_textgrid

Span = tuple[float, float, str]
PHONES: list[Span] = [(0.0, 0.1, ""), (0.1, 0.25, "t̪ʰ"), (0.25, 0.4, "ə"), (0.4, 0.5, "ɽ")]
WORDS: list[Span] = [(0.0, 0.1, ""), (0.1, 0.5, 'ਠੜ ("x")')]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def long_form(tiers: dict[str, list[Span]], duration: float = 0.5) -> str:
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {duration} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for number, (name, spans) in enumerate(tiers.items(), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier" ', f"        name = {quoted(name)} "]
        lines += ["        xmin = 0 ", f"        xmax = {duration} ", f"        intervals: size = {len(spans)} "]
        for place, (start, end, label) in enumerate(spans, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {start} ", f"            xmax = {end} "]
            lines += [f"            text = {quoted(label)} "]
    return "\n".join(lines) + "\n"


def short_form(tiers: dict[str, list[Span]], duration: float = 0.5) -> str:
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "0",
        f"{duration}",
        "<exists>",
        f"{len(tiers)}",
    ]
    for name, spans in tiers.items():
        lines += ['"IntervalTier"', quoted(name), "0", f"{duration}", f"{len(spans)}"]
        lines += [part for start, end, label in spans for part in (f"{start}", f"{end}", quoted(label))]
    return "\n".join(lines) + "\n"


def saved(folder: Path, content: str | bytes, name: str = "a.TextGrid") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def spans(path: Path) -> dict[str, list[Span]]:
    return {tier.name: [(i.start, i.end, i.label) for i in tier.intervals] for tier in read_textgrid(path).tiers}


@pytest.mark.parametrize("form", [long_form, short_form])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8"),
        lambda text: codecs.BOM_UTF8 + text.encode("utf-8"),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.replace("\n", "\r\n").encode("utf-8"),
        lambda text: text.replace("\n", "\r").encode("utf-8"),
    ],
)
def test_every_form_and_encoding_reads_the_same(tmp_path: Path, form: object, encode: object) -> None:
    path = saved(tmp_path, encode(form({"words": WORDS, "phones": PHONES})))  # type: ignore[operator]
    grid = read_textgrid(path)
    assert grid.duration == 0.5
    assert grid.problems == ()
    assert spans(path) == {"words": WORDS, "phones": PHONES}
    assert [interval.number for interval in grid.tiers[1].intervals] == [1, 2, 3, 4]


def test_latin_1(tmp_path: Path) -> None:
    path = saved(tmp_path, long_form({"phones": [(0, 0.5, "æ")], "words": [(0, 0.5, "là")]}).encode("latin-1"))
    assert spans(path) == {"phones": [(0, 0.5, "æ")], "words": [(0, 0.5, "là")]}


def test_what_praat_allows(tmp_path: Path) -> None:
    """Comments, exponents, labels of several lines, point tiers between, negative zero."""
    text = (
        short_form({"phones": [(0, 0.5, "a")]})
        .replace("<exists>\n1", "<exists> ! tiers follow\n2")
        .replace("\n0\n", "\n-0\n")
    )
    point = '"TextTier"\n"clicks"\n0\n0.5\n2\n1e-1\n"x ! y"\n2.5E-1\n"two\nlines"\n'
    path = saved(tmp_path, text.replace('"IntervalTier"', point + '"IntervalTier"'))
    assert spans(path) == {"phones": [(0, 0.5, "a")]}
    assert read_textgrid(path).problems == ()


def test_agrees_with_praatio(tmp_path: Path) -> None:
    path = saved(tmp_path, long_form({"words": WORDS, "phones": PHONES}))
    theirs = praat.openTextgrid(str(path), includeEmptyIntervals=True)
    assert spans(path) == {name: [tuple(entry) for entry in theirs.getTier(name).entries] for name in theirs.tierNames}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a Praat TextGrid"),
        (b"hello", "not a Praat TextGrid"),
        (b"\x00" * 100, "not a Praat TextGrid"),
        (b"ooBinaryFile\x08TextGrid", "binary"),
        (b'File type = "ooTextFile"\nObject class = "Pitch 1"\n0\n1\n', "object class"),
        (b'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n"x"\n', "line 4: a number"),
        (b"\xff\xfeX", "not a Praat TextGrid"),
    ],
)
def test_what_is_no_textgrid(tmp_path: Path, content: bytes, said: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        read_textgrid(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_textgrid(tmp_path / "none.TextGrid")


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    text = long_form({"phones": PHONES, "words": WORDS})
    path = saved(tmp_path, text[: text.index("intervals [4]")])
    assert spans(path) == {"phones": PHONES[:3]}
    (problem,) = read_textgrid(path).problems
    assert "the file ends" in problem.reason
    assert "tier 1 of 2" in problem.reason
    assert not problem.used


def test_an_unescaped_quote_is_told_by_line(tmp_path: Path) -> None:
    text = short_form({"phones": PHONES}).replace('"ə"', '"ə"x"')
    (problem,) = read_textgrid(saved(tmp_path, text)).problems
    assert problem.reason.startswith("line 21: ")
    assert len(spans(tmp_path / "a.TextGrid")["phones"]) == 3


@pytest.mark.parametrize("claim", ["1000000000", "1e300", "1e999", "-5", "0"])
def test_a_claimed_count_reserves_nothing(tmp_path: Path, claim: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    text = short_form({"phones": PHONES}).replace("\n4\n", f"\n{claim}\n")
    grid = read_textgrid(saved(tmp_path, text))
    read_textgrid(saved(tmp_path, text.replace("<exists>\n1\n", f"<exists>\n{claim}\n")))
    assert time.monotonic() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB
    assert bool(grid.problems) == (float(claim) > 0)


def test_a_file_larger_than_any_textgrid(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="too large"):
        read_textgrid(path)


def test_a_hostile_file_takes_no_long_time(tmp_path: Path) -> None:
    begin = time.monotonic()
    for junk in ('"' * 200_000, "1" * 200_000, '""x' * 100_000, "1e" * 100_000, "! " * 100_000, "<exists" * 50_000):
        read_textgrid(saved(tmp_path, short_form({"phones": PHONES}).replace('"ə"', junk)))
    assert time.monotonic() - begin < 5


def test_any_damage_gives_a_textgrid_or_a_data_error(tmp_path: Path) -> None:
    draw = random.Random(0)
    whole = long_form({"words": WORDS, "phones": PHONES}).encode("utf-8")
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(raw))
            raw[place : place + draw.randint(0, 9)] = bytes(draw.randrange(256) for _ in range(draw.randint(0, 4)))
        try:
            read_labels(saved(tmp_path, bytes(raw)))
        except DataError as error:
            assert "a.TextGrid" in str(error)


@pytest.mark.parametrize("name", ["Phones", "phone", "PHONE", "phonemes", "anna - phones", "Segments"])
def test_a_phone_tier_under_a_near_name_is_used_and_told(tmp_path: Path, name: str) -> None:
    labels = read_labels(saved(tmp_path, long_form({"words": WORDS, name: PHONES})))
    assert [interval.label for interval in labels.phones] == ["", "t̪ʰ", "ə", "ɽ"]
    (problem,) = labels.problems
    assert problem.used
    assert name in str(problem)


def test_the_tier_called_phones_wins(tmp_path: Path) -> None:
    tiers = {"Phone": [(0, 0.5, "x")], "phones": PHONES, "word": WORDS}
    labels = read_labels(saved(tmp_path, long_form(tiers)))
    assert labels.tier == "phones"
    assert labels.problems == ()
    assert labels.words[1].label == 'ਠੜ ("x")'


def test_no_phone_tier(tmp_path: Path) -> None:
    for tiers in ({"words": WORDS, "syllables": PHONES}, {}):
        with pytest.raises(DataError, match="no 'phones' tier") as caught:
            read_labels(saved(tmp_path, long_form(tiers)))
        assert all(f"'{name}'" in str(caught.value) for name in tiers)


CHRONOLOGICAL = '''"Praat chronological TextGrid text file"
0 0.5   ! Time domain.
3   ! Number of tiers.
"IntervalTier" "words" 0 0.5
"TextTier" "clicks" 0 0.5
"IntervalTier" "phones" 0 0.5

! words:
1 0 0.5
"ਠ"

! phones:
3 0 0.25
"t̪ʰ"

2 0.2 "say ""ah"""
3 0.25 0.5
"ə"
'''


def test_a_chronological_textgrid(tmp_path: Path) -> None:
    path = saved(tmp_path, CHRONOLOGICAL)
    assert spans(path) == {"words": [(0, 0.5, "ਠ")], "phones": [(0, 0.25, "t̪ʰ"), (0.25, 0.5, "ə")]}
    assert read_labels(path).problems == ()
    whole = read_whole(path)
    assert [tier.kind for tier in whole.tiers] == ["IntervalTier", "TextTier", "IntervalTier"]
    assert whole.tiers[1].entries == (("0.2", 'say "ah"'),)
    assert read_whole(saved(tmp_path, written(whole), "b.TextGrid")) == whole


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("3 0.25 0.5", "4 0.25 0.5", "line 17: the number of a tier is expected, 1 to 3, not 4"),
        ("3 0.25 0.5", "0.5 0.25 0.5", "line 17: the number of a tier is expected"),
        ("3 0.25 0.5", '"3" 0.25 0.5', "line 17: a number expected, not '\"3\"'"),
        ("3 0.25 0.5", "3 0.25", "line 18: a number expected"),
        ('"ə"', "", "the file ends"),
    ],
)
def test_a_broken_chronological_textgrid(tmp_path: Path, old: str, new: str, said: str) -> None:
    (problem,) = read_labels(saved(tmp_path, CHRONOLOGICAL.replace(old, new))).problems
    assert said in problem.reason and not problem.used
    with pytest.raises(DataError, match="cannot be kept whole"):
        read_whole(tmp_path / "a.TextGrid")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"t̪ʰ"', '"t̪ʰ"x', "line 22: 'x' stands after a closing quote"),
        ('"t̪ʰ"', '"say "t̪ʰ""', "stands after a closing quote"),
        ('text = "t̪ʰ', "text = t̪ʰ", "(the text begins on line 22)"),
        ("xmax = 0.25", "xmax = 0,25", "line 21: a number expected, not '0,25'"),
        ("xmax = 0.25", "xmax = --undefined--", "line 21: a number expected, not '--undefined--'"),
        ("xmax = 0.25", "xmax = 0.25s", "line 21: a number expected, not '0.25s'"),
        ("xmax = 0.25", "xmax = ", "line 22: a number expected, not '\"t"),
        ('class = "IntervalTier', 'class = "LongSound', "a tier is expected, not 'LongSound'"),
    ],
)
def test_what_praat_refuses_is_told_by_line_never_as_a_missing_tier(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = long_form({"phones": PHONES, "words": WORDS})
    assert old in text
    for tiers in ({"phones": PHONES, "words": WORDS}, {"phones": PHONES}):
        path = saved(tmp_path, long_form(tiers).replace(old, new, 1))
        problems = [*read_textgrid(path).problems]
        assert said in problems[0].reason and not problems[0].used
        with pytest.raises(DataError, match="cannot be kept whole"):
            read_whole(path)
    first = long_form({"other": PHONES, "phones": PHONES}).replace(old, new, 1)
    with pytest.raises(DataError, match="line 2|line 11") as caught:
        read_labels(saved(tmp_path, first))
    assert "the tier of phones with it" in str(caught.value) and "no 'phones' tier" not in str(caught.value)


def test_what_praat_does_not_read_is_read_and_told(tmp_path: Path) -> None:
    for old, new, said in (
        ('text = "', 'text ="', "line 18: no blank before a quote"),
        (" 0.25 ", " .25 ", "line 21: a number that begins with a point"),
    ):
        labels = read_labels(saved(tmp_path, long_form({"phones": PHONES}).replace(old, new)))
        assert [phone.label for phone in labels.phones] == ["", "t̪ʰ", "ə", "ɽ"]
        assert [(said in problem.reason, problem.used) for problem in labels.problems] == [(True, True)]


def test_tiers_that_the_head_does_not_count_are_told(tmp_path: Path) -> None:
    text = long_form({"words": WORDS, "phones": PHONES}).replace("size = 2", "size = 1", 1)
    with pytest.raises(DataError, match="line 24: the end is expected.*the tier of phones with it"):
        read_labels(saved(tmp_path, text))
    text = long_form({"phones": PHONES, "words": WORDS}).replace("size = 2", "size = 1", 1)
    (problem,) = read_labels(saved(tmp_path, text)).problems
    assert "the end is expected" in problem.reason and not problem.used


def test_intervals_come_in_time_order(tmp_path: Path) -> None:
    labels = read_labels(saved(tmp_path, long_form({"phones": PHONES[::-1], "words": WORDS[::-1]})))
    assert [(each.label, each.number) for each in labels.phones] == [("", 4), ("t̪ʰ", 3), ("ə", 2), ("ɽ", 1)]
    assert [each.number for each in labels.words] == [2, 1]


def test_two_tiers_of_one_name(tmp_path: Path) -> None:
    text = long_form({"phones": PHONES, "other": [(0, 0.5, "x")]}).replace('"other"', '"phones"')
    labels = read_labels(saved(tmp_path, text))
    assert len(labels.phones) == 4
    assert "2 tiers" in labels.problems[0].reason


def test_written_files_are_read_by_both(tmp_path: Path) -> None:
    path = tmp_path / "out.TextGrid"
    tiers = {"phones": [(0.1, 0.25, "t̪ʰ"), (0.3, 0.4, 'a"b')], "words": []}
    write_textgrid(path, 0.5, tiers)
    assert path.read_bytes().startswith(b'File type = "ooTextFile"')
    assert spans(path)["phones"] == [
        (0, 0.1, ""),
        (0.1, 0.25, "t̪ʰ"),
        (0.25, 0.3, ""),
        (0.3, 0.4, 'a"b'),
        (0.4, 0.5, ""),
    ]
    assert spans(path)["words"] == [(0, 0.5, "")]
    theirs = praat.openTextgrid(str(path), includeEmptyIntervals=False)
    assert [tuple(entry) for entry in theirs.getTier("phones").entries] == tiers["phones"]
    assert theirs.maxTimestamp == 0.5
    assert [each.name for each in tmp_path.iterdir()] == ["out.TextGrid"]


@pytest.mark.parametrize(
    "bad", [[(0.2, 0.1, "a")], [(0, 0.3, "a"), (0.2, 0.4, "b")], [(0.4, 0.6, "a")], [(-0.1, 0.2, "a")]]
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, bad: list[Span]) -> None:
    path = tmp_path / "out.TextGrid"
    write_textgrid(path, 0.5, {"phones": PHONES})
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"out\.TextGrid"):
        write_textgrid(path, 0.5, {"phones": bad})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["out.TextGrid"]
