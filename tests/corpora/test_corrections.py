"""What a person corrected: every phone is told of once, and a recording is known again under another name."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtl_speech.core.errors import DataError
from mtl_speech.core.terminal import plain_text
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.corrections import (
    SAME_TIME,
    Change,
    Changes,
    Recording,
    against_machine,
    align,
    changes_csv,
    changes_table,
    compare,
    examples_json,
    examples_of,
    machine_sentence,
    read_examples,
    sentence,
    summary,
)
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.reading import read_corpus
from tests.helpers import toy_recording


def tier(text: str, length: float = 0.1) -> tuple[Segment, ...]:
    """Phones one after another, one a letter, a dot being silence."""
    return tuple(Segment(c, round(length * i, 6), round(length * (i + 1), 6)) for i, c in enumerate(text) if c != ".")


def kinds(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> list[str]:
    return [change.kind for change in align("r", before, after)]


# Phones


def test_equal_tiers_are_the_same() -> None:
    assert kinds(tier("abc"), tier("abc")) == ["same"] * 3
    assert kinds((), ()) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("abc", "abk", ["same", "same", "relabelled"]),
        ("a.c", "abc", ["same", "added", "same"]),
        ("abc", "a.c", ["same", "removed", "same"]),
        ("", "ab", ["added", "added"]),
        ("ab", "", ["removed", "removed"]),
        ("a.", ".a", ["removed", "added"]),  # the same label elsewhere is another phone
    ],
)
def test_phones_are_added_removed_and_relabelled(before: str, after: str, expected: list[str]) -> None:
    assert kinds(tier(before), tier(after)) == expected


def test_a_boundary_that_moves_moves_both_its_phones_and_a_millisecond_is_no_move() -> None:
    before = (Segment("a", 0.0, 0.1), Segment("b", 0.1, 0.2))
    for shift, expected in ((0.0, "same"), (0.001, "same"), (-0.001, "same"), (0.002, "moved"), (-0.03, "moved")):
        after = (Segment("a", 0.0, 0.1 + shift), Segment("b", 0.1 + shift, 0.2))
        changes = align("r", before, after)
        assert [c.kind for c in changes] == [expected] * 2
        assert [c.shift for c in changes] == pytest.approx([abs(shift)] * 2)


def test_a_phone_that_was_divided_keeps_the_part_with_its_label() -> None:
    before, after = (Segment("t", 0.0, 0.2),), (Segment("s", 0.0, 0.12), Segment("t", 0.12, 0.2))
    changes = align("r", before, after)
    assert [(c.kind, c.after) for c in changes] == [("added", after[0]), ("moved", after[1])]
    joined = align("r", after, before)
    assert [(c.kind, c.before) for c in joined] == [("removed", after[0]), ("moved", after[1])]


def test_a_boundary_far_off_does_not_shift_all_that_follows() -> None:
    before = tier("abcd")
    after = (Segment("a", 0.0, 0.16), Segment("b", 0.16, 0.2), *before[2:])
    assert kinds(before, after) == ["moved", "moved", "same", "same"]


segments = st.lists(st.tuples(st.floats(0.002, 0.3), st.sampled_from("abc."))).map(
    lambda steps: tuple(
        Segment(label, start, end)
        for (start, end), (_, label) in zip(
            pairwise([0.0, *(sum(s for s, _ in steps[: i + 1]) for i in range(len(steps)))]), steps, strict=True
        )
        if label != "."
    )
)


@given(segments, segments)
def test_each_phone_is_in_one_change_and_pairs_overlap_in_order(
    before: tuple[Segment, ...], after: tuple[Segment, ...]
) -> None:
    changes = align("r", before, after)
    assert sorted((c.before for c in changes if c.before), key=lambda s: s.start) == list(before)
    assert sorted((c.after for c in changes if c.after), key=lambda s: s.start) == list(after)
    pairs = sorted((c for c in changes if c.before and c.after), key=lambda c: c.before.start)  # type: ignore[union-attr]
    for c in pairs:
        assert c.before and c.after and c.before.start < c.after.end and c.after.start < c.before.end
    places = [c.after.start for c in pairs if c.after]
    assert places == sorted(places)


def worth(changes: list[Change]) -> float:
    """What a pairing adds up to, by the words of `align`."""
    total = 0.0
    for c in changes:
        if c.before and c.after:
            common = min(c.before.end, c.after.end) - max(c.before.start, c.after.start)
            whole = max(c.before.end, c.after.end) - min(c.before.start, c.after.start)
            total += common / whole + 0.5 * (c.before.phoneme == c.after.phoneme)
    return total


def all_pairings(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> list[list[Change]]:
    if not before:
        return [[]]
    found = list(all_pairings(before[1:], after))
    for j, new in enumerate(after):
        if new.start < before[0].end and before[0].start < new.end:
            found += [[Change("r", before[0], new), *rest] for rest in all_pairings(before[1:], after[j + 1 :])]
    return found


@given(segments.filter(lambda s: len(s) < 6), segments.filter(lambda s: len(s) < 6))
def test_the_best_pairing_is_found(before: tuple[Segment, ...], after: tuple[Segment, ...]) -> None:
    assert worth(align("r", before, after)) == pytest.approx(max(map(worth, all_pairings(before, after))))


# Recordings


def test_recordings_are_known_again_by_content_and_else_by_name() -> None:
    before = {name: Recording(name, tier("ab")) for name in "vwxy"}
    after = {
        "v": Recording("v", tier("ab")),
        "new-w": Recording("w", tier("ak")),
        "x": Recording("x, cut", tier("ab")),
        "z": Recording("z", tier("ccc")),
    }
    changes = compare(before, after)
    assert changes.n_recordings == 3
    assert (changes.added, changes.removed) == (("z",), ("y",))
    assert (changes.renamed, changes.new_audio) == ((("w", "new-w"),), ("x",))
    assert [(c.recording, c.kind) for c in changes.phones if c.kind != "same"] == [("new-w", "relabelled")]
    assert changes.counts == {"same": 5, "relabelled": 1}, "phones of recordings that are new or gone do not count"


def test_two_recordings_that_change_names_are_told_apart() -> None:
    before = {"x": Recording("1", tier("a")), "y": Recording("2", tier("b"))}
    after = {"x": Recording("2", tier("b")), "y": Recording("1", tier("a"))}
    changes = compare(before, after)
    assert changes.renamed == (("x", "y"), ("y", "x")) and changes.counts == {"same": 2}


def test_copies_of_one_recording_do_not_hide_each_other() -> None:
    before = {"x": Recording("1", tier("a"))}
    changes = compare(before, {"x": before["x"], "copy": before["x"]})
    assert changes.added == ("copy",) and not changes.renamed and changes.any


def test_nothing_changed() -> None:
    same = {"x": Recording("1", tier("ab"))}
    changes = compare(same, dict(same))
    assert not changes.any and sentence(changes) == "nothing changed"


# What is written and said


CHANGED = Changes(
    (
        *align("r/1", tier("aba"), tier("aka")),
        *align("r/2", tier("bb."), tier("kbs")),
        Change("r/3", Segment("a", 0.1, 0.2), Segment("a", 0.1, 0.23)),
    ),
    n_recordings=3,
    renamed=(("old", "r/3"),),
)


def test_summary_counts_and_names() -> None:
    assert summary(CHANGED) == [
        ("recordings in both", 3, ""),
        ("recordings renamed", 1, "old → r/3"),
        ("phones same", 3, ""),
        ("phones added", 1, "s 1"),
        ("phones relabelled", 2, "b → k 2"),
        ("phones moved", 1, "by 30 ms (median), at most 30 ms"),
    ]
    text = plain_text(changes_table(CHANGED))
    assert "Labels against the earlier run" in text and "phones relabelled   2  b → k 2" in text


def test_the_sentence_names_no_recording() -> None:
    """It goes into the notes of a pack."""
    text = sentence(CHANGED)
    assert "recordings renamed 1" in text and "phones relabelled 2 (b → k 2)" in text
    assert "old" not in text and "r/3" not in text


def test_many_kinds_of_changes_are_cut_short() -> None:
    changes = Changes(align_all("abcdefg", "hijklmn"), 1)
    assert {what: which for what, _, which in summary(changes)}["phones relabelled"].endswith("and 2 more")


def align_all(before: str, after: str) -> tuple[Change, ...]:
    return tuple(align("r", tier(before), tier(after)))


def test_the_table_of_changes_has_a_line_for_each() -> None:
    text = changes_csv({"the earlier run": CHANGED})
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [(r["recording"], r["change"]) for r in rows] == [
        ("r/3", "recording renamed"),
        ("r/1", "relabelled"),
        ("r/2", "relabelled"),
        ("r/2", "added"),
        ("r/3", "moved"),
    ]
    assert {r["against"] for r in rows} == {"the earlier run"}
    assert (rows[1]["before"], rows[1]["after"], rows[1]["before_start"], rows[1]["end"]) == ("b", "k", "0.1", "0.2")
    assert (rows[3]["before"], rows[3]["before_start"], rows[3]["after"]) == ("", "", "s")
    assert rows[4]["moved_ms"] == "30" and rows[1]["moved_ms"] == ""


def test_examples_come_back_as_they_were(tmp_path: Path) -> None:
    recordings = {"s/ü 1": Recording("ab" * 32, tier("aʃ", 0.123456)), "s/2": Recording("cd" * 32, tier("b"))}
    path = tmp_path / "examples.json"
    path.write_text(examples_json(recordings), encoding="utf-8")
    assert read_examples(path) == recordings
    assert "ʃ" in path.read_text(encoding="utf-8")
    path.write_text(examples_json({}), encoding="utf-8")
    assert read_examples(path) == {}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"recordings": {}}',
        '{"format": "other/1", "recordings": {}}',
        '{"format": "mtl_speech.examples/1", "recordings": {"a": {"sha256": "x", "phones": [["a", 0.0]]}}}',
        '{"format": "mtl_speech.examples/1", "recordings": {"a": {"sha256": "x", "phones": [["a", "0.0x", 1]]}}}',
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "examples.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"examples\.json: not a list of examples .*remove it"):
        read_examples(path)


# The machine's labels


def test_what_was_kept_of_a_transcription(tmp_path: Path) -> None:
    phones = [(s.start, s.end, s.phoneme) for s in toy_recording(tmp_path / "s" / "a.wav", "abkm")]
    machine = [(0.1, 0.2, "a"), (0.2, 0.3, "d"), (0.3, 0.42, "k")]
    write_textgrid(tmp_path / "s" / "a.TextGrid", 0.6, {"phones": phones, "phones-pred": machine})
    other = [(s.start, s.end, s.phoneme) for s in toy_recording(tmp_path / "s" / "b.wav", "ab")]
    write_textgrid(tmp_path / "s" / "b.TextGrid", 0.4, {"phones": other})
    corpus = read_corpus(tmp_path)
    assert [s.phoneme for s in corpus.utterances[0].machine] == ["a", "d", "k"] and not corpus.utterances[1].machine
    changes = against_machine(corpus)
    assert changes is not None and changes.counts == {"same": 1, "relabelled": 1, "moved": 1, "added": 1}
    assert machine_sentence(changes) == (
        "labels of the machine in 1 corrected recordings: 1 of 3 kept (33%); 1 relabelled, 1 moved, 1 added"
    )
    assert against_machine(corpus.filter(lambda u: u.id == "s/b")) is None


def test_machine_labels_that_are_no_phoneme_are_a_problem(tmp_path: Path) -> None:
    phones = [(s.start, s.end, s.phoneme) for s in toy_recording(tmp_path / "a.wav", "ab")]
    write_textgrid(tmp_path / "a.TextGrid", 0.4, {"phones": phones, "phones-pred": [(0.1, 0.2, "%%"), (0.2, 0.3, "b")]})
    corpus = read_corpus(tmp_path)
    assert [s.phoneme for s in corpus.utterances[0].machine] == ["b"]
    assert [(p.tier, p.interval) for p in corpus.problems if not p.used] == [("phones-pred", 2)]


def test_examples_of_a_corpus_have_the_content_of_its_audio(tmp_path: Path) -> None:
    phones = [(s.start, s.end, s.phoneme) for s in toy_recording(tmp_path / "a.wav", "ab")]
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes((tmp_path / "a.wav").read_bytes())
        write_textgrid(tmp_path / f"{name}.TextGrid", 0.4, {"phones": phones})
    found = examples_of(read_corpus(tmp_path))
    assert (
        found["a"] == found["b"] and json.loads(examples_json(found))["recordings"]["a"]["sha256"] == found["a"].sha256
    )
    assert [s.phoneme for s in found["a"].phones] == ["a", "b"] and SAME_TIME < 0.0011
