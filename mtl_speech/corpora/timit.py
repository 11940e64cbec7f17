"""TIMIT's label files: `.PHN` and `.WRD`, one line per label with its first and last sample at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtl_speech.core.errors import DataError, Problem
from mtl_speech.corpora.labels import Interval, Labels, lines_of
from mtl_speech.phonology.phone_sets import SILENCES_48, TIMIT_CLOSURES, fold_48

TIMIT_RATE = 16_000  # Hz: the unit of the label files, whatever the rate of the audio


def read_labels(path: Path) -> Labels:
    """The phones of a `.PHN` file, and the words of the `.WRD` file beside it if there is one.

    A closure is joined with the release of the same stop that follows it ("dcl" + "jh" is one "jh"), since both are one
    phoneme.

    Raises:
        DataError: the file cannot be read or has no label line.
    """
    return _read(path, _joined_closures)


def read_folded_labels(path: Path) -> Labels:
    """As `read_labels`, with the phones folded to the 48 of Lee and Hon: closures are silence, a glottal stop is left out.

    Raises:
        DataError: as `read_labels`.
    """
    return _read(path, _folded)


def _folded(phones: list[Interval]) -> list[Interval]:
    found = [(phone, fold_48(phone.label)) for phone in phones]
    return [
        Interval(phone.start, phone.end, "sil" if label in SILENCES_48 else label, phone.number)
        for phone, label in found
        if label is not None
    ]


def _read(path: Path, edit: Callable[[list[Interval]], list[Interval]]) -> Labels:
    problems: list[Problem] = []
    phones = edit(_read_lines(path, problems))
    if not phones:
        raise DataError(
            f"{path}: no line of the form 'first-sample last-sample label' (samples of 16 kHz, not seconds)"
        )
    word_file = next(
        (path.with_suffix(suffix) for suffix in (".WRD", ".wrd") if path.with_suffix(suffix).is_file()), None
    )
    words = _read_lines(word_file, problems) if word_file else []
    return Labels(path, None, tuple(phones), tuple(words), tuple(problems))


def _read_lines(path: Path, problems: list[Problem]) -> list[Interval]:
    """One interval per line, with a problem for every line that is none."""
    result: list[Interval] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=2)
        try:
            start, end = int(fields[0]) / TIMIT_RATE, int(fields[1]) / TIMIT_RATE
            result.append(Interval(start, end, fields[2].strip(), number))
        except (ValueError, IndexError, OverflowError):
            reason = f"'{line[:60]}' is not 'first-sample last-sample label'; left out"
            problems.append(Problem(path, reason, interval=number))
    return result


def _joined_closures(phones: list[Interval]) -> list[Interval]:
    result: list[Interval] = []
    for phone in phones:
        before = result[-1] if result else None
        if (
            before is not None
            and before.end == phone.start
            and phone.label.lower() in TIMIT_CLOSURES.get(before.label.lower(), ())
        ):
            result[-1] = Interval(before.start, phone.end, phone.label, phone.number)
        else:
            result.append(phone)
    return result
