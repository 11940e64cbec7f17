"""Θ + Φ + θ′ of one language as one plain model in a file, for programs without this package.

Input "waveform": samples (n_samples,) float32, mono, 16 kHz, full scale 1. Input "frames": `store.normalise` of `audio.log_mel`,
(n_frames, MEL_BANDS) float32. With either, "spans" (n_segments, 2) float64, start and end of segments in seconds. Output
"probabilities" (n_segments, n_classes) float32, calibrated, the columns as `inventory` of the metadata names them. The numbers of
samples, frames and segments are free; an empty recording or no segment is not for the model.

Φ is merged into the convolutions. What comes after pooling is linear to the end: the embedding, its centre, whitening and scale,
the head and the temperature. So it is one matrix, worked out in double precision. Everything is made of operations that
ONNX and torch.export know.
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
from torch.nn import functional as F

from mtl_speech import __version__
from mtl_speech.core.errors import UsageError
from mtl_speech.corpora.audio import (
    FFT_SIZE,
    FRAMES_PER_SECOND,
    HOP_LENGTH,
    MEL_BANDS,
    POWER_FLOOR,
    SAMPLE_RATE,
    WINDOW_LENGTH,
    mel_filters,
)
from mtl_speech.features.store import ACTIVE_RANGE, FLOOR_RANGE, PRIOR_FRAMES, SCALE, WINDOW_FRAMES
from mtl_speech.model.encoder import Encoder
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.pack import Pack, pack_hash
from mtl_speech.model.scale_shift import merge
from mtl_speech.model.strategy import BaseModel

Inputs = tuple[Tensor, Tensor]
Model = Callable[[Tensor, Tensor], Tensor]
FORMAT = "mtl_speech.export/1"
FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
METADATA = "metadata.json"  # the name of the extra file in model.pt2
OPSET = 20  # the first with GELU as one operation
TOLERANCE = 1e-5  # the largest difference from the folded model in a probability


class LogMel(nn.Module):
    """`audio.log_mel` and `store.normalise` of one recording, without complex numbers: the spectrum is a product of matrices.

    Frames are rounded to half precision, as those in the feature cache are. What comes before is in double precision, so that every
    program rounds them alike.
    """

    def __init__(self) -> None:
        super().__init__()
        samples = torch.arange(WINDOW_LENGTH, dtype=torch.float64)
        bins = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / FFT_SIZE * samples.unsqueeze(1) * bins
        window = torch.hann_window(WINDOW_LENGTH, dtype=torch.float64).unsqueeze(1)
        # (WINDOW_LENGTH, 2 * bins): cosines, then sines
        self.basis: Tensor = nn.Buffer(window * torch.cat((angle.cos(), angle.sin()), dim=1))
        self.filters: Tensor = nn.Buffer(mel_filters().double())  # (bins, MEL_BANDS)

    def forward(self, waveform: Tensor) -> Tensor:
        """(n_samples,) at 16 kHz -> normalised log-mel (1 + n_samples // HOP_LENGTH, MEL_BANDS)."""
        centres = torch.arange(1 + waveform.shape[0] // HOP_LENGTH, device=waveform.device) * HOP_LENGTH
        place = centres.unsqueeze(1) + torch.arange(WINDOW_LENGTH, device=waveform.device)
        frames = F.pad(waveform, (WINDOW_LENGTH // 2, WINDOW_LENGTH // 2))[place]
        spectrum = (frames.double() @ self.basis).square()
        power = spectrum[:, : FFT_SIZE // 2 + 1] + spectrum[:, FFT_SIZE // 2 + 1 :]
        mel = (power @ self.filters).clamp(min=POWER_FLOOR).log()
        energy = mel.mean(1, keepdim=True)
        peak = energy.amax(0, keepdim=True)
        mel = torch.maximum(mel, peak - FLOOR_RANGE)
        active = (energy >= peak - ACTIVE_RANGE).to(mel)
        total, n = (active * mel).sum(0), active.sum()
        mean = (total + PRIOR_FRAMES * total.mean() / n) / (n + PRIOR_FRAMES)
        return ((mel - mean) / SCALE).float().half().float()


class FoldedFrames(nn.Module):
    """The model from normalised log-mel frames to the probabilities of `LanguageModel`. Raises UsageError for a foreign encoder."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        encoder = merge(model.learner.encoder)
        if not isinstance(encoder, Encoder):
            raise UsageError(f"only the built-in encoder can be exported, not {type(encoder).__name__}")
        encoder.embedding = _fold_head(model, encoder.embedding)  # what it gives of a segment is then its logits
        self.encoder = encoder
        self.requires_grad_(False).eval()

    def forward(self, features: Tensor, spans: Tensor) -> Tensor:
        """(n_frames, MEL_BANDS) float32 and (n_segments, 2) float64, start and end in seconds -> (n_segments, n_classes)."""
        spans = spans * FRAMES_PER_SECOND
        left = torch.round((spans[:, :1] + spans[:, 1:]) / 2) - WINDOW_FRAMES // 2
        rows = left.long() + torch.arange(WINDOW_FRAMES, device=spans.device)
        windows = features[rows.clamp(0, features.shape[0] - 1)]
        within = (spans - left).clamp(0, WINDOW_FRAMES).float()
        return torch.softmax(self.encoder(windows, within), dim=1)


class Folded(nn.Module):
    """The same as `FoldedFrames` from the samples of a recording."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.features, self.classify = LogMel(), FoldedFrames(model)

    def forward(self, waveform: Tensor, spans: Tensor) -> Tensor:
        """(n_samples,) float32 at 16 kHz, full scale 1, and spans as for `FoldedFrames` -> (n_segments, n_classes)."""
        return cast(Tensor, self.classify(self.features(waveform), spans))


def _fold_head(model: LanguageModel, embedding: nn.Linear) -> nn.Linear:
    """Embedding, standardisation, head and temperature as one layer: (N_PARTS * channels + 1) -> n_classes."""
    learner = model.learner
    scaled = learner.whitener.double() * learner.log_scale.double().exp()
    outer = scaled @ model.head.weight[0].double().T / model.temperature  # (dim, n_classes)
    folded = nn.Linear(embedding.in_features, len(model.classes))
    with torch.no_grad():
        folded.weight.copy_(outer.T @ embedding.weight.double())
        offset = embedding.bias.double() - learner.centre.double()
        folded.bias.copy_(offset @ outer + model.head.bias[0].double() / model.temperature)
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
    shape = (n_frames * HOP_LENGTH,) if input == "waveform" else (n_frames, MEL_BANDS)
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
