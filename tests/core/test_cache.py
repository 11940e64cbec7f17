"""The feature cache: never out of date, never half an entry, never too large, and nothing changes when it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.core.cache import FOLDER, LIMIT, FeatureCache, cache_fault, cache_folder, cache_gib
from mtl_speech.core.errors import DataError
from mtl_speech.corpora import audio
from mtl_speech.corpora.audio import MEL_BANDS, SAMPLE_RATE
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.features import front_end
from mtl_speech.features import store as store_module
from mtl_speech.features.augment import WaveformAugment
from mtl_speech.features.store import FrameSource, Transform, audio_content, build_store
from tests.helpers import seeded, toy_corpus

KEY = "ab" + 62 * "0"


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", 2**30)


def some_frames(n: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, MEL_BANDS, generator=seeded(seed)).half()


def entries(cache: FeatureCache) -> set[Path]:
    return set(cache.folder.glob("??/*"))


def features_of(
    corpus: Corpus, cache: FeatureCache, transform: Transform | None = None, number: int = 0
) -> torch.Tensor:
    path = corpus.utterances[0].audio
    return FrameSource(cache, transform).frames_of(path, audio_content(path), number)[0]


# Entries


def test_an_entry_comes_back_as_it_was(cache: FeatureCache) -> None:
    assert cache.read(KEY, MEL_BANDS) is None
    cache.write(KEY, some_frames(), 1.15)
    found = cache.read(KEY, MEL_BANDS)
    assert found is not None and torch.equal(found[0], some_frames()) and found[1] == 1.15
    assert entries(cache) == {cache.path(KEY)}, "nothing but the entry is left"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "header"])
def test_a_damaged_entry_counts_as_none_and_is_told(
    cache: FeatureCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write(KEY, some_frames(), 1.0)
    path = cache.path(KEY)
    data = bytearray(path.read_bytes())
    data[-5] ^= 64 if damage == "flipped" else 0
    data[3] ^= 64 if damage == "header" else 0
    path.write_bytes({"cut": bytes(data[:-9]), "empty": b"", "text": b"no features"}.get(damage, bytes(data)))
    assert cache.read(KEY, MEL_BANDS) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] and str(path) in caplog.text
    cache.write(KEY, some_frames(), 1.0)
    assert cache.read(KEY, MEL_BANDS) is not None


def test_an_entry_of_something_else_counts_as_none(cache: FeatureCache) -> None:
    for frames in (some_frames().float(), some_frames()[:, :3]):
        cache.write(KEY, frames, 1.0)
        assert cache.read(KEY, MEL_BANDS) is None


def test_a_changed_entry_is_made_anew(tmp_path: Path, cache: FeatureCache) -> None:
    corpus = toy_corpus(tmp_path / "c", 2, 1)
    whole = build_store([corpus], cache=cache)
    for path in entries(cache):
        data = bytearray(path.read_bytes())
        data[-100:] = bytes(100)
        path.write_bytes(data)
    again = build_store([corpus], cache=cache)
    assert torch.equal(whole.frames, again.frames)
    assert torch.equal(build_store([corpus], cache=cache).frames, whole.frames)


# Keys


def test_the_key_changes_with_content_and_settings(
    tmp_path: Path, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = toy_corpus(tmp_path / "c", 1, 1)

    def made_anew() -> bool:
        before = len(entries(cache))
        features_of(corpus, cache)
        return len(entries(cache)) > before

    assert made_anew() and not made_anew()
    for module, name, value in (
        (audio, "MEL_HIGH", 7000.0),
        (audio, "POWER_FLOOR", 1e-9),
        (front_end, "SCALE", 2.0),
        (front_end, "PRIOR_FRAMES", 50.0),
        (front_end, "ACTIVE_RANGE", 5.0),
        (front_end, "FLOOR_RANGE", 9.0),
        (front_end, "ENERGY_STEP", 0.1),
        (front_end, "WHISPER_RANGE", 7.0),
        (front_end, "WHISPER_PEAK", 2.0),
        (store_module, "FEATURE_VERSION", -1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert made_anew(), name
    monkeypatch.setattr(store_module, "_libraries", lambda: {"torch": "0"})
    assert made_anew()
    path, content = corpus.utterances[0].audio, corpus.utterances[0].audio.read_bytes()
    status = path.stat()
    path.write_bytes(content[:-2] + bytes(2))
    os.utime(
        path, ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # the same size and time, as a copying tool can leave it
    assert made_anew()
    path.write_bytes(content)
    assert not made_anew()


def test_each_draw_of_an_augmentation_has_its_entry_and_the_name_of_a_file_has_none(
    tmp_path: Path, cache: FeatureCache
) -> None:
    corpus = toy_corpus(tmp_path / "c", 1, 1)
    plain = features_of(corpus, cache)
    drawn = [features_of(corpus, cache, WaveformAugment(seed), number) for seed in (1, 2) for number in (0, 1)]
    assert len(entries(cache)) == 5
    assert all(torch.equal(a, b) == (i == k) for i, a in enumerate(drawn) for k, b in enumerate(drawn))
    assert torch.equal(features_of(corpus, cache, WaveformAugment(1), 1), drawn[1])
    path = corpus.utterances[0].audio
    moved = path.rename(path.with_name("other.wav"))
    moved_corpus = replace(corpus, utterances=(replace(corpus.utterances[0], audio=moved),))
    assert torch.equal(features_of(moved_corpus, cache), plain) and len(entries(cache)) == 5


def test_what_a_transform_without_a_key_makes_is_not_kept(tmp_path: Path, cache: FeatureCache) -> None:
    corpus = toy_corpus(tmp_path / "c", 1, 1)
    features_of(corpus, cache, lambda waveform, _: (waveform, 1.0))
    assert not entries(cache)


def test_a_recording_that_changes_while_it_is_used_is_refused(tmp_path: Path, cache: FeatureCache) -> None:
    corpus = toy_corpus(tmp_path / "c", 1, 1)
    path = corpus.utterances[0].audio
    content = audio_content(path)
    soundfile.write(path, np.random.default_rng(9).standard_normal(SAMPLE_RATE) * 0.1, SAMPLE_RATE)
    with pytest.raises(DataError, match=f"{path.name}.*changed"):
        FrameSource(cache).frames_of(path, content, 0)
    assert not entries(cache)


# With and without


def test_features_are_the_same_bit_for_bit_with_and_without_the_cache(tmp_path: Path, cache: FeatureCache) -> None:
    corpus = toy_corpus(tmp_path / "c", 4, 2)
    for transform in (None, WaveformAugment(3)):
        made = build_store([corpus], transform=transform, cache=cache)
        read = build_store([corpus], transform=transform, cache=cache)
        without = build_store([corpus], transform=transform, cache=FeatureCache(tmp_path / "none", 0))
        for other in (read, without):
            assert torch.equal(made.frames.view(torch.int16), other.frames.view(torch.int16))
            assert torch.equal(made.start, other.start) and torch.equal(made.length, other.length)
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").iterdir())


def test_a_folder_that_cannot_be_written_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = toy_corpus(tmp_path / "c", 3, 1)
    (tmp_path / "file").write_text("in the way")
    blocked = FeatureCache(tmp_path / "file" / "cache", 2**30)
    store = build_store([corpus], cache=blocked)
    assert torch.equal(store.frames, build_store([corpus], cache=FeatureCache(tmp_path / "good", 2**30)).frames)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(blocked.folder) in caplog.text and "--cache-dir" in caplog.text
    assert "is not a folder" in (cache_fault(blocked.folder) or "")
    assert cache_fault(tmp_path / "new" / "folder") is None and not (tmp_path / "new").exists()


# Size


def test_the_entries_that_were_used_last_stay_within_the_limit(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", 2**30)
    keys = [f"{i:02x}" + 62 * "0" for i in range(10)]
    for i, key in enumerate(keys):
        cache.write(key, some_frames(100, i), 1.0)
        os.utime(cache.path(key), (1000 + i, 1000 + i))
    assert cache.read(keys[0], MEL_BANDS) is not None  # used just now, though it is the oldest
    size = cache.path(keys[0]).stat().st_size
    FeatureCache(cache.folder, 4 * size).prune()
    assert {key for key in keys if cache.path(key).exists()} == {keys[0], *keys[7:]}


def test_writing_keeps_to_the_limit_all_by_itself(tmp_path: Path) -> None:
    size = len(some_frames(100).numpy().tobytes())
    cache = FeatureCache(tmp_path / "cache", 20 * size)
    for i in range(60):
        cache.write(f"{i:02x}" + 62 * "0", some_frames(100, i), 1.0)
        assert sum(path.stat().st_size for path in entries(cache)) < 22 * size
    assert len(entries(cache)) >= 15


# Where it is


def test_place_and_size_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "here"))
    monkeypatch.setenv(LIMIT, "0.5")
    cache = FeatureCache()
    assert cache.folder == cache_folder() == tmp_path / "here" and cache.limit == 2**29
    monkeypatch.setenv(LIMIT, "much")
    assert cache_gib() == 10.0
    monkeypatch.delenv(FOLDER)
    assert "site-packages" not in str(cache_folder()) and cache_folder().is_absolute()


# Two at once


def test_an_entry_that_another_process_removes_while_it_is_opened_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path, 2**30)
    cache.write(64 * "0", torch.zeros(4, 80).half(), 1.0)
    path, opened = cache.path(64 * "0"), torch.UntypedStorage.from_file

    def late(*given: Any, **named: Any) -> Any:
        path.unlink(missing_ok=True)
        return opened(*given, **named)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", late)
    assert cache.read(64 * "0", MEL_BANDS) is None and not path.exists() and not caplog.records


WRITER = """
import sys
from pathlib import Path
from typing import Any
import torch
from mtl_speech.core.cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]), 2**30)
frames = torch.arange(400 * 80).remainder(64).view(400, 80).half()
for number in range(150):
    key = f"{number % 3:02x}" + 62 * "0"
    found = cache.read(key, 80)
    assert found is None or torch.equal(found[0], frames), "half an entry"
    if number % 5 == 0:
        cache.path(key).unlink(missing_ok=True)
    cache.write(key, frames, 1.0)
"""


def test_processes_that_make_the_same_entries_at_once_do_no_harm(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0 and "damaged" not in said, said
    cache = FeatureCache(tmp_path / "cache", 2**30)
    assert {path.name[:2] for path in entries(cache)} == {"00", "01", "02"} and len(entries(cache)) == 3


FILLER = """
import sys
from pathlib import Path
from typing import Any
import torch
from mtl_speech.core.cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]), int(sys.argv[2]))
frames = torch.arange(100 * 80).remainder(64).view(100, 80).half()
for number in range(120):
    key = f"{number:02x}{sys.argv[3]}" + 60 * "0"
    cache.write(key, frames, 1.0)
    found = cache.read(key, 80)
    assert found is None or torch.equal(found[0], frames), "half an entry"
"""


def test_processes_that_fill_the_folder_at_once_keep_it_within_the_limit(tmp_path: Path) -> None:
    """Each looks after the limit when it has written a sixteenth of it, so two can be two sixteenths above."""
    size = 100 * MEL_BANDS * 2
    command = [sys.executable, "-c", FILLER, str(tmp_path / "cache"), str(32 * size)]
    running = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("aa", "bb")]
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0 and not said, said
    left = entries(FeatureCache(tmp_path / "cache", 1))
    assert sum(path.stat().st_size for path in left) < 38 * size and len(left) >= 28
    assert {path.name[2:4] for path in left} <= {"aa", "bb"} and not [p for p in left if p.name.startswith(".")]
