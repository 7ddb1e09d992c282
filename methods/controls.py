"""Controls: what no method should fall below, and what none can exceed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import UserError
from bench.storage import content_key
from bench.tasks.base import Query
from methods.base import IndexSize, Method, Ranking

_DRAWS_AT_ONCE = 1024


@dataclass
class RandomConfig:
    """See ``conf/method/random.yaml``."""

    seed: int


class Random(Method):
    """A uniformly random order of the corpus for each query: the floor.

    The order depends on the seed, the query's id and the corpus size only; not on the other
    queries, and a shorter list is the head of a longer one.
    """

    Config = RandomConfig
    config: RandomConfig

    def index(self) -> IndexSize:
        """Nothing to read."""
        return IndexSize()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Lists with scores ``1, 1 - 1/n, ...``, n the corpus size."""
        n = len(self.context.task.passages)
        scores = 1 - np.arange(min(top_k, n)) / n
        for query in queries:
            entropy = int(content_key([self.config.seed, query.query_id, n], length=32), 16)
            yield Ranking(query.query_id, _random_rows(entropy, n, len(scores)), scores)


def _random_rows(entropy: int, n: int, k: int) -> np.ndarray:
    """The first ``k`` entries of a random permutation of ``range(n)``.

    First occurrences among uniform draws are one, and cost O(k) where a permutation costs O(n).
    """
    rng = np.random.default_rng(entropy)
    seen: dict[int, None] = {}
    while len(seen) < k:
        seen.update(dict.fromkeys(rng.integers(n, size=_DRAWS_AT_ONCE).tolist()))
    return np.array(list(seen)[:k], dtype=np.int64)


@dataclass
class GoldConfig:
    """The annotation has no settings."""


class Gold(Method):
    """The annotated passages themselves: the ceiling, and the T-REx gold row of the paper.

    A list holds nothing else, so it may be shorter than ``top_k``, or empty.
    """

    Config = GoldConfig

    def check(self) -> None:
        """Refuse tasks that nobody annotated."""
        task = self.context.task
        if not task.annotated:
            raise UserError(
                f"task {task.name} has no annotated passages for method gold to return",
                where="method=gold",
                fix="choose another method, or a task with gold passages",
            )

    def index(self) -> IndexSize:
        """Nothing to read."""
        return IndexSize()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Lists of the annotated rows, ascending, each with score 1."""
        for query in queries:
            rows = np.array(sorted(query.gold_rows)[:top_k], dtype=np.int64)
            yield Ranking(query.query_id, rows, np.ones(len(rows)))
