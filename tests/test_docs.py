"""What the pages for linguists and researchers say is so: their commands and code run, their pictures and options exist."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from praatio import textgrid

from mtl_speech.commands.cli import main
from mtl_speech.core.options import MetaTrainConfig
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.backbones import ATTENTION, WAV2VEC2
from mtl_speech.model.encoder import FrameEncoder
from mtl_speech.model.hub import STRETCH, HubEncoder
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base
from mtl_speech.model.whisper import WhisperEncoder
from mtl_speech.training.base_learning import LAYER_EXAMPLES, N_FOLDS
from tests.command_line import run
from tests.helpers import PHONEMES, toy_recording
from tests.test_readme import ROOT, blocks

DOCS = ROOT / "docs"
LINGUIST, RESEARCHER, ENCODERS = (
    (DOCS / name).read_text(encoding="utf-8") for name in ("linguist.md", "researcher.md", "encoders.md")
)
MAX_PICTURE_BYTES = 150_000
N_RECORDINGS = 4  # in a folder
PNG = b"\x89PNG\r\n\x1a\n"


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page, without the name of the program."""
    lines = [line for block in blocks("sh", page) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("mtl-speech ")]


def record(folder: Path, names: str, labelled: bool = True, n: int = N_RECORDINGS) -> None:
    """Recordings of buzzes by two speakers, four phonemes each."""
    for number in range(n):
        path = folder / ("jaspreet", "balwinder")[number % 2] / f"{names}{number}.wav"
        segments = toy_recording(path, PHONEMES[number % 3 : number % 3 + 4], seed=number + 100 * len(names))
        phones = [(s.start, s.end, s.phoneme) for s in segments]
        if labelled:
            write_textgrid(path.with_suffix(".TextGrid"), 0.2 + 0.1 * len(phones), {"phones": phones})


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the pages work."""
    record(tmp_path / "my-recordings", "word")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named_files() -> set[str]:
    """What the researcher's page says that a run leaves behind."""
    table = RESEARCHER.split("## What a run leaves behind")[1].split("## The algorithm")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return {name.split("/")[0] for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


# The linguist's page, from top to bottom


def test_the_linguists_commands_are_those_that_the_test_below_knows() -> None:
    assert [words[0] for words in commands(LINGUIST)] == [
        *("validate", "adapt", "transcribe", "transcribe", "adapt", "suggest", "suggest", "adapt")
    ]
    assert [line for block in blocks("sh", LINGUIST) for line in block.splitlines() if "mtl-speech" not in line] == [
        "make demo",
        ". .venv/bin/activate",
    ]


def test_a_linguist_can_follow_the_page(desk: Path) -> None:
    record(desk / "new-recordings", "new", labelled=False)
    record(desk / "more-recordings", "more", labelled=False)
    (word_list,) = (block for block in blocks("text", LINGUIST) if "\t" in block)
    (desk / "words.txt").write_text(word_list, encoding="utf-8")
    (desk / "inventory.txt").write_text(" ".join((*PHONEMES[:6], "p")), encoding="utf-8")
    validate, adapt, transcribe, transcribe_otherwise, again, words, pool, inventory = commands(LINGUIST)
    results = desk / "results" / "adapt-pa" / "0"

    assert "nothing is left out" in run(*validate).output
    assert "macro" in run(*adapt).output
    pack = load_pack(results / "pack", "language")
    assert (results / "report.html").stat().st_size > 10_000

    run(*transcribe)
    written = sorted((desk / "new-recordings").rglob("*.TextGrid"))
    assert len(written) == N_RECORDINGS
    for path in written:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        assert grid.tierNames == ("phones-pred", "confidence")
        assert len(grid.getTier("phones-pred").entries) == len(grid.getTier("confidence").entries)
    run(*transcribe_otherwise)
    names = {path.suffix for path in (desk / "transcribed").rglob("*.*")}
    assert {".eaf", ".ctm", ".json"} <= names and ".TextGrid" not in names

    corrected = next(path for path in written if path.parent.name == "jaspreet")
    said = run(*validate[:-1], "new-recordings", code=1).output
    assert said.count("holds machine labels") == 3 and f"{N_RECORDINGS} in all" in said
    text = corrected.read_text(encoding="utf-8").replace('"phones-pred"', '"phones"')
    corrected.write_text(text, encoding="utf-8")
    run(*transcribe)
    assert '"phones"' in corrected.read_text(encoding="utf-8"), "a corrected tier is kept"
    for path in (corrected, corrected.with_suffix(".wav")):
        shutil.move(path, desk / "my-recordings" / "jaspreet" / path.name)
    output = run(*again).output
    assert re.search(r"^recordings added +1 ", output, re.MULTILINE)
    assert "labels of the machine in 1 corrected recordings" in output
    assert load_pack(results / "earlier" / "1" / "pack").card == pack.card
    assert {path.name for path in results.iterdir()} == named_files() - {"ablation.png"}

    assert "ਘਰ" in run(*words).output
    assert "Recordings to label next" in run(*pool).output
    assert "p ←" in run(*inventory).output
    assert load_pack(results / "pack", "language").value("zero_shot", dict)
    assert "zero-shot" in (results / "report.html").read_text(encoding="utf-8")


FAULTS = {
    "no 'phones' tier": {"segmentation": [(0.1, 0.2, "a")]},
    "is more than one phoneme": {"phones": [(0.1, 0.2, "ab"), (0.2, 0.3, "a")]},
    "has characters that are not IPA here": {"phones": [(0.1, 0.2, "A2"), (0.2, 0.3, "a")]},
    "holds machine labels": {"phones-pred": [(0.1, 0.2, "a")]},
    "is it the right one?": {"phones": [(0.1, 0.2, "a")]},
    "begins at": {"phones": [(7.6, 7.7, "a")]},
    "by PREVIOUS_ANNOTATION": {},
    "overlaps": {},
    "no labels": {},
}


# Two parts of an annotation, each said to come after the other.
CIRCLE = """<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">
  <HEADER TIME_UNITS="milliseconds"/>
  <TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="100"/><TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="300"/></TIME_ORDER>
  <TIER TIER_ID="words" LINGUISTIC_TYPE_REF="time"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="w" TIME_SLOT_REF1="t1"
    TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>ab</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
  <TIER TIER_ID="phones" LINGUISTIC_TYPE_REF="parts" PARENT_REF="words">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a" ANNOTATION_REF="w" PREVIOUS_ANNOTATION="b"><ANNOTATION_VALUE>a</ANNOTATION_VALUE>
    </REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b" ANNOTATION_REF="w" PREVIOUS_ANNOTATION="a"><ANNOTATION_VALUE>b</ANNOTATION_VALUE>
    </REF_ANNOTATION></ANNOTATION></TIER>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="time" TIME_ALIGNABLE="true"/>
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="parts" CONSTRAINTS="Symbolic_Subdivision" TIME_ALIGNABLE="false"/>
</ANNOTATION_DOCUMENT>
"""


def test_validate_says_what_the_page_says_that_it_says(desk: Path) -> None:
    table = re.findall(r"^\| `([^`]+)` \|", LINGUIST.split("## Learn")[0], re.MULTILINE)
    assert set(table) == set(FAULTS)
    for number, (said, tiers) in enumerate(FAULTS.items()):
        path = desk / "broken" / f"speaker{number}" / "word.wav"
        toy_recording(path, PHONEMES[:4], seed=number)
        if tiers:
            write_textgrid(
                path.with_suffix(".TextGrid"), {"is it the right one?": 2.0, "begins at": 9.0}.get(said, 0.6), tiers
            )
        if said == "begins at":  # as a part that was cut out of a longer recording, with the times of the whole
            late = path.with_suffix(".TextGrid").read_text(encoding="utf-8").replace("xmin = 0 ", "xmin = 7.5 ")
            path.with_suffix(".TextGrid").write_text(late, encoding="utf-8")
        if "PREVIOUS" in said:
            path.with_suffix(".eaf").write_text(CIRCLE, encoding="utf-8")
        if said == "overlaps":  # which Praat's tiers cannot
            path.with_suffix(".PHN").write_text("1600 4800 a\n3200 6400 e\n", encoding="utf-8")
    lines = run("validate", "broken", code=1).output.splitlines()
    for number, said in enumerate(FAULTS):
        (line, *_) = [line for line in lines if f"speaker{number}/" in line and said in line]
        assert line.startswith("changed: " if "right one" in said or "PREVIOUS" in said else "left out: ")


# The researcher's page


def test_a_researcher_can_follow_the_page(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of Python one after another, as in one session."""
    for path in (desk / "my-recordings").rglob("*.TextGrid"):
        phones = textgrid.openTextgrid(str(path), includeEmptyIntervals=False).getTier("phones").entries
        track = desk / "audacity" / path.relative_to(desk / "my-recordings").with_suffix(".txt")
        track.parent.mkdir(parents=True, exist_ok=True)
        track.write_text("".join(f"{p.start}\t{p.end}\t{p.label}\n" for p in phones), encoding="utf-8")
        shutil.copy(path.with_suffix(".wav"), track.parent)
    names: dict[str, object] = {}
    printed = []
    for block in blocks("python", RESEARCHER):
        exec(compile(block, "researcher.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert len(printed) == 4
    assert "(" in printed[0] and "nan" not in printed[0]
    assert len(names["corpus"].utterances) == N_RECORDINGS and not names["corpus"].problems  # type: ignore[attr-defined]
    assert "4-fold cross-validation over 4 recordings" in printed[2]
    assert set(json.loads(printed[3].replace("'", '"'))) == {
        f"{layer}.{name}" for layer in ("blocks.0", "blocks.1", "blocks.2", "embedding") for name in ("scale", "shift")
    }


def test_settings_of_the_page_are_read(desk: Path) -> None:
    record(desk / "my-recordings", "sentence", n=8)  # for five examples of a phoneme
    (settings,) = blocks("yaml", RESEARCHER)
    (desk / "adapt.yaml").write_text(settings, encoding="utf-8")
    found = commands(RESEARCHER)
    assert [words[0] for words in found] == ["adapt", "evaluate"]
    for words in found:
        run(*words)
    data = json.loads((desk / "results" / "five-shot" / "report.json").read_text(encoding="utf-8"))
    assert data["settings"]["adapt"]["shots"] == 5 and data["settings"]["adapt"]["seed"] == 1


def test_functions_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(workflows|transcribe|suggest|compare|train|inspect|export)\.(?!py`)(\w+)`", RESEARCHER)
    assert {name.replace("_", "-") for _, name in named} == set(main.commands)
    for module, name in named:
        assert callable(
            getattr(
                importlib.import_module(f"mtl_speech.{'report' if module == 'compare' else 'commands'}.{module}"), name
            )
        )


# encoders.md


def test_the_encoder_of_the_page_serves_as_it_stands_there(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("python", ENCODERS)
    (desk / "my_encoder.py").write_text(text, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "my_encoder", None)  # so that what is imported here goes with the test
    del sys.modules["my_encoder"]
    adapt, evaluate = (words for words in commands(ENCODERS) if "my_encoder:MyEncoder" in words)
    run(*adapt, "--threads", 1)
    report = (desk / "results" / "adapt-pa" / "0" / "report.json").read_text(encoding="utf-8")
    assert re.search(r"encoder: layer [12] of 2, by cross-validation in closed form", report)
    pack = load_pack(desk / "results" / "adapt-pa" / "0" / "pack", "language")
    assert pack.value("base", dict)["name"] == "my_encoder:MyEncoder"
    run(*evaluate, "--threads", 1)


def test_what_the_page_says_of_encoders_is_what_is_in_force() -> None:
    said = dict(re.findall(r"^\| ([^|`]+) \| (`[^|]+`)[^|]*\|$", ENCODERS.split("## What is learned")[1], re.MULTILINE))
    patterns = {family: tuple(re.findall(r"`([^`]+)`", cell)) for family, cell in said.items()}
    assert patterns == {
        "Whisper": WhisperEncoder.phi_patterns,
        "wav2vec 2.0, XLS-R, MMS, HuBERT": (*WAV2VEC2, ATTENTION),
    }
    attributes = ENCODERS.split("| attribute |")[1].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", attributes, re.MULTILINE)))
    assert len(named) == 10 and set(named) <= {*FrameEncoder.__annotations__}
    for name, value in (("hop", 1.0), ("centre", 0.0), ("stretch", 3_000), ("context", 100), ("margin", 0)):
        assert getattr(FrameEncoder, name) == value
    assert (LAYER_EXAMPLES, N_FOLDS, MetaTrainConfig().dimensions) == (600, 3, 384)
    assert (WhisperEncoder.stretch, STRETCH, WhisperEncoder.context, HubEncoder.context) == (3_000, 1_500, 100, 100)
    assert load_base().encoder.embedding_size == 1_153


# architecture.md


def test_what_the_walks_go_through_is_there() -> None:
    """Every `wing.module.name` of the page can be imported."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    wings = re.findall(r"^(\w+) {2,}\w", text.partition("```\n")[2].partition("```")[0], re.MULTILINE)
    named = set(re.findall(rf"`((?:{'|'.join(wings)})(?:\.\w+)+)`", text))
    assert len(wings) == 10 and len(named) > 35
    for name in named:
        wing, module, *attributes = name.split(".")
        found: object = importlib.import_module(f"mtl_speech.{wing}.{module}")
        for attribute in attributes:
            found = getattr(found, attribute)


# Both


@pytest.mark.parametrize("page", ["linguist.md", "researcher.md"])
def test_options_of_the_page_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    options = {name: {o for p in command.params for o in p.opts} for name, command in main.commands.items()}
    for words in commands(text):
        assert words[0] in options
        assert {word for word in words[1:] if word.startswith("-")} <= options[words[0]], words
    everywhere = set().union(*options.values())
    mentioned = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(re.findall(r"`([^`\n]+)`", text))))
    assert mentioned <= everywhere
    for name in re.findall(r"`mtl-speech ([a-z-]+)", text):
        assert name in main.commands


def test_pictures_are_there_small_and_described() -> None:
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", LINGUIST + RESEARCHER)
    assert {DOCS / target for _, target in shown} == set((DOCS / "images").iterdir())
    for text, target in shown:
        content = (DOCS / target).read_bytes()
        assert content.startswith(PNG) and len(content) < MAX_PICTURE_BYTES
        assert len(text) > 30, f"{target} needs words for those who cannot see it"


def test_anchors_of_links_are_headings() -> None:
    for page in (DOCS / "linguist.md", DOCS / "researcher.md"):
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_both_pages_can_be_found_from_the_first() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/linguist.md)" in readme and "](docs/researcher.md)" in readme
