"""Few-shot phoneme recognition by meta-transfer learning.

The public names are loaded when they are first used, so `import mtl_speech` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtl_speech.base import load_base as load_base
    from mtl_speech.config import AdaptConfig as AdaptConfig
    from mtl_speech.config import EncoderConfig as EncoderConfig
    from mtl_speech.config import MetaTrainConfig as MetaTrainConfig
    from mtl_speech.config import PretrainConfig as PretrainConfig
    from mtl_speech.config import load_config as load_config
    from mtl_speech.corpora import read_corpus as read_corpus
    from mtl_speech.corpus import Corpus as Corpus
    from mtl_speech.corpus import Problem as Problem
    from mtl_speech.corpus import Segment as Segment
    from mtl_speech.corpus import Utterance as Utterance
    from mtl_speech.errors import ConfigError as ConfigError
    from mtl_speech.errors import DataError as DataError
    from mtl_speech.errors import MtlSpeechError as MtlSpeechError
    from mtl_speech.errors import PackError as PackError
    from mtl_speech.errors import UsageError as UsageError
    from mtl_speech.options import AdaptOptions as AdaptOptions
    from mtl_speech.pack import Pack as Pack
    from mtl_speech.pack import load_pack as load_pack
    from mtl_speech.pack import pack_hash as pack_hash
    from mtl_speech.pack import save_pack as save_pack
    from mtl_speech.run import Run as Run
    from mtl_speech.transcribe import Transcriber as Transcriber
    from mtl_speech.transcription import Phone as Phone
    from mtl_speech.transcription import Transcription as Transcription

__version__ = "0.1.0"

# Public name -> the module that defines it. The block above tells type checkers the same; a test compares them.
_MODULES = {
    "load_base": "base",
    "AdaptConfig": "config",
    "EncoderConfig": "config",
    "MetaTrainConfig": "config",
    "PretrainConfig": "config",
    "load_config": "config",
    "read_corpus": "corpora",
    "Corpus": "corpus",
    "Problem": "corpus",
    "Segment": "corpus",
    "Utterance": "corpus",
    "ConfigError": "errors",
    "DataError": "errors",
    "MtlSpeechError": "errors",
    "PackError": "errors",
    "UsageError": "errors",
    "AdaptOptions": "options",
    "Pack": "pack",
    "load_pack": "pack",
    "pack_hash": "pack",
    "save_pack": "pack",
    "Run": "run",
    "Transcriber": "transcribe",
    "Phone": "transcription",
    "Transcription": "transcription",
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
