"""Word lists: which lines are words with a pronunciation, and what is said of the others."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.phonology.word_list import Word, read_phones, read_words, split_phones


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
