"""What the command `export` does: a language pack on its base as one plain model, for programs without this package.

Input "waveform": samples (n_samples,) float32, mono, 16 kHz, full scale 1. Input "frames": `features.normalise` of `audio.log_mel`,
(n_frames, MEL_BANDS) float32. With either, "spans" (n_segments, 2) float64, start and end of segments in seconds. Output
"probabilities" (n_segments, n_classes) float32, calibrated, the columns as `inventory` of the metadata names them. The numbers of
samples, frames and segments are free; an empty recording or no segment is not for the model.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtl_speech import __version__
from mtl_speech.core.errors import PackError, UsageError
from mtl_speech.core.files import atomic_write
from mtl_speech.core.options import ExportOptions
from mtl_speech.core.run import Run
from mtl_speech.corpora.audio import HOP_LENGTH, MEL_BANDS, SAMPLE_RATE, WINDOW_LENGTH
from mtl_speech.model.base import BaseModel, load_base
from mtl_speech.model.folded import Folded, FoldedFrames
from mtl_speech.model.language_pack import load_language
from mtl_speech.model.pack import Pack, load_pack, pack_hash

Inputs = tuple[Tensor, Tensor]
Model = Callable[[Tensor, Tensor], Tensor]

FORMAT = "mtl_speech.export/1"
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
METADATA = "metadata.json"  # the name of the extra file in model.pt2
OPSET = 20  # the first with GELU as one operation
TOLERANCE = 1e-5  # the largest difference from the folded model in a probability


def export(folder: Path, options: ExportOptions, run: Run) -> list[Path]:
    """Write the language pack in `folder` in each format of `options`; gives the paths.

    Raises UsageError where a package is missing, PackError where the pack cannot be used or an exported model gives other
    probabilities than it.
    """
    _require_packages(options.format)
    pack = load_pack(folder, "language")
    base = load_base(options.base)
    model = load_language(pack, base)
    output = run.begin(options, f"export-{pack.name}")
    folded = (Folded(model) if options.input == "waveform" else FoldedFrames(model)).eval()
    about, paths = metadata(pack, base, options.input), []
    n_parameters = sum(parameter.numel() for parameter in folded.parameters())
    run.say(f"'{pack.name}' on '{base.pack.name}': {n_parameters:,} weights, {len(model.classes)} phonemes")
    for format in options.format:
        with _quiet_exporters():
            data, exported = _MAKERS[format](folded, example(options.input, 100, 3, options.seed), about)
            difference = largest_difference(folded, exported, options)
        if not difference <= TOLERANCE:
            raise PackError(
                f"{folder}: the {format} model gives other probabilities than the pack (by {difference:.1e}): nothing was "
                "written; install the versions of constraints.txt"
            )
        paths.append(atomic_write(output / FILES[format], data))
        run.say(f"{format}: {len(data) / 1e6:.1f} MB, largest difference in a probability {difference:.1e}")
    run.wrote(output, paths)
    return paths


def metadata(pack: Pack, base: BaseModel, input: str) -> dict[str, str]:
    """What an exported file says of itself: texts by name, `inventory` and `zero_shot` being lists in JSON."""
    return {
        "format": FORMAT,
        "name": pack.name,
        "language": pack.value("language", str),
        "inventory": json.dumps(pack.phonemes("inventory"), ensure_ascii=False),
        "zero_shot": json.dumps(sorted(pack.card.get("zero_shot") or {}), ensure_ascii=False),  # type: ignore[call-overload]
        "input": input,
        "sample_rate": str(SAMPLE_RATE),
        "hop_length": str(HOP_LENGTH),
        "licence": str(pack.card.get("licence", "")),
        "attribution": str(pack.card.get("attribution", "")),
        "sha256": pack_hash(pack),
        "base": base.pack.name,
        "base_sha256": pack_hash(base.pack),
        "base_licence": str(base.pack.card.get("licence", "")),
        "base_attribution": str(base.pack.card.get("attribution", "")),
        "package_version": __version__,
    }


def example(input: str, n_frames: int, n_segments: int, seed: int) -> Inputs:
    """Noise of the kind `input`, and spans in it."""
    draw = torch.Generator().manual_seed(seed)
    shape = (n_frames * HOP_LENGTH,) if input == "waveform" else (n_frames, MEL_BANDS)
    seconds = n_frames * HOP_LENGTH / SAMPLE_RATE
    start = seconds * torch.rand(n_segments, 1, generator=draw, dtype=torch.float64)
    length = 0.02 + 0.6 * torch.rand(n_segments, 1, generator=draw, dtype=torch.float64)
    return 0.1 * torch.randn(shape, generator=draw), torch.cat((start, (start + length).clamp(max=seconds)), dim=1)


def largest_difference(folded: nn.Module, exported: Model, options: ExportOptions) -> float:
    """The largest difference in a probability, on noise of several lengths, with one segment and with many."""
    found = []
    for n_frames, n_segments in ((3, 1), (61, 1), (100, 3), (757, 40)):
        inputs = example(options.input, n_frames, n_segments, options.seed + n_frames)
        found.append(float((folded(*inputs) - exported(*inputs)).abs().max()))
    return max(found)


def _require_packages(formats: tuple[str, ...]) -> None:
    missing = [name for format in formats for name in NEEDED.get(format, ()) if find_spec(name) is None]
    if missing:
        raise UsageError(f"format: onnx needs {', '.join(missing)}: pip install 'mtl_speech[export]'")


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Inside, PyTorch's exporters do not tell what concerns nobody but their makers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sizes(about: Mapping[str, str]) -> tuple[dict[int, torch.export.Dim], ...]:
    """The names of what is free in the shapes of the inputs."""
    dim = torch.export.Dim
    length = dim("n_samples", min=WINDOW_LENGTH) if about["input"] == "waveform" else dim("n_frames")
    return {0: length}, {0: dim("n_segments")}


def _program(folded: nn.Module, inputs: Inputs, about: Mapping[str, str]) -> torch.export.ExportedProgram:
    """The graph of the model, without the places in the source, which have paths of this machine."""
    program = torch.export.export(folded, inputs, dynamic_shapes=_sizes(about))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _onnx(folded: nn.Module, inputs: Inputs, about: Mapping[str, str]) -> tuple[bytes, Model]:
    import onnxruntime

    names = [about["input"], "spans"]
    made: Any = torch.onnx.export(
        _program(folded, inputs, about),
        input_names=names,
        output_names=["probabilities"],
        dynamic_shapes=_sizes(about),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    made.model.metadata_props.update(about)
    data = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
        return torch.from_numpy(found)

    return data, run


def _torch_export(folded: nn.Module, inputs: Inputs, about: Mapping[str, str]) -> tuple[bytes, Model]:
    program, stream = _program(folded, inputs, about), io.BytesIO()
    torch.export.save(program, stream, extra_files={METADATA: json.dumps(about, ensure_ascii=False)})
    return stream.getvalue(), program.module()


_MAKERS: dict[str, Callable[[nn.Module, Inputs, Mapping[str, str]], tuple[bytes, Model]]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
}
