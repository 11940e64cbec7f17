"""Reading a folder of recordings and label files into a `Corpus`, with every problem found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtl_speech.core.cache import Kind
from mtl_speech.core.errors import DataError, Problem, UsageError, once_each, problem_of
from mtl_speech.core.options import PHONE_SETS
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import SAMPLE_RATE, audio_duration, check_audio, load_audio
from mtl_speech.corpora.contents import Contents
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.corpora.folder import LabelReader, has_audio, readers_of, scan
from mtl_speech.corpora.label_files.clock import from_begin
from mtl_speech.corpora.label_files.tiers import common_notation
from mtl_speech.corpora.labels import Labels, check_labels, is_refused_label
from mtl_speech.phonology.languages import canonical
from mtl_speech.phonology.notation import Notation, notation_of, y_share

_SEGMENT = Kind[Segment](
    lambda each: (each.phoneme, each.start, each.end, 0), lambda phoneme, start, end, _: Segment(phoneme, start, end)
)
_WORD = Kind[tuple[str, float, float]](lambda each: (*each, 0), lambda text, start, end, _: (text, start, end))
_EXPECTED = (
    "expected audio files (WAV, FLAC, Opus, Ogg, MP3, AIFF, AU and others), each with a .TextGrid or .eaf (a tier 'phones') or "
    "a .PHN of the same name beside it, or one .ctm file in the folder"
)


def read_corpus(
    folder: Path,
    language: str = "und",
    phone_set: str = "auto",
    tier: str | None = None,
    *,
    labels: Path | None = None,
    readers: Mapping[str, LabelReader] | None = None,
) -> Corpus:
    """Read a folder of audio files with labels; of the audio only the headers.

    The speaker of a recording is the one that its tier names ("anna - phones"), else the name of the folder it lies in. Of
    several speakers each has an utterance, `recording@speaker`, in which the speech of the others is unknown. Utterances come
    sorted by id. What cannot be used is left out and named in the corpus's problems.

    Args:
        folder: searched with all its subfolders.
        language: any code or name that `languages.canonical` knows.
        phone_set: one of PHONE_SETS, such as "ipa" or "arpabet", or "auto": guessed from all labels of the folder together.
        tier: of TextGrids and .eaf files the name of the tier of phones, or a pattern of names with * and ?; by default "phones",
            or a known name of another tool.
        labels: a folder of label files, in whatever folders below it, to be read in place of those beside the recordings.
        readers: how label files of a suffix (".phn") are read, where not as the package does.

    Raises:
        DataError: no such folder, or no audio files in it.
        UsageError: unknown language or phone set.
    """
    tag = _checked_names(language, phone_set)
    contents = _scanned(folder, labels, readers_of(tier) | dict(readers or {}))
    return _read(folder, contents, tag, phone_set, in_full=False)


def validate(
    folder: Path,
    language: str = "und",
    phone_set: str = "auto",
    tier: str | None = None,
    *,
    labels: Path | None = None,
) -> Corpus:
    """As `read_corpus`, but decode every recording in full: one that is cut short, silent or has NaN is left out."""
    tag = _checked_names(language, phone_set)
    return _read(folder, _scanned(folder, labels, readers_of(tier)), tag, phone_set, in_full=True)


def _checked_names(language: str, phone_set: str) -> str:
    """The tag of a language. Raises UsageError for an unknown one, or an unknown phone set."""
    tag = canonical(language)
    if phone_set not in PHONE_SETS:
        raise UsageError(f"unknown phone set '{phone_set}': use one of {', '.join(PHONE_SETS)}")
    return tag


def _read(folder: Path, contents: Contents, tag: str, phone_set: str, in_full: bool) -> Corpus:
    """The corpus of recordings and labels that were found; of the audio only the headers, or all."""
    notation, name = notation_in(contents, phone_set), folder.resolve().name
    keys = progress(sorted(contents.recordings), f"{'Checking' if in_full else 'Reading'} {name}")
    found = [each for key in keys for each in _utterances(key, contents, tag, notation.phone_set, in_full)]
    told = _without_refused(contents.problems, notation)
    told.sort(key=lambda each: (str(each.file), each.tier or "", each.interval or 0))
    problems, said = once_each([*_told(folder, notation), *told]), str(notation) if contents.labels else ""
    return Corpus(name, tuple(sorted(found, key=lambda each: each.id)), tuple(problems), said)


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


def _scanned(folder: Path, labels: Path | None, readers: Mapping[str, LabelReader] | None) -> Contents:
    """What `scan` finds. Raises DataError where there is no folder, or no recording in it."""
    _require_folder(folder)
    contents = scan(folder, labels, readers)
    if not contents.recordings:
        hint = f" ({contents.problems[0]})" if contents.problems else ""
        raise DataError(f"{folder}: no audio files{hint}: {_EXPECTED}")
    return contents


def notation_in(contents: Contents, phone_set: str) -> Notation:
    """The notation of all labels that were found, together: the one given, that of the tool that wrote them, or a guess."""
    if phone_set == "auto":
        phone_set = common_notation(contents.labels.values()) or phone_set
    counts = Counter(phone.label for each in contents.every_labels() for phone in each.phones)
    beside = 0.0
    if "y" in counts and "j" not in counts:
        beside = y_share((phone.label for phone in each.phones) for each in contents.every_labels())
    return notation_of(counts, phone_set, beside)


def _told(folder: Path, notation: Notation) -> list[Problem]:
    """What is to be said of the labels of a folder as a whole."""
    unfit = [Problem(folder, notation.unfit)] if notation.unfit else []
    return unfit + [Problem(folder, doubt, used=True) for doubt in notation.doubts]


def _without_refused(problems: Sequence[Problem], notation: Notation) -> list[Problem]:
    """The problems; where one sentence says that the phone set does not fit, without each label that it does not have."""
    return [each for each in problems if not (notation.unfit and is_refused_label(each))]


def _seconds_in_full(path: Path, notes: list[str]) -> float:
    """Seconds of audio by the samples. Raises DataError where they are of no use."""
    waveform = load_audio(path, notes)
    reason = check_audio(waveform)
    if reason is not None:
        raise DataError(f"{path}: {reason}")
    return len(waveform) / SAMPLE_RATE


def _utterances(key: str, contents: Contents, language: str, phone_set: str, in_full: bool) -> list[Utterance]:
    """A recording with its labels, one for each speaker; none, with a problem, where recording or labels are of no use."""
    audio, labels = contents.recordings[key], contents.labels.get(key)
    notes: list[str] = []  # on what is odd about the audio
    try:
        duration = _seconds_in_full(audio, notes) if in_full else audio_duration(audio, notes)
        labels = None if labels is None else from_begin(labels, duration)
    except DataError as error:
        of_labels = labels is not None and str(error).startswith(f"{labels.file}: ")
        contents.problems.append(problem_of(labels.file if labels is not None and of_labels else audio, error))
        return []
    for note in notes:
        contents.tell(audio, note, used=True)
    if labels is None:
        return []
    folder = audio.parent.resolve().name
    found: list[Utterance] = []
    for own in (labels, *labels.more):
        name = f"{key}@{own.speaker.replace('/', '_')}" if labels.more else key
        if name != key and (name in contents.recordings or any(name == each.id for each in found)):
            contents.tell(
                own.file, f"'{name}' is the name of another recording or speaker: left out; rename one", own.tier
            )
            continue
        utterance = Utterance(name, audio, language, own.speaker or folder, duration, ())
        found += _with_labels(utterance, own, contents, phone_set)
    return found


def _with_labels(utterance: Utterance, labels: Labels, contents: Contents, phone_set: str) -> list[Utterance]:
    """An utterance with what is of use of its labels, kept in the file of `contents`; none, with a problem, where nothing is."""
    found = check_labels(labels, utterance.duration, phone_set)
    contents.problems.extend(found.problems)
    if not found.segments:
        contents.tell(labels.file, "no usable phoneme in it; the recording is left out", labels.tier)
        return []
    keep = contents.spool.keep
    kept = keep(found.segments, _SEGMENT), keep(found.words, _WORD), keep(found.machine, _SEGMENT)
    return [replace(utterance, segments=kept[0], words=kept[1], machine=kept[2], unknown=found.unknown)]
