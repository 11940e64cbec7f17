"""CTM files, as Kaldi and NIST's sclite write them: one file for many recordings, a line for each label."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.labels import Interval, Labels, lines_of


def read_labels(path: Path) -> tuple[dict[str, Labels], tuple[Problem, ...]]:
    """The phones of every recording named in a CTM file, and the lines that could not be read.

    A line is "recording channel start duration label [confidence]", in seconds; lines beginning with ";;" are comments.

    Returns:
        Labels by name of the recording, intervals numbered by line; and the problems.

    Raises:
        DataError: the file cannot be read or has no label line.
    """
    phones: defaultdict[str, list[Interval]] = defaultdict(list)
    problems: list[Problem] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.split()
        try:
            start, duration = float(fields[2]), float(fields[3])
            phones[fields[0]].append(Interval(start, start + duration, fields[4], number))
        except (ValueError, IndexError):
            reason = f"'{line[:60]}' is not 'recording channel start duration label'; left out"
            problems.append(Problem(path, reason, interval=number))
    if not phones:
        raise DataError(f"{path}: no line of the form 'recording channel start duration label' (seconds, with a point)")
    return {name: Labels(path, name, tuple(lines)) for name, lines in phones.items()}, tuple(problems)
