"""Reading a folder of recordings and label files into a `Corpus`, with every problem found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtl_speech.core.errors import DataError, UsageError
from mtl_speech.core.problems import Problem, once_each
from mtl_speech.core.spool import Kind
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import SAMPLE_RATE, audio_duration, check_audio, load_audio
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.corpora.folder import Contents, LabelReader, has_audio, scan
from mtl_speech.corpora.labels import MACHINE_LABELS, find_segments, find_words, is_refused_label
from mtl_speech.phonology.languages import canonical
from mtl_speech.phonology.notation import Notation, notation_of, y_share
from mtl_speech.phonology.phonemes import PHONE_SETS

__all__ = ["language_folders", "read_corpus", "validate"]

_SEGMENT = Kind[Segment](
    lambda each: (each.phoneme, each.start, each.end, 0), lambda phoneme, start, end, _: Segment(phoneme, start, end)
)
_WORD = Kind[tuple[str, float, float]](lambda each: (*each, 0), lambda text, start, end, _: (text, start, end))
_EXPECTED = (
    "expected audio files (WAV, FLAC, Opus, Ogg, MP3), each with a .TextGrid or .eaf (a tier 'phones') or a .PHN of the "
    "same name beside it, or one .ctm file in the folder"
)


def read_corpus(
    folder: Path,
    language: str = "und",
    phone_set: str = "auto",
    *,
    labels: Path | None = None,
    readers: Mapping[str, LabelReader] | None = None,
) -> Corpus:
    """Read a folder of audio files with labels; of the audio only the headers.

    The speaker of a recording is the name of the folder it lies in. Recordings come sorted by id. What cannot be used
    is left out and named in the corpus's problems.

    Args:
        folder: searched with all its subfolders.
        language: any code or name that `languages.canonical` knows.
        phone_set: one of PHONE_SETS, such as "ipa" or "arpabet", or "auto": guessed from all labels of the folder together.
        labels: a folder of label files, in whatever folders below it, to be read in place of those beside the recordings.
        readers: how label files of a suffix (".phn") are read, where not as the package does.

    Raises:
        DataError: no such folder, or no audio files in it.
        UsageError: unknown language or phone set.
    """
    return _read(folder, language, phone_set, in_full=False, labels=labels, readers=readers)


def validate(folder: Path, language: str = "und", phone_set: str = "auto") -> Corpus:
    """As `read_corpus`, but decode every recording in full: one that is cut short, silent or has NaN is left out."""
    return _read(folder, language, phone_set, in_full=True)


def language_folders(folder: Path) -> list[Path]:
    """The subfolders that hold recordings, sorted: in a corpus of many languages, one for each.

    Raises:
        DataError: no such folder, or no subfolder with audio files.
    """
    _require_folder(folder)
    subfolders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = sorted(path for path in subfolders if has_audio(path))
    if not found:
        raise DataError(f"{folder}: no subfolder holds audio files: expected one folder for each language")
    return found


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}: {_EXPECTED}")


def _read(
    folder: Path,
    language: str,
    phone_set: str,
    in_full: bool,
    labels: Path | None = None,
    readers: Mapping[str, LabelReader] | None = None,
) -> Corpus:
    tag = canonical(language)
    if phone_set not in PHONE_SETS:
        raise UsageError(f"unknown phone set '{phone_set}': use one of {', '.join(PHONE_SETS)}")
    _require_folder(folder)
    contents = scan(folder, labels, readers)
    if not contents.recordings:
        hint = f" ({contents.problems[0]})" if contents.problems else ""
        raise DataError(f"{folder}: no audio files{hint}: {_EXPECTED}")
    notation = _notation(contents, phone_set)
    name = folder.resolve().name
    utterances: list[Utterance] = []
    for key in progress(sorted(contents.recordings), f"{'Checking' if in_full else 'Reading'} {name}"):
        duration = _duration(contents.recordings[key], in_full, contents.problems)
        found = _labelled(key, contents, duration, notation.phone_set) if duration is not None else None
        if duration is not None and found is not None:
            audio = contents.recordings[key]
            utterances.append(Utterance(key, audio, tag, audio.parent.resolve().name, duration, *found))
    problems = once_each([*_told(folder, notation), *sorted(_without_refused(contents.problems, notation), key=_place)])
    return Corpus(name, tuple(utterances), tuple(problems), str(notation) if contents.labels else "")


def _notation(contents: Contents, phone_set: str) -> Notation:
    """The notation of all labels of a folder together."""
    counts = Counter(phone.label for each in contents.labels.values() for phone in each.phones)
    beside = 0.0
    if "y" in counts and "j" not in counts:
        beside = y_share((phone.label for phone in each.phones) for each in contents.labels.values())
    return notation_of(counts, phone_set, beside)


def _told(folder: Path, notation: Notation) -> list[Problem]:
    """What is to be said of the labels of a folder as a whole."""
    unfit = [Problem(folder, notation.unfit)] if notation.unfit else []
    return unfit + [Problem(folder, doubt, used=True) for doubt in notation.doubts]


def _without_refused(problems: Sequence[Problem], notation: Notation) -> list[Problem]:
    """The problems; where one sentence says that the phone set does not fit, without each label that it does not have."""
    return [each for each in problems if not (notation.unfit and is_refused_label(each))]


def _place(problem: Problem) -> tuple[str, str, int]:
    return str(problem.file), problem.tier or "", problem.interval or 0


def _duration(path: Path, in_full: bool, problems: list[Problem]) -> float | None:
    """Seconds of audio by the header, or in full by its samples; None, with a problem, if it is of no use."""
    try:
        if not in_full:
            return audio_duration(path)
        waveform = load_audio(path)
    except DataError as error:
        problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
        return None
    reason = check_audio(waveform)
    if reason is not None:
        problems.append(Problem(path, reason))
        return None
    return len(waveform) / SAMPLE_RATE


def _labelled(
    key: str, contents: Contents, duration: float, phone_set: str
) -> tuple[Sequence[Segment], Sequence[tuple[str, float, float]], Sequence[Segment]] | None:
    """The segments and words of a recording, and its machine labels; None, with a problem, if there is no segment."""
    labels = contents.labels.get(key)
    if labels is None:
        return None
    segments, problems = find_segments(labels, duration, phone_set)
    words, word_problems = find_words(labels, duration)
    transcribed = replace(labels, tier=MACHINE_LABELS, phones=labels.machine, duration=None)
    machine, machine_problems = find_segments(transcribed, duration, "ipa")
    contents.problems.extend((*labels.problems, *problems, *word_problems, *machine_problems))
    if not segments:
        contents.problems.append(
            Problem(labels.file, "no usable phoneme in it; the recording is left out", labels.tier)
        )
        return None
    keep = contents.spool.keep
    return keep(segments, _SEGMENT), keep(words, _WORD), keep(machine, _SEGMENT)
