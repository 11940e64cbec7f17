"""How often the 95 % intervals hold the value of the population, by simulation.

    python benchmarks/coverage.py --output coverage.json

Test sets are drawn from made-up populations whose figures are known from a very large draw. Recordings differ in how easy they are,
so that their tokens are right or wrong together; the second system of a pair makes more errors, mostly at the same tokens. Half of
the differences between languages are within them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_speech.core.files import atomic_write
from mtl_speech.core.json_values import json_text
from mtl_speech.corpora.corpus import Segment
from mtl_speech.scoring.bootstrap import mean_interval, paired_difference
from mtl_speech.scoring.metrics import macro_f1_difference, score
from mtl_speech.scoring.sequences import score_transcriptions
from mtl_speech.transcription.transcript import Phone, Transcription

N_CLASSES, TOKENS, SPREAD, GAP = (
    30,
    5.0,
    0.8,
    0.4,
)  # tokens of a recording (mean); on the scale of log odds: recordings, systems
SOUNDS = ("p", "t", "k", "a", "i", "u", "m", "n", "s", "l")
POPULATION = 400_000  # recordings of the very large draw
Held = dict[str, bool | float]  # of each interval, whether it held (or the share of the phonemes whose did)


def draw_tokens(rng: np.random.Generator, n: int) -> tuple[NDArray[np.int64], ...]:
    """True classes, those that two systems predict, and recordings, each (n_tokens,), of `n` recordings."""
    share = 1 / (np.arange(N_CLASSES) + 3)
    recording = np.repeat(np.arange(n), 1 + rng.poisson(TOKENS - 1, size=n))
    true = rng.choice(N_CLASSES, size=len(recording), p=share / share.sum())
    odds = np.linspace(2.0, -0.5, N_CLASSES)[true] + SPREAD * rng.standard_normal(n)[recording]
    luck, other = rng.random(len(true)), (true + rng.integers(1, N_CLASSES, size=len(true))) % N_CLASSES
    a, b = (np.where(luck < 1 / (1 + np.exp(gap - odds)), true, other) for gap in (0.0, GAP))
    return true, a, b, recording


def class_f1(true: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class, (N_CLASSES,), from its definition."""
    right = np.bincount(true[true == predicted], minlength=N_CLASSES)
    return 2 * right / (np.bincount(true, minlength=N_CLASSES) + np.bincount(predicted, minlength=N_CLASSES))


def f1_trial(n: int, seed: int = 0) -> Callable[[int], Held]:
    """Test sets of `n` recordings: F1 and the difference of two systems, resampled by recordings and by tokens."""
    true, a, b, _ = draw_tokens(np.random.default_rng(99), POPULATION)
    each, gain, micro = (
        class_f1(true, a),
        class_f1(true, a).mean() - class_f1(true, b).mean(),
        float((true == a).mean()),
    )

    def trial(number: int) -> Held:
        *labels, recording = draw_tokens(np.random.default_rng((seed, number)), n)
        t, p, q = ([str(i) for i in values] for values in labels)
        groups = [str(i) for i in recording]
        scores, by_token = (score(t, p, given, n_bootstrap=400, seed=number) for given in (groups, None))
        difference = macro_f1_difference(t, p, q, groups, n_bootstrap=400, seed=number)
        phonemes = [holds(item.f1_ci95, each[int(item.phoneme)]) for item in scores.phonemes]
        present = [int(item.phoneme) for item in scores.phonemes]  # rare phonemes are missing from small test sets
        macro = float(each[present].mean())
        return {
            "F1 of a phoneme": float(np.mean(phonemes)),
            "macro-F1": holds(scores.macro_f1_ci95, macro),
            "macro-F1, by tokens": holds(by_token.macro_f1_ci95, macro),
            "micro-F1": holds(scores.micro_f1_ci95, micro),
            "micro-F1, by tokens": holds(by_token.micro_f1_ci95, micro),
            "difference in macro-F1": holds(difference.ci95, gain),
        }

    return trial


def language_trial(n: int, seed: int = 1) -> Callable[[int], Held]:
    """Paired differences over tasks of `n` languages, resampled by languages and tasks; and the t interval of one language's."""

    def trial(number: int) -> Held:
        rng = np.random.default_rng((seed, number))
        effects = 0.03 + 0.05 * rng.standard_normal(n)
        languages = np.repeat(np.arange(n), 40)
        gains = effects[languages] + 0.05 * rng.standard_normal(len(languages))
        found = paired_difference(
            gains, np.zeros_like(gains), [str(i) for i in languages], n_bootstrap=400, seed=number
        )
        mean, half = mean_interval(gains[:40])
        return {
            "paired difference, new languages": holds(found.ci95, 0.03),
            "mean of 40 tasks": holds((mean - half, mean + half), float(effects[0])),
        }

    return trial


def draw_transcriptions(rng: np.random.Generator, n: int) -> tuple[list[tuple[Segment, ...]], list[Transcription]]:
    """Recordings of random phones, and transcriptions with wrong, missing and superfluous phones and moved boundaries."""
    references, found = [], []
    for _ in range(n):
        wrong = 1 / (1 + np.exp(1.2 - rng.standard_normal()))
        labels = rng.choice(SOUNDS, 1 + rng.poisson(4))
        edges = 0.1 + 0.1 * np.arange(len(labels) + 1)
        references.append(tuple(map(Segment, labels.tolist(), edges[:-1].tolist(), edges[1:].tolist())))
        moved = edges + rng.normal(0, 0.015, size=len(edges))
        phones = [
            Phone(str(rng.choice(SOUNDS)) if rng.random() < wrong else str(p), s, e, float(rng.random()))
            for p, s, e in zip(labels, moved, moved[1:], strict=False)
            if rng.random() > wrong / 3
        ]
        found.append(Transcription(float(edges[-1] + 0.1), tuple(phones)))
    return references, found


def transcription_trial(n: int, seed: int = 2) -> Callable[[int], Held]:
    """Phone error rate and boundary figures of `n` recordings."""
    names = {"phone error rate": "phone_error_rate", "boundary F1": "boundary_f1", "R-value": "r_value"}
    truth = score_transcriptions(*draw_transcriptions(np.random.default_rng(98), 20_000), n_bootstrap=1)

    def trial(number: int) -> Held:
        pairs = draw_transcriptions(np.random.default_rng((seed, number)), n)
        scores = score_transcriptions(*pairs, n_bootstrap=400, seed=number)
        return {name: holds(getattr(scores, key).ci95, getattr(truth, key).value) for name, key in names.items()}

    return trial


def holds(ci95: tuple[float, float], value: float) -> bool:
    return bool(ci95[0] <= value <= ci95[1])


def coverage(trial: Callable[[int], Held], n: int) -> dict[str, float]:
    """The share of `n` trials whose interval held the value."""
    trials = [trial(number) for number in range(n)]
    return {name: float(np.mean([each[name] for each in trials])) for name in trials[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("coverage.json"))
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for make, sizes, unit in (
        (f1_trial, (10, 30, 100, 300), "recordings"),
        (language_trial, (5, 8, 20), "languages"),
        (transcription_trial, (10, 30, 100), "recordings"),
    ):
        for n in sizes:
            for name, share in coverage(make(n), options.trials).items():
                found.setdefault(f"{name} ({unit})", {})[str(n)] = share
            print(n, unit, flush=True)
    atomic_write(options.output, json_text({"trials": options.trials, "coverage": found}))
    for name, row in found.items():
        print(f"| {name} | {', '.join(f'{n}: {100 * share:.1f} %' for n, share in row.items())} |")


if __name__ == "__main__":
    main()
