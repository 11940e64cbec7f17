"""Scored tokens: written and read back as they are; what is not such a file is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.scoring.metrics import TOKENS, Token, read_tokens, scored_tokens, tokens_csv


def test_tokens_are_named_without_their_corpus() -> None:
    (token,) = scored_tokens(["corpus/s1/u2"], [(0.5, 0.6)], ["p"], ["b"], [0.75], {"b"})
    assert token == Token("s1/u2", 0.5, 0.6, "p", "b", 0.75)
    (guessed,) = scored_tokens(["corpus/s1/u2"], [(0.5, 0.6)], ["p"], ["b"], [0.75], {"p"})
    assert guessed == replace(token, remark="zero-shot")
    with pytest.raises(ValueError):
        scored_tokens(["a/b"], [], ["p"], ["b"], [0.5], {"b"})


def test_tokens_are_read_as_they_were_written(tmp_path: Path) -> None:
    tokens = [
        Token('s1/"odd", name', 0.1, 0.2345, "t̪ʰ", "a,b", 0.5),
        Token("u", 1.0, 1.5, "p", "p", 0.9999, "zero-shot"),
    ]
    (tmp_path / TOKENS).write_text(tokens_csv(tokens), encoding="utf-8")
    assert read_tokens(tmp_path) == tokens
    assert (tmp_path / TOKENS).read_bytes().startswith("\ufeffrecording,".encode())


def test_tokens_of_earlier_reports_have_no_remark(tmp_path: Path) -> None:
    content = "recording,start,end,true,predicted,confidence\nu,0.1,0.2,p,b,0.5\n"
    (tmp_path / TOKENS).write_text(content, encoding="utf-8")
    assert read_tokens(tmp_path) == [Token("u", 0.1, 0.2, "p", "b", 0.5)]


def test_a_confidence_may_be_unknown(tmp_path: Path) -> None:
    (tmp_path / TOKENS).write_text(tokens_csv([Token("u", 0.0, 1.0, "p", "b")]), encoding="utf-8")
    assert math.isnan(read_tokens(tmp_path)[0].confidence)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no tokens.csv"),
        ("", "its columns must be recording, start"),
        ("a,b\n1,2\n", "its columns must be"),
        ("recording,start,end,true,predicted,confidence\nu,0,x,p,b,\n", "could not convert"),
        ("recording,start,end,true,predicted,confidence\nu,0\n", "not enough values"),
        ("recording,start,end,true,predicted,confidence\nu,0,1,p,b,1,,\n", "too many values"),
        ("recording,start,end,true,predicted,confidence\n", "holds no token"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_list_of_tokens_is_refused(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / TOKENS).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_tokens(tmp_path)
