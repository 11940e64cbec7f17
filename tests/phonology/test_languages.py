"""Language codes and names become one tag."""

from __future__ import annotations

import pytest

from mtl_speech.core.errors import UsageError
from mtl_speech.phonology.languages import canonical, display_name


@pytest.mark.parametrize(
    "tag", ["pa", "PA", "pan", "pan-Guru", "pa_Guru", "pa-Guru-IN", "Punjabi", " punjabi ", "ਪੰਜਾਬੀ"]
)
def test_one_language_has_one_tag(tag: str) -> None:
    assert canonical(tag) == "pa"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("pnb", "pnb"),
        ("Western Punjabi", "pnb"),
        ("pa-Arab", "pa-Arab"),
        ("eng", "en"),
        ("en-US", "en"),
        ("en_GB", "en-GB"),
        ("cmn", "cmn"),
        ("zh-TW", "zh-TW"),
        ("led", "led"),
        ("qaa", "qaa"),
        ("und", "und"),
        ("UND", "und"),
    ],
)
def test_what_matters_is_kept(tag: str, expected: str) -> None:
    assert canonical(tag) == expected
    assert canonical(canonical(tag)) == expected


@pytest.mark.parametrize("tag", ["", "zz", "asdf", "pnbb", "xyz", "pa-", "../pa", "p" * 500, "no such language"])
def test_unknown_language_is_a_usage_error_with_a_hint(tag: str) -> None:
    with pytest.raises(UsageError, match=r"unknown language.*'pa'.*'Punjabi'.*'qaa'"):
        canonical(tag)


def test_names() -> None:
    assert display_name("pan-Guru") == "Punjabi"
    assert display_name("pnb") == "Western Panjabi"
    assert display_name("ewe") == "Ewe"
    assert display_name("qaa") == "qaa"
    assert display_name("und") == "undetermined language"
