"""Controls: rankings that no method should fall below, and one that none can exceed."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.keys import content_key
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.topk import order
from methods.words import TOKENIZERS, WORDS_VERSION, Tokenizer

_DRAWS_AT_ONCE = 1024


@dataclass
class RandomConfig:
    """Settings of ``conf/method/random.yaml``."""

    seed: int


class Random(Method):
    """A uniformly random order of the corpus for each query: the floor.

    The order depends only on the seed, the query's id and the size of the corpus. A shorter list is
    the head of a longer one.
    """

    Config = RandomConfig
    config: RandomConfig

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Yield lists with the scores ``1, 1 - 1/n, …``, where n is the size of the corpus."""
        n = len(self.context.task.passages)
        scores = 1 - np.arange(min(top_k, n)) / n
        for query in queries:
            entropy = int(content_key([self.config.seed, query.query_id, n], length=32), 16)
            yield Ranking(query.query_id, _random_rows(entropy, n, len(scores)), scores)


def _random_rows(entropy: int, n: int, k: int) -> np.ndarray:
    """The first ``k`` entries of a random permutation of ``range(n)``.

    They are the first occurrences among uniform draws, at a cost of O(k) instead of O(n).
    """
    rng = np.random.default_rng(entropy)
    seen: dict[int, None] = {}
    while len(seen) < k:
        seen.update(dict.fromkeys(rng.integers(n, size=_DRAWS_AT_ONCE).tolist()))
    return np.array(list(seen)[:k], dtype=np.int64)


class Gold(Method):
    """The annotated passages themselves: the ceiling, as in the paper's row of gold passages.

    A list holds no other passage, so it may be shorter than ``top_k``, or empty.
    """

    def check(self) -> None:
        """Refuse tasks that nobody annotated."""
        task = self.context.task
        if not task.annotated:
            raise UserError(
                f"task {task.name} has no annotated passages for method gold to return",
                where="method=gold",
                fix="choose another method, or a task with gold passages",
            )

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Yield the annotated rows in ascending order, each with score 1."""
        for query in queries:
            rows = np.array(sorted(query.gold_rows)[:top_k], dtype=np.int64)
            yield Ranking(query.query_id, rows, np.ones(len(rows)))


class _Prior(Method):
    """One ranking for every query, to see what a method gets that never looks at the query."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._scores: np.ndarray | None = None

    @abstractmethod
    def _score_passages(self) -> np.ndarray:
        """A score for each passage: float64 ``[passages]``."""

    def index(self) -> IndexSize:
        """Score the passages; 8 bytes each are kept, in memory."""
        self._scores = self._score_passages()
        return IndexSize()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Yield the same list for each query: highest score first, ties by row."""
        if self._scores is None:
            raise ValueError("call index() before search()")
        rows = order(self._scores, np.arange(len(self._scores)))[:top_k]
        for query in queries:
            yield Ranking(query.query_id, rows, self._scores[rows])


class Length(_Prior):
    """The longest passages first; the score is the number of characters (code points).

    Whatever this control gets, a method may owe to a preference for long passages.
    """

    def _score_passages(self) -> np.ndarray:
        passages = self.context.task.passages
        tracked = progress.track(passages, "index lengths", len(passages), unit="passages")
        lengths = (len(passage.text) for passage in tracked)
        return np.fromiter(lengths, dtype=np.float64, count=len(passages))


@dataclass
class PopularityConfig:
    """Settings of ``conf/method/popularity.yaml``."""

    tokenizer: Tokenizer


class Popularity(_Prior):
    """Passages of common words first: a ranking by sheer typicality.

    The score is the mean, over the different words w of a passage, of df(w) / N: the share of the
    N passages that hold w. It is 0 without a word, and 1 if every word is in every passage.
    """

    Config = PopularityConfig
    version = WORDS_VERSION
    config: PopularityConfig

    def _score_passages(self) -> np.ndarray:
        n = len(self.context.task.passages)
        frequency: Counter[str] = Counter()
        for types in self._types("count words"):
            frequency.update(types)
        scores = np.zeros(n)
        for row, types in enumerate(self._types("index popularity")):
            if types:
                # A single division of whole numbers rounds equal scores equally.
                scores[row] = sum(frequency[word] for word in types) / (len(types) * n)
        return scores

    def _types(self, description: str) -> Iterator[set[str]]:
        """The different words of each passage, in the order of rows."""
        passages, tokenize = self.context.task.passages, TOKENIZERS[self.config.tokenizer]
        for passage in progress.track(passages, description, len(passages), unit="passages"):
            yield set(tokenize(passage.text))
