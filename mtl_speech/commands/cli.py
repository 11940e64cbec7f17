"""The command line: its commands, each a typed call. Nothing heavy is loaded before a command runs.

Exit codes: 0 done; 1 data, a pack or the machine failed; 2 the command, an option or a setting is wrong; 130 interrupted,
143 ended by SIGTERM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtl_speech import __version__
from mtl_speech.commands.console import PROGRAM, Program
from mtl_speech.core.options import (
    AdaptOptions,
    CompareOptions,
    DemoOptions,
    EvaluateOptions,
    ExportOptions,
    InfoOptions,
    MetaTrainOptions,
    PretrainOptions,
    SuggestOptions,
    TranscribeOptions,
    ValidateOptions,
    VerifyOptions,
)

if TYPE_CHECKING:
    from mtl_speech.core.run import Run


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Few-shot phoneme recognition by meta-transfer learning: from an English acoustic model to a new language."""


@main.of(ValidateOptions, "folder")
def validate(folder: Path, options: ValidateOptions, run: Run) -> None:
    """Check a FOLDER of labelled recordings; name every problem.

    Says what it holds, and what is wrong by file, tier and interval. The exit code is 1 when something cannot be used.
    """
    from mtl_speech.commands import inspect

    inspect.validate(folder, options, run)


@main.of(PretrainOptions, "folder")
def pretrain(folder: Path, options: PretrainOptions, run: Run) -> None:
    """Pretrain an encoder on a FOLDER of labelled recordings.

    Writes a pack of the kind 'encoder', for --base. A run that was stopped or killed goes on when the same command is
    started again.
    """
    from mtl_speech.commands import train

    train.pretrain(folder, options, run)


@main.of(MetaTrainOptions, "folder")
def meta_train(folder: Path, options: MetaTrainOptions, run: Run) -> None:
    """Meta-train a strategy on a FOLDER of languages, or of one.

    Several languages lie in subfolders that are named by their codes. Writes a pack of the kind 'strategy'. A run
    that was stopped or killed goes on when the same command is started again.
    """
    from mtl_speech.commands import train

    train.meta_train(folder, options, run)


@main.of(AdaptOptions)
def adapt(options: AdaptOptions, run: Run) -> None:
    """Learn the phonemes of a language; report F1 on held-out speech.

    --data is a folder of audio files with a TextGrid beside each, the folders in it being speakers. Test examples are those of
    --test, else of speakers or recordings held out; of few recordings each is tested on in turn. Writes a language pack.
    """
    from mtl_speech.commands import workflows

    workflows.adapt(options, run)


@main.of(EvaluateOptions, "pack")
def evaluate(pack: Path, options: EvaluateOptions, run: Run) -> None:
    """Score a language PACK on a folder of labelled recordings."""
    from mtl_speech.commands import workflows

    workflows.evaluate(pack, options, run)


@main.of(TranscribeOptions, "pack", "audio...")
def transcribe(pack: Path, audio: tuple[Path, ...], options: TranscribeOptions, run: Run) -> None:
    """Transcribe AUDIO, files and folders, by a language PACK.

    Writes the phones with their times as tiers of TextGrid or ELAN files, beside the tiers that a file of the same name next to the
    recording has, or as CTM or JSON. Files that a person made or changed are never replaced. --score compares with labels.
    """
    from mtl_speech.commands import transcribe as command

    command.transcribe(pack, audio, options, run)


@main.of(SuggestOptions, "pack")
def suggest(pack: Path, options: SuggestOptions, run: Run) -> None:
    """Suggest what to label or to record next for a language PACK.

    Ranks the recordings of --pool that are not labelled yet, or the words of --words, by what they promise for macro-F1: examples
    of phonemes that have few or are hard, and sounds that the model is unsure of. Writes suggestions.csv with the reasons.
    """
    from mtl_speech.commands import suggest as command

    command.suggest(pack, options, run)


@main.of(AdaptOptions)
def ablate(options: AdaptOptions, run: Run) -> None:
    """Show what each step brings: meta-transfer, and curriculum.

    Learns as `adapt` does: frozen encoder and a head from scratch; with meta-transfer; with curriculum too. All on the same
    examples and tests, with paired differences.
    """
    from mtl_speech.commands import workflows

    workflows.ablate(options, run)


@main.of(CompareOptions, "a", "b")
def compare(a: Path, b: Path, options: CompareOptions, run: Run) -> None:
    """Compare two reports that were tested on the same tokens.

    A and B are folders that `adapt`, `ablate` or `evaluate` wrote to. Prints both scores, the paired difference in macro-F1 with
    its interval, and the phonemes that differ most. The exit code is 1 when the test tokens are not the same.
    """
    from mtl_speech.report import compare

    compare.compare(a, b, options, run)


@main.of(DemoOptions)
def demo(options: DemoOptions, run: Run) -> None:
    """From English to Punjabi, offline, on synthetic speech.

    Makes a few-shot corpus of Punjabi words with espeak-ng, learns from it, and prints the F1 table and the ablation.
    """
    from mtl_speech.commands import workflows

    workflows.demo(options, run)


@main.of(ExportOptions, "pack")
def export(pack: Path, options: ExportOptions, run: Run) -> None:
    """Export a language PACK with its base as one plain model.

    Writes model.onnx or model.pt2 (torch.export): samples and spans of segments in, probabilities of the phonemes out, without
    this package. Each is compared with the pack before it is written.
    """
    from mtl_speech.commands import export as command

    command.export(pack, options, run)


@main.of(InfoOptions, "pack")
def info(pack: Path, options: InfoOptions, run: Run) -> None:
    """Say what a PACK is, after checking its hashes."""
    from mtl_speech.commands import inspect

    inspect.info(pack, options, run)


@main.of(VerifyOptions, "packs...")
def verify(packs: tuple[Path, ...], options: VerifyOptions, run: Run) -> None:
    """Check PACKS: each is data only, whole, and fits its base.

    Names every check. The exit code is 1 when a pack is damaged or foreign, or builds on another base than the one given by --base,
    or else the one that ships; both hashes are shown.
    """
    from mtl_speech.commands import inspect

    inspect.verify(packs, options, run)
