"""Encoders of other makers as Θ: what is learned on them and what a pack holds, on tiny models."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.corpora.corpus import Corpus, Segment
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.front_end import LOG_MEL, RAW, RAW_NORMALISED, FrontEnd, whisper_front_end
from mtl_speech.features.store import build_store
from mtl_speech.model import hub, segmenter
from mtl_speech.model.closed_form import prepare_learner
from mtl_speech.model.hub import load_hub_encoder
from mtl_speech.model.pack import load_pack, pack_hash
from mtl_speech.model.passes import embeddings_of, stretches_of
from mtl_speech.model.scale_shift import phi_state, scale_shift_layers
from mtl_speech.model.segmenter import heard_by
from mtl_speech.model.strategy import load_base, load_hub_base, new_learner
from mtl_speech.model.whisper import WhisperEncoder
from mtl_speech.report.findings import compare_base
from mtl_speech.training.base_learning import choose_layer
from mtl_speech.training.meta_train import MetaTrainer
from mtl_speech.transcription import transcribe
from mtl_speech.transcription.transcribe import Transcriber
from tests.command_line import INVENTORY, run
from tests.helpers import frozen_bytes, meta_config, seeded, toy_corpus, toy_recording
from tests.hub_models import FEW, KINDS, N_LAYERS, rows_of_noise

pytest.importorskip("transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'")

CONVOLUTIONS = 7


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The segmenter is tuned a little only, for speed."""
    monkeypatch.setattr(segmenter, "TUNE_STEPS", 8)


# --- from end to end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_adapts_on_words_of_voxangeles(kind: str, save: Any, words: Path, tmp_path: Path) -> None:
    adapts(kind, save, words, "lad", tmp_path)


def test_adaptation_on_generated_recordings(save: Any, buzzes: Path, tmp_path: Path) -> None:
    adapts("wavlm", save, buzzes, "pa", tmp_path)


def adapts(kind: str, save: Any, data: Path, lang: str, tmp_path: Path) -> None:
    """Adapt; the pack holds what was learned alone, serves with this encoder, and with no other."""
    encoder = save(kind)
    out, pack = tmp_path / "out", tmp_path / "out" / "pack"
    run("adapt", "--lang", lang, "--data", data, "--encoder", encoder, *FEW, "-o", out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("largest difference of a weight") == 1
    found = load_pack(pack, "language")
    layer = found.card["base"]["hub"]["layer"]  # type: ignore[index]
    assert layer in map(str, range(1, N_LAYERS + 1))
    assert f"encoder: layer {layer} of {N_LAYERS}, by cross-validation in closed form" in page
    base = load_hub_base(encoder, layer)
    phi = {f"encoder.{name}" for name in phi_state(new_learner(base, "ab", meta_config()).encoder)}
    assert {name for name in found.tensors if name.startswith("encoder.")} == phi
    n_frozen = sum(tensor.numel() for tensor in base.encoder.state_dict().values())
    assert sum(found.tensors[name].numel() for name in phi) < 0.5 * n_frozen
    assert found.card["base"] == {
        "name": Path(encoder).name,
        "sha256": pack_hash(base.pack),
        "hub": {"layer": layer, "phi": list(base.encoder.phi_patterns), "segmenter": pack_hash(load_base().pack)},
    }

    assert "it loads on its base as a language" in run("verify", pack, "--encoder", encoder).stdout
    scores = run("evaluate", pack, "--data", data, "--encoder", encoder, "-o", tmp_path / "scores")
    assert "macro" in scores.stdout

    other = save(kind, 1)
    refused = run("verify", pack, "--encoder", other, code=1).stdout
    assert pack_hash(base.pack) in refused and pack_hash(load_hub_base(other).pack) in refused
    assert "give --encoder with the encoder that it was made on" in refused


def test_what_a_pack_was_made_with_is_read_from_it(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, out = save("wav2vec2"), tmp_path / "out"
    chosen = ("--encoder-layer", "2", "--phi-layers", "*.attention.v_proj,*.attention.q_proj")
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *chosen, *FEW, "-o", out)
    how = load_pack(out / "pack").card["base"]["hub"]
    assert (how["layer"], how["phi"]) == ("2", ["*.attention.v_proj", "*.attention.q_proj"])
    assert "FAILED" not in run("verify", out / "pack", "--encoder", encoder).stdout
    told = run("info", out / "pack").stdout
    assert "give it by --encoder" in told and "2, Φ on *.attention.v_proj, *.attention.q_proj" in told
    run("verify", out / "pack", "--encoder", encoder, "--encoder-layer", "1", code=1)
    for command in (("transcribe", out / "pack", buzzes), ("suggest", out / "pack", "--pool", buzzes)):
        assert "give --encoder with the encoder" in run(*command, "-o", tmp_path / "no", code=1).stderr, command
    said = run("export", out / "pack", "-o", tmp_path / "no", code=1).stderr
    assert "export, which has no such option, serves packs on the built-in encoder alone" in said


def test_recordings_are_transcribed_and_suggested(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, pack = save("whisper"), tmp_path / "out" / "pack"
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *FEW, "-o", tmp_path / "out")
    given = ("--encoder", encoder, "--threads", 1)
    run("transcribe", pack, buzzes, *given, "--score", "-o", tmp_path / "labelled")
    scores = json.loads((tmp_path / "labelled" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["boundary_f1"]["value"] > 0.9 and scores["phone_error_rate"]["value"] < 0.4
    for n in range(3):
        toy_recording(tmp_path / "pool" / f"{n}.wav", INVENTORY[n : n + 4], seed=100 + n)
    run("suggest", pack, *given, "--pool", tmp_path / "pool", "--number", 2, "-o", tmp_path / "next")
    lines = (tmp_path / "next" / "suggestions.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) == 1 + 2

    card = json.loads((pack / "card.json").read_text(encoding="utf-8"))
    card["base"]["hub"]["segmenter"] = "0" * 64  # of another version of the English model
    (pack / "card.json").write_text(json.dumps(card), encoding="utf-8")
    refused = run("transcribe", pack, buzzes, *given, "-o", tmp_path / "no", code=1).stderr
    assert "cannot transcribe: it was made on" in refused
    assert "macro" in run("evaluate", pack, *given, "--data", buzzes, "-o", tmp_path / "scores").stdout


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2-layer-norm", "whisper"])
def test_each_span_of_a_recording_is_heard_as_in_training(
    kind: str, save: Any, buzzes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the recording is cut on the way: in chunks that are decoded, and in stretches that are heard."""
    for name, value in (("CHUNK", 300), ("LAST_PART", 150)):
        monkeypatch.setattr(transcribe, name, value)
    monkeypatch.setattr(hub.HubEncoder, "stretch", 700)
    monkeypatch.setattr(WhisperEncoder, "stretch", 700)
    encoder, folder = save(kind), tmp_path / "long"
    run("adapt", "--lang", "pa", "--data", buzzes, "--encoder", encoder, *FEW, "-o", tmp_path / "out")
    pack = load_pack(tmp_path / "out" / "pack")
    base = load_hub_base(encoder, pack.card["base"]["hub"]["layer"])  # type: ignore[index]
    transcriber = Transcriber.load(pack, base)
    corpus = toy_corpus(folder, 1, 1, [INVENTORY[n % len(INVENTORY)] for n in range(100)])
    examined = transcriber.examine(corpus.utterances[0].audio)
    assert len(examined.spans) > 50 and examined.transcription.duration == pytest.approx(10.2)
    found = tuple(Segment("a", start, end) for start, end in examined.spans.double().tolist())
    told = Corpus("told", (replace(corpus.utterances[0], segments=found),))
    store = build_store([told], front_end=base.front_end)
    assert len(list(stretches_of(0, int(store.length[0]), base.encoder))) > 1
    learner = transcriber.model.learner
    expected = learner.standardise(embeddings_of(learner.encoder, store)).detach()
    # In transcription a span that lies in two stretches is heard in both; where frames know positions, that is another thing.
    seams = [s.low / 100 for s in stretches_of(0, int(store.length[0]), base.encoder)][1:]
    one = torch.tensor(
        [not any(low - 0.03 < seam < high + 0.03 for seam in seams) for low, high in examined.spans.tolist()]
    )
    assert int((~one).sum()) <= 2 * len(seams)
    torch.testing.assert_close(examined.embeddings[one], expected[one], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("front_end", [RAW, RAW_NORMALISED, LOG_MEL, whisper_front_end(128)])
def test_recordings_are_heard_again_for_the_segmenter(front_end: FrontEnd, buzzes: Path) -> None:
    corpus, wanted = read_corpus(buzzes, "pa"), whisper_front_end()
    expected = build_store([corpus], front_end=wanted)
    some = build_store([corpus], front_end=front_end).select(torch.arange(7, len(expected)))
    found = heard_by(wanted, some)
    assert (found.window, found.frames.shape[1]) == (wanted.window, wanted.width) and torch.equal(
        found.start, some.start
    )
    for u in some.utterance.unique().tolist():
        n = min(int(expected.length[u]), int(found.length[u]))
        assert n >= int(expected.length[u]) - 1
        a, b = (store.frames[int(store.first[u]) :][:n] for store in (expected, found))
        assert torch.equal(a, b)
        assert bool((found.frames[int(found.first[u]) - 1] == wanted.quiet).all())


def test_a_strategy_is_meta_trained_on_it_and_adapted_from(save: Any, buzzes: Path, tmp_path: Path) -> None:
    encoder, strategy = save("hubert"), tmp_path / "strategy"
    few = "--meta-steps 3 --meta-batch 2 --n-way 2 --n-shot 1 --n-query 1 --valid-tasks 2 --validate-every 3".split()
    chosen = ("--encoder", encoder, "--encoder-layer", 1, "--phi-layers", "*.feed_forward.*_dense")
    run("meta-train", buzzes, "--lang", "pa", *chosen, *few, "--threads", 1, "-o", strategy)
    assert "FAILED" not in run("verify", strategy / "pack", "--encoder", encoder).stdout
    given = ("--strategy", strategy / "pack", "--encoder", encoder)
    run("ablate", "--lang", "pa", "--data", buzzes, *given, *FEW, "-o", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    how = load_pack(tmp_path / "out" / "pack").card["base"]["hub"]
    assert (how["layer"], how["phi"]) == ("1", ["*.feed_forward.*_dense"])  # as the strategy has them
    assert "+ meta-transfer" in page and load_pack(strategy / "pack").name in page


# --- what is learned -----------------------------------------------------------------------------------------------

LAYER = 2  # of N_LAYERS
PARTS = {
    "transformers": ["attention.k_proj", "attention.out_proj", "attention.q_proj", "attention.v_proj"],
    "dense": ["feed_forward.intermediate_dense", "feed_forward.output_dense"],
    "whisper": ["fc1", "fc2", *(f"self_attn.{part}_proj" for part in ("out", "q", "v"))],
}


def expected_layers(kind: str) -> set[str]:
    """The names of the layers that carry Φ in a model of this kind."""
    if kind == "whisper":
        layers = {f"layers.{n}.{part}" for n in range(LAYER) for part in PARTS["whisper"]}
        return {"conv1", "conv2", *layers}
    torchs = kind == "torchaudio"
    encoder = "backbone.model.encoder"
    layers = {f"backbone.model.feature_extractor.conv_layers.{n}.conv" for n in range(CONVOLUTIONS)}
    layers.add(f"{encoder}.feature_projection.projection" if torchs else "backbone.model.feature_projection.projection")
    parts = PARTS["dense"] + ([] if kind in ("wavlm", "torchaudio") else PARTS["transformers"])
    inner = f"{encoder}.transformer.layers" if torchs else f"{encoder}.layers"
    return layers | {f"{inner}.{n}.{part}" for n in range(LAYER) for part in parts}


@pytest.mark.parametrize("kind", KINDS)
def test_meta_training_moves_phi_alone_and_there_is_one_copy_of_theta(kind: str, save: Any, buzzes: Path) -> None:
    base = load_hub_base(save(kind), str(LAYER))
    before = frozen_bytes(base.encoder)
    where = {tensor.data_ptr() for tensor in base.encoder.parameters()}
    store = build_store([read_corpus(buzzes, "pa")], front_end=base.front_end)
    config = meta_config(meta_steps=2, n_way=(2,), n_shot=(1,), n_query=1, meta_batch=2, outer_lr=0.05)
    learner = new_learner(base, store.phonemes, config)
    prepare_learner(learner, store, config)
    copies = [learner, copy.deepcopy(learner)]
    for each in copies:
        frozen = {p.data_ptr() for p in each.encoder.parameters() if not p.requires_grad}
        assert frozen == where
    assert set(scale_shift_layers(learner.encoder)) == expected_layers(kind)
    trained = {name for name, p in learner.encoder.named_parameters() if p.requires_grad}
    assert trained == set(phi_state(learner.encoder))
    phi = {name: tensor.clone() for name, tensor in phi_state(learner.encoder).items()}
    trainer = MetaTrainer(learner, store, config)
    assert all(np.isfinite(trainer.step()["loss"]) for _ in range(2))
    moved = [name for name, tensor in phi_state(learner.encoder).items() if not torch.equal(tensor, phi[name])]
    assert len(moved) >= 0.9 * len(phi), sorted(set(phi) - set(moved))
    assert all(torch.equal(tensor, phi[name]) for name, tensor in phi_state(copies[1].encoder).items())
    assert frozen_bytes(base.encoder) == before
    found = compare_base(base, learner, trained=True)
    assert found.largest_difference == 0.0 and found.sha256_before == found.sha256_after == pack_hash(base.pack)


def test_parts_of_a_batch_give_what_the_whole_gives(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so do activations that are computed again in the reverse pass."""
    base = load_hub_base(save("hubert"))
    learner = new_learner(base, "ab", meta_config())
    windows, spans = rows_of_noise(5)
    found = []
    for at_once in (5, 2):
        monkeypatch.setattr(hub, "AT_ONCE", at_once)
        learner.zero_grad()
        embedded = learner.encoder(windows, spans)
        embedded.square().sum().backward()
        gradients = [p.grad.clone() for p in learner.encoder.parameters() if p.grad is not None]
        with torch.no_grad():
            torch.testing.assert_close(learner.encoder(windows, spans), embedded.detach())
        found.append([embedded.detach(), *gradients])
    assert len(found[0]) > 1
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


# --- the layer -----------------------------------------------------------------------------------------------------


def test_a_layer_that_is_still_open_is_chosen_among_all(save: Any, buzzes: Path) -> None:
    """By the labels alone: another layer wins where it alone tells phonemes apart."""
    base = load_hub_base(save("hubert"))
    assert base.layer_open and base.encoder.layer == N_LAYERS
    store = base.hear([read_corpus(buzzes, "pa")])
    assert store.heard is not None and sorted(store.heard.embeddings) == [1, 2, 3]
    for layer, each in store.heard.embeddings.items():
        cut = base.at_layer(layer)
        assert not cut.layer_open and cut.pack.card["hub"]["layer"] == str(layer)  # type: ignore[index]
        assert pack_hash(cut.pack) == pack_hash(base.pack)
        fresh = embeddings_of(cut.encoder, replace(store, heard=None))
        torch.testing.assert_close(each, fresh, rtol=1e-4, atol=1e-4)
    chosen = choose_layer(base, store, meta_config())
    assert chosen in (1, 2, 3) and choose_layer(base, store, meta_config()) == chosen
    noise = torch.randn(len(store), base.encoder.embedding_size, generator=seeded(0))
    clear = noise + 10 * torch.randn(store.label.max() + 1, noise.shape[1], generator=seeded(1))[store.label]
    for best in (1, 2, 3):
        heard = replace(store.heard, embeddings={k: clear if k == best else noise for k in (1, 2, 3)})
        assert choose_layer(base, replace(store, heard=heard), meta_config()) == best
    with pytest.raises(ValueError, match="hold no embeddings of this encoder"):
        choose_layer(base, replace(store, heard=None), meta_config())


# --- a class of one's own ------------------------------------------------------------------------------------------

MINE = '''
import torch
from torch import Tensor, nn

from mtl_speech.corpora.audio import MEL_BANDS
from mtl_speech.model.encoder import FrameEncoder


class Mine(FrameEncoder):
    """A frame every 20 ms, of what is heard 50 ms around it."""

    hop, channels = 2.0, 24

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(MEL_BANDS, 24, 5, stride=2, padding=2)
        nn.init.normal_(self.conv.weight, 0.0, 0.1, torch.Generator().manual_seed(0))
        nn.init.zeros_(self.conv.bias)

    def frames(self, rows: Tensor) -> Tensor:
        return torch.tanh(self.conv(rows.transpose(1, 2)).transpose(1, 2))
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what is imported from it is forgotten again."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = set(sys.modules)
    yield tmp_path / "here"
    for name in [name for name in sys.modules if name not in before and "mine" in name]:
        del sys.modules[name]


def test_a_class_in_a_file_of_the_current_folder_is_an_encoder(here: Path, buzzes: Path, tmp_path: Path) -> None:
    """From adaptation to transcription, without a word in the package about it."""
    assert len(MINE.strip().splitlines()) <= 21
    (here / "mine.py").write_text(MINE, encoding="utf-8")
    path = list(sys.path)
    out, given = tmp_path / "out", ("--encoder", "mine:Mine")
    run("adapt", "--lang", "pa", "--data", buzzes, *given, *FEW, "-o", out)
    assert sys.path == path
    card = load_pack(out / "pack", "language").card
    assert card["base"] == {
        "name": "mine:Mine",
        "sha256": pack_hash(load_hub_base("mine:Mine").pack),
        "hub": {"layer": "1", "phi": ["*"], "segmenter": pack_hash(load_base().pack)},
    }
    assert "FAILED" not in run("verify", out / "pack", *given).stdout
    run("transcribe", out / "pack", buzzes, *given, "--threads", 1, "--score", "-o", tmp_path / "labelled")
    scores = json.loads((tmp_path / "labelled" / "scores.json").read_text(encoding="utf-8"))["scores"]
    assert scores["boundary_f1"]["value"] > 0.9 and scores["phone_error_rate"]["value"] < 0.4
    (here / "mine.py").write_text(MINE.replace("0.1,", "0.2,"), encoding="utf-8")
    del sys.modules["mine"]
    assert "give --encoder with the encoder that it was made on" in run("verify", out / "pack", *given, code=1).stdout


def test_a_class_of_a_module_in_a_package_is_found(here: Path) -> None:
    (here / "mines").mkdir()
    (here / "mines" / "__init__.py").touch()
    (here / "mines" / "deep.py").write_text(MINE, encoding="utf-8")
    encoder = load_hub_encoder("mines.deep:Mine")
    assert (encoder.channels, encoder.hop, encoder.training) == (24, 2.0, False)
    assert not any(p.requires_grad for p in encoder.parameters())


REFUSED = {
    "mine:Mien": ("", "cannot be made (AttributeError: module 'mine' has no attribute 'Mien')"),
    "mien:Mine": ("", "cannot be made (ModuleNotFoundError: No module named 'mien')"),
    "mine:Other": ("class Other(nn.Module):\n    pass\n", "is no mtl_speech.model.encoder.FrameEncoder: derive"),
    "mine:N": ("N = 3\n", "cannot be made (TypeError: 'int' object is not callable)"),
    "mine:Fails": (
        "class Fails(Mine):\n    def frames(self, rows):\n        return rows @ torch.zeros(3, 3)\n",
        "fails on a second of noise (RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "mine:Wants": (
        "class Wants(Mine):\n    def __init__(self, size):\n        pass\n",
        "missing 1 required positional",
    ),
    "mine:Hop": ("class Hop(Mine):\n    hop = 1.0\n", "gives (1, 51, 24) for 101 rows of 10 ms"),
    "mine:Wide": ("class Wide(Mine):\n    channels = 23\n", "by its hop and channels these must be (1, about 50, 23)"),
    "mine:Flat": (
        "class Flat(Mine):\n    def frames(self, rows):\n        return super().frames(rows)[0]\n",
        "gives (51, 24) for",
    ),
    "mine:Lazy": (
        "class Lazy(Mine):\n    def frames(self, rows):\n        return super().frames(rows) + torch.rand(1)\n",
        "gives other frames the second time",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_encoder_is_refused_in_a_sentence(name: str, here: Path) -> None:
    code, said = REFUSED[name]
    (here / "mine.py").write_text(f"{MINE}\n\n{code}", encoding="utf-8")
    with pytest.raises(UsageError) as told:
        load_hub_encoder(name)
    assert str(told.value).startswith(f"--encoder {name}: ") and said in str(told.value), str(told.value)


def test_a_file_that_cannot_be_read_as_python_is_told(here: Path) -> None:
    (here / "mine.py").write_text("def (", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--encoder mine:Mine: cannot be made \(SyntaxError"):
        load_hub_encoder("mine:Mine")


def test_a_folder_with_a_colon_in_its_name_is_a_folder(here: Path) -> None:
    (here / "mine:Mine").mkdir()
    with pytest.raises(DataError, match="the model there cannot be read"):
        load_hub_encoder("mine:Mine")
