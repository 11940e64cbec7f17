"""What changes of the audio that leave the speech as it is do to phoneme F1: gain, silence, sample rate, format, channels.

    python benchmarks/audio_changes.py --data DIR/voxangeles --output audio_changes.json

Each language is learned from the English strategy that ships (base learning, cross-validated over recordings as `adapt` divides
them), and every recording is tested on as it is and changed. "Tested": the model learned from the recordings as they are. "Both":
it learned from recordings that are changed alike. The languages are the validation languages of recipes/VoxAngeles.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from mtl_speech.commands.target import load_start
from mtl_speech.core.files import atomic_write, json_text
from mtl_speech.core.options import AdaptConfig, MetaTrainConfig
from mtl_speech.corpora.corpus import Corpus
from mtl_speech.corpora.label_files.textgrid import write_textgrid
from mtl_speech.corpora.reading import read_corpus
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.language_pack import times
from mtl_speech.model.learner import MetaLearner, embed_segments
from mtl_speech.model.strategy import BaseModel
from mtl_speech.scoring.metrics import score
from mtl_speech.training.adapt import Adaptation, adapt_fold, pooled
from mtl_speech.training.folds import Fold, make_folds

LANGUAGES = ("bem", "bhk", "brv", "cji", "ibo", "lad")


@dataclass(frozen=True)
class Change:
    """A change of a recording. Gain in dB, silence before and after it in seconds, `rate` in Hz (None: as it is)."""

    gain: float = 0.0
    before: float = 0.0
    after: float = 0.0
    rate: int | None = None
    stereo: bool = False
    format: str = "wav"


CHANGES = {
    "as 32-bit WAV": Change(),
    "as FLAC": Change(format="flac"),
    "as stereo of two equal channels": Change(stereo=True),
    "6 dB louder": Change(gain=6.0),
    "6 dB softer": Change(gain=-6.0),
    "0.5 s of silence before": Change(before=0.5),
    "0.5 s of silence after": Change(after=0.5),
    "at 48 kHz": Change(rate=48_000),
    "at 44.1 kHz": Change(rate=44_100),
    "at 22.05 kHz": Change(rate=22_050),
    "at 8 kHz": Change(rate=8_000),
}


def changed(corpus: Corpus, folder: Path, change: Change) -> Corpus:
    """The recordings of a corpus written anew below `folder`, changed, with their TextGrids moved alike."""
    for utterance in corpus.utterances:
        samples, rate = soundfile.read(utterance.audio, dtype="float32", always_2d=True)
        samples = samples.mean(1) * np.float32(10 ** (change.gain / 20))
        samples = np.pad(samples, [round(seconds * rate) for seconds in (change.before, change.after)])
        if change.rate is not None:
            samples, rate = soxr.resample(samples, rate, change.rate, quality="VHQ"), change.rate
        if change.stereo:
            samples = np.stack((samples, samples), axis=1)
        path = folder / corpus.name / f"{utterance.id}.{change.format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype="FLOAT" if change.format == "wav" else "PCM_16")
        phones = [(s.start + change.before, s.end + change.before, s.phoneme) for s in utterance.segments]
        write_textgrid(path.with_suffix(".TextGrid"), len(samples) / rate, {"phones": phones})
    return read_corpus(folder / corpus.name, corpus.utterances[0].language, "ipa")


def predictions(run: Adaptation, store: SegmentStore) -> list[str]:
    """What a recogniser takes its test tokens for, these being found in a store of the same recordings, changed."""
    names, ids = {token.recording for token in run.tokens}, store.utterance_ids
    true, model = [token.true for token in run.tokens], run.learned.model
    scored = [
        ids[int(u)].partition("/")[2] in names and store.phonemes[int(p)] in true
        for u, p in zip(store.utterance, store.label, strict=True)
    ]
    test = store.select(torch.nonzero(torch.tensor(scored)).squeeze(1))
    assert [store.phonemes[int(i)] for i in test.label] == true, "another number or order of tokens"
    assert len(times(test)) == len(run.tokens)
    best = model.logits(embed_segments(model.learner, test)).argmax(1)
    return [model.classes[int(i)] for i in best]


def learn(strategy: MetaLearner, folds: Sequence[Fold]) -> list[Adaptation]:
    """A recogniser for each fold, by base learning alone."""
    return [adapt_fold(strategy, fold, AdaptConfig(meta_steps=0), MetaTrainConfig()) for fold in folds]


def compare(
    base: BaseModel, strategy: MetaLearner, corpus: Corpus, changes: dict[str, Change], work: Path
) -> dict[str, dict[str, float]]:
    """Of each change: macro-F1 minus that without it, and the share of predictions that differ; "tested" and "both"."""
    config = AdaptConfig(meta_steps=0)
    runs = learn(strategy, make_folds(corpus, None, config, base))
    true, plain = ([getattr(token, key) for token in pooled(runs)] for key in ("true", "predicted"))
    before = score(true, plain, n_bootstrap=1).macro_f1
    found = {"as it is": {"macro_f1": before, "tokens": len(true)}}
    for number, (name, change) in enumerate(changes.items()):
        other = changed(corpus, work / str(number), change)
        store = base.hear([other])
        tested = [label for run in runs for label in predictions(run, store)]
        again = learn(strategy, make_folds(other, None, config, base))
        assert [token.true for token in pooled(again)] == true
        found[name] = {}
        for key, labels in (("tested", tested), ("both", [token.predicted for token in pooled(again)])):
            found[name][f"{key}_f1"] = score(true, labels, n_bootstrap=1).macro_f1 - before
            found[name][f"{key}_moved"] = float(np.mean(np.asarray(labels) != np.asarray(plain)))
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: the mean over languages, the largest difference of one language, and the share of predictions that differ."""
    lines = [
        "| change | tested: macro-F1 | largest | predictions moved | both: macro-F1 | largest | predictions moved |"
    ]
    lines += ["|---|" + "---:|" * 6]
    weights = [each["as it is"]["tokens"] for each in found.values()]
    for name in list(next(iter(found.values())))[1:]:
        cells = []
        for key in ("tested", "both"):
            f1 = np.array([each[name][f"{key}_f1"] for each in found.values()])
            moved = np.average([each[name][f"{key}_moved"] for each in found.values()], weights=weights)
            cells += [f"{f1.mean():+.3f}", f"{f1[np.abs(f1).argmax()]:+.3f}", f"{100 * moved:.1f} %"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of VoxAngeles")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES))
    parser.add_argument("--output", type=Path, default=Path("audio_changes.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = load_start(None, None)
    found = {}
    for name in options.languages:
        corpus = read_corpus(options.data / name, name, "ipa")
        usable = replace(corpus, problems=())
        with tempfile.TemporaryDirectory() as work:
            learner = start.learner(None)  # type: ignore[arg-type]
            found[name] = compare(start.base, learner, usable, CHANGES, Path(work))
        print(name, f"macro-F1 {found[name]['as it is']['macro_f1']:.3f}", flush=True)
        atomic_write(options.output, json_text(found))
    print(table(found))


if __name__ == "__main__":
    main()
