"""What the commands `adapt`, `ablate`, `demo` and `evaluate` do: from recordings to a language pack and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mtl_speech.commands.demo import CAVEAT, STAMP, is_synthetic
from mtl_speech.commands.earlier import earlier_kept
from mtl_speech.commands.target import Start, Target, describe, load_chosen_base, load_start, load_target, recordings_of
from mtl_speech.core.errors import DataError, UsageError, problem_list
from mtl_speech.core.files import atomic_write, unchanged
from mtl_speech.core.options import AdaptConfig, AdaptOptions, DemoOptions, EvaluateOptions, part
from mtl_speech.core.run import Run
from mtl_speech.core.settings import as_dict
from mtl_speech.corpora.corrections import CHANGES, EXAMPLES, changes_csv, examples_json
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.corpora.remote import local_folder
from mtl_speech.features.store import build_store
from mtl_speech.model.language_pack import load_language, true_labels, with_timing
from mtl_speech.model.learner import embed_segments
from mtl_speech.model.pack import load_pack, pack_hash
from mtl_speech.phonology.languages import canonical, display_name
from mtl_speech.report.clips import cut_clips
from mtl_speech.report.findings import Details
from mtl_speech.report.results import write_results
from mtl_speech.report.tables import ablation_table, f1_table, write_report
from mtl_speech.scoring.metrics import NotScored, Scores
from mtl_speech.scoring.tokens import score_tokens
from mtl_speech.training.adapt import BASELINE, Ablation, Adaptation, Learned, adapt_fold, learn, recognise
from mtl_speech.training.adapt import ablate as run_ablation
from mtl_speech.training.forgetting import compare_base
from mtl_speech.training.learning_curve import learning_curve
from mtl_speech.training.zero_shot import mapping_lines


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
    names = (
        "n_words",
        "shots",
        "meta_steps",
        "seed",
        "base",
        "strategy",
        "threads",
        "output_dir",
        "cache_dir",
        "cache_gib",
    )
    chosen = {name: getattr(options, name) for name in names}
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
    base = load_chosen_base(options, options.strategy)
    start = load_start(base, options.strategy)
    run.say(start.how)
    hard_ratio = options.hard_ratio or (0.0 if command == "adapt" else start.meta.hard_ratio)
    start = replace(start, meta=replace(start.meta, hard_ratio=hard_ratio))
    return _Job(options, part(options, AdaptConfig), folder, start, load_target(options, folder, run, base.front_end))


def _finish(job: _Job, run: Run, systems: Mapping[str, Sequence[Adaptation]], ablation: Ablation | None) -> Scores:
    """Learn the final model where the folds took turns, write everything, and print the tables."""
    start, target, runs = job.start, job.target, list(systems.values())[-1]
    notes = []
    for name, each in systems.items():
        for number, fold in enumerate(each, 1):
            place = ", ".join(filter(None, [name, f"fold {number}" if len(each) > 1 else ""]))
            said = fold.learned.notes[1 if name == BASELINE else 0 :]  # a baseline has no meta-training to tell of
            notes += [f"{place}: {note}" if place else note for note in said]
    final = runs[0].learned
    if len(runs) > 1:
        final = learn(start.learner(target.everything), target.everything, job.config, start.meta)
        notes.append("the language pack is learned from all recordings; the scores are those of the folds together")
    timed = with_timing(final.model, start.base, final.train, job.config.shots is None, job.config.seed)
    final = replace(final, model=timed)
    notes += [f"zero-shot, for want of an example: {line}" for line in mapping_lines(final.model.zero_shot)]
    for note in notes:
        run.say(note)
    curve = learning_curve(start.learner, target.folds, job.config, adapted=runs)
    with earlier_kept(job.folder, run.say):
        scores, paths = write_results(
            job.folder,
            runs,
            start.base,
            job.config,
            start.meta,
            command=run.command,
            final=final,
            ablation=ablation,
            notes=[start.how, *target.notes, *notes, *([CAVEAT] if target.stamp else [])],
            left_out=target.left_out,
            stamp=target.stamp,
            extra={**target.extra, "options": as_dict(job.options), "zero_shot": final.model.zero_shot},
            about=_about(job, final),
            curve=curve,
            heard=target.everything.train,
            recordings=target.recordings if job.options.clips else None,
        )
        paths += _write_examples(job)
    run.table(f1_table(scores, target.stamp))
    if ablation is not None:
        run.table(ablation_table(ablation.rows, target.stamp))
    if target.stamp:
        run.result(CAVEAT)
    run.wrote(job.folder, paths if job.options.data is not None else [*paths, job.folder / "corpus"])
    return scores


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
    base = load_chosen_base(options, folder)
    model = load_language(pack, base)
    local = local_folder(options.data, run)
    corpus = read_corpus(local.folder, lang, options.phone_set)
    run.say(describe(corpus, lang))
    with unchanged(u.audio for u in corpus.utterances):
        store = build_store([corpus], front_end=base.front_end)
    problems = [*corpus.problems, *store.problems]
    notes = [f"language pack '{pack.name}'", *run.left_out(problems, local.folder)]
    problems = [*local.problems, *problems]
    known = torch.tensor([phoneme in model.classes for phoneme in store.phonemes])[store.label]
    outside = Counter(true_labels(store.select(torch.nonzero(~known).squeeze(1))))
    if not bool(known.any()):
        raise DataError(
            f"{options.data}: none of its {len(outside)} phonemes is in the pack's inventory ({', '.join(model.classes)})"
        )
    test = store.select(torch.nonzero(known).squeeze(1))
    reason = "not in the pack's inventory"
    not_scored = [NotScored(phoneme, n, reason) for phoneme, n in sorted(outside.items())]
    if outside:
        notes.append(
            f"{sum(outside.values())} examples of {len(outside)} phonemes are {reason}: not scored, so precision is that "
            "on the others"
        )
    n_train = {p: n for p, n in pack.value("examples", dict).items() if isinstance(n, int)}
    tokens = recognise(model, test, embed_segments(model.learner, test), n_train)
    scores = score_tokens(tokens, n_train, not_scored, options.seed)
    stamp = STAMP if is_synthetic(local.folder) else ""
    notes += [CAVEAT] if stamp else []
    extra = {"pack": pack.name, "pack_sha256": pack_hash(pack), "problems": problem_list(problems, local.folder)}
    details = Details(
        about={
            "Language": f"{display_name(lang)} ({lang})",
            "Language pack": f"{pack.name} (SHA-256 {pack_hash(pack)[:12]}…)",
            "Scored on": describe(corpus, lang),
        },
        tokens=tokens,
        temperature=model.temperature,
        base=compare_base(base, model.learner, test),
        clips=cut_clips(scores, tokens, recordings_of(corpus)) if options.clips else None,
    )
    paths = write_report(
        output,
        scores,
        settings=as_dict(options),
        command=run.command,
        notes=notes,
        extra=extra,
        stamp=stamp,
        details=details,
    )
    run.table(f1_table(scores, stamp))
    for note in notes[-1:] if stamp else []:
        run.result(note)
    run.wrote(output, paths)
    return scores
