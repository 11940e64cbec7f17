"""Transcription of recordings: what was learned from some is found in others, at its time, whatever their length."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.commands.target import load_start
from mtl_speech.core.errors import DataError, PackError
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.corpus import Segment
from mtl_speech.model.language_pack import language_pack, load_language, with_timing
from mtl_speech.model.learner import embed_segments, extend
from mtl_speech.model.pack import Pack, load_pack, save_pack
from mtl_speech.model.strategy import base_pack
from mtl_speech.training.adapt import learn_inventory
from mtl_speech.training.base_learning import examples_of
from mtl_speech.training.folds import fold_of
from mtl_speech.transcription import transcribe as module
from mtl_speech.transcription.transcribe import Transcriber
from mtl_speech.transcription.transcript import SILENCE, Transcription
from tests.helpers import PHONEMES, toy_corpus, toy_recording

INVENTORY = PHONEMES[:5]


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    """Learned from twelve recordings of buzzes, on the English model that ships."""
    corpus = toy_corpus(tmp_path_factory.mktemp("toy"), 12, 2, INVENTORY)
    start = load_start(None, None)
    store = start.base.hear([corpus])
    fold = fold_of(store, {f"toy/{corpus.utterances[0].id}"}, "one held out")
    learner = start.learner(fold)
    extend(learner, fold.train.phonemes)
    model, _ = learn_inventory(examples_of(learner, fold.train, embed_segments(learner, fold.train)))
    model = with_timing(model, start.base, fold.train)
    assert model.timing is not None
    return Transcriber(model, start.base, model.timing)


def check_whole(found: Transcription) -> None:
    """From 0 to the end without gap, each with a probability, no silence after silence."""
    assert found.phones[0].start == 0.0 and found.phones[-1].end == found.duration
    for one, other in pairwise(found.phones):
        assert one.end == other.start
        assert not one.phoneme == other.phoneme == SILENCE
    assert all(0.0 <= phone.confidence <= 1.0 and phone.start < phone.end for phone in found.phones)


def errors(found: Transcription, segments: tuple[Segment, ...]) -> int:
    """How many phones are not found under their label within 30 ms."""
    return sum(
        not any(
            p.phoneme == s.phoneme and abs(p.start - s.start) < 0.03 and abs(p.end - s.end) < 0.03 for p in found.spoken
        )
        for s in segments
    ) + max(0, len(found.spoken) - len(segments))


def test_new_recordings_are_transcribed(transcriber: Transcriber, tmp_path: Path) -> None:
    order = [PHONEMES[i] for i in (3, 0, 4, 1, 2, 0, 3)]
    segments = toy_recording(tmp_path / "new.wav", order, seed=77)
    found = transcriber.transcribe(tmp_path / "new.wav")
    check_whole(found)
    assert errors(found, segments) <= 1
    assert [found.phones[0].phoneme, found.phones[-1].phoneme] == [SILENCE, SILENCE]
    examined = transcriber.examine(tmp_path / "new.wav")
    assert examined.transcription == found
    n = len(found.spoken)
    assert examined.spans.tolist() == pytest.approx(np.array([(p.start, p.end) for p in found.spoken]), abs=1e-6)
    assert examined.posteriors.shape == (n, len(INVENTORY)) and examined.embeddings.shape[0] == n
    torch.testing.assert_close(examined.posteriors.sum(1), torch.ones(n))
    best = [examined.classes[int(i)] for i in examined.posteriors.argmax(1)]
    assert sum(a == p.phoneme for a, p in zip(best, found.spoken, strict=True)) >= n - 1


def long_recording(path: Path, n_words: int) -> list[Segment]:
    """Words of buzzes one after another, with 0.2 s of near silence between."""
    segments: list[Segment] = []
    parts, at = [], 0.0
    for number in range(n_words):
        order = np.random.default_rng(number).permutation(len(INVENTORY))
        word = toy_recording(path.with_name("word.wav"), [INVENTORY[i] for i in order], seed=number)
        segments += [Segment(s.phoneme, s.start + at, s.end + at) for s in word]
        parts.append(soundfile.read(path.with_name("word.wav"), dtype="float32")[0])
        at += len(parts[-1]) / SAMPLE_RATE
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE)
    return segments


def test_a_long_recording_is_cut_in_pauses(
    transcriber: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = long_recording(tmp_path / "long.wav", 40)
    whole = transcriber.transcribe(tmp_path / "long.wav")  # 28 s: more than one chunk
    check_whole(whole)
    assert errors(whole, tuple(segments)) <= 0.1 * len(segments)
    monkeypatch.setattr(module, "CHUNK", 300)
    monkeypatch.setattr(module, "LAST_PART", 150)
    pieces = transcriber.transcribe(tmp_path / "long.wav")
    check_whole(pieces)
    labels = [[(p.phoneme, round(p.start, 2)) for p in each.spoken] for each in (whole, pieces)]
    assert len(set(labels[0]) ^ set(labels[1])) <= 0.05 * len(labels[0])


def test_speech_without_a_pause_is_cut_too(transcriber: Transcriber, tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(1, 5, 334)  # two of a kind in a row would be one
    order = [PHONEMES[i] for i in np.cumsum(steps) % 5]
    segments = toy_recording(tmp_path / "a.wav", order)
    found = transcriber.transcribe(tmp_path / "a.wav")
    check_whole(found)
    assert errors(found, segments) <= 0.15 * len(segments)


GROWTH = """
import resource, sys
from pathlib import Path
from mtl_speech.transcription.transcribe import Transcriber
transcriber = Transcriber.load(Path("pack"))
transcriber.transcribe(Path("short.wav"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(transcriber.transcribe(Path("long.wav")).duration, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_recording(transcriber: Transcriber, tmp_path: Path) -> None:
    """After a recording of two minutes, one of sixteen takes no more than 45 MB; samples and features are 90 MB."""
    saved(transcriber, tmp_path / "pack")
    long_recording(tmp_path / "words.wav", 45)
    words, rate = soundfile.read(tmp_path / "words.wav", dtype="float32")
    for name, n in (("short.wav", 4), ("long.wav", 30)):
        with soundfile.SoundFile(tmp_path / name, "w", rate, 1, subtype="PCM_16") as file:
            for _ in range(n):
                file.write(words)
    command = [sys.executable, "-c", GROWTH]  # in a process of its own: in this one, others' memory comes and goes
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    duration, growth = map(float, found.stdout.split())
    assert duration == pytest.approx(30 * len(words) / rate)
    assert growth < 45_000  # kB


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.1])
def test_very_short_recordings(transcriber: Transcriber, tmp_path: Path, seconds: float) -> None:
    n = round(seconds * SAMPLE_RATE)
    soundfile.write(tmp_path / "a.wav", 0.3 * np.random.default_rng(0).standard_normal(n).clip(-1, 1), SAMPLE_RATE)
    found = transcriber.transcribe(tmp_path / "a.wav")
    check_whole(found)
    assert found.duration == seconds


def test_silence_and_broken_files_are_refused(transcriber: Transcriber, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(DataError, match="a.wav: silent"):
        transcriber.transcribe(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="b.wav: cannot be read"):
        transcriber.transcribe(tmp_path / "b.wav")


def saved(transcriber: Transcriber, folder: Path) -> Pack:
    meta = load_start(transcriber.base, None).meta
    pack = language_pack(transcriber.model, transcriber.base, meta, "pa", {"name": "toy"})
    save_pack(pack, folder)
    return load_pack(folder, "language")


def test_a_saved_pack_transcribes_the_same(transcriber: Transcriber, tmp_path: Path) -> None:
    toy_recording(tmp_path / "new.wav", [PHONEMES[i] for i in (3, 0, 4, 1)], seed=78)
    saved(transcriber, tmp_path / "pack")
    found = Transcriber.load(tmp_path / "pack").transcribe(tmp_path / "new.wav")
    expected = transcriber.transcribe(tmp_path / "new.wav")
    assert [(p.phoneme, p.start) for p in found.phones] == [(p.phoneme, p.start) for p in expected.phones]
    assert [p.confidence for p in found.phones] == pytest.approx([p.confidence for p in expected.phones], abs=0.02)


def test_a_pack_without_timing_says_what_to_do(transcriber: Transcriber, tmp_path: Path) -> None:
    pack = saved(transcriber, tmp_path / "pack")
    kept = {k: v for k, v in pack.tensors.items() if not k.startswith(("segmenter.", "duration."))}
    save_pack(Pack("language", kept, {"name": "old", **{k: pack.card[k] for k in OWN}}), tmp_path / "old")
    with pytest.raises(PackError, match="'old' cannot transcribe.*mtl-speech adapt"):
        Transcriber.load(tmp_path / "old")


OWN = ("base", "phonemes", "meta_train", "language", "inventory", "temperature", "zero_shot")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("duration.mean", torch.zeros(2), "'duration.mean' must have the shape"),
        ("duration.spread", torch.zeros(1), "'duration' is not finite"),
        ("segmenter.out.bias", torch.zeros(7).half(), "'out.bias' does not fit"),
    ],
)
def test_timing_that_does_not_fit_is_refused(
    transcriber: Transcriber, tmp_path: Path, name: str, value: torch.Tensor, said: str
) -> None:
    pack = saved(transcriber, tmp_path / "pack")
    broken = Pack("language", {**pack.tensors, name: value}, {k: pack.card[k] for k in OWN})
    with pytest.raises(PackError, match=said):
        load_language(broken, transcriber.base)


def test_a_base_pack_carries_its_segmenter(transcriber: Transcriber) -> None:
    base = transcriber.base
    with_it = base_pack(base.encoder, base.head, base.phonemes, {}, base.segmenter)
    without = base_pack(base.encoder, base.head, base.phonemes, {})
    extra = set(with_it.tensors) - set(without.tensors)
    assert extra and all(name.startswith("segmenter.") for name in extra)
