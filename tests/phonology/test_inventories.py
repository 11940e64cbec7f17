"""Inventories: from text, a file, Epitran's maps and PHOIBLE's CSV; what was taken, what else there is, what was left out."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.phonology import inventories
from mtl_speech.phonology.inventories import (
    PHOIBLE_COLUMNS,
    Phonemes,
    Word,
    find_inventory,
    read_phones,
    read_words,
    split_phones,
)
from tests.command_line import INVENTORY, labelled_folder, run, save_base
from tests.recipes.running import read_json

HEAD = (
    *"InventoryID Glottocode ISO6393 LanguageName SpecificDialect GlyphID Phoneme Allophones".split(),
    *"Marginal SegmentClass Source tone".split(),
)


def phoible(folder: Path) -> Path:
    """A file as PHOIBLE's data/phoible.csv: three inventories, two of one language."""
    rows = []
    for number, glottocode, iso, name, source, phonemes in [
        ("1502", "panj1256", "pan", "Panjabi", "ra", "kʰ|k̟ʰ n̪|n t̠ʃ ə ɑ˞:m ˦"),
        ("98", "panj1256", "pan", "PANJABI", "upsid", "k g r̪ ã"),
        ("2", "kore1280", "kor", "Korean", "spa", "k ★"),
    ]:
        for phoneme in phonemes.split():
            text, _, marginal = phoneme.partition(":")
            kind = "tone" if text == "˦" else "consonant"
            rows.append(
                [
                    number,
                    glottocode,
                    iso,
                    name,
                    "NA",
                    "0061",
                    text,
                    "NA",
                    "TRUE" if marginal else "FALSE",
                    kind,
                    source,
                    "0",
                ]
            )
    path = folder / "phoible.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return path


def test_an_inventory_is_read_from_text_or_a_file_and_normalised(tmp_path: Path) -> None:
    wanted = Phonemes(("a", "t͡ʃ", "ɡ", "kʷʼ"))
    assert find_inventory("a tʃ, g kʼʷ ʧ a") == wanted
    path = tmp_path / "my inventory.txt"
    path.write_bytes("\ufeffa\ntʃ\r\ng\tkʼʷ\n".encode())
    assert find_inventory(str(path)) == wanted
    assert find_inventory("a " * 5000) == Phonemes(("a",)), "longer than a file name can be"


@pytest.mark.parametrize(
    ("text", "told"),
    [("a Q7 ɖ sil xyz", "Q7 sil xyz"), ("inventory.txt", "inventory.txt"), (" , ", "names no phoneme")],
)
def test_what_is_no_phoneme_is_an_error_that_names_it(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        find_inventory(text)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text"):
        find_inventory(str(tmp_path / "a.txt"))


def test_phoible_says_which_inventory_was_taken_which_others_there_are_and_what_was_left_out(tmp_path: Path) -> None:
    path = phoible(tmp_path)
    assert set(PHOIBLE_COLUMNS) <= set(HEAD)
    first = find_inventory(f"phoible:{path}:pan")
    assert first.phonemes == find_inventory(f"phoible:{path}:panj1256").phonemes
    assert first.phonemes == ("k", "ɡ", "r̪", "a\u0303")
    assert first.notes == (
        "inventory: PHOIBLE's number 98 (PANJABI, from upsid, 4 phonemes)",
        "inventory: PHOIBLE has others of 'pan', to be named by number: 1502 (Panjabi, from ra, 6 phonemes)",
    )
    chosen = find_inventory(f"phoible:{path}:1502")
    assert chosen.phonemes == ("kʰ", "n̪", "t̠͡ʃ", "ə")
    assert chosen.notes[1:] == ("inventory: marginal phonemes are left out: ɑ˞", "inventory: tones are left out: ˦")
    assert "inventory: not known here, left out: ★" in find_inventory(f"phoible:{path}:kor").notes


def test_phoible_that_is_not_there_or_another_file_is_told(tmp_path: Path) -> None:
    path = phoible(tmp_path)
    for text, told in [
        (f"phoible:{path}:xyz", "has no inventory of 'xyz'"),
        (f"phoible:{tmp_path / 'none.csv'}:pan", "get phoible.csv of a release"),
        ("phoible:pan", "write phoible:FILE:LANGUAGE"),
    ]:
        with pytest.raises(UsageError, match=told):
            find_inventory(text)
    path.write_text("InventoryID,Phoneme\n1,a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no column Glottocode, ISO6393"):
        find_inventory(f"phoible:{path}:pan")
    path.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="not PHOIBLE's"):
        find_inventory(f"phoible:{path}:pan")


def test_epitran_gives_the_segments_of_its_map() -> None:
    epitran = pytest.importorskip("epitran")
    found = find_inventory("epitran:pan-Guru")
    assert {"ʈʰ", "t͡ʃʰ", "d̪", "ɽ", "ə", "j"} <= set(found.phonemes) and "jə" not in found.phonemes
    written = epitran.Epitran("pan-Guru").trans_list("ਕਲਮ ਘਰ ਚਾਹ ਠੰਡ ਪਾਣੀ ਲੜਕੀ")
    assert len(set(written)) > 10
    assert {each.replace("ə\u0303", "ə") for each in written if each.strip()} <= set(found.phonemes)
    assert any("Epitran's map pan-Guru" in note for note in found.notes)
    assert found.notes[-1] == "inventory: not known here, left out: \u0303"  # a nasal vowel is a vowel and a sign
    with pytest.raises(UsageError, match="Epitran has no map 'pan'; it has pan-Guru"):
        find_inventory("epitran:pan")


def test_without_epitran_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "package_folder", lambda name: None)
    with pytest.raises(UsageError, match="install the extra 'epitran'"):
        find_inventory("epitran:pan-Guru")


def test_adapt_lists_the_phonemes_without_data_and_what_they_are_learned_from(tmp_path: Path) -> None:
    base, data = save_base(tmp_path / "base"), labelled_folder(tmp_path / "data", 4, 2)
    extra = "ʈʰ"
    rows = [
        ["7", "x", "xyz", "Made", "NA", "0", text, "NA", "FALSE", "consonant", "ra", "0"]
        for text in (*INVENTORY, extra)
    ]
    with open(tmp_path / "phoible.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    result = run(
        "adapt", "--lang", "pa", "--data", data, "--base", base, "--inventory", f"phoible:{tmp_path / 'phoible.csv'}:xyz",
        "--meta-steps", 0, "-o", tmp_path / "out",
    )  # fmt: skip
    said = " ".join(result.output.split())
    assert f"PHOIBLE's number 7 (Made, from ra, {len(INVENTORY) + 1} phonemes)" in said
    assert f"zero-shot, for want of an example: {extra} ←" in said
    assert any("PHOIBLE's number 7" in note for note in read_json(tmp_path / "out" / "report.json")["notes"])


# Lists of words


def written(folder: Path, text: str) -> Path:
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_words_with_ipa_are_read_and_the_others_are_named_with_what_to_do(tmp_path: Path) -> None:
    lines = ["\ufeffਘਰ\tk ə ɾ", "", "ਕਲਮ", "ਕਿਤਾਬ\t", "odd\tk %% a", "ਘਰ\tɡ ə ɾ", "pause\tsil", "ਕੁੱਤਾ\t0.99\tk ʊ t̪ː ɑ"]
    words, problems = read_words(written(tmp_path, "\n".join(lines)), ())
    assert words == [Word("ਘਰ", ("k", "ə", "ɾ")), Word("ਕੁੱਤਾ", ("k", "ʊ", "t̪ː", "ɑ"))]
    reasons = [problem.reason for problem in problems]
    assert len(reasons) == 5
    for reason, wanted in zip(
        reasons,
        [
            "line 3, 'ਕਲਮ': no pronunciation; write a TAB and its phones in IPA",
            "line 4, 'ਕਿਤਾਬ': no pronunciation",
            "line 5, 'odd': label '%%' has characters that are not IPA",
            "line 6, 'ਘਰ': is there already; the first",
            "line 7, 'pause': 'sil' has no phoneme",
        ],
        strict=True,
    ):
        assert reason.startswith(wanted)


def test_phones_are_normalised_and_a_detached_mark_is_joined() -> None:
    assert read_phones("kː ʰ g a", ()) == ("kʰː", "ɡ", "a")
    assert read_phones("tʃ a", ()) == ("t͡ʃ", "a")


@pytest.mark.parametrize(
    ("text", "inventory", "wanted"),
    [
        ("kʰãlə", (), ["kʰ", "ã", "l", "ə"]),
        ("katʃa", (), ["k", "a", "t͡ʃ", "a"]),
        ("kaɪt", (), ["k", "a", "ɪ", "t"]),
        ("kaɪt", ("aɪ",), ["k", "aɪ", "t"]),
        ("ˈka.tu", (), ["k", "a", "t", "u"]),
        ("ŋ", (), ["ŋ"]),
    ],
)
def test_phones_written_together_are_taken_apart(text: str, inventory: tuple[str, ...], wanted: list[str]) -> None:
    assert split_phones(text, inventory) == [unicodedata.normalize("NFD", phone) for phone in wanted]


def test_a_list_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_words(tmp_path / "none.txt", ())
    (tmp_path / "latin.txt").write_bytes("mañana\tm".encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        read_words(tmp_path / "latin.txt", ())
