"""Tables are drawn on a terminal and plain elsewhere; bars are drawn where they are wanted."""

from __future__ import annotations

import io

from mtl_speech.core.terminal import bars_shown, new_table, plain_text, progress, show, show_bars


def test_a_table_is_plain_text_where_there_is_no_terminal() -> None:
    table = new_table("Phonemes", "seed 0")
    table.add_column("phoneme")
    table.add_column("F1", justify="right")
    table.add_row("ɽ", "0.5")
    stream = io.StringIO()
    show(table, stream)
    assert stream.getvalue() == plain_text(table) + "\n"
    lines = plain_text(table).splitlines()
    assert " ".join(lines).startswith("Phonemes (seed 0)") and lines[-1].split() == ["ɽ", "0.5"]
    assert all(line == line.rstrip() for line in lines)


def test_bars_are_shown_inside_show_bars_alone() -> None:
    items = [1, 2]
    assert progress(items, "loop") is items
    with show_bars():
        assert bars_shown() and list(progress(items, "loop")) == items and progress(items, "loop") is not items
        with show_bars(False):
            assert not bars_shown() and progress(items, "loop") is items
    assert not bars_shown()
