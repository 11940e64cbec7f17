"""Bad input of every kind, quickly: each reader that is fuzzed (tests/fuzz) reads what it is given, or refuses it in words.

And a regression test for each thing that fuzzing, or reading the readers as an attacker would, has found.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtl_speech.commands.suggest import inventory_of
from mtl_speech.commands.target import is_synthetic
from mtl_speech.core.errors import ConfigError, DataError, MtlSpeechError, PackError
from mtl_speech.core.options import AdaptOptions
from mtl_speech.core.settings import load_config
from mtl_speech.corpora.audio import load_audio
from mtl_speech.corpora.corrections import read_examples
from mtl_speech.corpora.label_files import elan, textgrid
from mtl_speech.corpora.labels import Interval, Labels, find_segments
from mtl_speech.model.pack import Pack, save_pack
from mtl_speech.model.strategy import load_base, load_learner, new_learner, strategy_pack
from mtl_speech.phonology.inventories import read_words
from mtl_speech.phonology.phonemes import UnmappableLabel, to_ipa
from tests.fuzz.targets import TARGETS, attempt
from tests.helpers import meta_config, tiny_base

MAX_SECONDS = 10  # of processor time, for files that took minutes or for ever; each takes well under one
MAX_KILOBYTES = 400_000
ROOT = Path(__file__).resolve().parent.parent
READERS = {"a.TextGrid": "textgrid", "kept.TextGrid": "kept_textgrid", "a.PHN": "phn", "a.ctm": "ctm"}

ODD_TEXT = (
    "\0",
    "\ud800".encode("utf-16-le", "surrogatepass").decode("latin-1"),
    "\x85",
    "\u2028",
    "\ufeff",
    "NaN",
    "-1",
    "1e999",
)
ODD_TEXT += (
    "9" * 400,
    '"' * 3,
    "\r",
    "0,5",
    "inf",
    "\u202e",
    "ʰ" * 70,
    "{" * 40,
    "]]>",
    "&a;",
    "!!python/name:os.system",
)
pieces = st.sampled_from([text.encode("utf-8") for text in ODD_TEXT]) | st.binary(max_size=8)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), pieces), max_size=4)


def edited(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """The bytes with some of them replaced, at places that are shares of the whole."""
    for place, n, piece in changes:
        at = round(place * len(data))
        data = data[:at] + piece + data[at + n :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(max_examples=30 if name == "card_values" else 100, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(target.seeds), edits)
    def check(seed: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        attempt(target, tmp_path, edited(seed, changes))

    check()


def test_a_reader_that_breaks_is_found(tmp_path: Path) -> None:
    """The check above can fail: a reader that lets another error through is told."""

    def careless(path: Path) -> None:
        json.loads(path.read_bytes())

    target = type(TARGETS["manifest"])("a.json", careless, (b"{}",))
    attempt(target, tmp_path, b"{}")
    with pytest.raises(json.JSONDecodeError):
        attempt(target, tmp_path, b"{")


@contextmanager
def bounded() -> Iterator[None]:
    """What is inside takes little time and memory."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begin < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_KILOBYTES


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


# Time and memory

GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0 1 <exists> 1 "IntervalTier" "phones" 0 1 {} {}'


@pytest.mark.parametrize("text", ["1" * 300_000 + "x", "1." * 150_000, "1e" + "1" * 300_000 + "x", "." * 300_000])
def test_a_number_that_does_not_end_takes_no_quadratic_time(tmp_path: Path, text: str) -> None:
    with bounded():
        textgrid.read_textgrid(written(tmp_path, "a.TextGrid", GRID.format(1, text)))


@pytest.mark.parametrize(
    "label", ["a" + " " * 300_000 + "b", "a" + "\u0323\u0301" * 150_000, "ʰ" * 300_000, "<" * 300_000]
)
def test_a_label_without_end_is_no_phoneme_and_costs_nothing(label: str) -> None:
    with bounded():
        labels = Labels(Path("a"), None, (Interval(0.0, 0.1, "t", 1), Interval(0.1, 0.2, label, 2)))
        segments, problems = find_segments(labels, 1.0, "ipa")
        with pytest.raises(UnmappableLabel, match="longer than any phoneme"):
            to_ipa(label, "ipa")
    assert len(segments) == 1 and "longer than any phoneme" in str(problems[0]) and len(str(problems[0])) < 200


def test_modifiers_without_end_are_not_joined_for_ever() -> None:
    marks = [Interval(0.1 + i / 1e6, 0.1 + (i + 1) / 1e6, "ʰ", i + 2) for i in range(20_000)]
    with bounded():
        segments, problems = find_segments(Labels(Path("a"), None, (Interval(0.0, 0.1, "t", 1), *marks)), 1.0, "ipa")
    assert len(segments[0].phoneme) <= 65 and len(problems) == 20_000


def test_a_word_without_end_is_refused(tmp_path: Path) -> None:
    text = f"one\t{'aʰ' * 200_000}\ntwo\ta{' ʰ' * 200_000}\nthree\tk a\n"
    with bounded():
        words, problems = read_words(written(tmp_path, "words.txt", text), ())
    assert [word.text for word in words] == ["three"] and len(problems) == 2


def test_an_elan_file_of_a_million_elements_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.eaf", b"<ANNOTATION_DOCUMENT>" + b"<a/>" * 1_000_001 + b"</ANNOTATION_DOCUMENT>")
    with bounded(), pytest.raises(DataError, match="too many elements"):
        elan.read_labels(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.TextGrid", "kept.TextGrid", "a.PHN", "a.ctm"])
def test_the_largest_label_files_are_read_so_far_or_refused(tmp_path: Path, name: str) -> None:
    """A file of as many intervals as its size allows: 2 GB of memory are enough for it, and two minutes."""
    lines = {"PHN": b"0 1 a\n", "ctm": b"a 1 0 1 a\n", "TextGrid": b'0 1 "a"\n'}[name.split(".")[1]]
    head = GRID.format(10**9, "").encode() + b"\n" if "TextGrid" in name else b""
    size = (63 if "TextGrid" in name else 255) << 20
    path = written(tmp_path, name, head + lines * (size // len(lines)))
    code = f"""
import resource, sys
from pathlib import Path
from tests.fuzz.targets import TARGETS
from mtl_speech.core.errors import MtlSpeechError
path = Path({str(path)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    TARGETS[{READERS[name]!r}].read(path)
except MtlSpeechError as error:
    print(str(error)[-120:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    *_, kilobytes, seconds = done.stdout.split()
    assert int(kilobytes) < 2_000_000 and float(seconds) < 120, done.stdout


@pytest.mark.parametrize("read", [read_examples, lambda path: is_synthetic(path.parent)])
def test_json_that_is_nested_deeply(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = written(tmp_path, "manifest.json", "[" * 200_000)
    with bounded():
        try:
            assert not read(path)
        except DataError as error:
            assert "manifest.json" in str(error)


def test_silence_that_flac_packs_small_needs_no_more_memory_than_it_has_seconds(tmp_path: Path) -> None:
    rate, seconds = 655_350, 60
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(seconds):
            file.write(np.zeros(rate, dtype=np.int16))
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        assert len(load_audio(path)) == seconds * 16_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * rate * seconds / 4  # bytes: a quarter of what the samples of the file would take


# Packs that claim more than they hold


@pytest.mark.parametrize(
    "claim",
    [
        {
            "encoder": {
                "channels": 4096,
                "kernel_size": 31,
                "stem_kernel_size": 31,
                "blocks": 64,
                "embedding_size": 4096,
            }
        },
        {"encoder": {"channels": 8, "blocks": 1, "embedding_size": 4096}},
        {"phonemes": [f"p{i}" for i in range(60_000)]},
        {"phonemes": ["a", "a"]},
        {"phonemes": []},
        {"phonemes": ["a", " "]},
    ],
)
def test_an_encoder_that_claims_more_than_it_holds(tmp_path: Path, claim: dict[str, object]) -> None:
    pack = tiny_base().pack
    save_pack(Pack("encoder", pack.tensors, {**pack.card, **claim}), tmp_path / "pack")
    with (
        bounded(),
        pytest.raises(PackError, match="does not fit the settings|is missing|not a list of 1 to 2,000 different"),
    ):
        load_base(tmp_path / "pack")


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"inner_steps": 10**17}, "inner-steps: must be at most 10000"),
        ({"inner_steps": 10_000}, "'log_rates' does not fit"),
        ({"granularity": "kernel"}, "does not fit"),
        ({"n_way": [10**19]}, "must be a whole number"),
    ],
)
def test_a_strategy_that_claims_more_than_it_holds(claim: dict[str, object], said: str) -> None:
    base = tiny_base()
    pack = strategy_pack(new_learner(base, "ab", meta_config()), base, meta_config(), {})
    settings_of: dict[str, object] = pack.card["meta_train"]  # type: ignore[assignment]
    with bounded(), pytest.raises(PackError, match=said):
        load_learner(Pack("strategy", pack.tensors, {**pack.card, "meta_train": {**settings_of, **claim}}), base)


def test_a_number_of_a_card_that_no_float_can_hold(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is too large"):
        save_pack(Pack("encoder", tiny_base().pack.tensors, {"examples": {"a": 10**400}}), tmp_path / "pack")
    assert inventory_of(Pack("language", {}, {"inventory": ["a"], "examples": {"a": 10**17}})).phonemes == ("a",)


# Text that cannot be written again


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('lang: "\\ud800"', "lang: must be text"),
        ('data: "a\\0b"', "data: must be a path"),
        (f"seed: {10**19}", "seed: must be a whole number"),
        ("seed: 0x" + "f" * 5000, "seed: must be a whole number|digits"),
    ],
)
def test_settings_that_only_the_machine_would_refuse(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(AdaptOptions, written(tmp_path, "a.yaml", line))


@pytest.mark.parametrize(
    ("name", "phones"),
    [
        ("a", '[["\\ud800", 0, 0.1]]'),
        ("\\udcff", "[]"),
        ("a", '[["t", NaN, 0.1]]'),
        ("a", '[["t", 0, Infinity]]'),
        ("a", '[["t", 0.2, 0.1]]'),
        ("a", '[["t", 0, 9], ["t", 0, 9]]'),
        ("a", f'[["t", 0, 1{"0" * 400}]]'),
        ("a", "3"),
    ],
)
def test_examples_that_no_run_wrote(tmp_path: Path, name: str, phones: str) -> None:
    text = f'{{"format": "mtl_speech.examples/1", "recordings": {{"{name}": {{"sha256": "", "phones": {phones}}}}}}}'
    with pytest.raises(DataError, match="examples.json: not a list of examples"):
        read_examples(written(tmp_path, "examples.json", text))


def test_messages_cannot_steer_a_terminal() -> None:
    assert str(MtlSpeechError("a\x1b[2J\u202eb\udcff\nc")) == "a\\x1b[2J\\u202eb\\udcff\nc"
