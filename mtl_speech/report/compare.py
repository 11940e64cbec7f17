"""Two reports side by side: is one experiment better than the other on the same test tokens?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mtl_speech.core.errors import DataError
from mtl_speech.core.files import atomic_write, json_text, plain
from mtl_speech.core.options import CompareOptions
from mtl_speech.core.run import Run
from mtl_speech.core.terminal import Kind, filled_table
from mtl_speech.scoring.bootstrap import Difference, interval_text
from mtl_speech.scoring.metrics import (
    RELIABLE_FROM,
    Scores,
    Token,
    read_tokens,
    remark_on,
    score_tokens,
    token_difference,
)

N_PHONEMES = 10  # that differ most
N_NAMED = 3  # tokens that are named where the reports cannot be compared
_Key = tuple[str, float, float, str]


@dataclass(frozen=True)
class PhonemeDifference:
    """F1 of one phoneme in both experiments, over `n` test tokens."""

    phoneme: str
    n: int
    f1_a: float
    f1_b: float
    difference: float  # b - a


@dataclass(frozen=True)
class Comparison:
    """Two experiments on the same test tokens. `difference` is macro-F1 of b minus that of a, paired over recordings."""

    a: Scores
    b: Scores
    difference: Difference
    phonemes: tuple[PhonemeDifference, ...]  # all, those that differ most first


def compare(folder_a: Path, folder_b: Path, options: CompareOptions, run: Run) -> Comparison:
    """Compare the reports in two folders; prints both scores, the paired difference, and the phonemes that differ most."""
    if options.output_dir is not None:
        run.begin(options, None)
    found = compare_tokens(read_tokens(folder_a), read_tokens(folder_b), str(folder_a), str(folder_b), options.seed)
    run.table(scores_table(found, str(folder_a), str(folder_b)))
    gain = found.difference
    run.result(f"B - A, macro-F1: {gain.mean:+.3f} {interval_text(gain.ci95, signed=True)}, {verdict(gain)}\n")
    run.table(phonemes_table(found))
    if options.output_dir is not None:
        data = plain({"a": str(folder_a), "b": str(folder_b), "comparison": found})
        run.wrote(options.output_dir, [atomic_write(options.output_dir / "compare.json", json_text(data))])
    return found


def compare_tokens(
    a: Sequence[Token], b: Sequence[Token], name_a: str = "A", name_b: str = "B", seed: int = 0
) -> Comparison:
    """The comparison of two lists of tokens, whatever their order.

    Raises DataError, which says what differs, when they are not the same test tokens.
    """
    key_a, key_b = Counter(map(_key, a)), Counter(map(_key, b))
    if key_a != key_b:
        lines = [_only(key_a - key_b, name_a), _only(key_b - key_a, name_b)]
        raise DataError(
            "the two were not tested on the same tokens, so their difference would mean nothing:\n"
            + "\n".join(filter(None, lines))
            + f"\n{(key_a & key_b).total()} tokens are in both; test both on the same folder (--test) with the same phonemes "
            "(adapt --inventory tests those without an example too, as zero-shot)"
        )
    a, b = sorted(a, key=_key), sorted(b, key=_key)
    scores_a, scores_b = (score_tokens(tokens, seed=seed) for tokens in (a, b))
    phonemes = [
        PhonemeDifference(one.phoneme, one.n, one.f1, other.f1, other.f1 - one.f1)
        for one, other in zip(scores_a.phonemes, scores_b.phonemes, strict=True)
    ]
    ordered = sorted(phonemes, key=lambda p: (-abs(p.difference), p.phoneme))
    return Comparison(scores_a, scores_b, token_difference(b, a, seed), tuple(ordered))


def _key(token: Token) -> _Key:
    """What makes two tokens the same: place, to the millisecond, and label."""
    return token.recording, round(token.start, 3), round(token.end, 3), token.true


def _only(tokens: Counter[_Key], name: str) -> str:
    """A line on the tokens that one experiment has alone; empty where there is none."""
    if not tokens:
        return ""
    phonemes = Counter(key[3] for key in tokens.elements()).most_common()
    some = ", ".join(
        f"'{true}' in {recording} at {start:.3f} s" for recording, start, _, true in sorted(tokens)[:N_NAMED]
    )
    of = ", ".join(f"{phoneme} ({n})" for phoneme, n in phonemes[:N_PHONEMES])
    more = f" and {len(phonemes) - N_PHONEMES} other phonemes" if len(phonemes) > N_PHONEMES else ""
    return f"  only in {name}: {tokens.total()} tokens of {of}{more}; such as {some}"


def verdict(difference: Difference) -> str:
    """What an interval of a difference says, in words."""
    low, high = difference.ci95
    if low > 0 or high < 0:
        return f"B is {'better' if low > 0 else 'worse'}: the interval is clear of 0"
    return "no difference is shown: the interval holds 0"


def scores_table(found: Comparison, name_a: str, name_b: str) -> Table:
    """Macro-F1 and micro-F1 of both."""
    rows = [
        [
            f"{letter}: {name}",
            f"{scores.macro_f1:.3f} {interval_text(scores.macro_f1_ci95)}",
            f"{scores.micro_f1:.3f} {interval_text(scores.micro_f1_ci95)}",
        ]
        for letter, name, scores in (("A", name_a, found.a), ("B", name_b, found.b))
    ]
    over = f"{found.a.n_groups} recordings" if found.a.n_groups else "tokens"
    caption = f"{found.a.n} tokens of {len(found.a.phonemes)} phonemes. In brackets: 95 %, bootstrap over {over}."
    columns: dict[str, Kind] = {"experiment": "text", "macro-F1": "word", "micro-F1": "word"}
    return filled_table("Two experiments on the same test tokens", columns, rows, caption)


def phonemes_table(found: Comparison) -> Table:
    """The phonemes that differ most."""
    columns: dict[str, Kind] = {"phoneme": "text"}
    columns |= dict.fromkeys(("n", "F1 of A", "F1 of B", "B - A"), "figure")
    rows = [
        [
            row.phoneme,
            row.n,
            f"{row.f1_a:.3f}",
            f"{row.f1_b:.3f}",
            f"{row.difference:+.3f}",
            remark_on(zero_shot=False, reliable=row.n >= RELIABLE_FROM),
        ]
        for row in found.phonemes[:N_PHONEMES]
        if row.difference
    ]
    return filled_table("The phonemes that differ most", {**columns, "remark": "text"}, rows)
