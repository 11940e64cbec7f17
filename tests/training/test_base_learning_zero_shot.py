"""Phonemes never heard: their rows come from articulation, compete fairly, and leave the rows of the others as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mtl_speech.core.errors import PackError
from mtl_speech.core.options import AdaptConfig
from mtl_speech.model.language_pack import language_pack, load_language
from mtl_speech.model.learner import MetaLearner, embed_segments, extend
from mtl_speech.phonology.articulation import articulatory_features, articulatory_regression
from mtl_speech.training import base_learning
from mtl_speech.training.adapt import adapt_fold, learn_inventory
from mtl_speech.training.base_learning import (
    BIASES,
    DEFAULT_BIAS,
    N_SHOWN,
    Examples,
    StepChoice,
    add_unheard,
    best_bias,
    choose_bias,
    choose_steps,
    class_means,
    examples_of,
    known_means,
    learn_head,
    mapping_lines,
)
from mtl_speech.training.folds import Fold
from tests.helpers import make_store, meta_config, seeded, tiny_base, tiny_learner, toy_store

CONSONANTS = ("p", "b", "t", "d", "k", "ɡ", "m", "n", "ŋ", "f", "v", "s", "z")


@pytest.fixture(scope="module", autouse=True)
def few_choices() -> Iterator[None]:
    """A short list of numbers of steps to choose from, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_learning, "STEP_CHOICES", (0, 5, 20))
        yield


# The regression


def test_weights_of_the_regression_sum_to_one_and_hold_for_what_is_linear() -> None:
    known, new = [p for p in CONSONANTS if p != "d"], ["d", "x"]
    weights = articulatory_regression(known, [1000.0] * len(known), new)
    assert weights.shape == (2, 12) and weights.sum(1) == pytest.approx([1.0, 1.0])
    slope = np.random.default_rng(0).standard_normal((24, 5))
    values, wanted = (articulatory_features(names) @ slope + 3.0 for names in (known, new))
    assert weights[0] @ values == pytest.approx(wanted[0], abs=0.02), "b + t − p: voicing and place are known"
    near, far = (np.linalg.norm(weights[1] @ values - values[known.index(p)]) for p in ("k", "m"))
    assert near < far, "x is taken for something near k"


def test_the_regression_does_not_depend_on_order_and_trusts_what_has_many_examples() -> None:
    known, counts = list(CONSONANTS[:6]), [1.0, 5.0, 2.0, 1.0, 3.0, 1.0]
    weights = articulatory_regression(known, counts, ["c"])[0]
    order = [3, 1, 5, 0, 2, 4]
    again = articulatory_regression([known[i] for i in order], [counts[i] for i in order], ["c"])[0]
    assert again == pytest.approx(weights[order])
    twice = [articulatory_regression(["p", "p", "k"], [n, 1.0, 1.0], ["p"])[0] for n in (1.0, 50.0)]
    assert twice[0][0] == pytest.approx(twice[0][1]) and twice[1][0] > 10 * twice[1][1]
    assert articulatory_regression(["a"], [1.0], ["p"]) == pytest.approx(np.ones((1, 1)))


# Rows of phonemes never heard


def articulate(phonemes: tuple[str, ...], n: int, noise: float = 0.3, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings that follow from articulation: z (n_phonemes × n, size), labels, and recordings."""
    slope = torch.randn(24, size, generator=seeded(1))
    means = torch.from_numpy(articulatory_features(phonemes)) @ slope
    labels = torch.arange(len(phonemes)).repeat(n)
    z = means[labels] + noise * torch.randn(len(labels), size, generator=seeded(2))
    return z, labels, torch.arange(n).repeat_interleave(len(phonemes))


def bare_learner(phonemes: tuple[str, ...], theta_init: str = "posterior", met: tuple[str, ...] = ()) -> MetaLearner:
    learner = tiny_learner(toy_store(), theta_init=theta_init)
    other = MetaLearner(learner.encoder, 12, phonemes, theta_init, 3, 0.05)
    other.met = torch.tensor([p in met for p in phonemes])
    return other


@pytest.mark.parametrize("theta_init", ["posterior", "prototype", "previous", "random"])
def test_a_phoneme_never_heard_is_recognised_by_its_articulation(theta_init: str) -> None:
    learner = bare_learner(CONSONANTS, theta_init)
    z, labels, recordings = articulate(CONSONANTS, 9)
    with torch.no_grad():
        learner.log_prior.fill_(-9.0)  # θ, which is zero here, is no knowledge
    for held in (CONSONANTS.index("d"), CONSONANTS.index("z")):
        heard = labels != held
        present, classes = labels[heard].unique(return_inverse=True)
        examples = Examples(learner, z[heard], classes, recordings[heard], present)
        choice = choose_steps(examples)
        head = learn_head(examples, choice)
        whole, neighbours = add_unheard(examples, head, choice, [CONSONANTS[held]])
        logits = whole.logits(z.unsqueeze(0))[0]
        assert torch.equal(logits[:, :-1], head.logits(z.unsqueeze(0))[0]), "the other rows stay as they were"
        found = torch.cat((present, torch.tensor([held])))[logits.argmax(1)]
        right = (found == labels).float()
        assert float(right[~heard].mean()) > 0.7 and float(right[heard].mean()) > 0.7, (theta_init, CONSONANTS[held])
        assert list(neighbours) == [CONSONANTS[held]] and len(neighbours[CONSONANTS[held]]) == N_SHOWN


def test_rows_of_the_strategy_take_part_and_so_does_its_own_of_the_phoneme() -> None:
    learner = bare_learner(("p", "t", "k", "s"), met=("t", "k", "s"))
    with torch.no_grad():
        learner.theta.copy_(torch.arange(4.0).unsqueeze(1).expand(4, 12))
        learner.log_prior[0] = np.log(2.0)
        learner.log_prior[1] = np.log(0.5)
    rows = torch.tensor([0, 1, 2])
    z, labels = torch.ones(4, 12), torch.tensor([0, 0, 1, 1])
    examples = Examples(learner, z, labels, labels, rows)
    known = known_means(examples, *class_means(examples), prior=0.5)
    assert known.phonemes == ("p", "t", "k", "s"), "k has no example here: only the strategy knows it"
    assert known.counts.tolist() == pytest.approx([2.25, 3.0, 1.0, 1.0])
    assert known.means[:, 0].tolist() == pytest.approx([2 / 2.25, 1.0, 2.0, 3.0])
    learner.theta_init = "previous"
    assert known_means(examples, *class_means(examples)).phonemes == ("p", "t"), "its rows are no means"


def test_the_bias_has_the_best_mean_f1_of_phonemes_treated_as_never_heard() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    margins = torch.tensor([[-1.1, -9.0], [-1.4, -9.0], [-2.6, -1.2], [-2.9, -1.3]])
    assert best_bias(margins, labels) == 1.5  # all four right, none wrong
    assert best_bias(torch.full((4, 2), -torch.inf), labels) == DEFAULT_BIAS
    assert best_bias(torch.full((4, 2), 3.0), labels) == min(BIASES)


def test_the_bias_does_not_see_other_than_training_examples_and_is_reproducible() -> None:
    learner = bare_learner(CONSONANTS)
    z, labels, recordings = articulate(CONSONANTS, 6)
    examples = Examples(learner, z, labels, recordings, torch.arange(len(CONSONANTS)), seed=3)
    found = [choose_bias(examples, StepChoice(0)) for _ in range(2)]
    assert found[0] == found[1] and found[0] in BIASES
    assert choose_bias(replace(examples, recordings=torch.zeros_like(labels)), StepChoice(0)) == DEFAULT_BIAS


# In an adaptation and a pack


def toy_fold() -> Fold:
    store = make_store([[4, 5, 6, 9, 10, 11]] * 12, noise=1.0)
    held = store.utterance >= 8
    train, test = (store.select(torch.nonzero(mask).squeeze(1)) for mask in (~held, held))
    keep = torch.nonzero(train.label != 9).squeeze(1)
    return Fold(train.select(keep), test, "by hand", inventory=("i", "k", "m", "s", "z"))


def test_an_adaptation_marks_what_it_never_heard(tmp_path: Path) -> None:
    fold = toy_fold()
    assert fold.unheard == ("s", "z"), "no phoneme is dropped for being outside the inventory"
    base = tiny_base()
    learner = tiny_learner(toy_store(), theta_init="posterior")
    meta = meta_config(theta_init="posterior")
    found = adapt_fold(learner, fold, AdaptConfig(meta_steps=0), meta)
    assert [p.phoneme for p in found.scores.phonemes if p.zero_shot] == ["s"]
    assert [(m.phoneme, m.n_examples) for m in found.scores.not_scored if m.zero_shot] == [("z", 0)]
    assert found.learned.model.classes == ("i", "k", "m", "t", "u", "s", "z") and set(
        found.learned.model.zero_shot
    ) == {"s", "z"}
    assert "s" not in found.learned.n_train and "s" in {token.true for token in found.tokens}
    without = adapt_fold(learner, replace(fold, inventory=()), AdaptConfig(meta_steps=0), meta)
    assert torch.equal(found.learned.model.head.weight[:, :5], without.learned.model.head.weight)
    assert not without.learned.model.zero_shot and "s" not in {token.true for token in without.tokens}
    pack = language_pack(found.learned.model, base, meta, "pa", {"name": "pa"})
    assert pack.card["zero_shot"] == {k: dict(v) for k, v in found.learned.model.zero_shot.items()}
    assert load_language(pack, base).zero_shot == found.learned.model.zero_shot
    for wrong in ({"x": {"k": 1.0}}, {"s": 3}, {"s": {"k": "much"}}, []):
        with pytest.raises(PackError, match="'zero_shot' is"):
            load_language(replace(pack, card={**pack.card, "zero_shot": wrong}), base)
    older = {key: value for key, value in pack.card.items() if key != "zero_shot"}
    assert load_language(replace(pack, card=older), base).zero_shot == {}


def test_heads_do_not_learn_from_rows_never_heard() -> None:
    """The phoneme's row depends on the training examples alone, and adding it changes no other row."""
    fold = toy_fold()
    learner = tiny_learner(toy_store(), theta_init="posterior")
    extend(learner, fold.train.phonemes)
    examples = examples_of(learner, fold.train, embed_segments(learner, fold.train))
    heads = [learn_inventory(examples, unheard)[0].head for unheard in ((), ("z",), ("z", "p"))]
    assert torch.equal(heads[1].weight[:, :5], heads[0].weight)
    torch.testing.assert_close(heads[2].bias[:, :6], heads[1].bias)


# The inventory


def test_the_mapping_is_told_in_lines() -> None:
    lines = mapping_lines({"ɖ": {"d": 0.82, "ʈ": 0.2, "t": -0.1}, "θ": {"θ": 0.5, "ð": 0.4}})
    assert lines == ["ɖ ← d (0.82), ʈ (0.2), t (-0.1)", "θ ← θ of the strategy (0.5), ð (0.4)"]
