"""Every setting and its default: what is learned and how, and the options of each command. All can stand in a config file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from mtl_speech.core.settings import Config, setting, settings

C = TypeVar("C", bound=Config)
PHONE_SETS = ("auto", "ipa", "arpabet", "timit", "mfa", "voxcommunis", "xsampa", "espeak", "disc")


@dataclass(frozen=True)
class WhisperConfig(Config):
    """The first layers of Whisper's encoder, as Θ."""

    bands: int = setting(80, "mel bands", low=1, high=1024)
    size: int = setting(384, "numbers a frame", low=2, high=4096)
    heads: int = setting(6, "attention heads", low=1, high=256)
    layers: int = setting(2, "transformer layers", low=1, high=128)

    def conflicts(self) -> Sequence[str]:
        """Heads share a frame evenly, and positions take sines and cosines of it in pairs."""
        fits = self.size % self.heads == 0 and self.size % 2 == 0
        return [] if fits else [f"size: {self.size} is not even, or not a multiple of the {self.heads} heads"]


@dataclass(frozen=True)
class EncoderConfig(Config):
    """A convolutional encoder Θ, as `pretrain` makes it."""

    channels: int = setting(224, "channels of each convolution", low=1, high=4096)
    blocks: int = setting(4, "residual blocks", low=1, high=64)
    kernel_size: int = setting(3, "frames that a convolution sees; odd", low=1, high=31)
    stem_kernel_size: int = setting(5, "frames that the first convolution sees; odd", low=1, high=31)
    stride: int = setting(2, "factor by which the frame rate is lowered", low=1, high=8)
    embedding_size: int = setting(256, "dimensions of a segment's embedding", low=1, high=4096)
    dropout: float = setting(0.1, "share of activations dropped in pretraining", low=0, below=1)

    def conflicts(self) -> Sequence[str]:
        """An even kernel would shift the frames."""
        sizes = {"kernel_size": self.kernel_size, "stem_kernel_size": self.stem_kernel_size}
        return [f"{name}: must be odd, not {size}" for name, size in sizes.items() if size % 2 == 0]


@dataclass(frozen=True)
class PretrainConfig(Config):
    """Pretraining of [Θ; θ] on a large corpus."""

    epochs: int = setting(16, "passes over the training segments", low=1)
    batch_frames: int = setting(4_608, "frames in a batch, 100 a second", low=100)
    crop_lengths: tuple[int, ...] = setting(
        (96, 192, 384), "lengths of the stretches cut from recordings, in frames", low=10
    )
    pretrain_lr: float = setting(1.5e-3, "learning rate α", above=0, high=1)
    weight_decay: float = setting(0.02, "decay of the weights per step, times the learning rate", low=0, high=1)
    frame_loss: float = setting(0.3, "weight of the loss over single frames", low=0)
    articulatory_loss: float = setting(1.0, "weight of the loss over articulatory features", low=0)
    average_decay: float = setting(
        0.995, "share that the running average of the weights keeps per step", low=0, below=1
    )
    accumulate: int = setting(1, "parts that a batch is computed in, one after another: less memory", low=1)
    precision: str = setting("fp32", "numbers of the forward pass: fp32, or bf16 (autocast)", choices=("fp32", "bf16"))
    device: str = setting("cpu", "where to compute: cpu, cuda or cuda:N")
    workers: int = setting(1, "processes that read, augment and cut recordings beside the training", low=0, high=1024)
    seed: int = setting(0, "seed of everything random", low=0)


@dataclass(frozen=True)
class MetaTrainConfig(Config):
    """Meta learning of Φ, θ and the inner learning rate on episodes."""

    meta_steps: int = setting(100, "meta-updates", low=0)
    meta_batch: int = setting(2, "tasks in a meta-batch", low=1)
    n_way: tuple[int, ...] = setting((5, 10, 20), "phonemes in a task; one is drawn where several are given", low=2)
    n_shot: tuple[int, ...] = setting((1, 3, 5), "support examples per phoneme; one is drawn of several", low=1)
    n_query: int = setting(5, "query examples per phoneme", low=1)
    inner_steps: int = setting(5, "base-learning steps on θ", low=0, high=10_000)
    inner_lr: float = setting(0.05, "learning rate β of base learning, at the start", above=0)
    outer_lr: float = setting(3e-3, "learning rate γ of meta learning", above=0)
    first_order: bool = setting(False, "leave out second derivatives")
    theta_init: str = setting(
        "posterior",
        "where θ starts in a task",
        choices=("previous", "random", "prototype", "posterior"),
    )
    granularity: str = setting("channel", "granularity of the scales Φ", choices=("kernel", "channel"))
    shrinkage: float = setting(0.7, "shrinkage of the covariance that whitens embeddings at the start", low=0, high=1)
    dimensions: int = setting(384, "dimensions that whitened embeddings are cut to at the start", low=1, high=4096)
    whiten: bool = setting(True, "start from whitened embeddings; otherwise they are centred only")
    scale: float = setting(4.0, "scale of the standardised embeddings at the start", above=0)
    prior: float = setting(2.0, "examples that a row of θ counts for at the start, under theta_init posterior", above=0)
    prior_unmet: float = setting(0.6, "the same for phonemes that meta-training did not meet", above=0)
    guess_share: float = setting(
        0.2, "share of the phonemes that a task treats as never met, under theta_init posterior", low=0, high=1
    )
    augment: bool = setting(False, "drop bands and frames of the segments of each task, and shift their channel")
    phi_rate: float = setting(1.0, "learning rate of Φ, as a multiple of γ", low=0)
    theta_rate: float = setting(1.0, "learning rate of θ, as a multiple of γ", low=0)
    scalar_rate: float = setting(10.0, "learning rate of the inner rates, scale and prior, as a multiple of γ", low=0)
    phi_decay: float = setting(1e-4, "weight of the squared distance of Φ from the identity", low=0)
    hard_ratio: float = setting(0.5, "share of rounds that are drawn from the hard classes", low=0, high=1)
    hard_pool: int = setting(10, "hard classes that are remembered", low=2)
    validate_every: int = setting(25, "meta-updates between validations", low=1)
    accumulate: int = setting(1, "parts that a meta-batch is computed in, one after another: less memory", low=1)
    precision: str = setting("fp32", "numbers of the encoder: fp32, or bf16 (autocast)", choices=("fp32", "bf16"))
    seed: int = setting(0, "seed of everything random", low=0)


@dataclass(frozen=True)
class AdaptConfig(Config):
    """Adaptation to a target language."""

    lang: str = setting("pa", "target language: a tag or an English name")
    shots: int | None = setting(None, "examples per phoneme to learn from; all by default", low=1)
    meta_steps: int | None = setting(
        None,
        "meta-updates on the target; by default none in `adapt`, which was not shown to gain by them, and as many as the data are "
        "worth in `ablate`",
        low=0,
    )
    hard_ratio: float = setting(
        0.0,
        "share of these that draw on the hard classes (the curriculum; the ablation takes 0.5 for 0)",
        low=0,
        high=1,
    )
    enough_segments: int = setting(100, "examples from which on meta-training goes on on the target", low=1)
    test_share: float = setting(0.2, "share of the recordings held out for the report", above=0, below=1)
    n_words: int = setting(720, "words of the built-in Punjabi corpus, where no --data is given", low=60)
    seed: int = setting(0, "seed of everything random", low=0)


@dataclass(frozen=True)
class RunOptions(Config):
    """What every command has. `MEMORY` names the settings to lower where memory runs out."""

    MEMORY: ClassVar[tuple[str, ...]] = ()
    output_dir: Path | None = setting(None, "folder to write to; by default results/<experiment>/<seed>")
    threads: int | None = setting(None, "processor threads; by default one a core", low=1, high=1024)
    seed: int = setting(0, "seed of everything random", low=0)
    cache_dir: Path | None = setting(None, "folder to keep features in; by default in the user's cache folder")
    cache_gib: float | None = setting(
        None, "how large that folder may become, in GiB; by default 10, and 0 keeps nothing", low=0
    )
    data_gib: float | None = setting(
        None, "how large copies of corpora from URLs and tar files may become there, in GiB; by default 50", low=0
    )


@dataclass(frozen=True)
class _NotRandom(RunOptions):
    seed: int = setting(0, "for uniformity with the other commands: nothing here is random", low=0)


@dataclass(frozen=True)
class _Labels(Config):
    phone_set: str = setting("auto", "how the labels are written; by default guessed from them", choices=PHONE_SETS)
    tier: str | None = setting(
        None,
        "tier of phones in TextGrids and .eaf files: a name, or a pattern with * and ? (several tiers are several speakers); by "
        "default 'phones', or the name that a known tool gives it",
    )


@dataclass(frozen=True)
class _LabelsApart(Config):
    labels: Path | None = setting(
        None, "folder of label files to read in place of those beside the recordings; by default those beside them"
    )


@dataclass(frozen=True)
class _Base(Config):
    base: Path | None = setting(None, "encoder pack to build on; by default the English model that ships")


@dataclass(frozen=True)
class BaseOptions(_Base):
    """Which base to build on."""

    encoder: str | None = setting(
        None,
        "encoder of another maker to build on, in place of --base: a name of the Hugging Face hub, a folder, a pipeline of "
        "torchaudio, a checkpoint of SpeechBrain, or a class of your own as module:Class",
    )
    encoder_layer: str | None = setting(
        None,
        "which of its layers is heard: a number, or auto (by cross-validation in closed form); by default auto, or what a pack was "
        "made with",
    )
    phi_layers: tuple[str, ...] | None = setting(
        None,
        "patterns of names of the layers that carry Φ, where no strategy says so; by default by the kind of encoder. What lies "
        "below the lowest of them is computed once",
    )

    def conflicts(self) -> list[str]:
        """There is one base, and only an encoder of another maker has layers to choose from."""
        found = ["base, encoder: one of them at most"] if self.base and self.encoder else []
        needless = bool(self.encoder_layer and not self.encoder)
        return found + (["encoder_layer: needs --encoder beside it"] if needless else [])


@dataclass(frozen=True)
class _Card(Config):
    name: str | None = setting(None, "name of the new pack; by default that of the folder")
    attribution: str = setting("", "whom to name for the data, for the card of the pack")
    licence: str = setting("", "licence of the weights, for the card of the pack")


@dataclass(frozen=True)
class _Checkpoints(Config):
    checkpoint_minutes: float = setting(
        10.0,
        "minutes between checkpoints; with 0 they are written by --checkpoint-steps, and when the run is stopped",
        low=0,
    )
    checkpoint_steps: int | None = setting(None, "steps between checkpoints, beside the minutes", low=1)
    fresh: bool = setting(False, "start anew where a run was stopped, in place of going on with it")


@dataclass(frozen=True)
class ValidateOptions(_NotRandom, _Labels, _LabelsApart):
    """Options of `validate`."""

    lang: str = setting("und", "language of the recordings: a tag or an English name")
    output_dir: Path | None = setting(
        None, "folder to write log.txt and problems.csv to; by default nothing is written"
    )


@dataclass(frozen=True)
class PretrainOptions(RunOptions, _Labels, _LabelsApart, _Card, _Checkpoints, PretrainConfig, EncoderConfig):
    """Options of `pretrain`."""

    MEMORY: ClassVar[tuple[str, ...]] = ("batch_frames", "crop_lengths")
    lang: str = setting("und", "language of the recordings: a tag or an English name")
    valid: Path | None = setting(None, "folder to validate on; by default held-out speakers, drawn by the seed")
    valid_share: float = setting(0.1, "share of the speakers held out where no --valid is given", above=0, below=1)
    augmented_views: int = setting(3, "augmented versions of the recordings beside the recordings themselves", low=0)


@dataclass(frozen=True)
class MetaTrainOptions(RunOptions, _Labels, _LabelsApart, _Card, BaseOptions, _Checkpoints, MetaTrainConfig):
    """Options of `meta-train`."""

    MEMORY: ClassVar[tuple[str, ...]] = ("meta_batch", "n_way", "n_query")
    lang: str | None = setting(
        None, "language of the folder as one corpus; by default subfolders named by codes are languages"
    )
    valid: Path | None = setting(None, "folder to validate on; by default held-out languages, speakers or recordings")
    valid_share: float = setting(0.2, "share that is held out where no --valid is given", above=0, below=1)
    valid_tasks: int = setting(100, "validation tasks of each kind", low=1)


@dataclass(frozen=True)
class _Clips(Config):
    clips: bool = setting(False, "put short clips of the worst confusions into report.html, to be heard and seen")


@dataclass(frozen=True)
class AdaptOptions(RunOptions, _Labels, _LabelsApart, BaseOptions, _Clips, AdaptConfig):
    """Options of `adapt` and `ablate`."""

    MEMORY: ClassVar[tuple[str, ...]] = ("shots",)
    lang: str = setting("", "target language: a tag or an English name; Punjabi (pa) where no --data is given")
    data: Path | None = setting(None, "folder of labelled recordings; by default the built-in synthetic Punjabi")
    test: Path | None = setting(
        None, "folder of labelled recordings to test on; by default a part of --data is held out"
    )
    strategy: Path | None = setting(None, "strategy pack to start from; by default the one that ships")
    after: Path | None = setting(
        None, "results folder of an earlier run to compare the labels with; by default the folder to write to"
    )
    inventory: str = setting(
        "",
        "phonemes of the language, or a file of them, in IPA apart by blanks; or epitran:CODE, or phoible:FILE:LANGUAGE: those "
        "without an example are learned from their articulatory neighbours (zero-shot); by default only phonemes with examples",
    )

    def conflicts(self) -> list[str]:
        """Recordings need a language, and only recordings can have others to be tested on."""
        found = (
            ["lang: must be given with --data: the language of the recordings"] if self.data and not self.lang else []
        )
        return [*super().conflicts(), *found] + [
            f"{name}: needs --data beside it"
            for name in ("test", "after", "labels")
            if getattr(self, name) and not self.data
        ]


@dataclass(frozen=True)
class EvaluateOptions(RunOptions, _Labels, _LabelsApart, BaseOptions, _Clips):
    """Options of `evaluate`."""

    data: Path | None = setting(None, "folder of labelled recordings to score the pack on (needed)")

    def conflicts(self) -> list[str]:
        """There is no recording to score on by default."""
        missing = ["data: must be given: the folder of labelled recordings to score on"] if self.data is None else []
        return [*super().conflicts(), *missing]


@dataclass(frozen=True)
class TranscribeOptions(RunOptions, _Labels, BaseOptions):
    """Options of `transcribe`."""

    format: tuple[str, ...] = setting(("textgrid",), "files to write", choices=("textgrid", "ctm", "json", "eaf"))
    score: bool = setting(False, "compare with the tier 'phones' in the TextGrid or .eaf beside each recording")


@dataclass(frozen=True)
class CompareOptions(RunOptions):
    """Options of `compare`."""

    output_dir: Path | None = setting(None, "folder to write compare.json to; by default nothing is written")
    seed: int = setting(0, "seed of the bootstrap", low=0)


@dataclass(frozen=True)
class SuggestOptions(RunOptions, BaseOptions):
    """Options of `suggest`."""

    pool: Path | None = setting(None, "folder of recordings to choose from; those that are labelled are left out")
    words: Path | None = setting(
        None, "list of words to choose from: one a line, a TAB, and its phones in IPA, apart by blanks"
    )
    number: int = setting(20, "how many to suggest", low=1)

    def conflicts(self) -> list[str]:
        """There is one thing to choose from."""
        one = (self.pool is None) != (self.words is None)
        wrong = [] if one else ["pool, words: one of them must be given: recordings to label, or words to record"]
        return [*super().conflicts(), *wrong]


@dataclass(frozen=True)
class DemoOptions(RunOptions, _Base):
    """Options of `demo`."""

    MEMORY: ClassVar[tuple[str, ...]] = ("n_words", "shots")
    n_words: int = setting(720, "words of the synthetic Punjabi corpus", low=60)
    shots: int | None = setting(20, "examples per phoneme to learn from", low=1)
    meta_steps: int | None = setting(25, "meta-updates on tasks of the target; chosen from the data for none", low=0)
    strategy: Path | None = setting(None, "strategy pack to start from; by default the one that ships")


@dataclass(frozen=True)
class ExportOptions(RunOptions, _Base):
    """Options of `export`."""

    format: tuple[str, ...] = setting(("onnx",), "files to write", choices=("onnx", "torch-export"))
    input: str = setting(
        "waveform", "what the model takes: 16 kHz samples, or normalised log-mel frames", choices=("waveform", "frames")
    )
    seed: int = setting(0, "seed of the noise on which the files are compared with the pack", low=0)


@dataclass(frozen=True)
class InfoOptions(_NotRandom, _Base):
    """Options of `info`."""

    output_dir: Path | None = setting(None, "folder to write info.json to; by default nothing is written")
    base: Path | None = setting(
        None, "encoder pack that the pack must build on; by default compared with the one that ships"
    )


@dataclass(frozen=True)
class VerifyOptions(_NotRandom, BaseOptions):
    """Options of `verify`."""

    output_dir: Path | None = setting(None, "folder to write log.txt to; by default nothing is written")
    base: Path | None = setting(None, "encoder pack that the packs must build on; by default the one that ships")


def part(options: Config, cls: type[C]) -> C:
    """The settings of the class `cls` in `options`, which has them among others."""
    return cls(**{field.name: getattr(options, field.name) for field in settings(cls)})
