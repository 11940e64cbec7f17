"""Every default of the package, in one place. How settings are read and checked: see `settings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtl_speech.core.settings import Config, setting
from mtl_speech.core.settings import as_dict as as_dict
from mtl_speech.core.settings import load_config as load_config


@dataclass(frozen=True)
class EncoderConfig(Config):
    """The built-in encoder Θ."""

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

    meta_steps: int = setting(300, "meta-updates", low=0)
    meta_batch: int = setting(4, "tasks in a meta-batch", low=1)
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
        choices=("previous", "random", "prototype", "posterior", "articulatory"),
    )
    granularity: str = setting("channel", "granularity of the scales Φ", choices=("kernel", "channel"))
    shrinkage: float = setting(0.3, "shrinkage of the covariance that whitens embeddings at the start", low=0, high=1)
    whiten: bool = setting(True, "start from whitened embeddings; otherwise they are centred only")
    scale: float = setting(4.0, "scale of the standardised embeddings at the start", above=0)
    prior: float = setting(1.0, "examples that a row of θ counts for at the start, under theta_init posterior", above=0)
    prior_unmet: float = setting(0.3, "the same for phonemes that meta-training did not meet", above=0)
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
    meta_steps: int | None = setting(None, "meta-updates on the target; chosen from the data by default", low=0)
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
class DemoConfig(Config):
    """The demo: the ablation on the built-in Punjabi corpus with few examples."""

    n_words: int = setting(720, "words of the synthetic Punjabi corpus", low=60)
    shots: int | None = setting(20, "examples per phoneme to learn from", low=1)
    meta_steps: int | None = setting(100, "meta-updates on tasks of the target; chosen from the data for none", low=0)
    seed: int = setting(0, "seed of everything random", low=0)
