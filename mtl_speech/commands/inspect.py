"""What the commands `validate`, `info`, `verify` and `export` do: look at recordings or packs, before they are used or given on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtl_speech.commands.target import load_chosen_base
from mtl_speech.core.errors import DataError, MtlSpeechError, PackError, Problem, in_groups, printable
from mtl_speech.core.files import atomic_write, csv_text
from mtl_speech.core.options import ExportOptions, InfoOptions, ValidateOptions, VerifyOptions
from mtl_speech.core.run import Run, use_caches
from mtl_speech.corpora import reading
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.remote import local_folder, local_labels
from mtl_speech.model.export import FILES, TOLERANCE, Folded, FoldedFrames, export_model, metadata, require_packages
from mtl_speech.model.language_pack import load_language, zero_shot_of
from mtl_speech.model.pack import CARD, WEIGHTS, Pack, load_pack, pack_hash, require_base
from mtl_speech.model.strategy import SHIPPED_ENCODER, BaseModel, load_base, load_learner, shipped
from mtl_speech.phonology.articulation import articulation_order
from mtl_speech.phonology.languages import canonical, display_name
from mtl_speech.training.base_learning import mapping_lines

FEW = 5  # examples: phonemes with fewer are named


def validate(folder: Path, options: ValidateOptions, run: Run) -> Corpus:
    """Say what a folder of recordings holds, and every problem in it. Raises DataError when something cannot be used."""
    output = run.begin(options, "validate") if options.output_dir is not None else None
    use_caches(options)
    lang = canonical(options.lang)
    local = local_folder(folder, run)
    labels = local_labels(options.labels, run)
    corpus = reading.validate(local.folder, lang, options.phone_set, options.tier, labels=labels)
    folder, corpus = local.folder, replace(corpus, problems=(*local.problems, *corpus.problems))
    for line in summary(corpus, lang):
        run.say(line)
    lines = in_groups(corpus.problems)
    for line in lines:
        run.result(line)
    named = "they are named above" + (
        ", three of each kind; -o writes all" if len(lines) < len(corpus.problems) else ""
    )
    unused = sum(not problem.used for problem in corpus.problems)
    if output is not None:
        run.wrote(output, [atomic_write(output / "problems.csv", _csv(corpus.problems, folder))])
    if unused:
        raise DataError(f"{folder}: {unused} things in it cannot be used; {named}")
    changed = f"; {len(corpus.problems)} things are changed as said above" if corpus.problems else ""
    run.result(f"{folder}: nothing is left out{changed}")
    return corpus


def summary(corpus: Corpus, lang: str) -> list[str]:
    """What a corpus holds, in lines."""
    counts = corpus.phoneme_counts()
    lines = [
        f"language:   {display_name(lang)} ({lang})",
        f"recordings: {len({u.audio for u in corpus.utterances})}",
        f"speakers:   {len({u.speaker for u in corpus.utterances})}",
        f"minutes:    {corpus.seconds / 60:.1f}",
        f"phonemes:   {len(counts)}, {sum(counts.values()):,} examples",
        *([f"phone set:  {corpus.notation}"] if corpus.notation else []),
    ]
    order = articulation_order(counts)
    lines += ["  " + "  ".join(f"{p} {counts[p]}" for p in order[i : i + 10]) for i in range(0, len(order), 10)]
    few = [f"{p} ({counts[p]})" for p in order if counts[p] < FEW]
    return [*lines, f"fewer than {FEW} examples: {', '.join(few) or 'none'}"]


def _csv(problems: Sequence[Problem], folder: Path) -> str:
    """Problems as CSV, files named below `folder`."""
    rows = [
        (
            p.file.relative_to(folder) if p.file.is_relative_to(folder) else p.file,
            p.tier or "",
            p.interval or "",
            "yes" if p.used else "no",
            p.said,
        )
        for p in problems
    ]
    return csv_text(("file", "tier", "interval", "used", "reason"), ([printable(str(c)) for c in row] for row in rows))


def info(folder: Path, options: InfoOptions, run: Run) -> Pack:
    """Say what a pack is, after checking it. Raises PackError when it is damaged, or not built on the base given."""
    output = run.begin(options, "info") if options.output_dir is not None else None
    pack = load_pack(folder)
    facts = describe_pack(pack)
    if "base" in pack.card:
        facts["builds on"] += "; " + _base_check(pack, options.base)
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        run.result(f"{key + ':':<{width}}{value}")
    if output is not None:
        run.wrote(output, [atomic_write(output / "info.json", json.dumps(pack.card, ensure_ascii=False, indent=1))])
    return pack


def verify(folders: Sequence[Path], options: VerifyOptions, run: Run) -> None:
    """Check packs one after the other, and name each check. Raises PackError when one failed, or the base cannot be used."""
    if options.output_dir is not None:
        run.begin(options, "verify")
    failed, given = 0, bool(options.base or options.encoder)
    shipped_or_given = None if options.encoder else load_base(options.base)
    for folder in folders:
        try:
            pack = load_pack(folder)
            base = shipped_or_given or load_chosen_base(options, pack)
            for passed in _checks(pack, folder, base, "the one given" if given else "the one that ships"):
                run.result(f"{folder}: {passed}")
        except MtlSpeechError as error:
            run.result(f"{folder}: FAILED: {error}")
            failed += 1
    if failed:
        raise PackError(f"{failed} of {len(folders)} packs cannot be trusted or used; the reason is named above")


def _checks(pack: Pack, folder: Path, base: BaseModel, which: str) -> Iterator[str]:
    """What holds of the pack in `folder`, which was loaded, check by check. Raises MtlSpeechError for what does not."""
    yield f"data only: {CARD} and {WEIGHTS}, no link, nothing that can hold code"
    yield f"the card keeps to the schema; {len(pack.tensors)} tensors as it lists them, all finite"
    yield f"the weights have the SHA-256 {pack_hash(pack)} that the card says"
    if pack.kind == "encoder":
        load_base(folder)
        yield "it loads as an encoder"
        return
    require_base(pack, base.pack)
    yield f"it builds on '{base.pack.name}', SHA-256 {pack_hash(base.pack)}, {which}"
    _ = load_language(pack, base) if pack.kind == "language" else load_learner(pack, base)
    yield f"it loads on its base as a {pack.kind}"


def describe_pack(pack: Pack) -> dict[str, str]:
    """The facts of a pack by name, for people."""
    card = pack.card
    n_values = sum(tensor.numel() for tensor in pack.tensors.values())
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in pack.tensors.values())
    facts = {
        "pack": f"{pack.name} ({pack.kind})",
        "SHA-256": f"{pack_hash(pack)} (agrees with the weights)",
        "weights": f"{n_values:,} values in {len(pack.tensors)} tensors, {n_bytes / 1000:,.0f} kB",
    }
    for key in (
        "language",
        "languages",
        "language_name",
        "stamp",
        "licence",
        "attribution",
        "recipe",
        "package_version",
    ):
        if card.get(key):
            facts[key.replace("_", " ")] = _text(card[key])
    phonemes = pack.phonemes("inventory" if pack.kind == "language" else "phonemes")
    facts["phonemes"] = f"{len(phonemes)}: {' '.join(articulation_order(phonemes))}"
    if pack.kind == "language" and (zero_shot := zero_shot_of(pack)):
        facts["zero-shot"] = f"{len(zero_shot)} without an example: {'; '.join(mapping_lines(zero_shot))}"
    if "base" in card:
        base = pack.value("base", dict)
        facts["builds on"] = f"{base['name']} (SHA-256 {base['sha256']})"
        if "hub" in base:
            facts["encoder layer"] = f"{base['hub']['layer']}, Φ on {', '.join(base['hub']['phi'])}"
    facts |= {f"scores, {name}": _text(value) for name, value in _entries(card.get("scores"))}
    return facts | {f"note {i}": _text(note) for i, note in enumerate(_list(card.get("notes")), 1)}


def _base_check(pack: Pack, base: Path | None) -> str:
    """Whether the base that was given, or the one that ships, is the one that a pack builds on. Raises PackError."""
    if base is not None:
        require_base(pack, load_pack(base, "encoder"))
        return "it is the one given"
    folder, named = shipped(SHIPPED_ENCODER), pack.value("base", dict)
    if folder.is_dir() and named["sha256"] == pack_hash(load_pack(folder, "encoder")):
        return "it ships with the package"
    return f"give it by {'--encoder' if 'hub' in named else '--base'} to use the pack"


def _entries(scores: object) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in scores.items()] if isinstance(scores, dict) else []


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """A card's value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else " ".join(str(value).split())


def export(folder: Path, options: ExportOptions, run: Run) -> list[Path]:
    """Write the language pack in `folder` in each format of `options`; gives the paths.

    Raises UsageError where a package is missing, PackError where the pack cannot be used or an exported model gives other
    probabilities than it.
    """
    require_packages(options.format)
    pack = load_pack(folder, "language")
    base = load_base(options.base)
    model = load_language(pack, base)
    output = run.begin(options, f"export-{pack.name}")
    folded = (Folded(model) if options.input == "waveform" else FoldedFrames(model)).eval()
    about, paths = metadata(pack, base, options.input), []
    n_parameters = sum(parameter.numel() for parameter in folded.parameters())
    run.say(f"'{pack.name}' on '{base.pack.name}': {n_parameters:,} weights, {len(model.classes)} phonemes")
    for format in options.format:
        data, difference = export_model(folded, format, about, options.seed)
        if not difference <= TOLERANCE:
            raise PackError(
                f"{folder}: the {format} model gives other probabilities than the pack (by {difference:.1e}): nothing was "
                "written; install the versions of constraints.txt"
            )
        paths.append(atomic_write(output / FILES[format], data))
        run.say(f"{format}: {len(data) / 1e6:.1f} MB, largest difference in a probability {difference:.1e}")
    run.wrote(output, paths)
    return paths
