"""A report with everything that a page can show, on made-up data, for the tests of the page and of the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mtl_speech.phonology.phonemes import normalise_ipa
from mtl_speech.report.findings import CurvePoint, Details, Forgetting, LearningCurve, Size
from mtl_speech.report.page import Clip, Clips, cut
from mtl_speech.report.results import Experiment, write_report
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import AblationRow, NotScored, Scores, Token, score
from tests.helpers import tone

CONSONANTS = "p pʰ b m f t̪ d̪ t n s z ɾ l t͡ʃ d͡ʒ ʃ ʈ ɖ ɳ ɽ j k kʰ ɡ ŋ x ɦ ʔ q χ ɓ ɗ ʛ ǃ tʼ kʷ n̥ ʙ v β".split()
VOWELS = "i ĩ ɪ u ũ ʊ e ẽ o õ ə ə̃ ɛ ɔ a ɑ ɑ̃ ɯ y ø ɨ ʉ".split()
NAN = float("nan")
ODD_ROWS = [
    AblationRow("baseline", 0.412, (0.385, 0.441), 0.53, (0.51, 0.55), None, 12_345, 31.2),
    AblationRow("+ [bold] Φ", 0.571, (0.54, 0.6), 0.66, (NAN, NAN), Difference(0.159, (0.13, 0.19), 9), 1_000, 310.0),
]
EVIL = "<script>document.title='owned'</script>"


def example_tokens(n_classes: int = 24, n_tokens: int = 400, seed: int = 0) -> list[Token]:
    """Tokens of skewed random phonemes, most of them right."""
    n_vowels = round(n_classes * 0.35)
    names = [normalise_ipa(name) for name in CONSONANTS[: n_classes - n_vowels] + VOWELS[:n_vowels]]
    rng = np.random.default_rng(seed)
    tokens = []
    for number in range(n_tokens):
        true = int(n_classes * rng.random() ** 1.5)
        guess = true if rng.random() < 0.7 else (true + int(rng.integers(1, 4))) % n_classes
        start = 0.1 + 0.1 * (number % 8)
        sure = round(float(rng.uniform(0.3, 1.0)), 4)
        tokens.append(Token(f"s{number % 3}/u{number // 8:02}", start, start + 0.1, names[true], names[guess], sure))
    return tokens


def scores_of(tokens: list[Token], **n_train: int) -> Scores:
    """Their scores; all phonemes were learned from 10 examples but those given."""
    true, predicted = [t.true for t in tokens], [t.predicted for t in tokens]
    learned = {**dict.fromkeys(true, 10), **n_train}
    missing = [NotScored("ɢ", 2, "no example left to test on"), NotScored(EVIL, 1, f"odd {EVIL}")]
    return score(true, predicted, [t.recording for t in tokens], learned, missing, n_bootstrap=50)


def example_clip(token: Token) -> Clip:
    """A clip of a buzz."""
    return cut(token, tone(1.2, 220.0))


def example_details(tokens: list[Token], clips: bool = True) -> Details:
    """Everything a page can show."""
    wrong = [token for token in tokens if token.true != token.predicted][:4]
    points = [CurvePoint(k, 7.5 * k, 0.2 + 0.05 * k, (0.15 + 0.05 * k, 0.3 + 0.05 * k), 5) for k in (1, 2, 5)]
    points.append(CurvePoint(None, 70.0, 0.61, (0.55, 0.66), 1))
    rounds = [[("pa", tokens[i].true), ("pa", tokens[2 * i].true)] for i in range(20)]
    return Details(
        about={"Language": "Punjabi (pa)", "Starts from": f"the strategy '{EVIL}'", "Split": "2 of 9 speakers"},
        tokens=tokens,
        temperature=1.25,
        curve=LearningCurve(tuple(points), len(tokens), 9),
        history=[rounds],
        curriculum=True,
        size=Size(4_321, 1_234_567, 240),
        base=Forgetting(
            "english", "ab" * 32, "ab" * 32, 0.0, True, {"readers": {"accuracy": 0.712, "macro_f1": 0.684}}
        ),
        clips=Clips(tuple(map(example_clip, wrong)), 3) if clips else None,
    )


def example_ablation() -> list[AblationRow]:
    """Two systems."""
    gain = Difference(0.159, (0.13, 0.19), 400)
    return [
        AblationRow("baseline", 0.412, (0.385, 0.441), 0.53, (0.51, 0.55), None, 12_345, 31.2),
        AblationRow(f"+ {EVIL}", 0.571, (0.54, 0.6), 0.66, (0.64, 0.68), gain, 1_000, 310.0),
    ]


def write_example(folder: Path, n_classes: int = 24, **changes: Any) -> Path:
    """Write the whole report; returns the path of its page."""
    tokens = example_tokens(n_classes)
    options: dict[str, Any] = {
        "settings": {"adapt": {"lang": "pa", "note": EVIL}},
        "command": f"mtl-speech adapt --lang pa --data '{EVIL}'",
        "notes": ["a note", EVIL],
        "stamp": "synthetic speech",
        "details": example_details(tokens),
    }
    write_report(folder, Experiment(scores_of(tokens, p=0), ablation=example_ablation(), **(options | changes)))
    return folder / "report.html"
