"""Label files of a line a phone."""

from __future__ import annotations

from pathlib import Path

from mtl_speech.corpora.timit import read_folded_labels


def test_a_label_file_is_read_folded(tmp_path: Path) -> None:
    path = tmp_path / "a.PHN"
    path.write_text("0 1600 h#\n1600 2400 dcl\n2400 3200 jh\n3200 4800 Q\n4800 5600 IX\n5600 8000 what\n")
    labels = [(phone.label, phone.number) for phone in read_folded_labels(path).phones]
    assert labels == [("sil", 1), ("sil", 2), ("jh", 3), ("ix", 5), ("what", 6)]
