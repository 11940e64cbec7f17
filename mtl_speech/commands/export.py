"""What the command `export` does: a language pack on its base as one plain model, for programs without this package.

`model.export` says what the model takes and gives.
"""

from __future__ import annotations

from pathlib import Path

from mtl_speech.core.errors import PackError
from mtl_speech.core.files import atomic_write
from mtl_speech.core.options import ExportOptions
from mtl_speech.core.run import Run
from mtl_speech.model.base import load_base
from mtl_speech.model.export import (
    FILES,
    TOLERANCE,
    Folded,
    FoldedFrames,
    export_model,
    metadata,
    require_packages,
)
from mtl_speech.model.language_pack import load_language
from mtl_speech.model.pack import load_pack


def export(folder: Path, options: ExportOptions, run: Run) -> list[Path]:
    """Write the language pack in `folder` in each format of `options`; gives the paths.

    Raises UsageError where a package is missing, PackError where the pack cannot be used or an exported model gives other
    probabilities than it.
    """
    require_packages(options.format)
    pack = load_pack(folder, "language")
    base = load_base(options.base)
    model = load_language(pack, base)
    output = run.begin(options, f"export-{pack.name}")
    folded = (Folded(model) if options.input == "waveform" else FoldedFrames(model)).eval()
    about, paths = metadata(pack, base, options.input), []
    n_parameters = sum(parameter.numel() for parameter in folded.parameters())
    run.say(f"'{pack.name}' on '{base.pack.name}': {n_parameters:,} weights, {len(model.classes)} phonemes")
    for format in options.format:
        data, difference = export_model(folded, format, about, options.seed)
        if not difference <= TOLERANCE:
            raise PackError(
                f"{folder}: the {format} model gives other probabilities than the pack (by {difference:.1e}): nothing was "
                "written; install the versions of constraints.txt"
            )
        paths.append(atomic_write(output / FILES[format], data))
        run.say(f"{format}: {len(data) / 1e6:.1f} MB, largest difference in a probability {difference:.1e}")
    run.wrote(output, paths)
    return paths
