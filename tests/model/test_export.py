"""Exported models: the same probabilities without this package, at no more cost than the plain encoder and a head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from torch import Tensor, nn

from mtl_speech.commands.target import load_start
from mtl_speech.core.options import AdaptConfig
from mtl_speech.corpora.audio import SAMPLE_RATE, load_audio
from mtl_speech.corpora.corpus import Corpus, Utterance
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import build_store
from mtl_speech.model import export as exporting
from mtl_speech.model.export import FILES, METADATA, TOLERANCE, Folded, FoldedFrames, WhisperMel
from mtl_speech.model.language_pack import LanguageModel, language_pack, load_language
from mtl_speech.model.learner import embed_segments
from mtl_speech.model.pack import load_pack, pack_hash, save_pack
from mtl_speech.model.scale_shift import attach, scale_shift_layers
from mtl_speech.model.strategy import SHIPPED_ENCODER, BaseModel, load_base, shipped
from mtl_speech.training.adapt import adapt_fold
from mtl_speech.training.folds import make_folds
from tests.command_line import INVENTORY, labelled_folder, run
from tests.helpers import toy_recording
from tests.test_readme import ROOT, blocks

FORMATS = ("--format", "onnx,torch-export")
FROM_SAMPLES = 5e-5  # frames on the border of two half-precision numbers are rounded either way
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # by torch.export.load
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language pack on the base that ships, with a phoneme never heard, and what was exported of it."""
    folder = tmp_path_factory.mktemp("export")
    corpus, start = read_corpus(labelled_folder(folder / "data", 6, 2), "pa"), load_start(None, None)
    config = AdaptConfig(lang="pa", meta_steps=0)
    fold = replace(make_folds(corpus, None, config, start.base)[0], inventory=(*INVENTORY, "p"))
    model = adapt_fold(start.learner(fold), fold, config, start.meta).learned.model
    save_pack(language_pack(model, start.base, start.meta, "pa", {"name": "pa-0"}), folder / "adapted" / "pack")
    for kind in ("waveform", "frames"):
        run("export", folder / "adapted" / "pack", *FORMATS, "--input", kind, "--output-dir", folder / kind)
    return folder


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base()


@pytest.fixture(scope="module")
def model(shared: Path, base: BaseModel) -> LanguageModel:
    return load_language(load_pack(shared / "adapted" / "pack"), base)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def expected(model: LanguageModel, utterance: Utterance) -> tuple[np.ndarray, Tensor]:
    """What the pack gives the segments of one recording, and its frames."""
    store = build_store([Corpus("one", (utterance,))], front_end=model.learner.encoder.front_end)
    return model.probabilities(embed_segments(model.learner, store)).numpy(), store.frames[MARGIN:-MARGIN].float()


def compare(shared: Path, model: LanguageModel, utterances: tuple[Utterance, ...]) -> None:
    """Both formats, from samples and from frames, give what the pack gives."""
    assert utterances
    onnx = {kind: session(shared / kind / FILES["onnx"]) for kind in ("waveform", "frames")}
    program = {k: torch.export.load(shared / k / FILES["torch-export"]).module() for k in onnx}
    for utterance in utterances:
        wanted, frames = expected(model, utterance)
        spans = np.array([[s.start, s.end] for s in utterance.segments])
        given = {"waveform": torch.from_numpy(load_audio(utterance.audio)), "frames": frames}
        for kind, tolerance in (("waveform", FROM_SAMPLES), ("frames", TOLERANCE)):
            (found,) = onnx[kind].run(None, {kind: given[kind].numpy(), "spans": spans})
            assert found.shape == (len(spans), len(model.classes)) and found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
            np.testing.assert_allclose(
                program[kind](given[kind], torch.from_numpy(spans)), found, rtol=0, atol=TOLERANCE
            )


def test_both_formats_give_what_the_pack_gives(shared: Path, model: LanguageModel, tmp_path: Path) -> None:
    utterances = [*read_corpus(shared / "data", "pa").utterances[:2]]
    for number, phonemes in enumerate((INVENTORY[:1], INVENTORY * 9)):  # 0.3 s and 5.6 s
        path = tmp_path / f"{number}.wav"
        segments = toy_recording(path, phonemes, seed=number)
        utterances.append(Utterance(path.stem, path, "pa", "s", 0.2 + 0.1 * len(segments), segments))
    compare(shared, model, tuple(utterances))


def test_both_formats_give_what_the_pack_gives_on_real_speech(
    shared: Path, model: LanguageModel, corpora: Path
) -> None:
    compare(shared, model, read_corpus(corpora / "voxangeles" / "ces", "ces").utterances[:5])


def spoken(shared: Path, model: LanguageModel) -> tuple[Tensor, Tensor]:
    """The frames of a recording, and its segments: noise is the same phoneme throughout to a model of buzzes."""
    utterance = read_corpus(shared / "data", "pa").utterances[0]
    spans = torch.tensor([[s.start, s.end] for s in utterance.segments], dtype=torch.float64)
    return expected(model, utterance)[1], spans


def test_no_probability_is_missed_by_the_comparison(shared: Path, model: LanguageModel) -> None:
    """The phoneme never heard has its column, every column differs, and the head is not the only thing that counts."""
    assert model.zero_shot and set(model.zero_shot) <= set(model.classes)
    folded = FoldedFrames(model)
    inputs = spoken(shared, model)
    found = folded(*inputs)
    assert found.std(0).min() > 0 and torch.allclose(found.sum(1), torch.ones(len(found)))
    folded.encoder.layers[0].fc1.weight.mul_(1.01)  # type: ignore[union-attr, operator]
    assert (folded(*inputs) - found).abs().max() > TOLERANCE


@pytest.mark.parametrize("granularity", ["channel", "kernel"])
def test_a_moved_phi_is_merged(shared: Path, model: LanguageModel, base: BaseModel, granularity: str) -> None:
    learner = model.learner
    moved = attach(base.encoder, granularity, base.encoder.phi_patterns).eval()
    kept, learner.encoder = learner.encoder, moved
    try:
        before = FoldedFrames(model)
        with torch.no_grad():
            for layer in scale_shift_layers(moved).values():
                for parameter in layer.parameters(recurse=False):
                    parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        frames, spans = spoken(shared, model)
        found = FoldedFrames(model)(frames, spans)
        silence = torch.full((-len(frames) % 10, 80), base.front_end.quiet)
        with torch.inference_mode():
            heard = moved.frames(torch.cat((frames, silence)).unsqueeze(0))[0]
            wanted = model.probabilities(moved.pool(heard, (100 * spans).float()))
        assert (found - wanted).abs().max() < TOLERANCE
        assert (found - before(frames, spans)).abs().max() > 10 * TOLERANCE
    finally:
        learner.encoder = kept


# Cost


def operations(module: nn.Module) -> Counter[str]:
    program = torch.export.export(module, exporting.example("frames", 100, 3, 0))
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


def test_the_folded_model_costs_what_the_plain_encoder_and_a_head_cost(model: LanguageModel, base: BaseModel) -> None:
    folded, plain, unfolded = (FoldedFrames(model) for _ in range(3))
    plain.encoder = base.encoder  # type: ignore[assignment]
    plain.last = nn.Linear(base.encoder.embedding_size, len(model.classes))
    unfolded.encoder = attach(base.encoder, "kernel", base.encoder.phi_patterns)  # type: ignore[assignment]
    counts = operations(folded)
    assert counts == operations(plain)
    assert (counts["aten.linear.default"], counts["aten.conv2d.default"]) == (2 * 6 + 1, 2)
    assert sum(operations(unfolded).values()) > sum(counts.values()) + 10, "Φ that is not merged is counted"

    def n_weights(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert n_weights(folded) == n_weights(plain)


def test_a_recording_is_no_longer_than_the_encoder_hears_at_once(shared: Path, model: LanguageModel) -> None:
    """Up to 30 s there is one answer in both formats; beyond, none."""
    span = np.array([[1.0, 1.1]])
    onnx, program = (
        session(shared / "frames" / FILES["onnx"]),
        torch.export.load(shared / "frames" / FILES["torch-export"]).module(),
    )
    frames, _ = exporting.example("frames", 2_990, 1, 0)
    wanted = FoldedFrames(model)(frames, torch.from_numpy(span))
    np.testing.assert_allclose(onnx.run(None, {"frames": frames.numpy(), "spans": span})[0], wanted, atol=TOLERANCE)
    torch.testing.assert_close(program(frames, torch.from_numpy(span)), wanted, rtol=0, atol=TOLERANCE)
    longer, _ = exporting.example("frames", 3_010, 1, 0)
    with pytest.raises(Exception, match="(?i)add|broadcast|dimension|shape"):
        onnx.run(None, {"frames": longer.numpy(), "spans": span})
    with pytest.raises(Exception, match="(?i)dimension|shape|size|guard|<="):
        program(longer, torch.from_numpy(span))


def test_the_spectrum_is_no_weight(model: LanguageModel) -> None:
    assert not list(WhisperMel(80).parameters())
    assert [p.shape for p in Folded(model).parameters()] == [p.shape for p in FoldedFrames(model).parameters()]


# What the files say


def test_the_files_say_what_they_are(shared: Path, base: BaseModel, model: LanguageModel) -> None:
    pack = load_pack(shared / "adapted" / "pack")
    for kind in ("waveform", "frames"):
        onnx = session(shared / kind / FILES["onnx"])
        about = onnx.get_modelmeta().custom_metadata_map
        extra = {METADATA: ""}
        torch.export.load(shared / kind / FILES["torch-export"], extra_files=extra)
        assert json.loads(extra[METADATA]) == about
        assert json.loads(about["inventory"]) == list(model.classes)
        assert json.loads(about["zero_shot"]) == sorted(model.zero_shot)
        assert (about["language"], about["sample_rate"], about["hop_length"]) == ("pa", "16000", "160")
        assert (about["sha256"], about["base_sha256"]) == (pack_hash(pack), pack_hash(base.pack))
        assert about["base_licence"] == base.pack.card["licence"] == "MIT" and about["input"] == kind
        shapes = {i.name: (i.shape, i.type) for i in (*onnx.get_inputs(), *onnx.get_outputs())}
        first = ["n_samples"] if kind == "waveform" else ["n_frames", 80]
        assert shapes == {
            kind: (first, "tensor(float)"),
            "spans": (["n_segments", 2], "tensor(double)"),
            "probabilities": (["n_segments", len(model.classes)], "tensor(float)"),
        }
        assert set(about) == set(PAGE.split("Metadata,")[1].split("Pass the")[0].split("`")[1::2]) - {
            "metadata_props", "metadata.json", "model.pt2"
        }  # fmt: skip


def test_the_files_have_no_path_of_this_machine(shared: Path) -> None:
    for path in shared.glob("*/model.*"):
        data = path.read_bytes()
        assert str(ROOT).encode() not in data and str(shared).encode() not in data and b"site-packages" not in data


# The page


@pytest.mark.parametrize("number", [0, 1], ids=["onnx", "torch"])
def test_the_examples_of_the_page_run_without_this_package(
    number: int, shared: Path, model: LanguageModel, tmp_path: Path
) -> None:
    segments = toy_recording(tmp_path / "word.wav", INVENTORY[:3])
    (tmp_path / "exported").symlink_to(shared / "waveform")
    example = blocks("python", PAGE)[number]
    assert len(example.splitlines()) <= 20
    without = {"mtl_speech": None, "librosa": None, "torchaudio": None} | ({"torch": None} if number == 0 else {})
    code = f"import sys\nsys.modules.update({without})\n{example}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted, _ = expected(model, Utterance("word", tmp_path / "word.wav", "pa", "s", 0.5, segments))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[2] for line in lines] == [model.classes[i] for i in wanted.argmax(1)]
    assert np.allclose([float(line[3]) for line in lines], wanted.max(1), atol=6e-4)


def test_the_command_of_the_page_has_the_words_tried_here() -> None:
    (line,) = [line for block in blocks("sh", PAGE) for line in block.splitlines() if line.startswith("mtl-speech")]
    words = line.split()[1:]
    assert [words[0], *words[2:-1]] == ["export", *FORMATS, "--output-dir"]


# What goes wrong


def test_a_wrong_format_and_a_missing_package_are_said_before_anything_is_written(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = shared / "adapted" / "pack"
    said = run("export", pack, "--format", "onyx", "-o", tmp_path / "x", code=2).output
    assert "did you mean 'onnx'?" in said
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = run("export", pack, "-o", tmp_path / "x", code=2).output
    assert "onnx needs onnxscript: pip install 'mtl_speech[export]'" in said
    assert not (tmp_path / "x").exists()
    run("export", pack, "--format", "torch-export", "-o", tmp_path / "x")


def test_another_kind_of_pack_is_refused(tmp_path: Path) -> None:
    assert "'language' is needed" in run("export", shipped(SHIPPED_ENCODER), "-o", tmp_path / "x", code=1).output


def test_a_model_that_differs_is_not_written(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporting._MAKERS["torch-export"]

    def off(*arguments: object) -> tuple[bytes, exporting.Model]:
        data, exported = right(*arguments)  # type: ignore[arg-type]
        return data, lambda *given: exported(*given) + 2 * TOLERANCE

    monkeypatch.setitem(exporting._MAKERS, "torch-export", off)
    said = run("export", shared / "adapted" / "pack", "--format", "torch-export", "-o", tmp_path, code=1).output
    assert "other probabilities than the pack (by 2.0e-05)" in said
    assert not list(tmp_path.glob("model*"))


def test_a_full_disk_leaves_the_file_that_was_there(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILES["torch-export"]).write_text("the one before")
    move = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == FILES["torch-export"]:
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", full)
    said = run("export", shared / "adapted" / "pack", "--format", "torch-export", "-o", tmp_path, code=1).output
    assert "No space left on device" in said
    assert (tmp_path / FILES["torch-export"]).read_text() == "the one before"
    assert {path.name for path in tmp_path.iterdir()} == {FILES["torch-export"], "log.txt"}


def test_a_recording_of_any_rate_is_the_callers_to_resample(tmp_path: Path, shared: Path) -> None:
    """The example refuses what it would read wrong."""
    soundfile.write(tmp_path / "word.wav", np.zeros(8000, dtype=np.float32), SAMPLE_RATE // 2)
    (tmp_path / "exported").symlink_to(shared / "waveform")
    command = [sys.executable, "-c", blocks("python", PAGE)[0]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "resample it first" in done.stderr
