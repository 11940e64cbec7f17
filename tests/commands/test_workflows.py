"""Each command from end to end on small folders of buzzes: what it writes, what it says, and that its figures can be had again."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from mtl_speech.commands.target import CAVEAT, is_synthetic
from mtl_speech.corpora.label_files.textgrid import read_textgrid, write_textgrid
from mtl_speech.corpora.voice.espeak import espeak_available
from mtl_speech.model.language_pack import load_language
from mtl_speech.model.pack import load_pack, pack_hash
from mtl_speech.model.strategy import load_base, load_learner
from mtl_speech.scoring.metrics import read_tokens
from tests.command_line import INVENTORY, labelled_folder, report, run, save_base
from tests.helpers import toy_recording

FILES = {"pack", "report.html", "report.json", "report.csv", "tokens.csv", "confusion.png", "history.json", "log.txt"}
TINY = "--channels 8 --blocks 1 --embedding-size 12 --epochs 1 --crop-lengths 40 --batch-frames 400 --threads 1".split()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """few/ (8 recordings of 2 speakers), many/ (12 of 6), langs/ (5 languages), base/ (an encoder pack): only read by tests."""
    folder = tmp_path_factory.mktemp("shared")
    labelled_folder(folder / "few", 8, 2)
    labelled_folder(folder / "many", 12, 6, seed=1)
    for seed, language in enumerate(("pa", "hi", "sw", "ta", "fi")):
        labelled_folder(folder / "langs" / language, 6, 3, seed=2 + seed)
    save_base(folder / "base")
    return folder


@pytest.fixture(autouse=True)
def work_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a working folder of its own."""
    monkeypatch.chdir(tmp_path)


def written(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


# --- validate ------------------------------------------------------------------------------------------------------


def test_validate_describes_a_sound_folder_and_writes_nothing(shared: Path, tmp_path: Path) -> None:
    said = run("validate", shared / "few", "--lang", "Punjabi").stdout
    assert "language:   Punjabi (pa)" in said
    assert "recordings: 8\nspeakers:   2\n" in said
    assert "phonemes:   6, 48 examples" in said
    assert "  ".join(f"{p} 8" for p in ("b", "d", "k")) in said.replace("\n  ", "  ")
    assert "fewer than 5 examples: none" in said
    assert "nothing is left out" in said
    assert list(tmp_path.iterdir()) == []


def faulty_folder(folder: Path) -> Path:
    """A sound recording, one with an odd label and an interval past the end, and one without labels."""
    labelled_folder(folder, 1, 1)
    toy_recording(folder / "s0" / "odd.wav", "abd")
    spans = [(0.1, 0.2, "a"), (0.2, 0.3, "%%"), (0.3, 0.4, "d"), (0.4, 0.9, "b")]
    write_textgrid(folder / "s0" / "odd.TextGrid", 0.9, {"phones": spans})
    toy_recording(folder / "s0" / "bare.wav", "abd")
    return folder


def test_validate_names_every_problem_and_exits_1(tmp_path: Path) -> None:
    folder = faulty_folder(tmp_path / "faulty")
    result = run("validate", folder, "--output-dir", "out", code=1)
    odd = f"{folder / 's0' / 'odd.TextGrid'}, tier 'phones'"
    assert f"left out: {odd}, interval 3: label '%%'" in result.stdout  # Praat counts the silence before it
    assert (
        f"left out: {odd}, interval 5: 'b' (0.400 to 0.900 s) lies past the end of the audio at 0.500 s"
        in result.stdout
    )
    assert f"left out: {folder / 's0' / 'bare.wav'}: no labels" in result.stdout
    assert "fewer than 5 examples: " in result.stdout
    assert "3 things in it cannot be used" in result.stderr
    with open("out/problems.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["interval"], row["used"]) for row in rows if row["tier"] == "phones"] == [("3", "no"), ("5", "no")]
    assert written("out") == {"problems.csv", "log.txt"}


def test_validate_passes_what_is_only_changed(tmp_path: Path) -> None:
    toy_recording(tmp_path / "c" / "s" / "a.wav", "abd")
    write_textgrid(tmp_path / "c" / "s" / "a.TextGrid", 0.51, {"phones": [(0.1, 0.2, "a"), (0.2, 0.51, "b")]})
    said = run("validate", tmp_path / "c").stdout
    assert "changed: " in said and "runs 10 ms out of the audio; cut" in said
    assert "nothing is left out; 1 things are changed" in said


# --- pretrain and meta-train -----------------------------------------------------------------------------------------


def test_pretrain_writes_an_encoder_that_the_seed_determines(shared: Path) -> None:
    hashes = []
    for output in ("one", "two"):
        run("pretrain", shared / "many", "--lang", "en", "--augmented-views", 1, *TINY, "--output-dir", output, "-q")
        hashes.append(pack_hash(load_pack(Path(output) / "pack", "encoder")))
    assert hashes[0] == hashes[1]
    assert written("one") == {"pack", "history.json", "log.txt"}
    base = load_base(Path("one/pack"))
    assert base.phonemes == tuple(sorted(INVENTORY)) and base.encoder.config.channels == 8
    validation = base.pack.card["scores"]["validation"]  # type: ignore[index]
    assert validation["held_out"] == "held-out speakers" and 0 <= validation["macro_f1"] <= 1
    assert base.pack.card["language"] == "en"


def test_pretrain_validates_on_another_folder(shared: Path) -> None:
    arguments = ["pretrain", shared / "few", "--valid", shared / "many", "--augmented-views", 0, *TINY]
    said = run(*arguments, "--name", "toy", "--licence", "CC0").stdout
    assert "training: 8 recordings of 2 speakers" in said and "validation (--valid): 12 recordings" in said
    card = load_pack("results/pretrain-toy/0/pack", "encoder").card
    assert (card["name"], card["licence"]) == ("toy", "CC0")


def test_a_strategy_is_meta_trained_and_adapted(shared: Path) -> None:
    base = shared / "base"
    options = ["--base", base, "--meta-steps", 2, "--meta-batch", 2, "--inner-steps", 3, "--valid-tasks", 4]
    said = run(
        "meta-train", shared / "langs", *options, "--n-way", "3,4", "--n-shot", 1, "--granularity", "kernel"
    ).stdout
    assert "5 languages (fi, hi, pa, sw, ta)" in said
    assert "4 corpora, 24 recordings" in said and "1 corpora, 6 recordings" in said
    folder = Path("results/meta-train-langs/0")
    assert written(folder) == {"pack", "history.json", "log.txt"}
    learner, config = load_learner(load_pack(folder / "pack", "strategy"), load_base(base))
    assert (config.n_way, config.n_shot, config.granularity, config.inner_steps) == ((3, 4), (1,), "kernel", 3)
    assert set(learner.phonemes) == set(INVENTORY) and bool(learner.met.all())
    assert len(json.loads((folder / "history.json").read_text())["rounds"]) == 2
    adapted = run(
        "adapt", "--lang", "pnb", "--data", shared / "few", "--base", base, "--strategy", folder / "pack"
    ).stdout
    assert "starts from the strategy 'langs' on the base 'tiny-0'" in adapted
    pack = load_pack("results/adapt-pnb/0/pack", "language")
    assert torch.equal(pack.tensors["log_rates"], learner.log_rates.detach())


def test_meta_train_on_one_language_holds_speakers_out(shared: Path) -> None:
    options = ["--base", shared / "base", "--meta-steps", 1, "--n-way", 3, "--n-shot", 1, "--valid-tasks", 2]
    said = run("meta-train", shared / "many", *options, "--valid-share", 0.4).stdout
    assert "one corpus, for its subfolders are not all named by languages" in said
    assert "validation (held-out speakers): 1 corpora, 4 recordings" in said


# --- adapt -------------------------------------------------------------------------------------------------------------


def test_adapt_cross_validates_and_learns_the_pack_from_all(shared: Path) -> None:
    said = run("adapt", "--lang", "pan-Guru", "--data", shared / "few", "--base", shared / "base").stdout
    assert "Punjabi (pa): 8 recordings, 2 speakers, 0.1 min, 48 examples of 6 phonemes" in said
    assert "starts from no meta-trained strategy" in said
    assert "split: 5-fold cross-validation over 8 recordings" in said
    assert "base learning: " in said and "too few" not in said  # no word of meta-training, of which `adapt` does none
    assert "synthetic" not in said
    folder = Path("results/adapt-pa/0")
    assert written(folder) == FILES | {"examples.json"}
    found = report(folder)
    assert found["scores"]["n"] == 48 and found["ablation"] is None
    trained = json.loads((folder / "history.json").read_text())["meta_training"]
    assert len(trained) == 5 and not any(fold["rounds"] for fold in trained)
    assert found["command"].startswith("mtl-speech adapt --lang pan-Guru --data ")
    assert any("5-fold" in note for note in found["notes"])
    pack = load_pack(folder / "pack", "language")
    assert pack.card["examples"] == dict.fromkeys(sorted(INVENTORY), 8)  # no fold has more than 7
    assert {p["n_train"] for p in found["scores"]["phonemes"]} <= {6, 7}
    assert set(load_language(pack, load_base(shared / "base")).classes) == set(INVENTORY)


def test_adapt_gives_the_same_numbers_for_the_same_seed(shared: Path) -> None:
    found = []
    for output, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ["--data", shared / "many", "--base", shared / "base", "--shots", 5, "--meta-steps", 2]
        run("adapt", "--lang", "sw", *arguments, "--seed", seed, "--output-dir", output, "-q")
        found.append((report(Path(output))["scores"], pack_hash(load_pack(Path(output) / "pack"))))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_adapt_tests_on_the_folder_given_and_never_scores_too_few(shared: Path, tmp_path: Path) -> None:
    labelled_folder(tmp_path / "test", 2, 1, inventory=[*INVENTORY, "s"], seed=9)
    labelled_folder(tmp_path / "train", 3, 1)
    toy_recording(tmp_path / "train" / "s9" / "one.wav", "su", seed=8)
    write_textgrid(tmp_path / "train" / "s9" / "one.TextGrid", 0.4, {"phones": [(0.1, 0.2, "s"), (0.2, 0.3, "u")]})
    options = ["--data", tmp_path / "train", "--test", tmp_path / "test", "--base", shared / "base", "--shots", 3]
    said = run("adapt", "--lang", "sw", *options).stdout
    assert "split: the test folder" in said and "at most 3 examples per phoneme" in said
    found = report(Path("results/adapt-sw/0"))["scores"]
    assert {p["phoneme"] for p in found["phonemes"]} == set(INVENTORY)
    missing = {item["phoneme"]: (item["n_examples"], item["reason"]) for item in found["not_scored"]}
    assert missing == {
        "s": (3, "fewer than 3 examples left to learn from"),
        "u": (1, "fewer than 3 examples left to learn from"),
    }


def test_adapt_says_what_it_left_out(shared: Path, tmp_path: Path) -> None:
    folder = faulty_folder(labelled_folder(tmp_path / "faulty", 6, 2))
    soundfile.write(folder / "s0" / "quiet.wav", [0.0] * 8000, 16_000)
    write_textgrid(folder / "s0" / "quiet.TextGrid", 0.5, {"phones": [(0.1, 0.2, "a")]})
    said = run("adapt", "--lang", "sw", "--data", folder, "--base", shared / "base").stdout
    assert "4 things left out (faulty):" in said
    assert "1 × label '%%'" in said
    assert "1 × silent: its peak is" in said
    assert "such as s0/odd.TextGrid, tier 'phones', interval 3: label '%%'" in said
    found = report(Path("results/adapt-sw/0"))
    assert "4 things left out (faulty):" in found["notes"]
    assert sum(not item["used"] for item in found["extra"]["problems"]) == 4
    log = Path("results/adapt-sw/0/log.txt").read_text(encoding="utf-8")
    assert all(name in log for name in ("odd.TextGrid", "bare.wav", "quiet.wav"))


def test_no_output_has_a_path_of_the_machine(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shared))
    run("adapt", "--lang", "sw", "--data", shared / "few", "--base", shared / "base", "--output-dir", tmp_path / "o")
    texts = [p.read_text(encoding="utf-8-sig") for p in tmp_path.rglob("*") if p.suffix in (".txt", ".json", ".csv")]
    assert len(texts) == 7  # log, report.json, report.csv, tokens, history, examples, card
    assert not any(str(shared) in text or str(tmp_path) in text for text in texts)
    assert any("~/few" in text for text in texts)


# --- corrections come back ---------------------------------------------------------------------------------------------


def relabel(path: Path, number: int, label: str, pred: bool = False) -> tuple[str, str]:
    """Give phone `number` of a TextGrid another label, beside the machine's with `pred`; gives the old and the new one."""
    grid = read_textgrid(path)
    phones = [(i.start, i.end, i.label) for i in grid.tiers[0].intervals if i.label]
    start, end, old = phones[number]
    corrected = [*phones[:number], (start, end, label), *phones[number + 1 :]]
    write_textgrid(path, grid.duration, {"phones": corrected, **({"phones-pred": phones} if pred else {})})
    return old, label


def changes(folder: Path) -> list[dict[str, str]]:
    """The lines of changes.csv."""
    with open(folder / "changes.csv", encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("command", ["adapt", "ablate"])
def test_a_corrected_label_is_learned_at_once_and_told(shared: Path, tmp_path: Path, command: str) -> None:
    data = labelled_folder(tmp_path / "data", 4, 2)
    arguments = [command, "--lang", "sw", "--data", data, "--base", shared / "base", "--meta-steps", 0]
    said = run(*arguments).stdout
    folder = Path(f"results/{command}-sw/0")
    assert "Labels against" not in said and not (folder / "changes.csv").exists()
    first = load_pack(folder / "pack")
    old, new = relabel(data / "s0" / "u00.TextGrid", 2, "b", pred=True)
    (data / "s1" / "u03.wav").rename(data / "s1" / "new.wav")
    (data / "s1" / "u03.TextGrid").rename(data / "s1" / "new.TextGrid")
    said = run(*arguments).stdout
    assert "phones relabelled" in said and f"{old} → {new} 1" in said and "s1/u03 → s1/new" in said
    assert "labels of the machine in 1 corrected recordings: 5 of 6 kept (83%); 1 relabelled" in said
    assert [(row["against"], row["recording"], row["change"]) for row in changes(folder)] == [
        ("the earlier run", "s1/new", "recording renamed"),
        ("the earlier run", "s0/u00", "relabelled"),
        ("the machine's labels", "s0/u00", "relabelled"),
    ]
    pack = load_pack(folder / "pack")
    assert pack.card["examples"] == {**dict.fromkeys(sorted(INVENTORY), 4), old: 3, "b": 5}
    assert pack_hash(pack) != pack_hash(first)
    kept = folder / "earlier" / "1"
    assert f"the earlier pack and report are kept in {kept}" in said
    assert pack_hash(load_pack(kept / "pack")) == pack_hash(first)
    assert written(kept) >= {"report.json", "report.html", "examples.json"}
    found = report(folder)
    assert any("phones relabelled 1" in note for note in found["notes"])
    assert ["phones relabelled", 1, f"{old} → b 1"] in found["extra"]["changes"]["the earlier run"]
    if command == "adapt":
        assert "labels against the earlier run: nothing changed" in run(*arguments).stdout
        assert {row["against"] for row in changes(folder)} == {"the machine's labels"}


@pytest.mark.slow
def test_ten_words_of_a_real_language_are_learned_corrected_and_learned_again(corpora: Path, tmp_path: Path) -> None:
    source = corpora / "voxangeles" / "lad"
    if not source.is_dir():
        pytest.skip(f"no voxangeles in {corpora}")
    data = tmp_path / "rec" / "speaker"
    data.mkdir(parents=True)
    for audio in sorted(source.glob("*.flac"))[:10]:
        for path in (audio, audio.with_suffix(".TextGrid")):
            shutil.copy(path, data)
    arguments = ["adapt", "--lang", "lad", "--data", data.parent, "--inventory", "a e i o u ɖ"]
    run(*arguments, "-q")
    folder = Path("results/adapt-lad/0")
    before = load_pack(folder / "pack")
    grid = sorted(data.glob("*.TextGrid"))[0]
    tiers = {t.name: [(i.start, i.end, i.label) for i in t.intervals if i.label] for t in read_textgrid(grid).tiers}
    start, end, old = tiers["phones"][0]
    tiers["phones"][0] = (start, end, "p")
    write_textgrid(grid, read_textgrid(grid).duration, tiers)
    said = run(*arguments).stdout
    assert f"{old} → p 1" in said and [(row["before"], row["after"]) for row in changes(folder)] == [(old, "p")]
    examples, earlier = load_pack(folder / "pack").card["examples"], before.card["examples"]
    assert isinstance(examples, dict) and isinstance(earlier, dict)
    assert examples.get("p", 0) == earlier.get("p", 0) + 1 and examples[old] == earlier[old] - 1
    assert pack_hash(load_pack(folder / "earlier" / "1" / "pack")) == pack_hash(before)
    assert "ɖ ← " in said and "ɖ" in load_pack(folder / "pack").card["zero_shot"]  # type: ignore[operator]


def test_labels_are_compared_with_those_of_the_run_given(shared: Path, tmp_path: Path) -> None:
    data = labelled_folder(tmp_path / "data", 4, 2)
    arguments = ["adapt", "--lang", "sw", "--data", data, "--base", shared / "base", "--output-dir"]
    run(*arguments, "one")
    relabel(data / "s0" / "u00.TextGrid", 0, "b")
    run(*arguments, "two", "--after", "one")
    assert [(row["against"], row["change"]) for row in changes(Path("two"))] == [("the earlier run", "relabelled")]
    assert {path.name for path in Path("one").iterdir()} == FILES | {"examples.json"}, "that run stays as it is"
    failed = run(*arguments, "three", "--after", shared, code=2)
    assert "there is no examples.json: give the results folder of an earlier run" in failed.stderr
    (Path("two") / "examples.json").write_text("{}")
    assert "not a list of examples" in run(*arguments, "two", code=1).stderr


def test_a_pack_names_no_recording(shared: Path, tmp_path: Path) -> None:
    data = labelled_folder(tmp_path / "secret", 6, 2)
    faulty_folder(data)
    arguments = ["adapt", "--lang", "sw", "--data", data, "--base", shared / "base"]
    run(*arguments)
    (data / "s1" / "u01.TextGrid").rename(data / "s1" / "moved.TextGrid")
    (data / "s1" / "u01.wav").rename(data / "s1" / "moved.wav")
    run(*arguments)
    folder = Path("results/adapt-sw/0")
    card = (folder / "pack" / "card.json").read_text(encoding="utf-8")
    assert not [name for name in ("u0", "moved", "secret", "odd", "bare", ".TextGrid", "s1") if name in card]
    assert any("odd.TextGrid" in note for note in report(folder)["notes"])


def test_pretrain_and_meta_train_keep_the_earlier_pack(shared: Path) -> None:
    options = ["--base", shared / "base", "--meta-steps", 1, "--n-way", 3, "--n-shot", 1, "--valid-tasks", 2]
    for arguments, output in (
        (["pretrain", shared / "few", "--augmented-views", 0, "--valid", shared / "many", *TINY], "p"),
        (["meta-train", shared / "many", *options], "m"),
    ):
        run(*arguments, "--output-dir", output)
        first = pack_hash(load_pack(f"{output}/pack"))
        said = run(*arguments, "--output-dir", output, "--seed", 1).stdout
        assert f"the earlier pack and report are kept in {Path(output, 'earlier', '1')}" in said
        assert pack_hash(load_pack(f"{output}/earlier/1/pack")) == first != pack_hash(load_pack(f"{output}/pack"))
        assert written(f"{output}/earlier/1") == {"pack", "history.json"}


# --- phonemes never heard ----------------------------------------------------------------------------------------------


def test_phonemes_of_the_inventory_without_an_example_are_zero_shot_everywhere(shared: Path, tmp_path: Path) -> None:
    listed = tmp_path / "inventory.txt"
    listed.write_text("\ufeff" + " ".join(INVENTORY[:-1]) + "\nɖ, tʃ\n", encoding="utf-8")
    test = labelled_folder(tmp_path / "test", 3, 1, inventory=[*INVENTORY[:4], "s"], seed=7)
    for path in test.rglob("*.TextGrid"):
        grid = read_textgrid(path)
        phones = [(i.start, i.end, "ɖ" if i.label == "s" else i.label) for i in grid.tiers[0].intervals if i.label]
        write_textgrid(path, grid.duration, {"phones": phones})
    options = ["--data", shared / "many", "--test", test, "--base", shared / "base", "--inventory", listed]
    said = run("adapt", "--lang", "sw", *options).stdout
    folder = Path("results/adapt-sw/0")
    assert f"labels outside the inventory given, learned all the same: {INVENTORY[-1]} (12)" in said
    assert "zero-shot, for want of an example: ɖ ← " in said
    lines = {line.split()[0]: line for line in said.split("Phoneme F1")[1].splitlines() if line.strip()}
    assert lines["ɖ"].endswith("zero-shot; unreliable: n < 5") and lines["t͡ʃ"].endswith("zero-shot; not scored")
    scores = report(folder)["scores"]
    assert {p["phoneme"]: p["zero_shot"] for p in scores["phonemes"]} == dict.fromkeys(INVENTORY[:4], False) | {
        "ɖ": True
    }
    assert {m["phoneme"]: m["zero_shot"] for m in scores["not_scored"]} == {
        **dict.fromkeys(INVENTORY[4:], False),
        "t͡ʃ": True,
    }
    assert "zero-shot" in (folder / "report.csv").read_text(encoding="utf-8").split("\nphoneme,ɖ")[1].split("\n")[0]
    pack = load_pack(folder / "pack", "language")
    assert set(pack.card["zero_shot"]) == {"ɖ", "t͡ʃ"} and "ɖ" not in pack.card["examples"]  # type: ignore[arg-type, operator]
    model = load_language(pack, load_base(shared / "base"))
    assert set(model.classes) == {*INVENTORY, "ɖ", "t͡ʃ"} and set(model.zero_shot) == {"ɖ", "t͡ʃ"}
    assert "zero-shot:" in run("info", folder / "pack", "--base", shared / "base").stdout
    run("evaluate", folder / "pack", "--data", test, "--base", shared / "base", "-q")
    again = report(Path("results/evaluate-sw-0/0"))["scores"]["phonemes"]
    assert [p["phoneme"] for p in again if p["zero_shot"]] == ["ɖ"]
    for tokens in (read_tokens(folder), read_tokens(Path("results/evaluate-sw-0/0"))):
        assert {t.remark for t in tokens if t.predicted in ("ɖ", "t͡ʃ")} <= {"zero-shot"}
        assert {t.remark for t in tokens if t.predicted not in ("ɖ", "t͡ʃ")} == {""}


def test_an_inventory_that_cannot_be_used_is_refused_before_any_work(shared: Path) -> None:
    options = ["--data", shared / "few", "--base", shared / "base", "--inventory"]
    failed = run("adapt", "--lang", "sw", *options, "a b Q7 xyz", code=2)
    assert "no phonemes in IPA: Q7 xyz" in failed.stderr
    assert "my-inventory.txt" in run("adapt", "--lang", "sw", *options, "my-inventory.txt", code=2).stderr


def test_the_rows_of_an_ablation_know_the_same_inventory(shared: Path) -> None:
    options = ["--data", shared / "many", "--base", shared / "base", "--meta-steps", 1, "--inventory", "p t"]
    run("ablate", "--lang", "sw", *options, "-q")
    missing = {m["phoneme"]: m["zero_shot"] for m in report(Path("results/ablate-sw/0"))["scores"]["not_scored"]}
    assert missing == {"p": True, "t": True}


# --- ablate, evaluate, info, demo --------------------------------------------------------------------------------------


def test_ablate_compares_three_systems_on_the_same_tests(shared: Path) -> None:
    options = ["--data", shared / "many", "--base", shared / "base", "--meta-steps", 1]
    said = run("ablate", "--lang", "sw", *options).stdout
    folder = Path("results/ablate-sw/0")
    assert written(folder) == FILES | {"ablation.png", "examples.json"}
    rows = report(folder)["ablation"]
    assert [row["name"] for row in rows] == ["baseline", "+ meta-transfer", "+ curriculum"]
    assert [row["difference_to_previous"] is None for row in rows] == [True, False, False]
    assert all(row["name"] in said for row in rows)
    assert "split: 1 of 6 speakers held out" in said
    assert report(folder)["scores"]["macro_f1"] == rows[-1]["macro_f1"]


def test_a_language_pack_is_evaluated_and_described(shared: Path, tmp_path: Path) -> None:
    base = shared / "base"
    run("adapt", "--lang", "sw", "--data", shared / "many", "--base", base, "-q")
    labelled_folder(tmp_path / "new", 3, 1, inventory=[*INVENTORY[:4], "t"], seed=7)
    pack = Path("results/adapt-sw/0/pack")
    said = run("evaluate", pack, "--data", tmp_path / "new", "--base", base).stdout
    folder = Path("results/evaluate-sw-0/0")
    assert written(folder) == FILES - {"pack", "history.json"}
    scores = report(folder)["scores"]
    assert scores["n"] == 12 and {p["phoneme"] for p in scores["phonemes"]} == set(INVENTORY[:4])
    assert {p["n_train"] for p in scores["phonemes"]} == {10}  # as the card says: 5 of 6 speakers, 2 recordings each
    assert scores["not_scored"] == [
        {"phoneme": "t", "n_examples": 3, "reason": "not in the pack's inventory", "zero_shot": False}
    ]
    assert "not in the pack's inventory" in said
    told = run("info", pack, "--base", base, "--output-dir", "told").stdout
    assert "sw-0 (language)" in told and "Swahili" in told and f"6: {' '.join('bdkeia')}" not in told
    assert "builds on" in told and "it is the one given" in told and pack_hash(load_pack(pack)) in told
    assert json.loads(Path("told/info.json").read_text())["kind"] == "language"
    assert "tiny-0 (encoder)" in run("info", base).stdout


@pytest.mark.skipif(not espeak_available(), reason="espeakng-loader is not installed")
def test_demo_makes_its_corpus_once_and_says_that_it_is_synthetic(shared: Path) -> None:
    options = ["--base", shared / "base", "--n-words", 60, "--shots", 3, "--meta-steps", 1]
    said = run("demo", *options).stdout
    folder = Path("results/demo/0")
    assert written(folder) == FILES | {"ablation.png", "corpus"}
    assert written(folder / "corpus") == {"train", "valid", "test", "manifest.json", "README.txt"}
    assert (
        CAVEAT in said.splitlines()
        and "Phoneme F1 (synthetic speech)" in said
        and "Ablation (synthetic speech)" in said
    )
    first = report(folder)
    assert first["stamp"] == "synthetic speech" and CAVEAT in first["notes"] and len(first["ablation"]) == 3
    assert f"written to {folder}: ablation.png, confusion.png, corpus, history.json, log.txt, pack" in said
    manifest = (folder / "corpus" / "manifest.json").stat().st_mtime_ns
    again = run("adapt", *options, "--output-dir", folder, "-q").stdout
    assert again.startswith("Phoneme F1") and CAVEAT in again
    assert (folder / "corpus" / "manifest.json").stat().st_mtime_ns == manifest
    assert report(folder)["scores"] == first["scores"]  # the last row of the ablation is what adapt does
    assert "holds another corpus (60 words, seed 0)" in run("demo", *options[:2], "--n-words", 61, code=1).stderr


def test_folders_that_say_so_are_synthetic(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert not is_synthetic(tmp_path / "train")
    for text, expected in (('{"synthetic": true}', True), ('{"synthetic": "no"}', False), ("[]", False), ("{", False)):
        (tmp_path / "manifest.json").write_text(text)
        assert is_synthetic(tmp_path) == is_synthetic(tmp_path / "train") == expected
