"""The options of each command: the settings of what it runs, and where it reads and writes. All can stand in a config file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mtl_speech.config import AdaptConfig, DemoConfig, EncoderConfig, MetaTrainConfig, PretrainConfig
from mtl_speech.settings import Config, setting, settings

C = TypeVar("C", bound=Config)
_PHONE_SETS = ("auto", "ipa", "arpabet", "timit")


@dataclass(frozen=True)
class RunOptions(Config):
    """What every command has."""

    output_dir: Path | None = setting(None, "folder to write to; by default results/<experiment>/<seed>")
    threads: int | None = setting(None, "processor threads; by default one a core", low=1, high=1024)
    seed: int = setting(0, "seed of everything random", low=0)


@dataclass(frozen=True)
class _Labels(Config):
    phone_set: str = setting("auto", "how the labels are written; by default guessed from them", choices=_PHONE_SETS)


@dataclass(frozen=True)
class _Base(Config):
    base: Path | None = setting(None, "encoder pack to build on; by default the English model that ships")


@dataclass(frozen=True)
class _Card(Config):
    name: str | None = setting(None, "name of the new pack; by default that of the folder")
    attribution: str = setting("", "whom to name for the data, for the card of the pack")
    licence: str = setting("", "licence of the weights, for the card of the pack")


@dataclass(frozen=True)
class ValidateOptions(RunOptions, _Labels):
    """Options of `validate`."""

    lang: str = setting("und", "language of the recordings: a tag or an English name")
    output_dir: Path | None = setting(
        None, "folder to write log.txt and problems.csv to; by default nothing is written"
    )
    seed: int = setting(0, "for uniformity with the other commands: nothing here is random", low=0)


@dataclass(frozen=True)
class PretrainOptions(RunOptions, _Labels, _Card, PretrainConfig, EncoderConfig):
    """Options of `pretrain`."""

    lang: str = setting("und", "language of the recordings: a tag or an English name")
    valid: Path | None = setting(None, "folder to validate on; by default held-out speakers, drawn by the seed")
    valid_share: float = setting(0.1, "share of the speakers held out where no --valid is given", above=0, below=1)
    augmented_views: int = setting(3, "augmented versions of the recordings beside the recordings themselves", low=0)


@dataclass(frozen=True)
class MetaTrainOptions(RunOptions, _Labels, _Card, _Base, MetaTrainConfig):
    """Options of `meta-train`."""

    lang: str | None = setting(
        None, "language of the folder as one corpus; by default subfolders named by codes are languages"
    )
    valid: Path | None = setting(None, "folder to validate on; by default held-out languages, speakers or recordings")
    valid_share: float = setting(0.2, "share that is held out where no --valid is given", above=0, below=1)
    valid_tasks: int = setting(100, "validation tasks of each kind", low=1)


@dataclass(frozen=True)
class AdaptOptions(RunOptions, _Labels, _Base, AdaptConfig):
    """Options of `adapt` and `ablate`."""

    lang: str = setting("", "target language: a tag or an English name; Punjabi (pa) where no --data is given")
    data: Path | None = setting(None, "folder of labelled recordings; by default the built-in synthetic Punjabi")
    test: Path | None = setting(
        None, "folder of labelled recordings to test on; by default a part of --data is held out"
    )
    strategy: Path | None = setting(None, "strategy pack to start from; by default the one that ships")

    def conflicts(self) -> list[str]:
        """Recordings need a language, and only recordings can have others to be tested on."""
        found = (
            ["lang: must be given with --data: the language of the recordings"] if self.data and not self.lang else []
        )
        return found + (["test: needs --data beside it"] if self.test and not self.data else [])


@dataclass(frozen=True)
class EvaluateOptions(RunOptions, _Labels, _Base):
    """Options of `evaluate`."""

    data: Path | None = setting(None, "folder of labelled recordings to score the pack on (needed)")

    def conflicts(self) -> list[str]:
        """There is no recording to score on by default."""
        return ["data: must be given: the folder of labelled recordings to score on"] if self.data is None else []


@dataclass(frozen=True)
class DemoOptions(RunOptions, _Base, DemoConfig):
    """Options of `demo`."""

    strategy: Path | None = setting(None, "strategy pack to start from; by default the one that ships")


@dataclass(frozen=True)
class InfoOptions(RunOptions, _Base):
    """Options of `info`."""

    output_dir: Path | None = setting(None, "folder to write info.json to; by default nothing is written")
    base: Path | None = setting(
        None, "encoder pack that the pack must build on; by default compared with the one that ships"
    )
    seed: int = setting(0, "for uniformity with the other commands: nothing here is random", low=0)


def part(options: Config, cls: type[C]) -> C:
    """The settings of the class `cls` in `options`, which has them among others."""
    return cls(**{field.name: getattr(options, field.name) for field in settings(cls)})
