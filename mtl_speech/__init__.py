"""Few-shot phoneme recognition by meta-transfer learning, on one pass of each recording through a frozen encoder.

The public names are loaded when they are first used, so `import mtl_speech` costs next to nothing.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtl_speech.core.errors import ConfigError as ConfigError
    from mtl_speech.core.errors import DataError as DataError
    from mtl_speech.core.errors import MtlSpeechError as MtlSpeechError
    from mtl_speech.core.errors import PackError as PackError
    from mtl_speech.core.errors import Problem as Problem
    from mtl_speech.core.errors import UsageError as UsageError
    from mtl_speech.core.options import AdaptConfig as AdaptConfig
    from mtl_speech.core.options import AdaptOptions as AdaptOptions
    from mtl_speech.core.options import EncoderConfig as EncoderConfig
    from mtl_speech.core.options import MetaTrainConfig as MetaTrainConfig
    from mtl_speech.core.options import PretrainConfig as PretrainConfig
    from mtl_speech.core.run import Run as Run
    from mtl_speech.core.settings import load_config as load_config
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
    "AdaptConfig": "core.options",
    "EncoderConfig": "core.options",
    "MetaTrainConfig": "core.options",
    "PretrainConfig": "core.options",
    "load_config": "core.settings",
    "read_corpus": "corpora.reading",
    "Corpus": "corpora.corpus",
    "Problem": "core.errors",
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
# Modules that the documents of version 0.1.0 import from, under the names they had then -> where their names are now.
_MOVED = {
    "adapt": ["training.adapt", "training.folds"],
    "audio": ["corpora.audio"],
    "config": ["core.options", "core.settings"],
    "corpora.intervals": ["corpora.labels"],
    "encoder": ["model.encoder"],
    "scale_shift": ["model.scale_shift"],
    "start": ["commands.target"],
    "workflows": ["commands.workflows"],
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


class _Moved(MetaPathFinder, Loader):
    """Imports from a module that has moved go on to work, with a warning that says where its names are."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The module under its old name, where it is one of `_MOVED`."""
        return ModuleSpec(fullname, self) if fullname.removeprefix(f"{__name__}.") in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module ask those that have its names now."""
        places = [f"{__name__}.{place}" for place in _MOVED[module.__name__.removeprefix(f"{__name__}.")]]

        def find(name: str) -> Any:
            for place in () if name.startswith("__") else map(import_module, places):
                if hasattr(place, name):
                    warnings.warn(f"{module.__name__}.{name} is {place.__name__}.{name} now", DeprecationWarning, 2)
                    return getattr(place, name)
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

        module.__dict__["__getattr__"] = find


sys.meta_path.append(_Moved())
