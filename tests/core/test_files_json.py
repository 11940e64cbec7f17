"""What is written as JSON: strict, and without paths of the machine it was made on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mtl_speech.core.files import json_text, plain, without_absolute_paths


@dataclass(frozen=True)
class Options:
    rate: float
    folder: Path


def test_plain_values_of_all_kinds() -> None:
    value = {
        "nan": float("nan"),
        "infinite": np.float32("inf"),
        "float": np.float64(0.1),
        "int": np.int64(3),
        "bool": np.bool_(True),
        "none": None,
        "array": np.array([[1.0, np.nan]]),
        "set": {"s", "p"},
        "options": Options(1e-7, Path("/data/corpora/pa")),
        3: (1, 2),
    }
    found = plain(value)
    assert found == {
        "nan": None,
        "infinite": None,
        "float": 0.1,
        "int": 3,
        "bool": True,
        "none": None,
        "array": [[1.0, None]],
        "set": ["p", "s"],
        "options": {"rate": 1e-7, "folder": "…/pa"},
        "3": [1, 2],
    }
    assert type(found["bool"]) is bool
    assert json.loads(json_text(found)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ana/pa", "…/pa"),
        ("/home/ana/pa/", "…/pa"),
        ("/data", "…/data"),
        ("mtl-speech adapt --data=/srv/x/pa -o '/srv/y/out'", "mtl-speech adapt --data=…/pa -o '…/out'"),
        ("file:///home/ana/a.wav, seconds", "…/a.wav, seconds"),
        (r"C:\Users\ana\a.wav", "…/a.wav"),
        ("corpora/pa and ../shared and ~/x/y", "corpora/pa and ../shared and ~/x/y"),
        ("https://osf.io/t957v/files", "https://osf.io/t957v/files"),
        ("/p/, /tʃ/ and /d͡ʒ/ against /ts/-/dz/", "/p/, /tʃ/ and /d͡ʒ/ against /ts/-/dz/"),
        ("3/4 of macro/micro/all", "3/4 of macro/micro/all"),
        ("/media/Ana Maria/Field (2)/x.wav: no samples", "…/x.wav: no samples"),
        ("'/media/Ana Maria/Field notes' --seed 1", "'…/Field notes' --seed 1"),
        ("--data /media/Ana Maria/pa --test a/b", "--data …/pa --test a/b"),
        (r"C:\Users\Ana Maria\a.wav: no samples", "…/a.wav: no samples"),
        ('File "/usr/lib/python3/a.py", line 3', 'File "…/a.py", line 3'),
    ],
)
def test_only_absolute_paths_are_shortened(text: str, expected: str) -> None:
    assert without_absolute_paths(text) == expected


def test_paths_below_the_working_folder_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert without_absolute_paths(f"-o {tmp_path}/results/demo") == "-o results/demo"
    assert without_absolute_paths(str(tmp_path)) == "."
    assert without_absolute_paths(f"{tmp_path}2/results") == "…/results"


def test_json_text_is_the_same_data_with_short_lists_on_a_line() -> None:
    data = {"list": [1, 2.5, None], "text": ["a, b", "[x]", "line\n  [1,\n 2]"], "rows": [[1, 2], [3, 4]], "none": []}
    text = json_text(data)
    assert json.loads(text) == data
    assert '"list": [1, 2.5, null]' in text
    assert "[3, 4]" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"nan": float("nan")})
