"""What is no encoder, is damaged or would run code is refused; what is found without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file

from mtl_speech.core.errors import DataError, PackError, UsageError
from mtl_speech.model.backbones import TorchaudioBackbone
from mtl_speech.model.hub import HubEncoder, load_hub_encoder
from mtl_speech.model.pack import save_pack
from mtl_speech.model.strategy import layer_number, load_hub_base, new_learner, strategy_pack
from tests.command_line import run, save_base
from tests.helpers import meta_config
from tests.hub_models import rows_of_noise

pytest.importorskip("transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'")


def test_which_layer() -> None:
    assert [layer_number("auto", n) for n in (1, 3, 12)] == [1, None, None]  # None: still to be chosen
    assert [layer_number(str(n), 3) for n in (1, 2, 3)] == [1, 2, 3]
    for wrong in ("0", "4", "-1", "last", "1.5", "learned"):
        with pytest.raises(UsageError, match="has 3 layers: give 1 to 3, or auto"):
            layer_number(wrong, 3)


def test_options_that_do_not_go_together(save: Any, buzzes: Path, tmp_path: Path) -> None:
    data = ("--lang", "pa", "--data", buzzes)
    assert "one of them at most" in run("adapt", *data, "--encoder", "x", "--base", "y", code=2).stderr
    assert "needs --encoder" in run("adapt", *data, "--encoder-layer", "2", code=2).stderr
    assert (
        "no Conv or Linear layer"
        in run("adapt", *data, "--base", save_base(tmp_path), "--phi-layers", "*.q", code=2).stderr
    )
    encoder = save("wav2vec2")
    assert "3 layers" in run("adapt", *data, "--encoder", encoder, "--encoder-layer", "9", code=2).stderr
    assert "no Conv or Linear layer" in run("adapt", *data, "--encoder", encoder, "--phi-layers", "*.q", code=2).stderr


def test_what_is_no_encoder_is_told(save: Any, tmp_path: Path) -> None:
    from transformers import BertConfig

    with pytest.raises(DataError, match="neither a folder, nor a pipeline of torchaudio, nor a model"):
        load_hub_encoder("someone/no-such-model")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match="is of the kind 'bert'; served are wav2vec2, hubert, wavlm, whisper"):
        load_hub_encoder(str(tmp_path / "bert"))
    folder = Path(save("wav2vec2"))
    told = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "sampling_rate": 8000}), encoding="utf-8")
    with pytest.raises(UsageError, match="8000 samples a second"):
        load_hub_encoder(str(folder))
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="the model there cannot be read"):
        load_hub_encoder(str(folder))


def test_a_whisper_that_is_built_otherwise_is_refused(save: Any) -> None:
    from transformers import WhisperConfig, WhisperModel

    folder = Path(save("whisper"))
    for changed, said in (
        ({"activation_function": "relu"}, "activation 'relu'"),
        ({"encoder_ffn_dim": 32}, "32 hidden"),
    ):
        config = WhisperConfig.from_pretrained(folder, **changed)
        WhisperModel(config).save_pretrained(folder / "other")
        shutil.copy(folder / "preprocessor_config.json", folder / "other")
        with pytest.raises(UsageError, match=f"is not built as OpenAI's Whisper .*{said}"):
            load_hub_encoder(str(folder / "other"))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "hop_length": 200}), encoding="utf-8")
    with pytest.raises(UsageError, match="its spectra are of other windows"):
        load_hub_encoder(str(folder))


def test_weights_that_are_damaged_or_not_whole_are_refused(save: Any) -> None:
    """A package of models draws what is missing at random, and goes on."""
    folder = Path(save("wav2vec2"))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = "encoder.layers.2.feed_forward.intermediate_dense.bias"
    save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"have no '{gone}'"):
        load_hub_encoder(str(folder))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        load_hub_encoder(str(folder))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_hub_encoder(str(folder))


def test_a_pipeline_whose_weights_are_damaged_is_refused(save: Any, tmp_path: Path) -> None:
    name = save("torchaudio")
    (fetched,) = tmp_path.rglob("tiny.pth")
    fetched.write_bytes(fetched.read_bytes()[:500])
    with pytest.raises(DataError, match="WAV2VEC2_TINY: its weights could not be fetched or read"):
        load_hub_encoder(name)


class _RunsCode:
    """What runs code when it is unpickled as any object."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_checkpoint_of_speechbrain_runs_no_code(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(save("speechbrain"))
    path = folder / "hyperparams.yaml"
    told = path.read_text(encoding="utf-8")
    path.write_text(f"{told}touch: !apply:pathlib.Path.touch [!new:pathlib.Path [ran]]\n", encoding="utf-8")
    load_hub_encoder(str(folder))
    path.write_text("wav2vec2_hub: !!python/object/apply:os.mkdir [ran]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"hyperparams\.yaml"):
        load_hub_encoder(str(folder))
    path.write_text(told.replace("wav2vec2_hub: source", "other: source"), encoding="utf-8")
    with pytest.raises(DataError, match="names no wav2vec 2.0"):
        load_hub_encoder(str(folder))
    path.write_text(told, encoding="utf-8")
    for other in ({"a": _RunsCode()}, torch.ones(3), [1.0]):
        torch.save(other, folder / "wav2vec2.ckpt")
        with pytest.raises(DataError, match="holds no tensors that can be read"):
            load_hub_encoder(str(folder))
    torch.save({"a": torch.ones(1)}, folder / "wav2vec2.ckpt")
    with pytest.raises(DataError, match="they are of another model, or not whole"):
        load_hub_encoder(str(folder))
    (folder / "wav2vec2.ckpt").unlink()
    with pytest.raises(DataError, match="has no weights of an encoder"):
        load_hub_encoder(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_name_of_the_hub_is_found_where_fetched_models_lie(save: Any, tmp_path: Path) -> None:
    """In the layout of the hub's own cache, so that nothing is fetched again."""
    model = tmp_path / "home" / "hub" / "models--someone--tiny"
    shutil.copytree(save("hubert"), model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    code = "from mtl_speech.model.strategy import load_hub_base; print(load_hub_base('someone/tiny').pack.card)"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert "'name': 'someone/tiny'" in done.stdout and "*.attention.*_proj" in done.stdout and not done.stderr


def test_without_the_package_it_is_told_what_to_install(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = save("wav2vec2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'mtl_speech\[hub\]'"):
        load_hub_encoder(name)


def test_a_card_that_tells_another_shape_of_encoder_is_refused(save: Any, tmp_path: Path) -> None:
    base = load_hub_base(save("wav2vec2"))
    pack = strategy_pack(new_learner(base, "ab", meta_config()), base, meta_config(), {"name": "x"})
    right = {"layer": "2", "phi": ["*"], "segmenter": "0" * 64}
    for how in ({**right, "layer": 2}, {"layer": "2"}, {**right, "phi": [1]}, {**right, "phi": "*"}, 3):
        pack.card["base"]["hub"] = how
        with pytest.raises(PackError, match="'base' does not hold"):
            save_pack(pack, tmp_path / "pack")


def test_half_precision_is_made_single(save: Any) -> None:
    folder = Path(save("wav2vec2"))
    path = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}), encoding="utf-8")
    encoder = load_hub_encoder(str(folder))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert encoder(*rows_of_noise(2)).dtype == torch.float32


@pytest.mark.slow
def test_a_pipeline_of_torchaudio_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape that is published, with random weights where the fetched ones would lie."""
    bundle = torchaudio.pipelines.WAV2VEC2_BASE
    fetched = tmp_path / "hub" / "checkpoints" / Path(bundle._path).name
    fetched.parent.mkdir(parents=True)
    model = torchaudio.models.wav2vec2_model(**bundle._params)
    torch.save(model.state_dict(), fetched)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    encoder = load_hub_encoder("WAV2VEC2_BASE")
    assert isinstance(encoder, HubEncoder) and isinstance(encoder.backbone, TorchaudioBackbone)
    assert (encoder.layer, encoder.n_layers, encoder.embedding_size) == (12, 12, 3 * 768 + 1)
    assert encoder.at_layer(8)(*rows_of_noise(2)).shape == (2, 3 * 768 + 1)
