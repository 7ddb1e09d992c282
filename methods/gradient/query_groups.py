"""Features of the queries in groups that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from bench.tasks.base import Query
from methods.gradient.search import MemoryPlan


class QueryGroups:
    """Features of the queries in groups that fit into memory.

    Iterating gives the number of the first query and the features, ``[queries, dim]``, of each
    group. A single group is encoded once; of several, each is encoded whenever it is asked for.

    Args:
        encode: gives the raw features of some queries, ``[queries, dim]``.
        memory: how many of them are held at a time.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Query]], Tensor],
        memory: MemoryPlan,
        queries: Sequence[Query],
    ) -> None:
        self.memory = memory
        self._encode, self._queries = encode, queries
        self._only: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        size = self.memory.queries
        for start in range(0, len(self._queries), size):
            features = self._only
            if features is None:
                features = self._encode(self._queries[start : start + size])
            if size >= len(self._queries):
                self._only = features
            yield start, features
