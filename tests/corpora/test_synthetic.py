"""A corpus of synthetic Punjabi: its words, its files, and what is heard in them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtl_speech.core.errors import DataError, MtlSpeechError, UsageError
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.voice import espeak, synthetic
from mtl_speech.corpora.voice.espeak import (
    PADDING,
    espeak_available,
)
from mtl_speech.corpora.voice.synthetic import (
    DEFAULT_WORDS,
    INVENTORY,
    LABELS,
    SPLITS,
    make_punjabi_corpus,
    punjabi_words,
    sayable_words,
    share_words,
)
from mtl_speech.phonology.phonemes import to_ipa
from tests.corpora.test_espeak import needs_espeak, synthesise

VOICELESS_STOPS = {"p", "pʰ", "t̪", "t̪ʰ", "ʈ", "ʈʰ", "t͡ʃ", "t͡ʃʰ", "k", "kʰ"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    make_punjabi_corpus(folder, seed=3, n_words=60, voices=("", "m3", "f1"))
    return folder


@pytest.fixture(scope="module")
def corpora(folder: Path) -> dict[str, Corpus]:
    return {split: read_corpus(folder / split, "pa") for split in SPLITS}


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    assert not espeak_available()
    with pytest.raises(MtlSpeechError, match=r"pip install 'mtl_speech\[synthetic\]'"):
        make_punjabi_corpus(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_espeak_is_not_loaded_by_the_import() -> None:
    code = "import sys, mtl_speech.corpora.voice.synthetic; sys.exit('espeakng_loader' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_are_gurmukhi_and_different() -> None:
    texts = punjabi_words()
    assert len(texts) == len(set(texts)) > 3300
    assert all(unicodedata.is_normalized("NFC", text) for text in texts)
    assert all("GURMUKHI" in unicodedata.name(character) for text in texts for character in text)
    assert {"ਘਰ", "ਅਜੀਬ"} < set(texts[:2000]) and "ਕੰਙਣ" in texts  # the dictionary's words, and others


def test_share_gives_every_split_its_part_of_a_rare_phoneme() -> None:
    rng = random.Random(5)
    spoken = {index: (*rng.sample(sorted(INVENTORY - {"ɣ"}), 4), *("ɣ",) * (index < 9)) for index in range(400)}
    shares = share_words(spoken, 90, random.Random(0))
    assert {split: len(indices) for split, indices in shares.items()} == {"train": 45, "valid": 15, "test": 30}
    assert len({index for indices in shares.values() for index in indices}) == 90
    assert all(any(index < 9 for index in indices) for indices in shares.values())
    taken = sum(index < 9 for indices in shares.values() for index in indices)
    assert taken >= 6  # of 90 words drawn without looking, 2 would have it


def test_share_refuses_more_words_than_there_are() -> None:
    with pytest.raises(UsageError, match="number of words 61 is not from 60 to 60"):
        share_words(dict.fromkeys(range(60), ("k", "ɑ")), 61, random.Random(0))


@needs_espeak
def test_language_switch_is_told_and_its_words_are_not_used() -> None:
    speech = synthesise(["ਈਮੇਲ", "ਘਰ"], "pa", labels=LABELS)
    assert [each.switched for each in speech] == [True, False]
    switched = [index for index, word in enumerate(punjabi_words()) if word == "ਈਮੇਲ"]
    assert len(switched) == 1 and switched[0] not in sayable_words()


@needs_espeak
def test_same_seed_same_bytes_whatever_was_done_before(folder: Path, tmp_path: Path) -> None:
    synthesise(["something", "else"], "en-us")
    make_punjabi_corpus(tmp_path / "again", seed=3, n_words=60, voices=("", "m3", "f1"))
    assert files_of(tmp_path / "again") == files_of(folder)


@needs_espeak
def test_another_seed_gives_other_words_and_what_is_left_out_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = sayable_words()
    monkeypatch.setattr(synthetic, "sayable_words", lambda: spoken)
    monkeypatch.setattr(synthetic, "INVENTORY", INVENTORY - {"ʃ"})
    tokens = make_punjabi_corpus(tmp_path / "other", seed=4, n_words=60, voices=("",))
    first, second = (json.loads((each / "manifest.json").read_text()) for each in (folder, tmp_path / "other"))
    texts = [{each["text"] for each in manifest["utterances"].values()} for manifest in (first, second)]
    assert len(texts[0] - texts[1]) > 10
    assert first["left_out"] == []
    assert len(second["left_out"]) + len(second["utterances"]) == 60
    assert second["left_out"] and not any((tmp_path / "other" / f"{name}.wav").exists() for name in second["left_out"])
    assert tokens == second["tokens"] and not any("ʃ" in counts for counts in tokens.values())


@needs_espeak
def test_manifest_holds_the_hash_of_every_file(folder: Path) -> None:
    files = files_of(folder)
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert manifest["synthetic"] is True and manifest["seed"] == 3
    assert "no human voice" in files["README.txt"].decode()


@needs_espeak
def test_corpus_reads_back_without_problems(folder: Path, corpora: dict[str, Corpus]) -> None:
    tokens = json.loads((folder / "manifest.json").read_text())["tokens"]
    for split, corpus in corpora.items():
        assert corpus.problems == ()
        assert dict(corpus.phoneme_counts()) == tokens[split]
        assert {utterance.speaker for utterance in corpus.utterances} == {"pa", "pa-m3", "pa-f1"}
        assert all(utterance.words[0][0] for utterance in corpus.utterances)


@needs_espeak
def test_words_of_the_splits_are_disjoint_in_spelling_and_sound(corpora: dict[str, Corpus]) -> None:
    spellings: dict[str, str] = {}
    sounds: dict[tuple[str, ...], str] = {}
    for split, corpus in corpora.items():
        for utterance in corpus.utterances:
            bare = unicodedata.normalize("NFKC", utterance.words[0][0]).strip()
            assert spellings.setdefault(bare, split) == split
            assert sounds.setdefault(tuple(segment.phoneme for segment in utterance.segments), split) == split
    assert len(spellings) == 60


@needs_espeak
def test_labels_are_single_ipa_phonemes(corpora: dict[str, Corpus]) -> None:
    found = {phoneme for corpus in corpora.values() for phoneme in corpus.phoneme_counts()}
    assert found <= INVENTORY
    assert all(to_ipa(phoneme, "ipa") == phoneme for phoneme in INVENTORY)
    assert len(found) > 50


@needs_espeak
def test_every_phoneme_is_in_every_split_by_more_than_one_word(corpora: dict[str, Corpus]) -> None:
    spoken = sayable_words()
    for indices in share_words(spoken, DEFAULT_WORDS, random.Random(0)).values():
        words = Counter(phoneme for index in indices for phoneme in set(spoken[index]))
        assert set(words) == INVENTORY
        assert min(words.values()) >= 2
    assert set(corpora["train"].phoneme_counts()) == INVENTORY  # even of 60 words


@needs_espeak
def test_boundaries_are_in_order_and_inside_the_audio(corpora: dict[str, Corpus]) -> None:
    for corpus in corpora.values():
        for utterance in corpus.utterances:
            edges = [edge for segment in utterance.segments for edge in (segment.start, segment.end)]
            assert edges == sorted(edges)
            assert edges[0] >= PADDING - 1e-6 and edges[-1] <= utterance.duration - PADDING + 1e-6
            assert all(segment.end - segment.start > 0.005 for segment in utterance.segments)


@needs_espeak
def test_silence_is_silent_and_speech_is_not(corpora: dict[str, Corpus]) -> None:
    import soundfile

    for utterance in corpora["test"].utterances:
        samples, rate = soundfile.read(utterance.audio)
        assert rate == SAMPLE_RATE and samples.ndim == 1
        first, last = round(utterance.segments[0].start * rate), round(utterance.segments[-1].end * rate)
        margin = rate // 200  # 5 ms, for the ringing of the resampling filter
        assert np.abs(samples[: first - margin]).max() < 1e-3
        assert np.abs(samples[last + margin :]).max() < 1e-3
        assert np.sqrt(np.mean(samples[first:last] ** 2)) > 0.02


@needs_espeak
def test_closure_of_voiceless_stops_is_in_the_stop(corpora: dict[str, Corpus]) -> None:
    import soundfile

    checked = 0
    for utterance in corpora["train"].utterances:
        samples, rate = soundfile.read(utterance.audio)
        for before, segment in zip(utterance.segments, utterance.segments[1:], strict=False):
            if segment.phoneme not in VOICELESS_STOPS or before.phoneme[0] not in "əɑɪiʊueɛoɔ":
                continue
            start, end = round(segment.start * rate), round(segment.end * rate)
            closure = slice(start + rate // 200, start + rate // 50)  # from 5 to 20 ms after the boundary
            assert np.abs(samples[closure]).max() < 2e-3, (utterance.id, segment)
            assert np.abs(samples[start - rate // 100 : start]).max() > 2e-3  # the vowel sounds until the boundary
            assert np.abs(samples[start + rate // 50 : end]).max() > 2e-3  # the burst
            checked += 1
    assert checked > 40


@needs_espeak
def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(MtlSpeechError, match="variant 'zzz'"):
        make_punjabi_corpus(tmp_path / "corpus", n_words=60, voices=("", "zzz"))
    assert list(tmp_path.iterdir()) == []


def test_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="not an empty folder"):
        make_punjabi_corpus(tmp_path)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
