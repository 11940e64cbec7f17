"""The scored tokens of an experiment: what each test segment is and what was predicted; as tokens.csv of a report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from mtl_speech.core.errors import DataError
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import NotScored, Scores, macro_f1_difference, score

TOKENS = "tokens.csv"
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Token:
    """One scored test segment. Times are in seconds of its recording; `confidence` is nan where it is not known.

    `recording` is the id of the recording: its path below the corpus folder without suffix. `remark` is ZERO_SHOT where the
    phoneme predicted is one of which the model had no example.
    """

    recording: str
    start: float
    end: float
    true: str
    predicted: str
    confidence: float = math.nan
    remark: str = ""


def scored_tokens(
    utterances: Sequence[str],
    spans: Sequence[tuple[float, float]],
    true: Sequence[str],
    predicted: Sequence[str],
    confidences: Sequence[float],
    learned: Container[str],
) -> list[Token]:
    """The tokens of lists that have an entry for each. `utterances` are named as in a store, by corpus and id.

    `learned`: the phonemes of which the model had an example.
    """
    return [
        Token(name.partition("/")[2], start, end, label, guess, sure, "" if guess in learned else ZERO_SHOT)
        for name, (start, end), label, guess, sure in zip(utterances, spans, true, predicted, confidences, strict=True)
    ]


def score_tokens(
    tokens: Sequence[Token],
    n_train: Mapping[str, int] | None = None,
    not_scored: Sequence[NotScored] = (),
    seed: int = 0,
) -> Scores:
    """The scores of tokens, with intervals over their recordings. Arguments as in `score`."""
    true, predicted, recordings = _columns(tokens)
    return score(true, predicted, recordings, n_train, not_scored, seed=seed)


def token_difference(tokens: Sequence[Token], others: Sequence[Token], seed: int = 0) -> Difference:
    """Macro-F1 of the predictions in `tokens` minus that in `others`, the same test tokens in the same order."""
    true, predicted, recordings = _columns(tokens)
    return macro_f1_difference(true, predicted, _columns(others)[1], recordings, seed=seed)


def _columns(tokens: Sequence[Token]) -> tuple[list[str], list[str], list[str]]:
    """What the tokens are, what was predicted, and their recordings."""
    return [t.true for t in tokens], [t.predicted for t in tokens], [t.recording for t in tokens]


COLUMNS = tuple(field.name for field in fields(Token))


def tokens_csv(tokens: Sequence[Token]) -> str:
    """The tokens as CSV, with a byte-order mark as in report.csv; times to 0.1 ms, confidences to four digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for token in tokens:
        recording, start, end, true, predicted, confidence, remark = astuple(token)
        sure = "" if math.isnan(confidence) else f"{confidence:.4f}"
        writer.writerow([recording, f"{start:.4f}", f"{end:.4f}", true, predicted, sure, remark])
    return "\ufeff" + stream.getvalue()


def read_tokens(folder: Path) -> list[Token]:
    """The tokens of the report in `folder`. Raises DataError where there are none that can be read."""
    path = folder / TOKENS
    if not path.is_file():
        raise DataError(f"{folder}: holds no {TOKENS}: give the folder that a report was written to")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        without_remarks = bool(rows) and tuple(rows[0]) == COLUMNS[:-1]  # as reports of earlier versions
        if not rows or (tuple(rows[0]) != COLUMNS and not without_remarks):
            raise ValueError(f"its columns must be {', '.join(COLUMNS)}")
        tokens = [
            Token(recording, float(start), float(end), true, predicted, float(sure) if sure else math.nan, remark)
            for recording, start, end, true, predicted, sure, remark in (
                [*row, *[""] * without_remarks] for row in rows[1:]
            )
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}): run the command that wrote it again") from error
    if not tokens:
        raise DataError(f"{path}: holds no token: run the command that wrote it again")
    return tokens
