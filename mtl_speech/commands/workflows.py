"""What the commands `adapt`, `ablate`, `demo` and `evaluate` do: from recordings to a language pack and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mtl_speech.commands.target import (
    CAVEAT,
    STAMP,
    Start,
    Target,
    describe,
    is_synthetic,
    load_chosen_base,
    load_start,
    load_target,
    recordings_of,
)
from mtl_speech.core.errors import DataError, UsageError, problem_list
from mtl_speech.core.files import atomic_write, unchanged
from mtl_speech.core.options import AdaptConfig, AdaptOptions, DemoOptions, EvaluateOptions, part
from mtl_speech.core.run import Run
from mtl_speech.core.settings import as_dict, settings
from mtl_speech.corpora.corrections import CHANGES, EXAMPLES, changes_csv, examples_json
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.remote import local_folder, local_labels
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.language_pack import LanguageModel, load_language, true_labels, with_timing
from mtl_speech.model.learner import embed_segments
from mtl_speech.model.pack import Pack, load_pack, pack_hash
from mtl_speech.phonology.languages import canonical, display_name
from mtl_speech.report.findings import Details, compare_base, learning_curve
from mtl_speech.report.page import cut_clips
from mtl_speech.report.results import (
    Experiment,
    Outcome,
    ablation_table,
    earlier_kept,
    f1_table,
    write_report,
    write_results,
)
from mtl_speech.scoring.metrics import NotScored, Scores, Token, score_tokens
from mtl_speech.training.adapt import Ablation, Adaptation, Learned, adapt_fold, learn, recognise
from mtl_speech.training.adapt import ablate as run_ablation
from mtl_speech.training.base_learning import mapping_lines

OUTSIDE = "not in the pack's inventory"  # why a phoneme is not scored


def adapt(options: AdaptOptions, run: Run) -> Scores:
    """Learn to recognise the phonemes of a language, and score it on what was held out."""
    job = _begin(options, run, "adapt")
    runs = [adapt_fold(job.start.learner(fold), fold, job.config, job.start.meta) for fold in job.target.folds]
    return _finish(job, run, {"": runs}, None)


def ablate(options: AdaptOptions, run: Run, experiment: str | None = None) -> Ablation:
    """What each step brings: baseline, + meta-transfer, + curriculum, on the same examples and tests."""
    job = _begin(options, run, "ablate", experiment)
    start = job.start
    ablation = run_ablation(start.base, start.learner, job.target.folds, job.config, start.meta)
    _finish(job, run, ablation.systems, ablation)
    return ablation


def demo(options: DemoOptions, run: Run) -> Ablation:
    """The ablation on the built-in Punjabi corpus with few examples."""
    chosen = {field.name: getattr(options, field.name) for field in settings(DemoOptions)}
    return ablate(AdaptOptions(lang="pa", clips=True, **chosen), run, "demo")  # a machine's voice is nobody's


@dataclass(frozen=True)
class _Job:
    """What `adapt` and `ablate` have in common."""

    options: AdaptOptions
    config: AdaptConfig
    folder: Path
    start: Start
    target: Target


def _begin(options: AdaptOptions, run: Run, command: str, experiment: str | None = None) -> _Job:
    """Check the options, then load everything. Raises UsageError where there is no data for the language."""
    lang = canonical(options.lang or "pa")
    if options.data is None and lang != "pa":
        raise UsageError(
            f"--data is needed for {display_name(lang)} ({lang}): a folder of audio files with TextGrids; "
            "only Punjabi (pa) is built in"
        )
    options = replace(options, lang=lang)
    folder = run.begin(options, experiment or f"{command}-{lang}")
    strategy = load_pack(options.strategy, "strategy") if options.strategy is not None else None
    base = load_chosen_base(options, strategy)
    start = load_start(base, strategy)
    run.say(start.how)
    hard_ratio = options.hard_ratio or (0.0 if command == "adapt" else start.meta.hard_ratio)
    start = replace(start, meta=replace(start.meta, hard_ratio=hard_ratio))
    if options.meta_steps is None and command == "adapt":
        options = replace(options, meta_steps=0)  # on a target alone it was not shown to gain anything
    return _Job(options, part(options, AdaptConfig), folder, start, load_target(options, folder, run, base))


def _finish(job: _Job, run: Run, systems: Mapping[str, Sequence[Adaptation]], ablation: Ablation | None) -> Scores:
    """Learn the final model where the folds took turns, write everything, and print the tables."""
    target = job.target
    outcome, notes = _outcome(job, systems)
    for note in notes:
        run.say(note)
    told = outcome.experiment(run.command)
    experiment = replace(
        told,
        ablation=ablation.rows if ablation is not None else None,
        notes=[job.start.how, *target.notes, *notes, *([CAVEAT] if target.stamp else [])],
        left_out=target.left_out,
        stamp=target.stamp,
        extra={**target.extra, "options": as_dict(job.options), "zero_shot": outcome.final.model.zero_shot},
        details=_details(job, outcome, told),
    )
    with earlier_kept(job.folder, run.say):
        paths = [*write_results(job.folder, outcome, experiment), *_write_examples(job)]
    _show(experiment, run)
    run.wrote(job.folder, paths if job.options.data is not None else [*paths, job.folder / "corpus"])
    return experiment.scores


def _outcome(job: _Job, systems: Mapping[str, Sequence[Adaptation]]) -> tuple[Outcome, list[str]]:
    """The last of the systems with the model to keep, which is learned from all recordings where folds took turns; and notes."""
    start, target, runs = job.start, job.target, list(systems.values())[-1]
    notes = []
    for name, each in systems.items():
        for number, fold in enumerate(each, 1):
            place = ", ".join(filter(None, [name, f"fold {number}" if len(each) > 1 else ""]))
            notes += [f"{place}: {note}" if place else note for note in fold.learned.notes]
    final = runs[0].learned
    if len(runs) > 1:
        final = learn(start.learner(target.everything), target.everything, job.config, start.meta)
        notes.append("the language pack is learned from all recordings; the scores are those of the folds together")
    base = start.base.at_layer(final.model.learner.encoder.layer)
    timed = with_timing(final.model, base, final.train, job.config.shots is None, job.config.seed)
    final = replace(final, model=timed)
    notes += [f"zero-shot, for want of an example: {line}" for line in mapping_lines(final.model.zero_shot)]
    return Outcome(runs, final, base, job.config, start.meta), notes


def _details(job: _Job, outcome: Outcome, told: Experiment) -> Details:
    """What the page shows: what the experiment told already, and what is measured for the page alone."""
    start, target = job.start, job.target
    return replace(
        told.details,
        about=_about(job, outcome.final),
        curve=learning_curve(start.learner, target.folds, job.config, adapted=outcome.runs),
        base=compare_base(outcome.base, outcome.final.model.learner, bool(outcome.final.history.rounds)),
        clips=cut_clips(told.scores, told.details.tokens, target.recordings) if job.options.clips else None,
    )


def _write_examples(job: _Job) -> list[Path]:
    """Write what was learned from, which the next run compares with, and what changed; an older list of changes goes."""
    target, paths = job.target, []
    if target.changes:
        paths.append(atomic_write(job.folder / CHANGES, changes_csv(target.changes)))
    else:
        (job.folder / CHANGES).unlink(missing_ok=True)
    if target.examples:
        paths.append(atomic_write(job.folder / EXAMPLES, examples_json(target.examples)))
    return paths


def _about(job: _Job, final: Learned) -> dict[str, str]:
    """What was done, in a few words by heading, for the top of the page."""
    n, most = sum(final.n_train.values()), job.config.shots
    return {
        "Language": f"{display_name(job.config.lang)} ({job.config.lang})",
        "Starts from": job.start.how.removeprefix("starts from "),
        "Learned from": f"{n:,} examples of {len(final.n_train)} phonemes{f', at most {most} of each' if most else ''}",
        "Split": job.target.folds[0].how,
    }


def evaluate(folder: Path, options: EvaluateOptions, run: Run) -> Scores:
    """Score the language pack in `folder` on a folder of labelled recordings."""
    assert options.data is not None
    pack = load_pack(folder, "language")
    lang = pack.value("language", str)
    output = run.begin(options, f"evaluate-{pack.name}")
    base = load_chosen_base(options, pack)
    model = load_language(pack, base)
    local = local_folder(options.data, run)
    apart = local_labels(options.labels, run)
    corpus = read_corpus(local.folder, lang, options.phone_set, options.tier, labels=apart)
    run.say(describe(corpus, lang))
    with unchanged(u.audio for u in corpus.utterances):
        store = base.hear([corpus])
    problems = [*corpus.problems, *store.problems]
    notes = [f"language pack '{pack.name}'", *run.left_out(problems, local.folder)]
    test, not_scored = _known_to(model, store, options.data)
    notes += _told_of(not_scored)
    scores, tokens = _scored(pack, model, test, not_scored, options.seed)
    stamp = STAMP if is_synthetic(local.folder) else ""
    about = {
        "Language": f"{display_name(lang)} ({lang})",
        "Language pack": f"{pack.name} (SHA-256 {pack_hash(pack)[:12]}…)",
        "Scored on": describe(corpus, lang),
    }
    clips = cut_clips(scores, tokens, recordings_of(corpus)) if options.clips else None
    listed, same = problem_list([*local.problems, *problems], local.folder), compare_base(base, model.learner, False)
    experiment = Experiment(
        scores,
        as_dict(options),
        run.command,
        notes=[*notes, *([CAVEAT] if stamp else [])],
        extra={"pack": pack.name, "pack_sha256": pack_hash(pack), "problems": listed},
        stamp=stamp,
        details=Details(about, tokens, model.temperature, base=same, clips=clips),
    )
    paths = write_report(output, experiment)
    _show(experiment, run)
    run.wrote(output, paths)
    return scores


def _show(experiment: Experiment, run: Run) -> None:
    """Print the tables of an experiment."""
    run.table(f1_table(experiment.scores, experiment.stamp))
    if experiment.ablation:
        run.table(ablation_table(experiment.ablation, experiment.stamp))
    if experiment.stamp:
        run.result(CAVEAT)


def _known_to(model: LanguageModel, store: SegmentStore, data: object) -> tuple[SegmentStore, list[NotScored]]:
    """The segments of which the model knows the phoneme, and the phonemes of the others. Raises DataError where it knows none."""
    known = torch.tensor([phoneme in model.classes for phoneme in store.phonemes])[store.label]
    outside = Counter(true_labels(store.select(torch.nonzero(~known).squeeze(1))))
    if not bool(known.any()):
        raise DataError(
            f"{data}: none of its {len(outside)} phonemes is in the pack's inventory ({', '.join(model.classes)})"
        )
    test = store.select(torch.nonzero(known).squeeze(1))
    return test, [NotScored(phoneme, n, OUTSIDE) for phoneme, n in sorted(outside.items())]


def _told_of(not_scored: Sequence[NotScored]) -> list[str]:
    """A note on what was not scored; none where all was."""
    n = sum(missing.n_examples for missing in not_scored)
    said = f"{n} examples of {len(not_scored)} phonemes are {OUTSIDE}: not scored, so precision is that on the others"
    return [said] if not_scored else []


def _scored(
    pack: Pack, model: LanguageModel, test: SegmentStore, not_scored: Sequence[NotScored], seed: int
) -> tuple[Scores, Sequence[Token]]:
    """The scores of a pack's model on segments of phonemes that it knows, and what it gave each."""
    n_train = {p: n for p, n in pack.value("examples", dict).items() if isinstance(n, int)}
    tokens = recognise(model, test, embed_segments(model.learner, test), n_train)
    return score_tokens(tokens, n_train, not_scored, seed), tokens
