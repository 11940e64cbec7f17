"""Tiny encoders, stores of made-up segments and toy recordings that the tests of learning share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from mtl_speech.core.options import EncoderConfig, MetaTrainConfig
from mtl_speech.corpora.audio import MEL_BANDS, SAMPLE_RATE
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.features.front_end import MARGIN
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.closed_form import standardise_embeddings, start_theta
from mtl_speech.model.encoder import ConvEncoder, FrameBatchNorm
from mtl_speech.model.language_pack import LanguageModel
from mtl_speech.model.learner import MetaLearner, embed_segments
from mtl_speech.model.scale_shift import attach, scale_shift_layers
from mtl_speech.model.strategy import BaseModel, base_pack
from mtl_speech.training.episodes import Episode, EpisodeSampler

PHONEMES = ("a", "b", "d", "e", "i", "k", "m", "n", "o", "s", "t", "u")
TOKEN_FRAMES = 8
GAP_FRAMES = 6


class DoubleStore(SegmentStore):
    """A store that gives float64 frames and windows, for comparisons with finite differences."""

    def take(self, rows: Tensor) -> Tensor:
        """As `SegmentStore.take`, in float64."""
        return super().take(rows).double()

    def windows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """As `SegmentStore.windows`, in float64."""
        windows, spans = super().windows(index)
        return windows.double(), spans.double()


@contextmanager
def double_precision() -> Iterator[None]:
    """New tensors are float64 inside."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_encoder(seed: int = 0, channels: int = 8, blocks: int = 1, size: int = 12, folded: bool = True) -> ConvEncoder:
    """A random encoder in evaluation mode whose batch-norms have statistics and weights away from their start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ConvEncoder(EncoderConfig(channels=channels, blocks=blocks, embedding_size=size, dropout=0.3))
        for module in encoder.modules():
            if isinstance(module, FrameBatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
    return encoder.fold_batch_norm() if folded else encoder.eval()


def make_store(
    utterances: Sequence[Sequence[int]],
    languages: Sequence[int] | None = None,
    speakers: Sequence[int] | None = None,
    *,
    noise: float = 0.5,
    seed: int = 0,
    phonemes: Sequence[str] = PHONEMES,
    kind: type[SegmentStore] = SegmentStore,
) -> SegmentStore:
    """A store whose utterances are the given phonemes one after another, each a spectrum of its own plus noise a token.

    The spectrum of a phoneme is the same for every `seed`; the noise is not.
    """
    languages = languages if languages is not None else [0] * len(utterances)
    speakers = speakers if speakers is not None else list(range(len(utterances)))
    pattern = torch.randn(len(PHONEMES), MEL_BANDS, generator=seeded(99))
    draw = seeded(seed)
    parts: list[Tensor] = []
    columns: dict[str, list[float]] = {k: [] for k in ("start", "end", "label", "utterance", "language", "speaker")}
    first, length, row = [], [], 0
    for number, tokens in enumerate(utterances):
        n_frames = 2 * GAP_FRAMES + TOKEN_FRAMES * len(tokens)
        frames = torch.full((n_frames, MEL_BANDS), -2.0) + 0.1 * torch.randn(n_frames, MEL_BANDS, generator=draw)
        first.append(row + MARGIN)
        length.append(n_frames)
        for place, token in enumerate(tokens):
            low = GAP_FRAMES + place * TOKEN_FRAMES
            spectrum = pattern[token] + noise * torch.randn(MEL_BANDS, generator=draw)
            frames[low : low + TOKEN_FRAMES] += 2.0 + spectrum
            values = (row + MARGIN + low, row + MARGIN + low + TOKEN_FRAMES, token, number)
            for key, value in zip(columns, (*values, languages[number], speakers[number]), strict=True):
                columns[key].append(value)
        parts.append(torch.cat((frames[:1].expand(MARGIN, -1), frames, frames[-1:].expand(MARGIN, -1))))
        row += n_frames + 2 * MARGIN
    return kind(
        frames=torch.cat(parts).half(),
        first=torch.tensor(first),
        length=torch.tensor(length),
        start=torch.tensor(columns["start"], dtype=torch.float64),
        end=torch.tensor(columns["end"], dtype=torch.float64),
        label=torch.tensor(columns["label"], dtype=torch.long),
        utterance=torch.tensor(columns["utterance"], dtype=torch.long),
        language=torch.tensor(columns["language"], dtype=torch.long),
        speaker=torch.tensor(columns["speaker"], dtype=torch.long),
        phonemes=tuple(phonemes),
        languages=tuple(f"q{chr(97 + i)}a" for i in range(max(languages) + 1)),
        speakers=tuple(f"s{i}" for i in range(max(speakers) + 1)),
        utterance_ids=tuple(f"toy/u{i}" for i in range(len(utterances))),
    )


def toy_store(
    n_languages: int = 2,
    n_phonemes: int = 6,
    n_utterances: int = 6,
    *,
    noise: float = 0.5,
    seed: int = 0,
    kind: type[SegmentStore] = SegmentStore,
) -> SegmentStore:
    """Languages whose utterances hold each of their phonemes once, in random order. Language l has the phonemes from 2 l on."""
    rng = np.random.default_rng(seed)
    utterances, languages = [], []
    for language in range(n_languages):
        inventory = (np.arange(n_phonemes) + 2 * language) % len(PHONEMES)
        for _ in range(n_utterances):
            utterances.append(rng.permutation(inventory).tolist())
            languages.append(language)
    speakers = [number // 2 for number in range(len(utterances))]  # two recordings a speaker
    return make_store(utterances, languages, speakers, noise=noise, seed=seed, kind=kind)


def tiny_learner(
    store: SegmentStore,
    encoder: ConvEncoder | None = None,
    granularity: str = "channel",
    theta_init: str = "previous",
    inner_steps: int = 3,
    inner_lr: float = 0.5,
    scale: float = 2.0,
) -> MetaLearner:
    """A learner with standardised embeddings and the θ of `start_theta`, on a tiny encoder."""
    encoder = encoder if encoder is not None else tiny_encoder()
    size = encoder.config.embedding_size
    adapted = attach(encoder, granularity).eval()
    learner = MetaLearner(adapted, size, store.phonemes, theta_init, inner_steps, inner_lr)
    embeddings = embed_segments(learner, store)
    standardise_embeddings(learner, store, embeddings, 0.3)
    with torch.no_grad():
        learner.log_scale.add_(float(np.log(scale)))
    start_theta(learner, store, embeddings)
    return learner


def shake(learner: MetaLearner, seed: int = 0, size: float = 0.1) -> None:
    """Move every trainable parameter away from where it stands."""
    draw = seeded(seed)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=draw).to(parameter)


def predicted(model: LanguageModel, store: SegmentStore) -> list[str]:
    """The phoneme that a recogniser gives each segment of a store."""
    return [model.classes[int(i)] for i in model.logits(embed_segments(model.learner, store)).argmax(1)]


def frozen_bytes(module: nn.Module) -> dict[str, bytes]:
    """The state of a module, tensor by tensor, as bytes: equal only if every bit is."""
    return {name: value.detach().contiguous().numpy().tobytes() for name, value in module.state_dict().items()}


def phi_names(learner: MetaLearner) -> set[str]:
    """The names of the parameters of Φ in a learner."""
    layers = scale_shift_layers(learner.encoder)
    return {f"encoder.{n}.{k}" for n, layer in layers.items() for k, _ in layer.named_parameters(recurse=False)}


def meta_config(**settings: object) -> MetaTrainConfig:
    """Settings of a small meta-training."""
    small = {"n_way": (3,), "n_shot": (1,), "n_query": 3, "inner_steps": 3, "meta_steps": 4, "meta_batch": 2}
    return MetaTrainConfig(**{**small, **settings})  # type: ignore[arg-type]


def tiny_base(seed: int = 0, phonemes: Sequence[str] = PHONEMES) -> BaseModel:
    """A base whose head is random too."""
    encoder = tiny_encoder(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.config.embedding_size, len(phonemes)).requires_grad_(False)
    pack = base_pack(encoder, head, tuple(phonemes), {"name": f"tiny-{seed}"})
    return BaseModel(encoder.requires_grad_(False), head, tuple(phonemes), pack)


def tone(seconds: float, frequency: float, level: float = 0.3) -> np.ndarray:
    """A buzz: a tone with harmonics, (n_samples,) at 16 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return sum(level / k * np.sin(2 * np.pi * frequency * k * time) for k in (1, 2, 3)).astype(np.float32)  # type: ignore[union-attr]


def toy_recording(path: Path, phonemes: Sequence[str], seed: int = 0) -> tuple[Segment, ...]:
    """Write a recording of buzzes, one pitch a phoneme, with faint noise; returns its segments (0.1 s each, from 0.1 s on)."""
    rng = np.random.default_rng(seed)
    silence = np.zeros(SAMPLE_RATE // 10, dtype=np.float32)
    sounds = [tone(0.1, 150.0 * 1.35 ** PHONEMES.index(p)) for p in phonemes]
    samples = np.concatenate([silence, *sounds, silence])
    samples = samples + 0.003 * rng.standard_normal(len(samples)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return tuple(Segment(p, round(0.1 * (i + 1), 3), round(0.1 * (i + 2), 3)) for i, p in enumerate(phonemes))


def toy_corpus(
    folder: Path, n_utterances: int, n_speakers: int, inventory: Sequence[str] = PHONEMES[:4], name: str = "toy"
) -> Corpus:
    """A corpus of short recordings on disk; each holds every phoneme of `inventory` once."""
    utterances = []
    for number in range(n_utterances):
        order = np.random.default_rng(number).permutation(len(inventory))
        speaker = f"s{number % n_speakers}"
        path = folder / speaker / f"u{number}.wav"
        noise = number + 1000 * zlib.crc32(folder.name.encode())  # no two folders hold the same recording
        segments = toy_recording(path, [inventory[i] for i in order], seed=noise)
        duration = 0.2 + 0.1 * len(segments)
        utterances.append(Utterance(f"{speaker}/u{number}", path, "pa", speaker, duration, segments))
    return Corpus(name, tuple(utterances))


def episodes_of(store: SegmentStore, n: int = 3, seed: int = 0, n_way: int = 3, n_shot: int = 2) -> list[Episode]:
    """Episodes with two queries a class."""
    sampler, rng = EpisodeSampler(store), np.random.default_rng(seed)
    return [sampler.random(rng, n_way, n_shot, 2) for _ in range(n)]
