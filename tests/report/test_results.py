"""What a run leaves behind, from end to end: the page with and without clips, the tokens, and reports that can be compared."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.model.language_pack import load_language
from mtl_speech.model.pack import load_pack
from mtl_speech.model.scale_shift import is_identity
from mtl_speech.model.strategy import load_base
from mtl_speech.scoring.metrics import NotScored, Token, read_tokens, score
from mtl_speech.training.adapt import pooled_scores
from mtl_speech.training.folds import NONE_TO_TEST_ON
from tests.command_line import labelled_folder, report, run, save_base
from tests.helpers import toy_recording


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """adapted/ and evaluated/: a pack learned from train/ and tested on test/, and scored on test/ again, with clips."""
    folder = tmp_path_factory.mktemp("results")
    labelled_folder(folder / "train", 8, 2)
    labelled_folder(folder / "test", 4, 2, seed=5)
    toy_recording(folder / "test" / "s0" / "odd.wav", "abd", seed=77)
    wrong = [(0.1, 0.2, "b"), (0.2, 0.3, "a"), (0.3, 0.4, "d")]  # so that something is confused
    write_textgrid(folder / "test" / "s0" / "odd.TextGrid", 0.5, {"phones": wrong})
    base = ["--base", save_base(folder / "base"), "-q"]
    data = ["--data", folder / "train", "--test", folder / "test"]
    run("adapt", "--lang", "sw", *data, *base, "--meta-steps", 2, "--output-dir", folder / "adapted")
    test = ["--data", folder / "test", "--clips"]
    run("evaluate", folder / "adapted" / "pack", *test, *base, "--output-dir", folder / "evaluated")
    return folder


def test_a_phoneme_of_one_recording_is_not_scored_for_want_of_one_to_learn_from() -> None:
    """In cross-validation: whichever fold comes first."""
    tokens = (Token("u", 0.0, 0.1, "p", "p"),)
    none = [NotScored("b", 2, reason) for reason in (NONE_TO_TEST_ON, "no example left to learn from", NONE_TO_TEST_ON)]
    runs = [SimpleNamespace(tokens=tokens, scores=score(["p"], ["p"], not_scored=[m], n_bootstrap=2)) for m in none]
    assert pooled_scores(runs, 0).not_scored == (none[1],)  # type: ignore[arg-type]


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_tokens_are_where_the_corpus_has_them(work: Path) -> None:
    corpus = read_corpus(work / "test", "sw")
    expected = {(u.id, round(s.start, 3), round(s.end, 3), s.phoneme) for u in corpus.utterances for s in u.segments}
    tokens = read_tokens(work / "adapted")
    assert {(t.recording, round(t.start, 3), round(t.end, 3), t.true) for t in tokens} == expected
    assert len(tokens) == report(work / "adapted")["scores"]["n"]
    assert all(0.0 < token.confidence <= 1.0 for token in tokens)


def test_the_report_of_a_pack_equals_that_of_its_adaptation(work: Path) -> None:
    adapted, evaluated = (read_tokens(work / name) for name in ("adapted", "evaluated"))
    assert sorted(adapted, key=str) == sorted(evaluated, key=str)
    said = run("compare", work / "adapted", work / "evaluated").stdout
    assert "B - A, macro-F1: +0.000 [+0.000, +0.000], no difference is shown" in said


def test_a_page_holds_clips_only_where_they_are_asked_for(work: Path) -> None:
    assert "<audio" not in page(work / "adapted") and "data:audio" not in page(work / "adapted")
    assert report(work / "adapted")["clips"] is None
    clips = report(work / "evaluated")["clips"]["clips"]
    assert clips and page(work / "evaluated").count("<audio") == len(clips)
    tokens = [(t.recording, t.true, t.predicted) for t in read_tokens(work / "evaluated")]
    assert all((c["token"]["recording"], c["token"]["true"], c["token"]["predicted"]) in tokens for c in clips)


def test_the_report_says_what_was_learned_and_that_nothing_was_forgotten(work: Path) -> None:
    found = report(work / "adapted")
    card = load_pack(work / "adapted" / "pack", "language").card
    assert (
        found["about"]["Language"] == "Swahili (sw)" and "48 examples of 6 phonemes" in found["about"]["Learned from"]
    )
    assert found["size"]["examples"] == sum(card["examples"].values())  # type: ignore[attr-defined]
    assert found["size"]["trainable"] < found["size"]["frozen"] * 10
    encoder = load_language(load_pack(work / "adapted" / "pack", "language"), load_base(work / "base")).learner.encoder
    for name in ("adapted", "evaluated"):
        base = report(work / name)["base_model"]
        assert base["sha256_before"] == base["sha256_after"] == card["base"]["sha256"]  # type: ignore[index]
        assert base["largest_difference"] == 0.0 and base["phi_at_identity"] is is_identity(encoder)
        assert report(work / name)["calibration"]["temperature"] == card["temperature"]
    assert [point["shots"] for point in found["learning_curve"]["points"]] == [1, 2, 5, None]
    assert found["curriculum"]["rounds"] == 2 and not found["curriculum"]["on"]
    assert report(work / "evaluated")["learning_curve"] is None and report(work / "evaluated")["size"] is None


def test_pages_name_no_place_of_the_machine(work: Path) -> None:
    for name in ("adapted", "evaluated"):
        assert str(work) not in page(work / name) and "/tmp/" not in page(work / name)
        command = re.search(r"<h3>Command</h3>\s*<pre>(.*?)</pre>", page(work / name), re.DOTALL)
        assert command is not None and command[1].startswith("mtl-speech ")
