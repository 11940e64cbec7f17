"""The command `suggest`: what it chooses from, what it says and writes, and what it says of what it leaves out."""

from __future__ import annotations

import csv
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mtl_speech.commands.suggest import inventory_of, probabilities, with_stand_ins
from mtl_speech.corpora.audio import SAMPLE_RATE
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.learner import Head
from mtl_speech.model.pack import Pack, load_pack, save_pack
from tests.command_line import INVENTORY, run, save_recogniser
from tests.helpers import PHONEMES, tiny_learner, toy_recording, toy_store

EXAMPLES = {"a": 9, "b": 4, "d": 4, "e": 1, "i": 9, "k": 9}
SAVED = ("format_version", "kind", "package_version", "sha256", "weights")  # what `save_pack` adds to a card
F1 = {"a": 0.9, "b": 0.2, "d": 0.9, "i": 0.9, "k": 0.9}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, pack/ and old/ (without F1 by phoneme), of random weights; pool/ (5 recordings, one labelled): only read by tests."""
    folder = tmp_path_factory.mktemp("shared")
    save_recogniser(folder, {"pack": {"examples": EXAMPLES, "phoneme_f1": F1}, "old": {"examples": EXAMPLES}})
    for number in range(5):
        toy_recording(folder / "pool" / "s0" / f"u{number}.wav", INVENTORY[number % 2 :], seed=number)
    write_textgrid(folder / "pool" / "s0" / "u0.TextGrid", 0.8, {"phones": [(0.1, 0.2, "a")]})
    write_textgrid(folder / "pool" / "s0" / "u1.TextGrid", 0.7, {"phones-pred": [(0.1, 0.2, "a")]})
    write_textgrid(folder / "pool" / "s0" / "u2.TextGrid", 0.8, {"words": [(0.1, 0.7, "word")]})
    return folder


@pytest.fixture(autouse=True)
def work_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a working folder of its own."""
    monkeypatch.chdir(tmp_path)


def suggestions(folder: str | Path = "results/suggest-sw-0/0") -> list[dict[str, str]]:
    with (Path(folder) / "suggestions.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def word_list(*lines: str) -> Path:
    path = Path("words.txt")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# Words


def test_words_are_ranked_by_what_their_phonemes_lack(shared: Path) -> None:
    words = word_list("known\ta i k", "hard\tb a", "easy\td a", "rare\te a", "new\tŋ a", "bare")
    said = run("suggest", shared / "pack", "--words", words, "-n", "4", "--base", shared / "base").stdout
    rows = suggestions()
    assert [row["name"] for row in rows] == ["new", "rare", "hard", "easy"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["brings"] == "1 ŋ (none); 1 a (9, F1 0.90)" and rows[0]["pronunciation"] == "ŋ a"
    assert rows[1]["brings"].startswith("1 e (1)") and rows[2]["brings"].startswith("1 b (4, F1 0.20)")
    assert float(rows[0]["gain"]) == pytest.approx(0.5 + 0.55 * (10 / 11 - 9 / 10), abs=1e-4)
    assert (rows[0]["phones"], rows[0]["seconds"], rows[0]["diversity"]) == ("2", "", "0.0000")
    assert "phonemes new to it: ŋ" in said and "'bare': no pronunciation; write a TAB" in said
    assert all(row["brings"].split(";")[0] in said for row in rows)


def test_a_phoneme_of_the_inventory_without_an_example_is_marked(shared: Path) -> None:
    pack = load_pack(shared / "pack", "language")
    card = {key: value for key, value in pack.card.items() if key not in SAVED}
    card |= {"zero_shot": {"e": {"a": 1.0}}, "examples": {p: n for p, n in EXAMPLES.items() if p != "e"}}
    save_pack(Pack("language", pack.tensors, card), Path("zero"))
    run("suggest", "zero", "--words", word_list("known\tb", "unheard\te"))
    assert [row["brings"] for row in suggestions()] == ["1 e (zero-shot)", "1 b (4, F1 0.20)"]


def test_fewer_than_asked_for_are_all_ranked(shared: Path) -> None:
    said = run("suggest", shared / "pack", "--words", word_list("one\ta", "two\te")).stdout
    assert [row["name"] for row in suggestions()] == ["two", "one"] and "only 2 to choose from" in said


def test_a_list_without_pronunciations_fails_and_says_what_to_write(shared: Path) -> None:
    said = run("suggest", shared / "pack", "--words", word_list("one", "two"), code=1).output
    assert "no word of it has a pronunciation: write a TAB" in said
    assert run("suggest", shared / "pack", "--words", "none.txt", code=1).output.count("cannot be read") == 1


def test_a_pack_without_f1_by_phoneme_counts_all_alike_and_says_so(shared: Path) -> None:
    words = word_list("easy\td", "hard\tb")
    assert "no F1 by phoneme" in run("suggest", shared / "old", "--words", words).stdout
    assert [row["name"] for row in suggestions()] == ["easy", "hard"]  # equal: the first
    run("suggest", shared / "pack", "--words", words)
    assert [row["name"] for row in suggestions()] == ["hard", "easy"]


@pytest.mark.parametrize("both", [True, False])
def test_one_thing_to_choose_from_must_be_given(shared: Path, both: bool) -> None:
    given = ["--words", word_list("a\ta"), "--pool", shared / "pool"] if both else []
    assert "pool, words: one of them must be given" in run("suggest", shared / "pack", *given, code=2).output


# Recordings


def test_recordings_of_a_pool_are_ranked_without_those_that_are_labelled(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mtl_speech")
    said = run("suggest", shared / "pack", "--pool", shared / "pool", "-n", "3", "--base", shared / "base").stdout
    rows = suggestions()
    assert len(rows) == 3 and {row["name"] for row in rows} < {f"s0/u{i}" for i in (1, 2, 3, 4)}
    assert "1 of 5 recordings are labelled already and left out" in said and "labelled already: s0/u0" in caplog.text
    for row in rows:
        assert float(row["gain"]) == pytest.approx(float(row["coverage"]) + float(row["diversity"]), abs=1.1e-4)
        assert float(row["seconds"]) == pytest.approx(0.7 if row["name"] in ("s0/u1", "s0/u3") else 0.8, abs=0.01)
        assert int(row["phones"]) > 0 and row["brings"]
    gains = [float(row["gain"]) for row in rows]
    assert gains == sorted(gains, reverse=True)


def test_recordings_that_cannot_be_heard_are_named(shared: Path) -> None:
    shutil.copytree(shared / "pool", "pool")
    soundfile.write("pool/silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    Path("pool/broken.wav").write_bytes(b"RIFF")
    said = run("suggest", shared / "pack", "--pool", "pool", "--base", shared / "base").stdout
    assert "2 things left out (pool)" in said and "silent.wav" in said and "broken.wav" in said
    assert len(suggestions()) == 4


def test_a_pool_with_nothing_to_label_fails(shared: Path) -> None:
    shutil.copytree(shared / "pool", "pool")
    for number in range(5):
        write_textgrid(Path(f"pool/s0/u{number}.TextGrid"), 0.8, {"phones": [(0.1, 0.2, "a")]})
    assert "not labelled" in run("suggest", shared / "pack", "--pool", "pool", "--base", shared / "base", code=1).output
    Path("empty").mkdir()
    assert (
        "no audio files" in run("suggest", shared / "pack", "--pool", "empty", "--base", shared / "base", code=1).output
    )


# What the pack knows


def test_inventory_is_that_of_the_card_and_further_phonemes_have_no_example(shared: Path) -> None:
    found = inventory_of(load_pack(shared / "pack", "language"), ["ŋ"])
    assert found.phonemes == (*INVENTORY, "ŋ")
    assert found.examples.tolist() == [*EXAMPLES.values(), 0.0]
    assert found.f1[:2].tolist() == [0.9, 0.2] and np.isnan(found.f1[[3, 6]]).all()


def test_sounds_of_phonemes_without_an_example_fall_to_rows_that_stand_in() -> None:
    """A language that has labelled three of the strategy's six phonemes: the others are heard as themselves, not as the three."""
    store = toy_store(1, 6, 8, noise=0.1)
    learner = tiny_learner(store, theta_init="posterior")
    learner.met[:] = torch.tensor([p in PHONEMES[:6] for p in learner.phonemes])
    z = learner.embed(*store.windows(torch.arange(len(store)))).detach()
    head = learner.initial_head(z[None, :0], store.label[None, :0], torch.tensor([[0, 1, 2]]))
    model = LanguageModel(learner, Head(head.weight.detach(), head.bias.detach()), PHONEMES[:3])
    whole, others = with_stand_ins(model)
    assert others == PHONEMES[3:6]
    found = probabilities(whole, z, 1.0)
    assert found.shape == (len(store), 6) and np.allclose(found.sum(1), 1)
    assert (found.argmax(1) == store.label.numpy()).mean() > 0.9
    assert with_stand_ins(replace(model, zero_shot={"b": {"d": 1.0}}))[1] == ()  # the inventory was given
    learner.theta_init = "previous"
    assert with_stand_ins(model) == (model.head, ())
