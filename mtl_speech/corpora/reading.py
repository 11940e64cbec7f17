"""Reading a folder of recordings and label files into a `Corpus`, with every problem found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mtl_speech.core.cache import Kind
from mtl_speech.core.errors import DataError, UsageError, problem_of
from mtl_speech.core.options import PHONE_SETS
from mtl_speech.core.terminal import progress
from mtl_speech.corpora.audio import SAMPLE_RATE, audio_duration, check_audio, load_audio
from mtl_speech.corpora.corpus import Corpus, Segment, Utterance
from mtl_speech.corpora.folder import Contents, LabelReader, has_audio, scan
from mtl_speech.corpora.labels import check_labels
from mtl_speech.phonology.languages import canonical
from mtl_speech.phonology.phonemes import guess_phone_set

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
    *,
    labels: Path | None = None,
    readers: Mapping[str, LabelReader] | None = None,
    in_full: bool = False,
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
        in_full: decode every recording, as `validate` does.

    Raises:
        DataError: no such folder, or no audio files in it.
        UsageError: unknown language or phone set.
    """
    tag = canonical(language)
    if phone_set not in PHONE_SETS:
        raise UsageError(f"unknown phone set '{phone_set}': use one of {', '.join(PHONE_SETS)}")
    contents = _scanned(folder, labels, readers)
    if phone_set == "auto":
        phone_set = guess_phone_set(phone.label for each in contents.labels.values() for phone in each.phones)
    name = folder.resolve().name
    keys = progress(sorted(contents.recordings), f"{'Checking' if in_full else 'Reading'} {name}")
    found = [_utterance(key, contents, tag, phone_set, in_full) for key in keys]
    problems = sorted(contents.problems, key=lambda each: (str(each.file), each.tier or "", each.interval or 0))
    return Corpus(name, tuple(each for each in found if each is not None), tuple(problems))


def validate(folder: Path, language: str = "und", phone_set: str = "auto", *, labels: Path | None = None) -> Corpus:
    """As `read_corpus`, but decode every recording in full: one that is cut short, silent or has NaN is left out."""
    return read_corpus(folder, language, phone_set, labels=labels, in_full=True)


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


def _seconds_in_full(path: Path, notes: list[str]) -> float:
    """Seconds of audio by the samples. Raises DataError where they are of no use."""
    waveform = load_audio(path, notes)
    reason = check_audio(waveform)
    if reason is not None:
        raise DataError(f"{path}: {reason}")
    return len(waveform) / SAMPLE_RATE


def _utterance(key: str, contents: Contents, language: str, phone_set: str, in_full: bool) -> Utterance | None:
    """A recording with its labels, kept in the file of `contents`; None, with a problem, where one of them is of no use."""
    audio, labels = contents.recordings[key], contents.labels.get(key)
    notes: list[str] = []  # on what is odd about the audio
    try:
        duration = _seconds_in_full(audio, notes) if in_full else audio_duration(audio, notes)
    except DataError as error:
        contents.problems.append(problem_of(audio, error))
        return None
    for note in notes:
        contents.tell(audio, note, used=True)
    if labels is None:
        return None
    found = check_labels(labels, duration, phone_set)
    contents.problems.extend(found.problems)
    if not found.segments:
        contents.tell(labels.file, "no usable phoneme in it; the recording is left out", labels.tier)
        return None
    keep, speaker = contents.spool.keep, audio.parent.resolve().name
    kept = keep(found.segments, _SEGMENT), keep(found.words, _WORD), keep(found.machine, _SEGMENT)
    return Utterance(key, audio, language, speaker, duration, *kept)
