"""Tasks: as many ways, shots and queries as asked for, and nothing of a recording on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mtl_speech.core.errors import DataError
from mtl_speech.features.store import SegmentStore, build_store
from mtl_speech.training.episodes import Episode, EpisodeSampler, full_inventory, stack, tokens_of
from tests.helpers import PHONEMES, make_store, toy_corpus, toy_store


@st.composite
def stores(draw: st.DrawFn) -> SegmentStore:
    """Any few recordings of a few phonemes, languages and speakers."""
    utterances = draw(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=2, max_size=9))
    n = len(utterances)
    languages = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    speakers = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return make_store(utterances, languages, speakers)


def check(store: SegmentStore, episode: Episode, n_way: int, n_shot: int, n_query: int, by: str) -> None:
    """All that a task promises."""
    classes, support, query = episode.classes, episode.support, episode.query
    assert len(classes) == n_way and len(set(classes.tolist())) == n_way
    assert torch.equal(store.label[support], classes[episode.support_labels]), "support labels"
    assert torch.equal(store.label[query], classes[episode.query_labels]), "query labels"
    both = torch.cat((support, query))
    assert len(both.unique()) == len(both), "a token is there twice"
    assert bool((store.language[both] == episode.language).all()), "another language"
    assert torch.bincount(episode.support_labels, minlength=n_way).tolist() == [n_shot] * n_way
    counts = torch.bincount(episode.query_labels, minlength=n_way)
    assert int(counts.min()) >= 1 and int(counts.max()) <= n_query
    group = getattr(store, by)
    assert not set(group[support].tolist()) & set(group[query].tolist()), f"support and query share a {by}"
    assert not set(store.utterance[support].tolist()) & set(store.utterance[query].tolist())


# Leakage


@given(
    store=stores(),
    n_way=st.integers(2, 3),
    n_shot=st.integers(1, 3),
    n_query=st.integers(1, 3),
    by=st.sampled_from(["utterance", "speaker"]),
    seed=st.integers(0, 99),
)
def test_support_and_query_never_share_a_token_a_recording_or_a_speaker(
    store: SegmentStore, n_way: int, n_shot: int, n_query: int, by: str, seed: int
) -> None:
    sampler = EpisodeSampler(store, by)
    try:
        episode = sampler.random(np.random.default_rng(seed), n_way, n_shot, n_query)
    except DataError:
        return
    # A recording has one speaker, in this sampler's sense of whole speakers too.
    if by == "speaker":
        speaker_of = {}
        for utterance, speaker in zip(store.utterance.tolist(), store.speaker.tolist(), strict=True):
            assume(speaker_of.setdefault(utterance, speaker) == speaker)
    check(store, episode, n_way, n_shot, n_query, by)


def test_tasks_of_a_roomy_store_come_in_every_shape() -> None:
    store = toy_store(n_utterances=8)
    for by in ("utterance", "speaker"):
        sampler, rng = EpisodeSampler(store, by), np.random.default_rng(0)
        for n_way, n_shot, n_query in ((2, 1, 1), (5, 1, 3), (6, 2, 2), (3, 3, 4)):
            for _ in range(10):
                check(store, sampler.random(rng, n_way, n_shot, n_query), n_way, n_shot, n_query, by)


def test_every_class_gets_all_queries_asked_for_where_they_exist() -> None:
    store = toy_store(n_languages=1, n_utterances=12)  # every recording holds every phoneme once
    episode = EpisodeSampler(store).random(np.random.default_rng(0), 3, 2, 6)
    assert torch.bincount(episode.query_labels).tolist() == [6, 6, 6]


def test_recordings_that_add_nothing_to_the_support_are_left_for_queries() -> None:
    store = make_store([[0]] * 8 + [[1]] * 2)
    for seed in range(5):
        episode = EpisodeSampler(store).random(np.random.default_rng(seed), 2, 1, 20)
        assert sorted(torch.bincount(episode.query_labels).tolist()) == [1, 7]


def test_recordings_that_only_just_suffice_are_found() -> None:
    # Phoneme 0 is in recordings 0 and 1, phoneme 1 in 1 and 2: support must come from 0 and 2, or from 1 alone.
    store = make_store([[0], [0, 1], [1]])
    sampler = EpisodeSampler(store)
    found = set()
    for seed in range(20):
        episode = sampler.random(np.random.default_rng(seed), 2, 1, 5)
        check(store, episode, 2, 1, 5, "utterance")
        found.add(tuple(sorted(store.utterance[episode.support].tolist())))
    assert found == {(0, 2), (1, 1)}


# What takes part


def test_a_class_needs_enough_tokens_in_two_recordings() -> None:
    # Phoneme 0: 3 tokens in two recordings; 1: 4 tokens in one; 2: one token in each of two; 3: a single token.
    store = make_store([[0, 0, 1, 1, 1, 1, 2], [0, 2, 3]])
    sampler = EpisodeSampler(store)
    assert sampler.classes(0, 1) == [0, 2]
    assert sampler.classes(0, 2) == [0]
    assert sampler.classes(0, 3) == [] and sampler.classes(7, 1) == []
    assert sampler.feasible(2, 1) == [0] and sampler.feasible(2, 2) == []


def test_a_class_of_one_speaker_takes_no_part_when_speakers_are_divided() -> None:
    store = make_store([[0, 1], [0, 1], [0]], speakers=[0, 0, 1])
    assert EpisodeSampler(store, "utterance").classes(0, 1) == [0, 1]
    assert EpisodeSampler(store, "speaker").classes(0, 1) == [0]


def test_infeasible_tasks_are_an_error_that_says_what_to_do() -> None:
    store = make_store([[0, 1], [0, 1]])
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    with pytest.raises(DataError, match="no language has 3 phonemes with 1 example.*lower n_way or n_shot"):
        sampler.random(rng, 3, 1, 1)
    with pytest.raises(DataError):
        sampler.random(rng, 2, 2, 1)
    with pytest.raises(DataError):
        sampler.random(rng, 2, 1, 1, language=5)
    # Tokens enough by number, but any division leaves a class without a query.
    tight = EpisodeSampler(make_store([[0, 0, 1], [1, 1, 0]]))
    with pytest.raises(DataError):
        tight.random(rng, 2, 3, 1)
    assert tight.sample(rng, 0, [0, 1], 2, 1) is None


def test_what_is_feasible_was_sampled() -> None:
    """Tokens by number do not say so: here every division of two classes leaves one without a query."""
    tight = make_store([[0, 0, 1], [1, 1, 0], [2, 2], [3, 3]], languages=[0, 0, 1, 1])
    sampler = EpisodeSampler(tight)
    assert len(sampler.classes(0, 2)) == 2 and sampler.feasible(2, 2) == [] and sampler.feasible(2, 1) == [0]
    told = sampler.left_out([(2, 2), (2, 1)])
    assert told is not None and told.startswith(
        f"{tight.languages[1]}: left out of 2-way 2-shot, 2-way 1-shot tasks: too few phonemes"
    )
    assert EpisodeSampler(toy_store()).left_out([(2, 1)]) is None


def test_a_task_that_is_seldom_possible_is_found_every_time() -> None:
    """Of eight phonemes that lie in the same two recordings, and two that lie in two others, one pair alone can be divided."""
    lopsided = [[*range(8)] * 2, [*range(8)] * 2, [8] * 3, [9] * 3, [8, 9]]
    store = make_store(lopsided, phonemes=tuple("abcdefghij"))
    sampler = EpisodeSampler(store)
    assert sampler.feasible(2, 3) == [0]
    for seed in range(40):
        check(store, sampler.random(np.random.default_rng(seed), 2, 3, 4), 2, 3, 4, "utterance")


@given(store=stores(), n_way=st.integers(2, 3), n_shot=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_language_that_is_feasible_gives_a_task(store: SegmentStore, n_way: int, n_shot: int, seed: int) -> None:
    sampler = EpisodeSampler(store)
    for language in sampler.feasible(n_way, n_shot):
        assert sampler.random(np.random.default_rng(seed), n_way, n_shot, 2, language).language == language


def test_labels_alone_tell_what_is_feasible(tmp_path: Path) -> None:
    corpora = [toy_corpus(tmp_path / name, 3, 1, PHONEMES[:n], name) for name, n in (("x", 2), ("y", 5))]
    corpora = [replace(c, utterances=tuple(replace(u, language=c.name) for u in c.utterances)) for c in corpora]
    by_labels, by_store = EpisodeSampler(tokens_of(corpora)), EpisodeSampler(build_store(corpora))
    for shape in ((2, 1), (4, 1), (2, 2), (6, 1)):
        assert by_labels.feasible(*shape) == by_store.feasible(*shape)
        assert by_labels.left_out([shape]) == by_store.left_out([shape])
    assert by_labels.feasible(4, 1) == [1] and EpisodeSampler(tokens_of([])).feasible(2, 1) == []


def test_the_language_asked_for_is_used_and_all_are_otherwise() -> None:
    sampler, rng = EpisodeSampler(toy_store(n_languages=3)), np.random.default_rng(0)
    assert {sampler.random(rng, 2, 1, 1, language=2).language for _ in range(5)} == {2}
    assert {sampler.random(rng, 2, 1, 1).language for _ in range(30)} == {0, 1, 2}


def test_classes_and_tokens_vary_and_none_is_preferred() -> None:
    store = toy_store(n_languages=1, n_phonemes=6, n_utterances=6)
    sampler, rng = EpisodeSampler(store), np.random.default_rng(0)
    episodes = [sampler.random(rng, 3, 1, 2) for _ in range(400)]
    classes = torch.bincount(torch.cat([e.classes for e in episodes]), minlength=6)
    assert int(classes.min()) > 150 and int(classes.max()) < 250  # 200 on average
    first = torch.bincount(torch.stack([e.classes[0] for e in episodes]), minlength=6)
    assert int(first.min()) > 30, "the order of the classes is random too"
    assert set(torch.cat([e.support for e in episodes]).tolist()) == set(range(len(store)))
    assert set(torch.cat([e.query for e in episodes]).tolist()) == set(range(len(store)))


def test_the_same_seed_gives_the_same_tasks() -> None:
    def draw(seed: int) -> list[list[int]]:
        sampler, rng = EpisodeSampler(toy_store()), np.random.default_rng(seed)
        return [torch.cat((e.support, e.query)).tolist() for e in (sampler.random(rng, 3, 1, 2) for _ in range(5))]

    assert draw(1) == draw(1) and draw(1) != draw(2)


# Full inventories


@given(store=stores(), n_shot=st.integers(1, 3), n_extra=st.integers(1, 2), seed=st.integers(0, 99))
def test_full_inventory_divides_all_tokens_of_all_phonemes_that_have_enough(
    store: SegmentStore, n_shot: int, n_extra: int, seed: int
) -> None:
    sampler = EpisodeSampler(store)
    for language in sampler.languages:
        tokens = torch.nonzero(store.language == language).squeeze(1)
        counts = torch.bincount(store.label[tokens], minlength=5)
        wanted = {p for p, n in enumerate(counts.tolist()) if n >= n_shot + n_extra}
        episode = full_inventory(np.random.default_rng(seed), sampler, language, n_shot, n_extra)
        if len(wanted) < 2:
            assert episode is None
            continue
        assert episode is not None and set(episode.classes.tolist()) == wanted
        both = torch.cat((episode.support, episode.query))
        assert len(both.unique()) == len(both), "a token is in support and query"
        of_wanted = [i for i in tokens.tolist() if int(store.label[i]) in wanted]
        assert sorted(both.tolist()) == of_wanted
        assert torch.bincount(episode.support_labels).tolist() == [n_shot] * len(wanted)
        assert torch.equal(store.label[episode.support], episode.classes[episode.support_labels])
        assert torch.equal(store.label[episode.query], episode.classes[episode.query_labels])


def test_full_inventory_draws_other_supports_with_other_seeds() -> None:
    sampler = EpisodeSampler(toy_store())
    drawn = [full_inventory(np.random.default_rng(seed), sampler, 0, 1) for seed in (0, 0, 1)]
    supports = [e.support.tolist() for e in drawn if e is not None]
    assert supports[0] == supports[1] != supports[2]


# Batches


def test_stack_pads_queries_with_masked_copies() -> None:
    def episode(query: list[int], labels: list[int], language: int) -> Episode:
        one = torch.tensor
        return Episode(one([9, 8]), one([0, 1]), one(query), one(labels), one([4, 2]), language)

    batch = stack([episode([1, 2, 3], [0, 0, 1], 1), episode([5], [1], 0)])
    assert batch.query.tolist() == [[1, 2, 3], [5, 5, 5]]
    assert batch.query_labels.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.support.tolist() == [[9, 8]] * 2 and batch.support_labels.tolist() == [[0, 1]] * 2
    assert batch.classes.tolist() == [[4, 2]] * 2 and batch.language.tolist() == [1, 0]
