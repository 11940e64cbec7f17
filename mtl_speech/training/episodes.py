"""Few-shot phoneme tasks: N-way K-shot episodes, sampled so that support and query never share a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mtl_speech.core.errors import DataError
from mtl_speech.corpora.corpus import Corpus

MAX_TRIES = 20  # draws of an episode, and orders in which its recordings are divided
N_PROBES = 30  # sets of classes that are tried before a language counts as too small for a kind of task


class Tokens(Protocol):
    """The segments that tasks are made of, as a `SegmentStore` has them: (n_segments,) indices each."""

    @property
    def label(self) -> Tensor: ...
    @property
    def utterance(self) -> Tensor: ...
    @property
    def speaker(self) -> Tensor: ...
    @property
    def language(self) -> Tensor: ...
    @property
    def languages(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class LabelTokens:
    """The tokens of corpora whose audio was not read: enough to tell which tasks they allow."""

    label: Tensor
    utterance: Tensor
    speaker: Tensor
    language: Tensor
    languages: tuple[str, ...]


def tokens_of(corpora: Sequence[Corpus]) -> LabelTokens:
    """The tokens of labelled corpora, by their labels alone."""
    spoken = [(c.name, u, s.phoneme) for c in corpora for u in c.utterances for s in u.segments]
    columns = (
        [phoneme for _, _, phoneme in spoken],
        [f"{name}/{u.id}" for name, u, _ in spoken],
        [f"{name}/{u.speaker}" for name, u, _ in spoken],
        [u.language for _, u, _ in spoken],
    )
    indices = [np.unique(column, return_inverse=True)[1] if spoken else np.zeros(0, np.int64) for column in columns]
    label, utterance, speaker, language = map(torch.from_numpy, indices)
    return LabelTokens(label, utterance, speaker, language, tuple(sorted(set(columns[3]))))


@dataclass(frozen=True)
class Episode:
    """One task of one language.

    support: (n_way * n_shot,) and query: (n_query,) segments of the store; support_labels, query_labels: their classes in
    0..n_way-1; classes: (n_way,) the phonemes of the classes, as indices into the store's table; language: index.
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    classes: Tensor
    language: int


@dataclass(frozen=True)
class EpisodeBatch:
    """Tasks of the same n_way and n_shot, stacked; queries are padded to the longest and `mask` is False on padding."""

    support: Tensor  # (n_tasks, n_way * n_shot)
    support_labels: Tensor  # (n_tasks, n_way * n_shot)
    query: Tensor  # (n_tasks, n_query)
    query_labels: Tensor  # (n_tasks, n_query)
    mask: Tensor  # (n_tasks, n_query)
    classes: Tensor  # (n_tasks, n_way)
    language: Tensor  # (n_tasks,)

    def select(self, index: Tensor) -> EpisodeBatch:
        """The tasks `index` (n,) of the batch."""
        return EpisodeBatch(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def stack(episodes: Sequence[Episode]) -> EpisodeBatch:
    """Episodes of equal n_way and n_shot as one batch. Padding repeats a task's first query, masked out."""
    longest = max(len(e.query) for e in episodes)

    def pad(values: Tensor) -> Tensor:
        return torch.cat((values, values[:1].expand(longest - len(values))))

    return EpisodeBatch(
        support=torch.stack([e.support for e in episodes]),
        support_labels=torch.stack([e.support_labels for e in episodes]),
        query=torch.stack([pad(e.query) for e in episodes]),
        query_labels=torch.stack([pad(e.query_labels) for e in episodes]),
        mask=torch.stack([torch.arange(longest) < len(e.query) for e in episodes]),
        classes=torch.stack([e.classes for e in episodes]),
        language=torch.tensor([e.language for e in episodes]),
    )


class EpisodeSampler:
    """Samples N-way K-shot episodes of the languages of a store.

    Each episode first divides the recordings of its language in two: enough of them, in random order, to give every class its
    K support examples; the queries come from the others. With `by="speaker"` whole speakers are divided instead, so support and
    query share no speaker either. A class takes part only where it has tokens in at least two recordings (or speakers).
    The same generator state gives the same episodes.

    `languages` holds the tokens (segments of the store) of each language by phoneme.
    """

    def __init__(self, store: Tokens, by: str = "utterance") -> None:
        self.names = store.languages
        self.groups = {"utterance": store.utterance, "speaker": store.speaker}[by].numpy()
        self._divisions: dict[tuple[int, int, int], tuple[list[int], np.ndarray] | None] = {}
        label, language = store.label.numpy(), store.language.numpy()
        self.languages: dict[int, dict[int, np.ndarray]] = {}
        order = np.lexsort((np.arange(len(label)), label, language))
        keys = np.stack((language[order], label[order]), axis=1)
        edges = np.flatnonzero(np.any(np.diff(keys, axis=0), axis=1)) + 1
        for tokens in np.split(order, edges) if len(order) else []:
            self.languages.setdefault(int(language[tokens[0]]), {})[int(label[tokens[0]])] = tokens
        self._divisible = {
            (language, phoneme)
            for language, members in self.languages.items()
            for phoneme, tokens in members.items()
            if len(np.unique(self.groups[tokens])) > 1
        }

    def classes(self, language: int, n_shot: int) -> list[int]:
        """Phonemes of a language with at least n_shot + 1 tokens in at least two recordings."""
        members = self.languages.get(language, {})
        return [p for p, tokens in members.items() if len(tokens) > n_shot and (language, p) in self._divisible]

    def feasible(self, n_way: int, n_shot: int) -> list[int]:
        """The languages that such a task was made of, when it was tried.

        Enough tokens are not enough: where phonemes share few recordings, no division gives each of them support and a query.
        """
        return [language for language in self.languages if self._division(language, n_way, n_shot) is not None]

    def left_out(self, shapes: Sequence[tuple[int, int]]) -> str | None:
        """A sentence on the languages that allow no task of any of the shapes (n_way, n_shot); None where all do."""
        able = {language for shape in shapes for language in self.feasible(*shape)}
        names = [self.names[language] for language in sorted(self.languages) if language not in able]
        if not names:
            return None
        kinds = ", ".join(f"{n_way}-way {n_shot}-shot" for n_way, n_shot in shapes)
        return (
            f"{', '.join(names)}: left out of {kinds} tasks: too few phonemes have enough examples in recordings "
            "that can be divided into support and query"
        )

    def _division(self, language: int, n_way: int, n_shot: int) -> tuple[list[int], np.ndarray] | None:
        """Classes of a language that can be divided, and which recordings give support then; None where no try has found any.

        The tries have a generator of their own, so the draws of tasks do not depend on them.
        """
        key = (language, n_way, n_shot)
        if key not in self._divisions:
            rng = np.random.default_rng(key)
            pool = self.classes(language, n_shot)
            widest = sorted(pool, key=lambda p: -len(np.unique(self.groups[self.languages[language][p]])))[:n_way]
            tries = (rng.choice(pool, size=n_way, replace=False).tolist() if i else widest for i in range(N_PROBES))
            found = (
                (chosen, support)
                for chosen in tries
                if (support := self._divide(rng, self._counts(language, chosen)[-1], n_shot)) is not None
            )
            self._divisions[key] = next(found, None) if len(pool) >= n_way else None
        return self._divisions[key]

    def _counts(self, language: int, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The tokens of some classes, their classes as 0, 1, …, their recordings as 0, 1, …, and how many tokens each recording
        has of each class, (n_recordings, n_classes)."""
        members = [self.languages[language][int(p)] for p in classes]
        tokens = np.concatenate(members)
        labels = np.repeat(np.arange(len(classes)), [len(each) for each in members])
        groups = np.unique(self.groups[tokens], return_inverse=True)[1]
        counts = np.zeros((groups.max() + 1, len(classes)), dtype=np.int64)
        np.add.at(counts, (groups, labels), 1)
        return tokens, labels, groups, counts

    def sample(
        self,
        rng: np.random.Generator,
        language: int,
        classes: Sequence[int],
        n_shot: int,
        n_query: int,
        support_groups: np.ndarray | None = None,
    ) -> Episode | None:
        """One episode over the given classes, at most n_query queries a class; None when their tokens do not allow it.

        `support_groups` tells which of the recordings give support, where that is known already.
        """
        tokens, labels, groups, counts = self._counts(language, classes)
        if support_groups is None:
            support_groups = self._divide(rng, counts, n_shot)
        if support_groups is None:
            return None
        chosen = np.asarray(classes)
        shuffle = rng.permutation(len(tokens))
        tokens, labels, in_support = tokens[shuffle], labels[shuffle], support_groups[groups[shuffle]]
        support = [np.flatnonzero(in_support & (labels == c))[:n_shot] for c in range(len(chosen))]
        query = [np.flatnonzero(~in_support & (labels == c))[:n_query] for c in range(len(chosen))]
        s, q = np.concatenate(support), np.concatenate(query)
        return Episode(
            support=torch.from_numpy(tokens[s]),
            support_labels=torch.from_numpy(labels[s]),
            query=torch.from_numpy(tokens[q]),
            query_labels=torch.from_numpy(labels[q]),
            classes=torch.from_numpy(chosen),
            language=language,
        )

    @staticmethod
    def _divide(rng: np.random.Generator, counts: np.ndarray, n_shot: int) -> np.ndarray | None:
        """Which groups give support: taken in random order while some class lacks examples; every class keeps a query."""
        n_groups = len(counts)
        for _ in range(MAX_TRIES):
            taken, left = np.zeros(n_groups, dtype=bool), counts.sum(0)
            have = np.zeros(counts.shape[1], dtype=np.int64)
            for g in rng.permutation(n_groups):
                useful = np.any((have < n_shot) & (counts[g] > 0))
                if useful and np.all(left - counts[g] >= 1):
                    taken[g] = True
                    have += counts[g]
                    left = left - counts[g]
                if np.all(have >= n_shot):
                    return taken
        return None

    def random(
        self, rng: np.random.Generator, n_way: int, n_shot: int, n_query: int, language: int | None = None
    ) -> Episode:
        """An episode over random classes of a random (or the given) language.

        Raises DataError when there is no such task: of any language, if `feasible` has none; of the given one, if it is not in it.
        """
        able = self.feasible(n_way, n_shot)
        languages = able if language is None else [language] if language in able else []
        if not languages:
            raise DataError(
                f"no language has {n_way} phonemes with {n_shot} examples and a query in another recording; "
                f"lower n_way or n_shot, or add labelled recordings"
            )
        for _ in range(MAX_TRIES):
            drawn = int(rng.choice(languages))
            pool = self.classes(drawn, n_shot)
            episode = self.sample(rng, drawn, rng.choice(pool, size=n_way, replace=False).tolist(), n_shot, n_query)
            if episode is not None:
                return episode
        division = self._division(drawn, n_way, n_shot)
        assert division is not None  # for the language is feasible
        classes, support_groups = division
        episode = self.sample(rng, drawn, classes, n_shot, n_query, support_groups)
        assert episode is not None  # for its recordings are divided
        return episode


def full_inventory(
    rng: np.random.Generator, sampler: EpisodeSampler, language: int, n_shot: int, n_extra: int = 2
) -> Episode | None:
    """K random support tokens of every phoneme with at least n_shot + n_extra tokens, all the remaining tokens as queries.

    Tokens of one recording may lie in support and query here: few words carry all phonemes of a language. None when fewer than
    two phonemes have enough tokens.
    """
    members = sampler.languages[language]
    chosen = [p for p, tokens in members.items() if len(tokens) >= n_shot + n_extra]
    if len(chosen) < 2:
        return None
    shuffled = [rng.permutation(members[p]) for p in chosen]
    labels = np.arange(len(chosen))
    n_query = [len(t) - n_shot for t in shuffled]
    return Episode(
        support=torch.from_numpy(np.concatenate([t[:n_shot] for t in shuffled])),
        support_labels=torch.from_numpy(np.repeat(labels, n_shot)),
        query=torch.from_numpy(np.concatenate([t[n_shot:] for t in shuffled])),
        query_labels=torch.from_numpy(np.repeat(labels, n_query)),
        classes=torch.tensor(chosen),
        language=language,
    )
