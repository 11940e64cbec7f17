"""What the command `transcribe` does: recordings in, files of phones out, and a score where there are labels to compare with."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtl_speech.commands.target import load_chosen_base
from mtl_speech.core.errors import DataError, Problem, in_groups, problem_of
from mtl_speech.core.files import append_line, atomic_write, content_hash, json_text, plain, unchanged
from mtl_speech.core.options import TranscribeOptions
from mtl_speech.core.run import SAID, Run, use_caches
from mtl_speech.core.settings import as_dict
from mtl_speech.core.terminal import Kind, filled_table, progress
from mtl_speech.corpora.audio import audio_notes
from mtl_speech.corpora.contents import Contents
from mtl_speech.corpora.corpus import Segment
from mtl_speech.corpora.folder import Recording, find_recordings, labels_beside
from mtl_speech.corpora.label_files.clock import from_begin
from mtl_speech.corpora.label_files.elan import read_eaf
from mtl_speech.corpora.label_files.textgrid import read_whole
from mtl_speech.corpora.label_files.tiers import of_all_speakers
from mtl_speech.corpora.labels import MACHINE_LABELS, check_labels
from mtl_speech.corpora.reading import notation_in
from mtl_speech.corpora.remote import local_folder
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.sequences import SequenceScores, outside, score_transcriptions
from mtl_speech.transcription.transcribe import Transcriber
from mtl_speech.transcription.transcript import Transcription, ctm_lines, eaf_bytes, textgrid_text, transcription_json

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)
CTM_NAME = f"{MACHINE_LABELS}.ctm"
LEDGER_NAME = "transcribed.sha256"
SCORES_FORMAT = "mtl_speech.transcription-scores/1"


def transcribe(
    pack_folder: Path, places: Sequence[Path], options: TranscribeOptions, run: Run
) -> SequenceScores | None:
    """Transcribe recordings, write what is asked for, and score it with `options.score`.

    A recording that cannot be read, and a file that would replace what a person made or changed, is named and left alone; the
    others go on. Raises DataError at the end if there was one, or at once if there is nothing to transcribe.
    """
    use_caches(options)
    locals_ = [local_folder(place, run) for place in places]
    recordings, problems = find_recordings([local.folder for local in locals_])
    problems += [problem for local in locals_ for problem in local.problems]
    if not recordings:
        raise DataError("; ".join(map(str, problems)) or "no recording is named: give audio files, or folders of them")
    pack = load_pack(pack_folder, "language")
    output = run.begin(options, f"transcribe-{pack.name}")
    transcriber = Transcriber.load(pack, load_chosen_base(options, pack))
    outputs = Outputs(output, options.format, pack.name)
    found = _transcribed(recordings, transcriber, outputs, problems)
    n_phones = sum(len(each.spoken) for each in found.values())
    seconds = sum(each.duration for each in found.values())
    run.say(f"{len(found)} recordings, {seconds / 60:.1f} minutes, {n_phones:,} phones, by '{pack.name}'")
    _tell((*_odd(recordings, found), *problems), run.result, "left out", "used")
    scores = None
    if options.score:
        scores = _score([r for r in recordings if r.name in found], found, pack, options, run, output)
    kinds = Counter(path.suffix for path in outputs.paths)
    run.result(f"written to {output}: {', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}; log.txt")
    undone = sum(not problem.used for problem in problems)
    if undone:
        raise DataError(f"{undone} things could not be done; they are named above")
    return scores


def _tell(problems: Sequence[Problem], say: Callable[[str], None], lost: str, kept: str) -> None:
    """Say what was lost or kept: what repeats by three examples and its number; all of it goes to the log."""
    for problem in problems:
        logger.warning("%s: %s", kept if problem.used else lost, problem, extra=SAID)
    for line in in_groups(problems, lost, kept):
        say(line)


def _transcribed(
    recordings: Sequence[Recording], transcriber: Transcriber, outputs: Outputs, problems: list[Problem]
) -> dict[str, Transcription]:
    """The transcriptions of recordings by name, which are written at once; what could not be done joins the problems."""
    found: dict[str, Transcription] = {}
    for recording in progress(recordings, "Transcribing"):
        try:
            with unchanged([recording.audio]):
                found[recording.name] = transcriber.transcribe(recording.audio)
        except DataError as error:
            problems.append(problem_of(recording.audio, error))
        else:
            problems += outputs.write(recording, found[recording.name])
    problems += outputs.finish()
    return found


def _odd(recordings: Sequence[Recording], found: Mapping[str, Transcription]) -> list[Problem]:
    """What is odd about the audio of recordings that were transcribed all the same."""
    done = [recording.audio for recording in recordings if recording.name in found]
    return [Problem(path, note, used=True) for path in done for note in audio_notes(path)]


@dataclass
class Outputs:
    """What is written below a folder. The ledger there has the SHA-256 of every file that was, so that a change can be told."""

    folder: Path
    formats: Sequence[str]
    pack: str
    paths: list[Path] = field(default_factory=list)
    _ctm: list[str] = field(default_factory=list)
    _known: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        ledger = self.folder / LEDGER_NAME
        lines = ledger.read_text(encoding="utf-8", errors="replace").splitlines() if ledger.is_file() else []
        for line in lines:
            digest, _, name = line.partition("  ")
            self._known[name].add(digest)

    def write(self, recording: Recording, found: Transcription) -> list[Problem]:
        """Write the files of one recording. Returns what could not be written, or not with all that it was to have, and why."""
        problems: list[Problem] = []
        for format in self.formats:
            try:
                if format == "ctm":
                    self._ctm.append(ctm_lines(found, recording.name))
                else:
                    problems += self._write_one(format, recording, found)
            except DataError as error:
                problems.append(Problem(recording.audio, f"no {format}: {error}"))
        return problems

    def finish(self) -> list[Problem]:
        """Write the CTM file, which has the phones of all recordings."""
        if "ctm" in self.formats:
            try:
                self.put(self.folder / CTM_NAME, "".join(self._ctm))
            except DataError as error:
                return [Problem(self.folder / CTM_NAME, str(error))]
        return []

    def put(self, path: Path, data: str | bytes, in_place: bool = False) -> None:
        """Write a file. Raises DataError where another one lies, unless this is the one that the data was made of."""
        raw = data.encode("utf-8") if isinstance(data, str) else data
        if path.exists() and not in_place and not self.is_own(path):
            raise DataError(
                f"{path} is there already, and was changed since it was written or comes from elsewhere: "
                "move it away, or write to another folder"
            )
        name = path.relative_to(self.folder).as_posix()
        append_line(
            self.folder / LEDGER_NAME, f"{hashlib.sha256(raw).hexdigest()}  {name}"
        )  # first, lest it seem changed
        self.paths.append(atomic_write(path, raw))

    def is_own(self, path: Path) -> bool:
        """Whether a file is as it was written by this command."""
        return content_hash(path) in self._known[path.relative_to(self.folder).as_posix()]

    def _write_one(self, format: str, recording: Recording, found: Transcription) -> list[Problem]:
        suffix = {"textgrid": ".TextGrid", "eaf": ".eaf", "json": ".json"}[format]
        target = self.folder / f"{recording.name}{suffix}"
        beside = recording.labels.get(suffix.lower())
        in_place = beside is not None and beside.parent.resolve() == target.parent.resolve()
        if beside is not None and in_place:
            target = target.with_name(beside.name)
            self._refuse_changed(target)
        elif beside is not None:
            try:
                (read_eaf if suffix == ".eaf" else read_whole)(beside)
            except DataError as error:  # a file that is broken must not cost a recording its transcription
                reason = f"the transcription is written without its tiers: {problem_of(beside, error).reason}"
                return [
                    Problem(beside, reason, used=True),
                    *self._write_one(format, replace(recording, labels={}), found),
                ]
        data: str | bytes
        if format == "textgrid":
            data = textgrid_text(found, beside)
        elif format == "eaf":
            data = eaf_bytes(found, recording.audio, target, beside)
        else:
            data = transcription_json(found, recording.name, self.pack)
        self.put(target, data, in_place)
        return []

    def _refuse_changed(self, path: Path) -> None:
        """Raise DataError for a file with machine labels that someone may have corrected since: they would be replaced."""
        if path.suffix.lower() == ".eaf":
            names = [tier.get("TIER_ID") for tier in read_eaf(path).iterfind("TIER")]
        else:
            names = [tier.name for tier in read_whole(path).tiers]
        if MACHINE_LABELS in names and not self.is_own(path):
            raise DataError(
                f"{path}: has a tier '{MACHINE_LABELS}' that may have been corrected: rename it to 'phones', or take it out"
            )


def _score(
    recordings: Sequence[Recording],
    found: Mapping[str, Transcription],
    pack: Pack,
    options: TranscribeOptions,
    run: Run,
    output: Path,
) -> SequenceScores:
    """Compare with the labels beside the recordings; print a table and write scores.json. Raises DataError where there are none."""
    scored, told = comparable(recordings, found, options.phone_set, options.tier)
    _tell(told, run.say, "not scored", "scored without it")
    references = [reference for reference, _ in scored.values()]
    if not references:
        name = options.tier or "phones"
        raise DataError(f"--score: beside no recording lies a TextGrid or .eaf with a tier '{name}' that can be used")
    inventory = pack.phonemes("inventory")
    strangers = Counter(s.phoneme for each in references for s in each if s.phoneme not in inventory)
    scores = score_transcriptions(references, [heard for _, heard in scored.values()], seed=options.seed)
    run.table(scores_table(scores))
    if strangers:
        run.result(
            f"{strangers.total()} of the labelled phones are not in the pack's inventory, so each is an error: "
            + ", ".join(f"{phoneme} ({strangers[phoneme]})" for phoneme in articulation_order(strangers))
        )
    data: dict[str, Any] = {
        "format": SCORES_FORMAT,
        "command": run.command,
        "pack": pack.name,
        "pack_sha256": pack_hash(pack),
        "settings": as_dict(options),
        "scores": scores,
        "outside_inventory": dict(sorted(strangers.items())),
        "not_scored": [str(problem) for problem in told if not problem.used],
    }
    path = atomic_write(output / "scores.json", json_text(plain(data)))
    run.result(f"the scores are in {path}")
    return scores


def comparable(
    recordings: Sequence[Recording], found: Mapping[str, Transcription], phone_set: str, tier: str | None = None
) -> tuple[dict[str, tuple[Sequence[Segment], Transcription]], list[Problem]]:
    """The labelled phones of recordings by name, each with what was found there; and what is to be told, of the others too.

    What lies under a label that cannot be used, or that means noise or speech nobody transcribed, is not compared. The phones of
    several speakers are one sequence; where they speak at once, nothing is compared.
    """
    contents = labels_of(recordings, tier)
    problems = [problem for problem in contents.problems if not problem.used]
    phone_set = notation_in(contents, phone_set).phone_set
    result: dict[str, tuple[Sequence[Segment], Transcription]] = {}
    for recording in recordings:
        labels = contents.labels.get(recording.name)
        if labels is None:
            if not recording.labels and not recording.more:
                problems.append(recording.doubt or Problem(recording.audio, "no labels beside it"))
            continue
        heard = found[recording.name]
        try:
            labels = of_all_speakers(from_begin(labels, heard.duration))
        except DataError as error:
            problems.append(problem_of(labels.file, error))
            continue
        checked = check_labels(labels, heard.duration, phone_set)
        if checked.segments:
            result[recording.name] = checked.segments, outside(heard, checked.unknown)
            problems += [replace(each, used=True) for each in checked.problems if not each.used]
        else:
            wrong = [each for each in checked.problems if not each.used]
            problems += wrong or [Problem(labels.file, "no phoneme in it", labels.tier)]
    return result, list(dict.fromkeys(problems))


def labels_of(recordings: Sequence[Recording], tier: str | None = None) -> Contents:
    """What the label files beside recordings hold, by the names of the recordings; of their tiers the one so named."""
    files = [(recording.name, path) for recording in recordings for path in recording.labels.values()]
    more = [replace(match, recordings=(r.name,)) for r in recordings for match in r.more]
    return labels_beside({r.name: r.audio for r in recordings}, files, more, tier)


def scores_table(scores: SequenceScores) -> Table:
    """The scores of transcriptions, with intervals, for the terminal."""
    measures = {
        "phone error rate": scores.phone_error_rate,
        "phone error rate, weighted by features": scores.feature_error_rate,
        "boundary precision": scores.boundary_precision,
        "boundary recall": scores.boundary_recall,
        "boundary F1": scores.boundary_f1,
        "boundary R-value": scores.r_value,
        "expected calibration error": scores.calibration_error,
    }
    rows = [(name, f"{estimate.value:.3f}", interval_text(estimate.ci95)) for name, estimate in measures.items()]
    caption = (
        f"{scores.n_phones:,} labelled phones in {scores.n_recordings} recordings: {scores.substitutions} substitutions, "
        f"{scores.deletions} deletions, {scores.insertions} insertions.\n"
        f"{scores.n_boundaries:,} labelled boundaries, {scores.n_found:,} found; right within {1000 * scores.tolerance:.0f} ms.\n"
        "Intervals: percentile bootstrap over recordings."
    )
    columns: dict[str, Kind] = {"measure": "word", "value": "figure", "95 % interval": "word"}
    return filled_table("Transcription", columns, rows, caption)
