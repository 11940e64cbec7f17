"""Θ + Φ + θ′ of one language as one plain model in a file, for programs without this package.

Input "waveform": samples (n_samples,) float32, mono, 16 kHz, full scale 1. Input "frames": what the front end of the encoder
makes of them, (n_frames, bands) float32. With either, "spans" (n_segments, 2) float64, start and end of segments in seconds. Output
"probabilities" (n_segments, n_classes) float32, calibrated, the columns as `inventory` of the metadata names them. The numbers of
samples, frames and segments are free, up to the 30 s that the encoder hears at once; an empty recording or no segment is not for
the model.

Φ is merged into the layers. What comes after pooling is linear to the end: centre, whitening, scale, head and temperature.
So it is one matrix, worked out in double precision. Everything is made of operations that ONNX and torch.export know.
"""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtl_speech import __version__
from mtl_speech.core.errors import UsageError
from mtl_speech.corpora.audio import (
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    POWER_FLOOR,
    SAMPLE_RATE,
    WHISPER_BANDS,
    WINDOW_LENGTH,
    whisper_filters,
)
from mtl_speech.features.front_end import WHISPER_PEAK, WHISPER_RANGE, whisper_scaled
from mtl_speech.model.encoder import part_weights
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.pack import Pack, pack_hash
from mtl_speech.model.passes import LENGTHS
from mtl_speech.model.scale_shift import merge
from mtl_speech.model.strategy import BaseModel
from mtl_speech.model.whisper import WhisperEncoder

Inputs = tuple[Tensor, Tensor]
Model = Callable[[Tensor, Tensor], Tensor]
FORMAT = "mtl_speech.export/1"
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
METADATA = "metadata.json"  # the name of the extra file in model.pt2
OPSET = 20  # the first with GELU as one operation
TOLERANCE = 1e-5  # the largest difference from the folded model in a probability


class WhisperMel(nn.Module):
    """`whisper_mel` of one recording as its front end scales it, without complex numbers: the spectrum is a product of matrices.

    Rows are rounded to half precision, as those in the feature cache are. What comes before is in double precision, so that every
    program rounds them alike.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        samples = torch.arange(WINDOW_LENGTH, dtype=torch.float64)
        bins = torch.arange(WINDOW_LENGTH // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / WINDOW_LENGTH * samples.unsqueeze(1) * bins
        window = torch.hann_window(WINDOW_LENGTH, dtype=torch.float64).unsqueeze(1)
        # (WINDOW_LENGTH, 2 * bins): cosines, then sines
        self.basis: Tensor = nn.Buffer(window * torch.cat((angle.cos(), angle.sin()), dim=1))
        self.filters: Tensor = nn.Buffer(whisper_filters(bands).double())  # (bins, bands)

    def forward(self, waveform: Tensor) -> Tensor:
        """(n_samples,) at 16 kHz -> rows (1 + n_samples // HOP_LENGTH, bands)."""
        half = WINDOW_LENGTH // 2
        before, after = waveform[1 : half + 1].flip(0), waveform[-half - 1 : -1].flip(0)
        padded = torch.cat((before, waveform, after))
        centres = torch.arange(1 + waveform.shape[0] // HOP_LENGTH, device=waveform.device) * HOP_LENGTH
        place = centres.unsqueeze(1) + torch.arange(WINDOW_LENGTH, device=waveform.device)
        spectrum = (padded[place].double() @ self.basis).square()
        power = spectrum[:, : half + 1] + spectrum[:, half + 1 :]
        mel = (power @ self.filters).clamp(min=POWER_FLOOR).log10()
        mel = torch.clamp(mel - mel.amax((0, 1)), min=-WHISPER_RANGE) + WHISPER_PEAK
        return whisper_scaled(mel).half().float()


class FoldedFrames(nn.Module):
    """The model from the rows of its front end to the probabilities of `LanguageModel`. Raises UsageError for a foreign encoder."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        encoder = merge(model.learner.encoder)
        if not isinstance(encoder, WhisperEncoder):
            raise UsageError(f"only the built-in encoder can be exported, not {type(encoder).__name__}")
        self.encoder, self.last = encoder, _fold_head(model)
        self.quiet: Tensor = nn.Buffer(torch.tensor(encoder.front_end.quiet))
        self.requires_grad_(False).eval()

    def forward(self, features: Tensor, spans: Tensor) -> Tensor:
        """(n_frames, bands) float32 and (n_segments, 2) float64, start and end in seconds -> (n_segments, n_classes)."""
        n = features.shape[0]
        place = torch.arange((n + LENGTHS - 1) // LENGTHS * LENGTHS, device=features.device).unsqueeze(1)
        rows = torch.where(place < n, features[place.squeeze(1).clamp(max=n - 1)], self.quiet)
        frames = self.encoder.frames(rows.unsqueeze(0))[0]
        within = (spans * FRAMES_PER_SECOND).float()
        parts = part_weights(self.encoder.places(within), frames.shape[0]) @ frames
        return torch.softmax(self.last(self.encoder.embed(parts, within)), dim=1)


class Folded(nn.Module):
    """The same as `FoldedFrames` from the samples of a recording."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.classify = FoldedFrames(model)
        self.features = WhisperMel(self.classify.encoder.config.bands)

    def forward(self, waveform: Tensor, spans: Tensor) -> Tensor:
        """(n_samples,) float32 at 16 kHz, full scale 1, and spans as for `FoldedFrames` -> (n_segments, n_classes)."""
        return cast(Tensor, self.classify(self.features(waveform), spans))


def _fold_head(model: LanguageModel) -> nn.Linear:
    """Standardisation, head and temperature as one layer: the embedding of a segment -> n_classes."""
    learner = model.learner
    scaled = learner.whitener.double() * learner.log_scale.double().exp()
    outer = scaled @ model.head.weight[0].double().T / model.temperature  # (size, n_classes)
    folded = nn.Linear(len(outer), len(model.classes))
    with torch.no_grad():
        folded.weight.copy_(outer.T)
        folded.bias.copy_(model.head.bias[0].double() / model.temperature - learner.centre.double() @ outer)
    return folded


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
    shape = (n_frames * HOP_LENGTH,) if input == "waveform" else (n_frames, WHISPER_BANDS)
    seconds = n_frames * HOP_LENGTH / SAMPLE_RATE
    start = seconds * torch.rand(n_segments, 1, generator=draw, dtype=torch.float64)
    length = 0.02 + 0.6 * torch.rand(n_segments, 1, generator=draw, dtype=torch.float64)
    return 0.1 * torch.randn(shape, generator=draw), torch.cat((start, (start + length).clamp(max=seconds)), dim=1)


def export_model(folded: nn.Module, format: str, about: Mapping[str, str], seed: int) -> tuple[bytes, float]:
    """The model as a file of a format of FILES, and how far it is from `folded`: the largest difference in a probability.

    `about` is what `metadata` gives. They are compared on noise of several lengths, with one segment and with many.
    """
    kind, found = about["input"], []
    with _quiet_exporters():
        data, exported = _MAKERS[format](folded, example(kind, 100, 3, seed), about)
        for n_frames, n_segments in ((3, 1), (61, 1), (100, 3), (757, 40)):
            inputs = example(kind, n_frames, n_segments, seed + n_frames)
            found.append(float((folded(*inputs) - exported(*inputs)).abs().max()))
    return data, max(found)


def require_packages(formats: tuple[str, ...]) -> None:
    """Raises UsageError where a package that a format needs is missing."""
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
    most = WhisperEncoder.stretch - LENGTHS
    if about["input"] == "waveform":
        length = dim("n_samples", min=WINDOW_LENGTH, max=(most - 1) * HOP_LENGTH)
    else:
        length = dim("n_frames", min=2, max=most)
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
