"""What the command `suggest` does: a pool of recordings or a list of words in; out comes what to label or record next, and why."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from mtl_speech.commands.target import load_chosen_base
from mtl_speech.commands.transcribe import labels_of
from mtl_speech.core.errors import DataError, Problem, problem_of
from mtl_speech.core.files import atomic_write, csv_text, unchanged
from mtl_speech.core.options import BaseOptions, SuggestOptions
from mtl_speech.core.run import Run
from mtl_speech.core.terminal import Kind, filled_table, progress
from mtl_speech.corpora.folder import Recording, find_recordings
from mtl_speech.corpora.remote import local_folder
from mtl_speech.model.language_pack import LanguageModel, zero_shot_of
from mtl_speech.model.learner import Head, centroid_head
from mtl_speech.model.pack import Pack, load_pack
from mtl_speech.phonology.inventories import read_words
from mtl_speech.phonology.phonemes import is_silence
from mtl_speech.scoring.bootstrap import as_array
from mtl_speech.training.suggest import Brought, Candidate, Inventory, Suggestion, choose
from mtl_speech.transcription.transcribe import Transcriber

logger = logging.getLogger(__name__)
CSV_NAME = "suggestions.csv"
CSV_COLUMNS = ("rank", "name", "pronunciation", "phones", "seconds", "gain", "coverage", "diversity", "brings")
N_SHOWN = 4  # phonemes that the table names for each suggestion
WORDS_CAPTION = "Gain: over the suggestions above it; larger for phonemes with few examples and low F1."
POOL_CAPTION = (
    "Gain: over the suggestions above it; larger for phonemes with few examples and low F1, as far as the model hears them.\n"
    "New sounds: the part of the gain that comes from sounds of which the model is unsure, and which are unlike those above.\n"
    "'like x': a sound that is none of the pack's phonemes so far, and resembles x."
)


@dataclass(frozen=True)
class Choice:
    """What there is to choose from. `pronunciations` are those of words, by their text.

    `zero_shot` are the phonemes of the pack that it has no example of.
    """

    candidates: Sequence[Candidate]
    inventory: Inventory
    pronunciations: Mapping[str, str]
    zero_shot: Collection[str]


def suggest(folder: Path, options: SuggestOptions, run: Run) -> list[Suggestion]:
    """Suggest recordings of a pool to label, or words of a list to record; write suggestions.csv.

    Raises DataError where there is nothing to choose from, PackError.
    """
    pack = load_pack(folder, "language")
    output = run.begin(options, f"suggest-{pack.name}")
    if "phoneme_f1" not in pack.card:
        run.say(f"'{pack.name}' has no F1 by phoneme (an earlier version made it): hard phonemes count as others do")
    if options.words is not None:
        choice = word_choice(pack, options.words, run)
    else:
        assert options.pool is not None
        choice = pool_choice(pack, local_folder(options.pool, run).folder, options, run)
    found = choose(choice.candidates, choice.inventory, options.number, seed=options.seed)
    if len(found) < options.number:
        run.say(f"there are only {len(found)} to choose from: all of them are ranked")
    run.table(suggestion_table(found, choice))
    run.wrote(output, [atomic_write(output / CSV_NAME, suggestions_csv(found, choice))])
    return found


def inventory_of(pack: Pack, others: Sequence[str] = ()) -> Inventory:
    """What the card of a language pack says of its phonemes, and after them `others`, which have no example."""
    phonemes = (*pack.phonemes("inventory"), *others)
    examples = _numbers(pack.value("examples", dict))
    f1 = _numbers(pack.value("phoneme_f1", dict)) if "phoneme_f1" in pack.card else {}
    return Inventory(
        phonemes,
        np.array([examples.get(p, 0.0) for p in phonemes]),
        np.array([f1.get(p, math.nan) for p in phonemes]),
    )


def _numbers(entry: Mapping[str, object]) -> dict[str, float]:
    """The numbers of an entry of a card."""
    return {name: float(value) for name, value in entry.items() if isinstance(value, (int, float))}


def word_choice(pack: Pack, path: Path, run: Run) -> Choice:
    """The words of a list, by their pronunciations; phonemes that the pack does not know count as without an example."""
    known = pack.phonemes("inventory")
    words, problems = read_words(path, known)
    run.left_out(problems, path.parent)
    if not words:
        raise DataError(f"{path}: no word of it has a pronunciation: write a TAB and its phones in IPA after each word")
    new = sorted({phone for word in words for phone in word.phones} - set(known))
    inventory = inventory_of(pack, new)
    place = {phoneme: i for i, phoneme in enumerate(inventory.phonemes)}
    eye = np.eye(len(place))
    candidates = [Candidate(w.text, eye[[place[p] for p in w.phones]], np.empty((len(w.phones), 0))) for w in words]
    run.say(f"{len(words)} words with a pronunciation, by '{pack.name}'; phonemes new to it: {' '.join(new) or 'none'}")
    return Choice(candidates, inventory, {word.text: " ".join(word.phones) for word in words}, zero_shot_of(pack))


def pool_choice(pack: Pack, pool: Path, options: BaseOptions, run: Run) -> Choice:
    """The recordings below `pool` that are not labelled yet, as the model hears them."""
    recordings, problems = find_recordings([pool])
    labelled = labelled_already(recordings)
    if labelled:
        run.say(
            f"{len(labelled)} of {len(recordings)} recordings are labelled already and left out; log.txt names them"
        )
        logger.info("labelled already: %s", ", ".join(sorted(labelled)))
    transcriber = Transcriber.load(pack, load_chosen_base(options, pack))
    model = transcriber.model
    head, others = with_stand_ins(model)
    candidates: list[Candidate] = []
    unlabelled = [recording for recording in recordings if recording.name not in labelled]
    problems += dict.fromkeys(replace(each.doubt, used=True) for each in unlabelled if each.doubt is not None)
    with unchanged(recording.audio for recording in unlabelled):
        for recording in progress(unlabelled, "Listening"):
            try:
                examined = transcriber.examine(recording.audio)
            except DataError as error:
                problems.append(problem_of(recording.audio, error))
                continue
            z = as_array(examined.embeddings)
            if len(z):
                posteriors = probabilities(head, torch.from_numpy(z).float(), model.temperature)
                candidates.append(Candidate(recording.name, posteriors, z, examined.transcription.duration))
            else:
                problems.append(Problem(recording.audio, "no speech is found in it"))
    run.left_out(problems, pool)
    if not candidates:
        raise DataError(f"{pool}: holds no recording to choose; give a folder with audio files that are not labelled")
    seconds = sum(candidate.seconds for candidate in candidates)
    n_phones = sum(len(candidate.posteriors) for candidate in candidates)
    run.say(f"{len(candidates)} recordings, {seconds / 60:.1f} minutes, about {n_phones:,} phones, by '{pack.name}'")
    return Choice(candidates, inventory_of(pack, [f"like {phoneme}" for phoneme in others]), {}, zero_shot_of(pack))


def labelled_already(recordings: Sequence[Recording]) -> set[str]:
    """The names of the recordings beside which lie labels with a phone. A transcription is none: nobody has checked it."""
    contents = labels_of(recordings)
    for problem in contents.problems:
        logger.warning("%s", problem)
    return {name for name, found in contents.labels.items() if not all(is_silence(p.label) for p in found.phones)}


def with_stand_ins(model: LanguageModel) -> tuple[Head, tuple[str, ...]]:
    """The model's head with rows of θ after its own, for phonemes that the strategy met and the language has no example of.

    A sound that the language's examples do not tell falls to the row that it resembles: so phonemes show that nobody has labelled.
    No row is added where the rows of θ are no means, or where the inventory was given (then there are rows for such phonemes).
    """
    learner = model.learner
    others = [i for i, p in enumerate(learner.phonemes) if bool(learner.met[i]) and p not in model.classes]
    if model.zero_shot or not learner.rows_are_means or not others:
        return model.head, ()
    added = centroid_head(learner.theta[others].detach().unsqueeze(0))
    head = Head(torch.cat((model.head.weight, added.weight), 1), torch.cat((model.head.bias, added.bias), 1))
    return head, tuple(learner.phonemes[i] for i in others)


def probabilities(head: Head, z: Tensor, temperature: float) -> np.ndarray:
    """The probability of each row of `head`, a batch of one task, for standardised embeddings z (n, dim): (n, n_rows)."""
    with torch.no_grad():
        return torch.softmax(head.logits(z.unsqueeze(0))[0] / temperature, 1).double().numpy()


def suggestion_table(found: Sequence[Suggestion], choice: Choice) -> Table:
    """The suggestions for the terminal."""
    words = bool(choice.pronunciations)
    columns: dict[str, Kind] = {"rank": "figure", "word" if words else "recording": "text"}
    columns |= dict.fromkeys(("phones", "gain") if words else ("phones", "gain", "new sounds"), "figure")
    rows = []
    for rank, each in enumerate(found, 1):
        shown, more = each.brings[:N_SHOWN], len(each.brings) - N_SHOWN
        why = brings_text(shown, choice.zero_shot) + (f"; and {more} more" if more > 0 else "")
        sounds = [] if words else [f"{each.gain - each.coverage:.2f}"]
        rows.append([rank, each.candidate.id, len(each.candidate.posteriors), f"{each.gain:.2f}", *sounds, why])
    title = f"{'Words to record' if words else 'Recordings to label'} next"
    caption = WORDS_CAPTION if words else POOL_CAPTION
    return filled_table(title, {**columns, "brings (examples so far, F1)": "text"}, rows, caption)


def brings_text(brings: Sequence[Brought], zero_shot: Collection[str] = ()) -> str:
    """Phonemes with their expected number, and what is known of them so far: `0.9 ŋ (2, F1 0.33); 0.4 ɲ (none)`."""
    return "; ".join(
        f"{f'{item.expected:.1f}'.removesuffix('.0')} {item.phoneme} ({_so_far(item, zero_shot)})" for item in brings
    )


def _so_far(item: Brought, zero_shot: Collection[str]) -> str:
    score = "" if math.isnan(item.f1) else f", F1 {item.f1:.2f}"
    return f"{item.examples or ('zero-shot' if item.phoneme in zero_shot else 'none')}{score}"


def suggestions_csv(found: Sequence[Suggestion], choice: Choice) -> str:
    """The suggestions with all their reasons as CSV."""

    def row(rank: int, each: Suggestion) -> list[object]:
        candidate = each.candidate
        seconds = "" if math.isnan(candidate.seconds) else f"{candidate.seconds:.3f}"
        gains = [f"{value:.4f}" for value in (each.gain, each.coverage, each.gain - each.coverage)]
        name, phones, why = candidate.id, len(candidate.posteriors), brings_text(each.brings, choice.zero_shot)
        return [rank, name, choice.pronunciations.get(name, ""), phones, seconds, *gains, why]

    return csv_text(CSV_COLUMNS, itertools.starmap(row, enumerate(found, 1)))
