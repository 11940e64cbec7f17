"""What a run leaves behind: `results/<experiment>/<seed>/` with the language pack, the report and the log.

What an earlier run left there goes to `earlier/<n>/` before new ones come.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from mtl_speech.core.files import atomic_write, content_hash, csv_text, json_text, plain, sync_folder, temporary_sibling
from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.core.settings import as_dict
from mtl_speech.core.terminal import Kind, filled_table, progress
from mtl_speech.model.language_pack import language_pack
from mtl_speech.model.pack import CARD, EARLIER, PACK, Pack, previous_of, save_pack
from mtl_speech.model.strategy import BaseModel
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.phonology.languages import display_name
from mtl_speech.report.figures import ablation_figure, confusion_figure, png
from mtl_speech.report.findings import Details, Size, findings
from mtl_speech.report.page import render
from mtl_speech.scoring.bootstrap import interval_text
from mtl_speech.scoring.metrics import TOKENS, AblationRow, PhonemeScore, Scores, remark_on, tokens_csv
from mtl_speech.training.adapt import Adaptation, Learned, pooled, pooled_scores

_CSV_COLUMNS = "kind phoneme n n_train precision recall f1 f1_low f1_high remark stamp".split()
_NOT_KEPT = {"log.txt"}  # the run that is under way writes to it


@dataclass(frozen=True)
class Experiment:
    """What was scored, and what a reader must know of it: all that a report says.

    `notes` are sentences for the reader. So are those of `left_out`, which name recordings and therefore stay out of packs. `extra`
    is whatever else belongs to the experiment, and `stamp` a short warning ("synthetic speech") that stands on every picture and on
    every line of the CSV. `details` is what the page shows beside the scores.
    """

    scores: Scores
    settings: Mapping[str, Any]
    command: str
    ablation: Sequence[AblationRow] | None = None
    notes: Sequence[str] = ()
    left_out: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    stamp: str = ""
    details: Details = field(default_factory=Details)


@dataclass(frozen=True)
class Outcome:
    """A recogniser and what it was learned with: `runs` are the adaptations to score, one a fold, `final` is the one to keep."""

    runs: Sequence[Adaptation]
    final: Learned
    base: BaseModel
    config: AdaptConfig
    meta: MetaTrainConfig

    def experiment(self, command: str) -> Experiment:
        """What these runs tell by themselves, as an experiment of the command line `command`."""
        settings = {"adapt": as_dict(self.config), "meta_train": as_dict(self.meta)}
        n_frozen = sum(parameter.numel() for parameter in self.base.encoder.parameters())
        details = Details(
            tokens=pooled(self.runs),
            temperature=self.final.model.temperature,
            history=[run.learned.history.hard_classes for run in self.runs],
            curriculum=self.meta.hard_ratio > 0,
            size=Size(self.final.trainable_parameters, n_frozen, sum(self.final.n_train.values())),
        )
        return Experiment(pooled_scores(self.runs, self.config.seed), settings, command, details=details)

    def pack(self, experiment: Experiment) -> Pack:
        """The language pack of the final model, with what an experiment found in its card."""
        scores, lang = experiment.scores, self.config.lang
        card = {
            "name": f"{lang}-{self.config.seed}",
            "language_name": display_name(lang),
            "stamp": experiment.stamp,
            "scores": {"macro_f1": round(scores.macro_f1, 4), "micro_f1": round(scores.micro_f1, 4), "n": scores.n},
            "examples": self.final.n_train,
            "phoneme_f1": {item.phoneme: round(item.f1, 4) for item in scores.phonemes},
            "notes": list(experiment.notes),
        }
        return language_pack(self.final.model, self.base, self.meta, lang, card)

    def history(self) -> dict[str, Any]:
        """What history.json says: what base learning chose, and how meta-training went, in each run."""
        return {
            "base_learning": [
                {"steps": c.steps, "rate": c.rate, "macro_f1": c.macro_f1}
                for c in (run.learned.choice for run in self.runs)
            ],
            "meta_training": [
                {
                    "rounds": run.learned.history.rounds,
                    "validations": run.learned.history.validations,
                    "hard_classes": [
                        [":".join(pair) for pair in entered] for entered in run.learned.history.hard_classes
                    ],
                }
                for run in self.runs
            ],
        }


def write_results(folder: Path, outcome: Outcome, experiment: Experiment) -> list[Path]:
    """Write the pack of what was learned, its history, and the report of an experiment with it into `folder`.

    Returns the paths written. Raises PackError, DataError or OSError; each file is written whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [save_pack(outcome.pack(experiment), folder / PACK), *write_report(folder, experiment)]
    history = json.dumps(plain(outcome.history()), indent=1, ensure_ascii=False)
    return [*paths, atomic_write(folder / "history.json", history)]


def report_data(experiment: Experiment) -> dict[str, Any]:
    """What report.json holds, as plain dictionaries, lists, strings and numbers: no NaN (None), no absolute path.

    Phonemes are in articulatory order; the confusion matrix, rows true and columns predicted, is in the order of its `labels`.
    """
    scores = experiment.scores
    data = {
        "format": "mtl_speech.report/1",
        "stamp": experiment.stamp,
        "command": experiment.command,
        "notes": [*experiment.left_out, *experiment.notes],
        "scores": {
            "n": scores.n,
            "accuracy": scores.accuracy,
            "macro_f1": scores.macro_f1,
            "macro_f1_ci95": scores.macro_f1_ci95,
            "micro_f1": scores.micro_f1,
            "micro_f1_ci95": scores.micro_f1_ci95,
            "intervals": interval_method(scores),
            "phonemes": ordered(scores),
            "not_scored": scores.not_scored,
            "confusion": {"labels": scores.labels, "counts": scores.confusion},
        },
        "ablation": experiment.ablation,
        **findings(scores, experiment.details),
        "settings": experiment.settings,
        "extra": experiment.extra,
    }
    result: dict[str, Any] = plain(data)
    return result


def write_report(folder: Path, experiment: Experiment) -> list[Path]:
    """Write report.html, report.json, report.csv, confusion.png, of an ablation ablation.png, and tokens.csv into `folder`.

    Each file is written whole or not at all; what an earlier report had and this one has not goes. Raises OSError.
    """
    data, details, stamp = report_data(experiment), experiment.details, experiment.stamp
    makers: dict[str, Callable[[], bytes | str]] = {
        "report.json": lambda: json_text(data),
        "report.csv": lambda: _csv(data),
        "report.html": lambda: render(data, details.clips.clips if details.clips else ()),
        "confusion.png": lambda: png(confusion_figure(experiment.scores, stamp)),
    }
    if rows := experiment.ablation:
        makers["ablation.png"] = lambda: png(ablation_figure(rows, stamp))
    if details.tokens:
        makers[TOKENS] = lambda: tokens_csv(details.tokens)
    names: Iterable[str] = list(makers)
    contents = {name: makers[name]() for name in progress(names, "report")}
    for name in {"ablation.png", TOKENS} - set(makers):
        (folder / name).unlink(missing_ok=True)
    return [atomic_write(folder / name, content) for name, content in contents.items()]


def _csv(data: Mapping[str, Any]) -> str:
    """The CSV of report data."""
    scores = data["scores"]
    lines: list[dict[str, Any]] = []
    for phoneme in scores["phonemes"]:
        low, high = phoneme["f1_ci95"]
        remark = remark_on(phoneme["zero_shot"], phoneme["reliable"])
        lines.append({**phoneme, "kind": "phoneme", "f1_low": low, "f1_high": high, "remark": remark})
    for missing in scores["not_scored"]:
        remark = f"not scored: {missing['reason']}"
        lines.append({**missing, "kind": "not scored", "n_train": missing["n_examples"], "remark": remark})
    for kind in ("macro", "micro"):
        low, high = scores[f"{kind}_f1_ci95"]
        lines.append({"kind": kind, "n": scores["n"], "f1": scores[f"{kind}_f1"], "f1_low": low, "f1_high": high})
    stamped = ({**line, "stamp": data["stamp"]} for line in lines)
    return csv_text(_CSV_COLUMNS, ([line.get(column, "") for column in _CSV_COLUMNS] for line in stamped))


@contextmanager
def earlier_kept(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, a new pack and report can be written to `folder`: what was there is kept, and `say` tells where.

    Where the new ones are the same to the byte, one of both is enough. Raises OSError when the earlier ones cannot be kept; nothing
    has been replaced then.
    """
    kept = keep_earlier(folder)
    yield
    if kept is not None:
        previous = previous_of(folder / PACK)
        if _same(previous, kept / PACK):  # `save_pack` keeps one too, which would be there twice
            shutil.rmtree(previous)
        if _adds_nothing(kept, folder):  # a run that was killed at its end, and made the same again
            shutil.rmtree(kept)
            with suppress(OSError):
                kept.parent.rmdir()
            return
        say(f"the earlier pack and report are kept in {kept}")


def keep_earlier(folder: Path) -> Path | None:
    """Copy the pack in `folder`, and the files beside it, to `earlier/<n>/`; gives that path, or None where there is no pack.

    The copy appears whole or not at all, and what is copied stays where it is: so whatever happens until the new pack has taken
    its place, a whole pack is under the old name. A run that was interrupted there leaves a copy, which then serves.

    Raises OSError when it cannot be copied.
    """
    pack = folder / PACK
    if not pack.is_dir():
        return None
    numbers = sorted(int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdecimal())
    if numbers and _same(pack, folder / EARLIER / str(numbers[-1]) / PACK):
        return folder / EARLIER / str(numbers[-1])
    place = folder / EARLIER / str(numbers[-1] + 1 if numbers else 1)
    temporary = temporary_sibling(place)
    try:
        shutil.copytree(pack, temporary / PACK, symlinks=True)
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name not in _NOT_KEPT and not path.name.startswith("."):
                shutil.copy2(path, temporary)
        os.rename(temporary, place)
    except shutil.Error as error:  # of several files at once
        reasons = "; ".join(sorted({why for *_, why in error.args[0]}))
        raise OSError(f"{place}: the earlier pack could not be kept, so nothing was replaced: {reasons}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(place.parent)
    return place


def _adds_nothing(kept: Path, folder: Path) -> bool:
    """Whether all that is kept lies in the folder too, to the byte."""
    names = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file()]
    return all((folder / name).is_file() and content_hash(folder / name) == content_hash(kept / name) for name in names)


def _same(pack: Path, other: Path) -> bool:
    """Whether two packs are the same: a card holds the hash of the weights."""
    try:
        return (pack / CARD).read_bytes() == (other / CARD).read_bytes()
    except OSError:
        return False


def f1_table(scores: Scores, stamp: str = "") -> Table:
    """The F1 table: a row for each phoneme in articulatory order, also for those not scored, then macro and micro.

    The caption tells why phonemes were not scored and what the intervals are. `stamp` is a short warning for the
    title, such as "synthetic speech". Print the table with `show`.
    """
    columns: dict[str, Kind] = {"phoneme": "word"}
    columns |= dict.fromkeys(("n", "train", "precision", "recall", "F1"), "figure")
    rows: list[list[object]] = []
    for phoneme in ordered(scores):
        learned = "-" if phoneme.n_train is None else phoneme.n_train
        figures = [f"{value:.3f}" for value in (phoneme.precision, phoneme.recall, phoneme.f1)]
        remark = remark_on(phoneme.zero_shot, phoneme.reliable)
        rows.append([phoneme.phoneme, phoneme.n, learned, *figures, interval_text(phoneme.f1_ci95), remark])
    for missing in scores.not_scored:
        remark = "zero-shot; not scored" if missing.zero_shot else "not scored"
        rows.append([missing.phoneme, "-", missing.n_examples, "-", "-", "-", "-", remark])
    macro, micro = interval_text(scores.macro_f1_ci95), interval_text(scores.micro_f1_ci95)
    rows += [
        [],
        ["macro", scores.n, "", "", "", f"{scores.macro_f1:.3f}", macro],
        ["micro", scores.n, "", "", "", f"{scores.micro_f1:.3f}", micro],
    ]
    return filled_table(
        "Phoneme F1", {**columns, "95 % interval": "word", "remark": "text"}, rows, _caption(scores), stamp
    )


def ablation_table(rows: Sequence[AblationRow], stamp: str = "") -> Table:
    """The ablation: macro-F1 and micro-F1 of each system, its paired gain over the one above, its size and time."""
    columns: dict[str, Kind] = {"system": "text"}
    columns |= dict.fromkeys(("macro-F1", "micro-F1", "gain in macro-F1", "trainable", "time"), "figure")
    cells = [
        [
            row.name,
            f"{row.macro_f1:.3f}\n{interval_text(row.macro_f1_ci95)}",
            f"{row.micro_f1:.3f}\n{interval_text(row.micro_f1_ci95)}",
            _gain(row),
            f"{row.trainable_parameters:,}",
            f"{row.seconds:.0f} s",
        ]
        for row in rows
    ]
    caption = "In brackets: 95 % intervals. Gain: over the system above, paired."
    return filled_table("Ablation", columns, cells, caption, stamp)


def _gain(row: AblationRow) -> str:
    gain = row.difference_to_previous
    return f"{gain.mean:+.3f}\n{interval_text(gain.ci95, signed=True)}" if gain is not None else ""


def ordered(scores: Scores) -> list[PhonemeScore]:
    """The scored phonemes in articulatory order."""
    by_name = {phoneme.phoneme: phoneme for phoneme in scores.phonemes}
    return [by_name[name] for name in articulation_order(by_name)]


def interval_method(scores: Scores) -> str:
    """How the intervals of the scores are made, in words."""
    over = f"{scores.n_groups} utterances" if scores.n_groups else f"{scores.n} tokens"
    return f"95 %, percentile bootstrap over {over}; per phoneme widened to Wilson's interval"


def _caption(scores: Scores) -> str:
    lines = [f"Intervals: {interval_method(scores)}."]
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for missing in scores.not_scored:
        reasons[missing.reason].append(f"{missing.phoneme} ({missing.n_examples})")
    lines += [f"Not scored ({reason}; examples in brackets): {', '.join(each)}." for reason, each in reasons.items()]
    extra = sorted(set(scores.labels) - {phoneme.phoneme for phoneme in scores.phonemes})
    if extra:
        lines.append(f"Predicted, but not among the test tokens: {', '.join(articulation_order(extra))}.")
    return "\n".join(lines)
