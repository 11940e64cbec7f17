"""Θ + Φ + θ′ of one language as one plain model: a waveform and the spans of segments in, calibrated probabilities out.

Φ is merged into the convolutions. What comes after pooling is linear to the end: the embedding, its centre, whitening and scale,
the head and the temperature. So it is one matrix, worked out in double precision. Everything is made of operations that
ONNX and torch.export know, for any number of samples and of segments.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_speech.core.errors import UsageError
from mtl_speech.corpora.audio import FFT_SIZE, FRAMES_PER_SECOND, HOP_LENGTH, POWER_FLOOR, WINDOW_LENGTH, mel_filters
from mtl_speech.features.store import ACTIVE_RANGE, FLOOR_RANGE, PRIOR_FRAMES, SCALE, WINDOW_FRAMES
from mtl_speech.model.encoder import Encoder
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.scale_shift import merge


class LogMel(nn.Module):
    """`audio.log_mel` and `features.normalise` of one recording, without complex numbers: the spectrum is a product of matrices.

    Frames are rounded to half precision, as those in the feature cache are. What comes before is in double precision, so that every
    program rounds them alike.
    """

    def __init__(self) -> None:
        super().__init__()
        samples = torch.arange(WINDOW_LENGTH, dtype=torch.float64)
        bins = torch.arange(FFT_SIZE // 2 + 1, dtype=torch.float64)
        angle = 2 * math.pi / FFT_SIZE * samples.unsqueeze(1) * bins
        window = torch.hann_window(WINDOW_LENGTH, dtype=torch.float64).unsqueeze(1)
        self.register_buffer("basis", window * torch.cat((angle.cos(), angle.sin()), dim=1), persistent=True)
        self.register_buffer("filters", mel_filters().double(), persistent=True)
        self.basis: Tensor  # (WINDOW_LENGTH, 2 * bins): cosines, then sines
        self.filters: Tensor  # (bins, MEL_BANDS)

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
    """The same from the samples of a recording."""

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
