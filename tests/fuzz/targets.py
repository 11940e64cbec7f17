"""What is fuzzed: every reader of a file that a person or a stranger gives, each as a function of the bytes of that file."""

from __future__ import annotations

import json
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch

from mtl_speech.commands.inspect import describe_pack
from mtl_speech.commands.suggest import inventory_of
from mtl_speech.commands.target import is_synthetic
from mtl_speech.commands.transcribe import LEDGER_NAME, Outputs
from mtl_speech.core.errors import DataError, MtlSpeechError, Problem
from mtl_speech.core.files import json_text, plain
from mtl_speech.core.options import (
    PHONE_SETS,
    AdaptOptions,
    MetaTrainConfig,
    MetaTrainOptions,
    SuggestOptions,
    TranscribeOptions,
)
from mtl_speech.core.settings import load_config
from mtl_speech.core.tensor_files import decode, header_entries
from mtl_speech.corpora import corrections
from mtl_speech.corpora.audio import SAMPLE_RATE, audio_duration, check_audio, load_audio
from mtl_speech.corpora.label_files import elan, label_lines, textgrid
from mtl_speech.corpora.label_files.clock import from_begin
from mtl_speech.corpora.label_files.media_links import media_links
from mtl_speech.corpora.label_files.textgrid import long_form, read_whole
from mtl_speech.corpora.label_files.tiers import labels_of_tiers, of_all_speakers
from mtl_speech.corpora.labels import Interval, Labels, find_segments, find_words
from mtl_speech.corpora.pairing import Names, find_matches, likely, linked_recordings
from mtl_speech.corpora.places import members, unsafe
from mtl_speech.corpora.sound.not_audio import what_it_is
from mtl_speech.corpora.spans import within
from mtl_speech.model.language_pack import LanguageModel, language_pack, load_language
from mtl_speech.model.learner import Head
from mtl_speech.model.pack import CARD, WEIGHTS, Pack, load_pack, save_pack
from mtl_speech.model.strategy import load_base, load_learner, new_learner
from mtl_speech.phonology import inventories
from mtl_speech.phonology.inventories import find_inventory
from mtl_speech.phonology.phonemes import guess_phone_set, to_ipa
from mtl_speech.scoring.metrics import read_tokens
from mtl_speech.transcription.transcript import Phone, Transcription, eaf_bytes, textgrid_text
from tests.fuzz import seeds
from tests.helpers import tiny_base

MAX_MESSAGE = 20_000  # characters: an error is for a person
MAX_DIFFERENCE = 1.0  # seconds: a frame of MP3 in each of a few parts of a file
FOUND = Transcription(0.5, (Phone("", 0.0, 0.1, 1.0), Phone("t̪ʰ", 0.1, 0.4, 0.87), Phone("", 0.4, 0.5, 1.0)))


@dataclass(frozen=True)
class Target:
    """A reader: the name of the file that it is given, what it does with it, and files to begin with."""

    file: str
    read: Callable[[Path], object]
    seeds: tuple[bytes, ...]


def attempt(target: Target, folder: Path, data: bytes) -> None:
    """Give a reader a file of these bytes. It may refuse it in words, by an error of our own; all else is a finding."""
    path = folder / target.file
    path.write_bytes(data)
    try:
        target.read(path)
    except MtlSpeechError as error:
        said = str(error)
        assert said.encode("utf-8") and len(said) <= MAX_MESSAGE, f"{len(said)} characters: {said[:200]}"


def _labels(labels: Labels, problems: tuple[Problem, ...] = ()) -> None:
    """What a folder's labels go through."""
    phone_set = guess_phone_set(phone.label for phone in labels.phones)
    segments, wrong = find_segments(labels, 0.5, phone_set)
    words, more = find_words(labels, 0.5)
    assert all(0 <= s.start < s.end <= 0.5 for s in segments)
    assert all(one.end <= other.start for one, other in pairwise(segments))
    for problem in (*labels.problems, *problems, *wrong, *more):
        said = str(problem)
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in said) and len(said) <= MAX_MESSAGE, said[:200]
    json_text(plain({"segments": segments, "words": words}))


def _tiers(read: Callable[[Path, str | None], Labels], path: Path) -> None:
    """Labels of one speaker or several, by known names and by patterns, from where the recording begins."""
    for tier in ("*", "?h*n*"):
        try:
            _speakers(read(path, tier))
        except DataError as error:
            assert str(error).startswith(str(path))
    _speakers(read(path, None))


def _speakers(labels: Labels) -> None:
    labels = from_begin(labels, 0.5)
    names = [each.speaker for each in (labels, *labels.more)]
    assert len(set(names)) == len(names)
    for each in (labels, *labels.more, of_all_speakers(labels)):
        unknown = within(each.unlabelled, 0.5)
        assert all(0 <= start < end <= 0.5 for start, end in unknown)
        assert all(one[1] < other[0] for one, other in pairwise(unknown))
        _labels(each)


def _names(path: Path) -> None:
    """A pattern, and names of tiers, one a line."""
    pattern, *names = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    one = (Interval(0.1, 0.2, "t", 1),)
    for tier in (pattern, None):
        try:
            _speakers(labels_of_tiers(path, [(name, one) for name in names], "tiers", tier=tier))
        except DataError as error:
            assert str(error).startswith(str(path))


def _ctm(path: Path) -> None:
    named, problems = label_lines.read_ctm(path)
    for labels in named.values():
        _labels(labels, problems)


def _kept(path: Path) -> None:
    grid = read_whole(path)
    again = path.with_name("again.TextGrid")
    again.write_text(long_form(grid), encoding="utf-8", newline="")
    assert read_whole(again) == grid, "what is written is what was read"
    textgrid_text(FOUND, path)


def _eaf(path: Path) -> None:
    again = path.with_name("again.eaf")
    again.write_bytes(eaf_bytes(FOUND, path.with_suffix(".wav"), again, path))
    elan.read_eaf(again)


def _links(path: Path) -> None:
    """Whatever an .eaf links, it leads to a recording of the folder or nowhere."""
    names = Names({"a": path.with_name("a.wav"), "s/b c": path.with_name("b c.wav")}, anywhere=True)
    links = media_links(path)
    assert set(linked_recordings(names, "s/x", links)) <= names.recordings.keys()


def _names(path: Path) -> None:
    """Lines as names of recordings and of label files, by turns: each match is with one that is there."""
    lines = path.read_text(encoding="utf-8", errors="replace")[:2_000].splitlines()
    recordings = {name: Path(f"{name}.wav") for name in lines[::2]}
    labels = [(name, Path(f"{name}.TextGrid")) for name in lines[1::2]]
    for anywhere in (False, True):
        matches = [*find_matches(Names(recordings, anywhere), labels), *likely(recordings, labels)]
        assert all(match.recordings and set(match.recordings) <= recordings.keys() for match in matches)


def _examples(path: Path) -> None:
    read = corrections.read_examples(path)
    corrections.changes_csv({"itself": corrections.compare(read, read)}).encode("utf-8")
    corrections.examples_json(read).encode("utf-8")


def _ledger(path: Path) -> None:
    outputs = Outputs(path.parent, ("json",), "pack")
    (path.parent / "a.json").write_bytes(b"{}")
    outputs.is_own(path.parent / "a.json")


def _config(path: Path) -> None:
    for cls in (AdaptOptions, MetaTrainOptions, SuggestOptions, TranscribeOptions):
        try:
            json_text(plain(load_config(cls, path))).encode("utf-8")
        except MtlSpeechError as error:
            assert len(str(error)) <= MAX_MESSAGE


def _audio(path: Path) -> None:
    """What is read is as long as the headers say, and what is told can be printed."""
    notes: list[str] = []
    try:
        seconds: float | None = audio_duration(path, notes)
    except MtlSpeechError:
        seconds = None
    samples = load_audio(path, notes)
    check_audio(samples)
    assert seconds is None or abs(len(samples) / SAMPLE_RATE - seconds) < MAX_DIFFERENCE, (
        f"{len(samples)}, not {seconds}"
    )
    assert all(note.isprintable() and len(note) < MAX_MESSAGE for note in notes)


def _text(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for phone_set in PHONE_SETS:
        try:
            to_ipa(text, phone_set)
        except MtlSpeechError as error:
            assert len(str(error)) <= MAX_MESSAGE


@cache
def _language() -> Pack:
    """A small language pack."""
    base, config = tiny_base(), MetaTrainConfig(inner_steps=2)
    learner = new_learner(base, base.phonemes, config)
    head = Head(learner.theta[:2].unsqueeze(0) + 1, torch.ones(1, 2))
    return language_pack(LanguageModel(learner, head, base.phonemes[:2]), base, config, "pa", {"name": "toy"})


def _card(path: Path) -> None:
    """A card as it stands beside weights that are right."""
    if not (path.parent / WEIGHTS).exists():
        data = path.read_bytes()
        path.unlink()
        saved = save_pack(_language(), path.parent / "saved")
        (saved / WEIGHTS).rename(path.parent / WEIGHTS)
        path.write_bytes(data)
    describe_pack(load_pack(path.parent))


def _card_values(path: Path) -> None:
    """Any values in a card whose hashes are right: the pack is loaded as far as it goes."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict):
        return
    base, kind = tiny_base(), values.pop("kind", "encoder")
    if kind == "encoder":
        pack = Pack("encoder", base.pack.tensors, {**base.pack.card, **values})
    elif kind == "strategy":
        own = {name: value for name, value in _language().tensors.items() if not name.startswith("head.")}
        pack = Pack("strategy", own, {**_language().card, **values})
    else:
        pack = Pack("language", _language().tensors, {**_language().card, **values})
    saved = save_pack(pack, path.parent / "saved")
    describe_pack(load_pack(saved))
    if kind == "encoder":
        load_base(saved)
    elif kind == "strategy":
        load_learner(load_pack(saved), base)
    else:
        load_language(load_pack(saved), base)
        inventory_of(load_pack(saved))


def _weights(path: Path) -> None:
    data = path.read_bytes()
    header_entries(data, path)
    decode(data, path)


def _tar(path: Path) -> None:
    try:
        with open(path, "rb") as stream:
            for member in members(stream, lambda _: True, 1 << 20):
                if member.content is not None:
                    assert not unsafe(member.name) and len(member.content.read()) == member.size
    except tarfile.ReadError as error:
        raise DataError(f"{path}: {error}") from error


TARGETS = {
    "textgrid": Target("a.TextGrid", lambda path: _tiers(textgrid.read_labels, path), seeds.TEXTGRIDS),
    "kept_textgrid": Target("a.TextGrid", _kept, seeds.TEXTGRIDS),
    "tier_names": Target("a.TextGrid", _names, seeds.TIER_NAMES),
    "phn": Target("a.PHN", lambda path: _labels(label_lines.read_phn(path)), seeds.PHN),
    "ctm": Target("a.ctm", _ctm, seeds.CTM),
    "eaf": Target("a.eaf", lambda path: _tiers(elan.read_labels, path), seeds.EAF),
    "eaf_kept": Target("a.eaf", _eaf, seeds.EAF),
    "links": Target("x.eaf", _links, seeds.LINKS),
    "names": Target("names.txt", _names, seeds.NAMES),
    "label": Target("a.txt", _text, seeds.LABELS),
    "manifest": Target("manifest.json", lambda path: is_synthetic(path.parent), seeds.MANIFESTS),
    "examples": Target("examples.json", _examples, seeds.EXAMPLES),
    "tokens": Target("tokens.csv", lambda path: read_tokens(path.parent), seeds.TOKENS),
    "inventory": Target("inventory.txt", lambda path: find_inventory(str(path)), seeds.INVENTORIES),
    "words": Target("words.txt", lambda path: inventories.read_words(path, ("t̪ʰ", "aː", "k")), seeds.WORDS),
    "ledger": Target(LEDGER_NAME, _ledger, seeds.LEDGERS),
    "config": Target("config.yaml", _config, seeds.CONFIGS),
    "card": Target(CARD, _card, seeds.CARDS),
    "card_values": Target("values.json", _card_values, seeds.CARD_VALUES),
    "weights": Target(WEIGHTS, _weights, seeds.WEIGHTS),
    "audio": Target("a.wav", _audio, seeds.AUDIO),
    "mpeg": Target("a.mp3", _audio, seeds.MPEG),
    "ogg": Target("a.ogg", _audio, seeds.OGG),
    "joined": Target("a.au", _audio, seeds.JOINED),
    "sniffed": Target("a.bin", lambda path: what_it_is(path.read_bytes()), seeds.OTHER_FILES),
    "tar": Target("a.tar", _tar, seeds.TARS),
}
