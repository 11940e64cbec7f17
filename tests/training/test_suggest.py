"""The choice of what to label next: its value, its greedy choice, and each part of it on cases that can be told by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from mtl_speech.training import suggest
from mtl_speech.training.suggest import Candidate, Inventory, Suggestion, Weights, choose

PHONEMES = ("a", "b", "d", "k")
NAN = float("nan")
COVERAGE = Weights(diversity=0.0)
SOUNDS = Weights(coverage=0.0, diversity=1.0)


def inventory(examples: Sequence[float], f1: Sequence[float] = (NAN, NAN, NAN, NAN)) -> Inventory:
    return Inventory(PHONEMES, np.array(examples, dtype=float), np.array(f1, dtype=float))


def word(name: str, phones: str) -> Candidate:
    """A word of phonemes that are known for sure, never heard."""
    return Candidate(name, np.eye(4)[[PHONEMES.index(p) for p in phones]], np.empty((len(phones), 0)))


def drawn(rng: np.random.Generator, n: int, n_phones: int = 3, dim: int = 3) -> list[Candidate]:
    """Candidates of random phones."""
    return [Candidate(str(i), rng.dirichlet(np.ones(4), n_phones), rng.normal(size=(n_phones, dim))) for i in range(n)]


def names(found: Sequence[Suggestion]) -> list[str]:
    return [each.candidate.id for each in found]


def test_phonemes_without_an_example_come_first_and_gains_are_those_of_the_formula() -> None:
    found = choose([word("1", "aa"), word("2", "kb"), word("3", "ab")], inventory([9, 1, 1, 0]), 3, COVERAGE)
    assert names(found) == ["2", "3", "1"]
    assert found[0].gain == found[0].coverage == pytest.approx((1 / 2 - 0) + (2 / 3 - 1 / 2))
    assert found[1].gain == pytest.approx((10 / 11 - 9 / 10) + (3 / 4 - 2 / 3))  # b has 2 by now
    first, second = found[0].brings
    assert (first.phoneme, first.expected, first.examples, first.gain) == ("k", 1.0, 0, pytest.approx(0.5))
    assert (second.phoneme, second.examples) == ("b", 1) and np.isnan(second.f1)


def test_of_phonemes_with_as_many_examples_the_hard_one_counts_more() -> None:
    words = [word("easy", "a"), word("hard", "b")]
    given = inventory([3, 3, 3, 3], [0.9, 0.1, 0.5, 0.5])
    assert names(choose(words, given, 2, COVERAGE)) == ["hard", "easy"]
    assert names(choose(words, given, 2, Weights(diversity=0.0, hardness=0.0))) == ["easy", "hard"]  # equal: the first


def test_the_second_of_two_like_words_comes_after_another() -> None:
    words = [word("one", "bd"), word("copy", "bd"), word("other", "k")]
    assert names(choose(words, inventory([5, 0, 0, 2]), 3, COVERAGE)) == ["one", "copy", "other"]
    assert names(choose(words, inventory([5, 0, 0, 0]), 3, COVERAGE)) == ["one", "other", "copy"]


def test_gain_per_phone_prefers_the_short_word_with_the_same_news() -> None:
    words = [word("long", "kbaaaaaa"), word("short", "k")]
    given = inventory([9, 5, 9, 0])
    assert names(choose(words, given, 1, COVERAGE)) == ["long"]
    assert names(choose(words, given, 1, COVERAGE, per_phone=True)) == ["short"]


def heard(name: str, sure: float, *directions: float) -> Candidate:
    """A recording with a phone in each of the directions (degrees), recognised as `a` with the probability `sure`."""
    angles = np.radians(directions)
    posteriors = np.tile([sure, 1 - sure, 0.0, 0.0], (len(directions), 1))
    return Candidate(name, posteriors, np.stack((np.cos(angles), np.sin(angles)), axis=1))


def test_sounds_that_the_model_is_unsure_of_come_before_those_it_knows() -> None:
    pool = [heard("sure", 1.0, 0), heard("unsure", 0.6, 90)]
    found = choose(pool, inventory([1, 1, 1, 1]), 2, SOUNDS)
    assert names(found) == ["unsure", "sure"]
    assert found[0].gain == pytest.approx(4 * (1 - 0.6) / 2)  # four phonemes, the mean over two phones
    assert found[1].gain == pytest.approx(0.0)


def test_a_row_without_an_example_does_not_make_a_sound_known() -> None:
    pool = [heard("sure", 1.0, 0), heard("unsure", 0.6, 90)]
    found = choose(pool, inventory([0, 0, 1, 1]), 2, SOUNDS)
    assert found[0].gain == pytest.approx(4 * 1 / 2) and names(found) == ["sure", "unsure"]


def test_of_like_recordings_one_is_taken_before_the_next_of_them() -> None:
    pool = [heard("one", 0.5, 0), heard("twin", 0.5, 5), heard("other", 0.5, 120)]
    assert names(choose(pool, inventory([1, 1, 1, 1]), 3, SOUNDS))[1] == "other"


def value(chosen: Sequence[Candidate], pool: Sequence[Candidate], given: Inventory) -> float:
    """V(S) written out as the module's docstring has it, with the default weights."""
    counts = given.examples + sum((c.posteriors.sum(0) for c in chosen), np.zeros(4))
    weight = 1 - 0.5 * np.nan_to_num(given.f1)
    covered = (weight * (counts / (counts + 1) - given.examples / (given.examples + 1))).sum()
    total = []
    for phone, posterior in ((z, p) for c in pool for z, p in zip(c.embeddings, c.posteriors, strict=True)):
        likeness = [float(z @ phone / np.linalg.norm(z) / np.linalg.norm(phone)) for c in chosen for z in c.embeddings]
        total.append(max([posterior[given.examples > 0].max(), *likeness]))
    return float(covered + Weights().diversity * 4 * np.mean(total))


def test_gains_add_up_to_the_value_and_lazy_evaluation_gives_the_greedy_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        pool, given = drawn(rng, 12), inventory(rng.integers(0, 4, 4), rng.uniform(size=4))
        found = choose(pool, given, 5)
        chosen: list[Candidate] = []
        for each in found:
            values = [value([*chosen, c], pool, given) if c not in chosen else -np.inf for c in pool]
            assert each.candidate is pool[int(np.argmax(values))]
            assert each.gain == pytest.approx(max(values) - value(chosen, pool, given))
            chosen.append(each.candidate)


def test_greedy_choice_is_within_its_bound_of_the_best() -> None:
    rng = np.random.default_rng(1)
    pool, given = drawn(rng, 9), inventory([2, 0, 1, 0])
    nothing = value([], pool, given)
    best = max(value(each, pool, given) - nothing for each in itertools.combinations(pool, 3))
    assert sum(each.gain for each in choose(pool, given, 3)) >= (1 - 1 / np.e) * best


def test_all_are_ranked_where_there_are_fewer_and_none_where_there_is_none() -> None:
    pool = drawn(np.random.default_rng(2), 3)
    assert sorted(names(choose(pool, inventory([1, 1, 1, 1]), 10))) == ["0", "1", "2"]
    assert choose([], inventory([1, 1, 1, 1]), 10) == []


def test_diversity_is_measured_on_a_drawn_part_of_a_large_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, given = drawn(np.random.default_rng(3), 20), inventory([1, 1, 1, 1])
    whole = choose(pool, given, 5)
    monkeypatch.setattr(suggest, "MAX_PROBES", 7)
    parts = [[each.gain for each in choose(pool, given, 5, seed=seed)] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] != [each.gain for each in whole]
