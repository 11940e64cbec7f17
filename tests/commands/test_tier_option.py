"""`--tier` reaches the reader in every command that reads labels; a transcription is compared with the tiers of all speakers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from mtl_speech.commands import target, train
from mtl_speech.commands.transcribe import comparable
from mtl_speech.core.errors import DataError
from mtl_speech.corpora.folder import find_recordings
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.transcription.transcript import Phone, Transcription
from tests.command_line import labelled_folder, run
from tests.corpora.label_folders import audio

SPANS = {"anna": [(0.1, 0.3, "t"), (0.3, 0.4, "a")], "bea": [(0.6, 0.9, "k")]}


def test_validate_takes_a_tier(tmp_path: Path) -> None:
    audio(tmp_path / "s1" / "a.wav")
    write_textgrid(tmp_path / "s1" / "a.TextGrid", 1.0, {f"Ph_{name}": spans for name, spans in SPANS.items()})
    assert "no 'phones' tier" in run("validate", tmp_path, code=1).stdout
    said = run("validate", tmp_path, "--tier", "Ph_*").stdout
    assert "recordings: 1" in said and "speakers:   2" in said and "phonemes:   3, 3 examples" in said
    assert "speakers:   1" in run("validate", tmp_path, "--tier", "Ph_anna").stdout
    assert "no tier 'Pf_*'" in run("validate", tmp_path, "--tier", "Pf_*", code=1).stdout


@pytest.mark.parametrize(
    ("module", "command"),
    [
        (target, lambda folder: ["adapt", "--lang", "pa", "--data", folder]),
        (target, lambda folder: ["ablate", "--lang", "pa", "--data", folder]),
        (train, lambda folder: ["pretrain", folder]),
        (train, lambda folder: ["meta-train", folder, "--lang", "pa"]),
    ],
)
def test_a_tier_reaches_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, command: Callable[[Path], list[object]]
) -> None:
    def read(_folder: Path, _lang: str, _phone_set: str, tier: str | None = None, **_: object) -> NoReturn:
        raise DataError(f"asked for the tier {tier}")

    monkeypatch.setattr(module, "read_corpus", read)
    folder = labelled_folder(tmp_path / "rec", 2, 1)
    said = run(*command(folder), "--tier", "La*", "-o", tmp_path / "out", code=1).output
    assert "asked for the tier La*" in said


def test_a_score_is_of_all_speakers(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    found = {"a": Transcription(1.0, (Phone("t", 0.0, 1.0, 0.5),))}

    def phones(tiers: dict[str, list[tuple[float, float, str]]], tier: str | None = None) -> list[str]:
        write_textgrid(tmp_path / "a.TextGrid", 1.0, tiers)
        recordings, _ = find_recordings([tmp_path])
        scored, problems = comparable(recordings, found, "ipa", tier)
        assert bool(scored) or bool(problems)
        return [segment.phoneme for segment in scored["a"][0]] if scored else []

    both = {f"{name} - phones": spans for name, spans in SPANS.items()}
    assert phones(both) == ["t", "a", "k"]
    assert phones({f"x{name}": spans for name, spans in SPANS.items()}, "x*") == ["t", "a", "k"]
    assert phones(both, "bea - phones") == ["k"]
    assert phones({**both, "eve - phones": [(0.2, 0.5, "o")]}) == ["k"], "what is said at once is not compared"
    assert phones(both, "y*") == []
