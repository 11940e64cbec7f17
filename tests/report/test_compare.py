"""Two reports: the paired difference on the same tokens, and a refusal that says what differs where they are not the same."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from mtl_speech.core.errors import DataError
from mtl_speech.report.compare import N_PHONEMES, compare_tokens, verdict
from mtl_speech.scoring.bootstrap import Difference
from mtl_speech.scoring.metrics import TOKENS, Token, macro_f1_difference, score, tokens_csv
from tests.command_line import run
from tests.report_pages import example_tokens

TOKENS_A = example_tokens(12, 240)


def better(tokens: list[Token], every: int = 2) -> list[Token]:
    """The tokens with every second mistake put right."""
    return [replace(t, predicted=t.true) if i % every == 0 else t for i, t in enumerate(tokens)]


def folder(path: Path, tokens: list[Token]) -> Path:
    path.mkdir()
    (path / TOKENS).write_text(tokens_csv(tokens), encoding="utf-8")
    return path


def test_the_difference_is_that_of_the_metrics_whatever_the_order() -> None:
    b = better(TOKENS_A)
    shuffled = random.Random(0).sample(b, len(b))
    found = compare_tokens(TOKENS_A, shuffled)
    true, groups = [t.true for t in TOKENS_A], [t.recording for t in TOKENS_A]
    predicted = [[t.predicted for t in tokens] for tokens in (TOKENS_A, b)]
    expected = macro_f1_difference(true, predicted[1], predicted[0], groups)
    assert found.difference.mean == pytest.approx(expected.mean) and found.difference.n == 240
    assert found.difference.ci95 == pytest.approx(expected.ci95, abs=0.02)
    assert found.difference.mean == pytest.approx(found.b.macro_f1 - found.a.macro_f1) and found.difference.mean > 0
    assert found.a.macro_f1 == pytest.approx(score(true, predicted[0], groups).macro_f1)


def test_the_phonemes_that_differ_most_come_first() -> None:
    found = compare_tokens(TOKENS_A, better(TOKENS_A))
    sizes = [abs(p.difference) for p in found.phonemes]
    assert sizes == sorted(sizes, reverse=True) and len(found.phonemes) == len({t.true for t in TOKENS_A})
    for p in found.phonemes:
        (a,), (b,) = ([one.f1 for one in scores.phonemes if one.phoneme == p.phoneme] for scores in (found.a, found.b))
        assert (p.f1_a, p.f1_b, p.difference) == (a, b, b - a)


def test_an_experiment_does_not_differ_from_itself() -> None:
    found = compare_tokens(TOKENS_A, TOKENS_A)
    assert found.difference.mean == 0 and found.difference.ci95 == (0, 0)
    assert "no difference is shown" in verdict(found.difference)


def test_the_verdict_follows_the_interval() -> None:
    assert "better" in verdict(Difference(0.1, (0.05, 0.2), 9))
    assert "worse" in verdict(Difference(-0.1, (-0.2, -0.05), 9))
    assert "no difference" in verdict(Difference(0.1, (-0.05, 0.2), 9))
    assert "no difference" in verdict(Difference(0.1, (float("nan"), float("nan")), 9))


def test_other_tokens_are_refused_and_named() -> None:
    other = [*TOKENS_A[5:], replace(TOKENS_A[0], true="ŋ"), replace(TOKENS_A[1], start=9.125)]
    with pytest.raises(DataError) as caught:
        compare_tokens(TOKENS_A, other, "one", "two")
    message = str(caught.value)
    assert "not tested on the same tokens" in message
    assert "only in one: 5 tokens of " in message and "only in two: 2 tokens of " in message
    assert f"'{TOKENS_A[1].true}' in {TOKENS_A[1].recording} at 9.125 s" in message
    assert "235 tokens are in both" in message


def test_a_token_that_is_there_twice_is_not_there_once() -> None:
    with pytest.raises(DataError, match="only in B: 1 tokens"):
        compare_tokens(TOKENS_A, [*TOKENS_A, TOKENS_A[0]])


def test_the_command_prints_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = folder(tmp_path / "a", TOKENS_A), folder(tmp_path / "b", better(TOKENS_A))
    said = run("compare", "a", "b").stdout
    found = compare_tokens(TOKENS_A, better(TOKENS_A))
    gain = found.difference
    assert f"B - A, macro-F1: {gain.mean:+.3f} [{gain.ci95[0]:+.3f}, {gain.ci95[1]:+.3f}], B is better" in said
    assert f"A: a       {found.a.macro_f1:.3f} [" in said and f"B: b       {found.b.macro_f1:.3f} [" in said
    assert (
        f"240 tokens of {len(found.a.phonemes)} phonemes." in said
        and f"bootstrap over {len({t.recording for t in TOKENS_A})} recordings" in said
    )
    table = said[said.index("The phonemes that differ most") :].split("\n")[3:]
    assert [line.split()[0] for line in table if line] == [p.phoneme for p in found.phonemes[:N_PHONEMES]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # nothing is written
    run("compare", a, b, "--output-dir", "out", "-q")
    written = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert written["comparison"]["difference"] == {"mean": gain.mean, "ci95": list(gain.ci95), "n": 240}


def test_the_command_refuses_with_exit_code_1(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", TOKENS_A), folder(tmp_path / "b", TOKENS_A[1:])
    assert "only in " in run("compare", a, b, code=1).stderr
    assert "holds no tokens.csv" in run("compare", a, tmp_path, code=1).stderr
