"""Label files with a line for each label: TIMIT's `.PHN` and `.WRD`, and CTM as Kaldi and NIST's sclite write it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.core.files import read_limited
from mtl_speech.corpora.labels import Interval, Labels, decoded, in_time_order
from mtl_speech.phonology.phone_sets import SILENCES_48, TIMIT_CLOSURES, fold_48

TIMIT_RATE = 16_000  # Hz: the unit of TIMIT's label files, whatever the rate of the audio
MAX_TEXT_BYTES = 256 << 20  # more than MAX_LINES lines of a CTM file have
MAX_LINES = 5_000_000  # the phones of 140 hours
_PHN_FIELDS = "first-sample last-sample label"
_CTM_FIELDS = "recording channel start duration label"

Line = tuple[str, float, float, str]  # the recording that it names, start and end in seconds, label


def read_phn(path: Path) -> Labels:
    """The phones of a `.PHN` file, and the words of the `.WRD` file beside it if there is one.

    A closure is joined with the release of the same stop that follows it ("dcl" + "jh" is one "jh"), since both are one
    phoneme.

    Raises:
        DataError: the file cannot be read or has no label line.
    """
    return _read_timit(path, _joined_closures)


def read_folded_phn(path: Path) -> Labels:
    """As `read_phn`, with the phones folded to the 48 of Lee and Hon: closures are silence, a glottal stop is left out.

    Raises:
        DataError: as `read_phn`.
    """
    return _read_timit(path, _folded)


def read_ctm(path: Path) -> tuple[dict[str, Labels], tuple[Problem, ...]]:
    """The phones of every recording named in a CTM file, and the lines that could not be read.

    A line is "recording channel start duration label [confidence]", in seconds; lines beginning with ";;" are comments.

    Returns:
        Labels by name of the recording, intervals in time order, numbered by line; and the problems.

    Raises:
        DataError: the file cannot be read or has no label line.
    """
    phones, problems = _read_lines(path, _CTM_FIELDS, _ctm_line, comments=";;")
    if not phones:
        raise DataError(f"{path}: no line of the form '{_CTM_FIELDS}' (seconds, with a point)")
    return {name: Labels(path, name, tuple(in_time_order(lines))) for name, lines in phones.items()}, tuple(problems)


def _ctm_line(line: str) -> Line:
    name, _, start, duration, label, *_ = line.split()
    return name, float(start), float(start) + float(duration), label


def _phn_line(line: str) -> Line:
    first, last, label = line.split(maxsplit=2)
    return "", int(first) / TIMIT_RATE, int(last) / TIMIT_RATE, label.strip()


def _read_timit(path: Path, edit: Callable[[list[Interval]], list[Interval]]) -> Labels:
    phones, problems = _read_lines(path, _PHN_FIELDS, _phn_line)
    edited = edit(in_time_order(phones[""]))
    if not edited:
        raise DataError(f"{path}: no line of the form '{_PHN_FIELDS}' (samples of 16 kHz, not seconds)")
    words: list[Interval] = []
    beside = [path.with_suffix(suffix) for suffix in (".WRD", ".wrd") if path.with_suffix(suffix).is_file()]
    for file in beside[:1]:
        spoken, more = _read_lines(file, _PHN_FIELDS, _phn_line)
        words, problems = in_time_order(spoken[""]), problems + more
    return Labels(path, None, tuple(edited), tuple(words), tuple(problems))


def _joined_closures(phones: list[Interval]) -> list[Interval]:
    result: list[Interval] = []
    for phone in phones:
        closure = result[-1].label.lower() if result and result[-1].end == phone.start else ""
        is_release = phone.label.lower() in TIMIT_CLOSURES.get(closure, ())
        start = result.pop().start if is_release else phone.start
        result.append(Interval(start, phone.end, phone.label, phone.number))
    return result


def _folded(phones: list[Interval]) -> list[Interval]:
    found = [(phone, fold_48(phone.label)) for phone in phones]
    return [
        Interval(phone.start, phone.end, "sil" if label in SILENCES_48 else label, phone.number)
        for phone, label in found
        if label is not None
    ]


def _read_lines(
    path: Path, fields: str, parse: Callable[[str], Line], comments: str | None = None
) -> tuple[defaultdict[str, list[Interval]], list[Problem]]:
    """The intervals of each recording, numbered by line, and a problem for every line that `parse` refuses by a ValueError.

    `fields` says in messages what a line has; lines that begin with `comments` are passed over. Raises DataError as `lines_of`.
    """
    found: defaultdict[str, list[Interval]] = defaultdict(list)
    problems: list[Problem] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip() or (comments is not None and line.startswith(comments)):
            continue
        try:
            name, start, end, label = parse(line)
            found[name].append(Interval(start, end, label, number))
        except (ValueError, OverflowError):
            problems.append(Problem(path, f"'{line[:60]}' is not '{fields}'; left out", interval=number))
    return found, problems


def lines_of(path: Path) -> list[str]:
    """The lines of a text file of labels, ended by CR, LF or both.

    Raises:
        DataError: unreadable, or larger than any label file.
    """
    raw = read_limited(path, MAX_TEXT_BYTES, "a label file")
    if max(raw.count(b"\n"), raw.count(b"\r")) > MAX_LINES:
        raise DataError(f"{path}: more than {MAX_LINES:,} lines are too many for a label file: divide it")
    return re.split(r"\r\n|\r|\n", decoded(raw))
