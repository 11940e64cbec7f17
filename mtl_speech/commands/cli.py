"""The command line: its commands, each with what it runs. Nothing heavy is loaded before a command runs.

Exit codes: 0 done; 1 data, a pack or the machine failed; 2 the command, an option or a setting is wrong; 130 interrupted,
143 ended by SIGTERM.
"""

from __future__ import annotations

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


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """Few-shot phoneme recognition by meta-transfer learning: from an English acoustic model to a new language."""


@main.of(ValidateOptions, "commands.inspect.validate", "folder")
def validate() -> None:
    """Check a FOLDER of labelled recordings; name every problem.

    Says what it holds, and what is wrong by file, tier and interval. The exit code is 1 when something cannot be used.
    """


@main.of(PretrainOptions, "commands.train.pretrain", "folder")
def pretrain() -> None:
    """Pretrain an encoder on a FOLDER of labelled recordings.

    Writes a pack of the kind 'encoder', for --base. A run that was stopped or killed goes on when the same command is
    started again.
    """


@main.of(MetaTrainOptions, "commands.train.meta_train", "folder")
def meta_train() -> None:
    """Meta-train a strategy on a FOLDER of languages, or of one.

    Several languages lie in subfolders that are named by their codes. Writes a pack of the kind 'strategy'. A run
    that was stopped or killed goes on when the same command is started again.
    """


@main.of(AdaptOptions, "commands.workflows.adapt")
def adapt() -> None:
    """Learn the phonemes of a language; report F1 on held-out speech.

    --data is a folder of audio files with a TextGrid beside each, the folders in it being speakers. Test examples are those of
    --test, else of speakers or recordings held out; of few recordings each is tested on in turn. Writes a language pack.
    """


@main.of(EvaluateOptions, "commands.workflows.evaluate", "pack")
def evaluate() -> None:
    """Score a language PACK on a folder of labelled recordings."""


@main.of(TranscribeOptions, "commands.transcribe.transcribe", "pack", "audio...")
def transcribe() -> None:
    """Transcribe AUDIO, files and folders, by a language PACK.

    Writes the phones with their times as tiers of TextGrid or ELAN files, beside the tiers that a file of the same name next to the
    recording has, or as CTM or JSON. Files that a person made or changed are never replaced. --score compares with labels.
    """


@main.of(SuggestOptions, "commands.suggest.suggest", "pack")
def suggest() -> None:
    """Suggest what to label or to record next for a language PACK.

    Ranks the recordings of --pool that are not labelled yet, or the words of --words, by what they promise for macro-F1: examples
    of phonemes that have few or are hard, and sounds that the model is unsure of. Writes suggestions.csv with the reasons.
    """


@main.of(AdaptOptions, "commands.workflows.ablate")
def ablate() -> None:
    """Show what each step brings: meta-transfer, and curriculum.

    Learns as `adapt` does: frozen encoder and a head from scratch; with meta-transfer; with curriculum too. All on the same
    examples and tests, with paired differences.
    """


@main.of(CompareOptions, "report.compare.compare", "a", "b")
def compare() -> None:
    """Compare two reports that were tested on the same tokens.

    A and B are folders that `adapt`, `ablate` or `evaluate` wrote to. Prints both scores, the paired difference in macro-F1 with
    its interval, and the phonemes that differ most. The exit code is 1 when the test tokens are not the same.
    """


@main.of(DemoOptions, "commands.workflows.demo")
def demo() -> None:
    """From English to Punjabi, offline, on synthetic speech.

    Makes a few-shot corpus of Punjabi words with espeak-ng, learns from it, and prints the F1 table and the ablation.
    """


@main.of(ExportOptions, "commands.inspect.export", "pack")
def export() -> None:
    """Export a language PACK with its base as one plain model.

    Writes model.onnx or model.pt2 (torch.export): samples and spans of segments in, probabilities of the phonemes out, without
    this package. Each is compared with the pack before it is written.
    """


@main.of(InfoOptions, "commands.inspect.info", "pack")
def info() -> None:
    """Say what a PACK is, after checking its hashes."""


@main.of(VerifyOptions, "commands.inspect.verify", "packs...")
def verify() -> None:
    """Check PACKS: each is data only, whole, and fits its base.

    Names every check. The exit code is 1 when a pack is damaged or foreign, or builds on another base than the one given by --base,
    or else the one that ships; both hashes are shown.
    """
