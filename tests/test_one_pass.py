"""The contract of one pass: how many seconds of audio enter an encoder in each command."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from mtl_speech.corpora.audio import FRAMES_PER_SECOND, SAMPLE_RATE, audio_duration
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.hub import HubEncoder
from mtl_speech.model.strategy import load_base
from mtl_speech.model.whisper import WhisperEncoder
from tests.command_line import labelled_folder, run
from tests.hub_models import save_model

SHARE = 1.2  # of the length of the recordings: what is rounded up, and the context of stretches
QUIET = ("--threads", 1, "--quiet")


@pytest.fixture(scope="module")
def buzzes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_folder(tmp_path_factory.mktemp("buzzes"), 8, 2)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Seconds of audio that have entered each encoder, by the hash of its weights."""
    seconds: Counter[str] = Counter()

    def counted(way: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: FrameEncoder, rows: Tensor) -> Any:
            seconds[self.fingerprint] += rows.shape[0] * rows.shape[1] / FRAMES_PER_SECOND  # type: ignore[assignment]
            return way(self, rows)

        return call

    for kind in (WhisperEncoder, HubEncoder):
        for name in ("frames", "all_layers"):
            monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
    return seconds


def length(folder: Path) -> float:
    return sum(audio_duration(path) for path in folder.rglob("*.wav"))


def once(seconds: float, audio: float) -> bool:
    return audio <= seconds + 0.02 * audio and seconds <= SHARE * audio


def built_in() -> str:
    return load_base().encoder.fingerprint


def test_every_command_passes_the_recordings_once_through_the_built_in_encoder(
    buzzes: Path, tmp_path: Path, heard: Counter[str]
) -> None:
    audio, pack, pool = length(buzzes), tmp_path / "adapt" / "pack", tmp_path / "pool"
    shutil.copytree(buzzes, pool, ignore=shutil.ignore_patterns("*.TextGrid"))
    of_commands = {
        "adapt": ("--lang", "pa", "--data", buzzes, "--inventory", "a i u p t k b"),
        "ablate": ("--lang", "pa", "--data", buzzes, "--meta-steps", 0),
        "evaluate": (pack, "--data", buzzes),
        "transcribe": (pack, buzzes),
        "suggest": (pack, "--pool", pool),
        "meta-train": (buzzes, "--meta-steps", 0, "--lang", "pa"),
    }
    for command, arguments in of_commands.items():
        heard.clear()
        run(command, *arguments, "--output-dir", tmp_path / command, *QUIET)
        assert set(heard) == {built_in()}, command
        assert once(heard[built_in()], audio), f"{command}: {heard[built_in()] / audio:.2f} x the audio"


@pytest.mark.parametrize(("kind", "layer"), [("whisper", "auto"), ("wav2vec2", "auto"), ("whisper", "2")])
def test_an_encoder_of_another_maker_hears_them_once_and_the_segmenter_of_the_built_in_one_once(
    kind: str, layer: str, buzzes: Path, tmp_path: Path, heard: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, audio = save_model(kind, tmp_path / kind, monkeypatch), length(buzzes)
    chosen = ("--encoder", source, "--encoder-layer", layer, *QUIET)
    run("adapt", "--lang", "pa", "--data", buzzes, "--output-dir", tmp_path / "adapt", *chosen)
    assert len(heard) == 2
    assert all(once(seconds, audio) for seconds in heard.values()), heard
    pack = tmp_path / "adapt" / "pack"
    for command, n_encoders in (("evaluate", 1), ("transcribe", 2)):
        heard.clear()
        where = ("--data", buzzes) if command == "evaluate" else (buzzes,)
        out = ("--output-dir", tmp_path / command, "--encoder", source, *QUIET)
        run(command, pack, *where, *out)
        assert len(heard) == n_encoders
        assert all(once(seconds, audio) for seconds in heard.values()), (command, heard)


def test_a_long_recording_is_heard_in_stretches_with_a_little_of_their_neighbours(
    buzzes: Path, tmp_path: Path, heard: Counter[str]
) -> None:
    run("adapt", "--lang", "pa", "--data", buzzes, "--output-dir", tmp_path / "adapt", *QUIET)
    noise = torch.randn(100 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    (tmp_path / "long").mkdir()
    soundfile.write(tmp_path / "long" / "noise.wav", noise.astype(np.float32), SAMPLE_RATE)
    heard.clear()
    run("transcribe", tmp_path / "adapt" / "pack", tmp_path / "long", "--output-dir", tmp_path / "out", *QUIET)
    assert 100.0 < heard[built_in()] < 1.2 * 100.0
