"""Few-shot phoneme recognition by meta-transfer learning.

The public names are loaded when they are first used, so `import mtl_speech` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtl_speech.core.config import AdaptConfig as AdaptConfig
    from mtl_speech.core.config import EncoderConfig as EncoderConfig
    from mtl_speech.core.config import MetaTrainConfig as MetaTrainConfig
    from mtl_speech.core.config import PretrainConfig as PretrainConfig
    from mtl_speech.core.config import load_config as load_config
    from mtl_speech.core.errors import ConfigError as ConfigError
    from mtl_speech.core.errors import DataError as DataError
    from mtl_speech.core.errors import MtlSpeechError as MtlSpeechError
    from mtl_speech.core.errors import PackError as PackError
    from mtl_speech.core.errors import UsageError as UsageError
    from mtl_speech.core.options import AdaptOptions as AdaptOptions
    from mtl_speech.core.problems import Problem as Problem
    from mtl_speech.core.run import Run as Run
    from mtl_speech.corpora.corpus import Corpus as Corpus
    from mtl_speech.corpora.corpus import Segment as Segment
    from mtl_speech.corpora.corpus import Utterance as Utterance
    from mtl_speech.corpora.reading import read_corpus as read_corpus
    from mtl_speech.model.pack import Pack as Pack
    from mtl_speech.model.pack import load_pack as load_pack
    from mtl_speech.model.pack import pack_hash as pack_hash
    from mtl_speech.model.pack import save_pack as save_pack
    from mtl_speech.model.strategy import load_base as load_base
    from mtl_speech.transcription.transcribe import Transcriber as Transcriber
    from mtl_speech.transcription.transcript import Phone as Phone
    from mtl_speech.transcription.transcript import Transcription as Transcription

__version__ = "0.1.0"

# Public name -> the module that defines it. The block above tells type checkers the same; a test compares them.
_MODULES = {
    "load_base": "model.strategy",
    "AdaptConfig": "core.config",
    "EncoderConfig": "core.config",
    "MetaTrainConfig": "core.config",
    "PretrainConfig": "core.config",
    "load_config": "core.config",
    "read_corpus": "corpora.reading",
    "Corpus": "corpora.corpus",
    "Problem": "core.problems",
    "Segment": "corpora.corpus",
    "Utterance": "corpora.corpus",
    "ConfigError": "core.errors",
    "DataError": "core.errors",
    "MtlSpeechError": "core.errors",
    "PackError": "core.errors",
    "UsageError": "core.errors",
    "AdaptOptions": "core.options",
    "Pack": "model.pack",
    "load_pack": "model.pack",
    "pack_hash": "model.pack",
    "save_pack": "model.pack",
    "Run": "core.run",
    "Transcriber": "transcription.transcribe",
    "Phone": "transcription.transcript",
    "Transcription": "transcription.transcript",
}
__all__ = ["__version__"]
__all__ += list(_MODULES)


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mtl_speech' has no attribute '{name}'")
    value = getattr(import_module(f"mtl_speech.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
