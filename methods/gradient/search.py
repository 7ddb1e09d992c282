"""Ranking passages by inner products of finished features, in two stages and bounded memory.

The first stage streams all passages once for a group of resident queries and keeps each query's
candidates. The second stage scores the candidates again, pair by pair in float64: from the index
or, if the index is lossy, from gradients that are encoded anew (``rerank``). Both are jobs, one for
each group of shards (``partial_search.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.storage.sealed_arrays import arrays_sha256
from methods.base import Ranking
from methods.gradient.finish import Finish
from methods.gradient.partial_search import (
    Rescoring,
    Scan,
    read_rows,
    read_tensor,
    rescored,
    scanned,
    write_rows,
    write_tensor,
)
from methods.gradient.parts import SUFFIX, PartsFolder, SharedSeconds
from methods.gradient.source import FeatureSource
from methods.topk import order
from methods.vector_search import MARGIN

_ROWS_AT_ONCE = 4096  # passages in a block, at most; more make no product faster


def search_dtype(gradient_dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores in a scan: float32, unless gradients are wider."""
    return torch.float64 if gradient_dtype == torch.float64 else torch.float32


def depths(n_highest: int, n_lowest: int, rerank: int | None) -> tuple[int, int]:
    """Candidates a query that a scan keeps at either end, for lists of these lengths.

    Rounding may swap scores that are as good as equal: more are kept than listed.
    """
    least = rerank or 0
    return max(n_highest + MARGIN, least), max(n_lowest + MARGIN, least) if n_lowest else 0


def query_bytes(dim: int, dtype: torch.dtype) -> int:
    """Memory that a resident query takes: as encoded, finished, and finished in float64."""
    return dim * (4 + dtype.itemsize + 8)


def row_bytes(dim: int, dtype: torch.dtype, queries: int) -> int:
    """Memory that a passage of a block takes: its features and its scores.

    Features are there as stored, decoded, in the dtype of the search, whitened and normed. Each
    query has a score of the passage, and a copy of it if it enters the query's list.
    """
    return dim * (8 + 3 * dtype.itemsize) + queries * 2 * dtype.itemsize


@dataclass(frozen=True)
class MemoryPlan:
    """Amounts that are held at a time, so that a search stays within a bound of memory.

    Attributes:
        queries: number of queries resident together; more take another pass over the passages.
        rows: number of passages in a block.
        candidates: number of passages that the second stage takes together.
    """

    queries: int
    rows: int
    candidates: int

    @staticmethod
    def of(memory_mib: int, n_queries: int, dim: int, dtype: torch.dtype) -> MemoryPlan:
        """Give half of the memory to the queries, and the rest to a block of passages."""
        budget = memory_mib << 20
        per_query = query_bytes(dim, dtype)
        queries = min(n_queries, max(1, budget // 2 // per_query))
        left = budget - queries * per_query
        # In the second stage a passage is there as stored and decoded, and up to four times in
        # float64: converted, whitened in parts, put together, and scaled by checkpoint.
        candidates = left // (dim * (4 + 4 + 4 * 8))
        return MemoryPlan(
            queries,
            rows=max(1, min(_ROWS_AT_ONCE, left // row_bytes(dim, dtype, queries))),
            candidates=max(1, min(_ROWS_AT_ONCE, candidates)),
        )


def refuse_second_pass(memory_mib: int, n_queries: int, dim: int, dtype: torch.dtype) -> None:
    """Refuse, with a UserError, queries that are not resident together under ``MemoryPlan.of``.

    Without an index, a second group of queries would encode the corpus again.
    """
    if MemoryPlan.of(memory_mib, n_queries, dim, dtype).queries < n_queries:
        needed = -(-2 * n_queries * query_bytes(dim, dtype) // 2**20)
        raise UserError(
            f"storage=none takes a single pass, and {n_queries:,} queries do not fit",
            where="method.memory_mib",
            fix=f"set method.memory_mib={needed}, or method.storage to keep an index",
        )


@dataclass(frozen=True)
class Search:
    """One search over all passages, group by group of them.

    Attributes:
        scanned: features that the first stage streams.
        candidates: features that the second stage reads; with None there is no second stage, and
            the scores of the first are final.
        finish, finish_exactly: last steps of the two stages; those of the second are in float64.
        rerank: candidates a query that the first stage keeps at either end, at least.
        memory: number of passages that are held at a time, in either stage.
        parts: the folder of this search's own parts, and who makes them.
        counts: receives what was read or encoded.
        shared: receives the seconds of work that is shared with other searches.
    """

    scanned: FeatureSource
    candidates: FeatureSource | None
    finish: Finish
    finish_exactly: Finish
    rerank: int | None
    memory: MemoryPlan
    parts: PartsFolder
    counts: Counter[str]
    shared: SharedSeconds = field(default_factory=SharedSeconds)

    def find(
        self,
        ids: Sequence[str],
        queries: Tensor,
        n_highest: int,
        n_lowest: int,
        number: int = 0,
        beside: Sequence[Scan] = (),
    ) -> Iterator[Ranking]:
        """Rank the passages for some queries, with so many opponents.

        Args:
            queries: raw features of the queries, float32 ``[queries, dim]``.
            number: what tells these queries from others of this search.
            beside: the scans of other searches that go over the same features with this one.
        """
        groups, lengths = self.scanned.groups(), (n_highest, n_lowest, self.rerank)
        rows, n_groups = self.memory.rows, len(groups)
        own = first_stage(self.parts, number, queries, self.finish, lengths, rows, n_groups)
        scans = (own, *beside)
        highest, lowest = scanned(groups, scans, self.parts, self.counts, self.shared)
        scores, opposed = _as_float32(highest.scores), _as_float32(-lowest.scores)
        if self.candidates is not None:
            ends = {"highest": highest.rows, "lowest": lowest.rows}
            exact = self._exact(queries, ends, number)
            scores, opposed = exact["highest"], exact["lowest"]
        for place, query_id in enumerate(ids):
            yield Ranking(
                query_id,
                *_best(highest.rows[place], scores[place], n_highest),
                *_worst(lowest.rows[place], opposed[place], n_lowest),
            )
        for file in (own.queries.path, self._path("exact", number), self._path("chosen", number)):
            if file is not None:
                file.unlink(missing_ok=True)

    def score(self, queries: Tensor, rows: np.ndarray, number: int = 0) -> np.ndarray:
        """Final scores ``[queries, candidates]`` of chosen rows: the second stage alone."""
        return self._exact(queries, {"chosen": rows}, number)["chosen"]

    def features(self, rows: np.ndarray) -> Tensor:
        """Raw features ``[len(rows), dim]`` of ascending rows, as the final scores are made of."""
        return self._rescored.rows(rows)

    @property
    def _rescored(self) -> FeatureSource:
        return self.scanned if self.candidates is None else self.candidates

    def _exact(
        self, queries: Tensor, rows: dict[str, np.ndarray], number: int
    ) -> dict[str, np.ndarray]:
        groups, hand = self._rescored.groups(), self.parts.handed
        asked = self.finish_exactly(queries).cpu()
        stage = Rescoring(
            self.parts.folder,
            f"{number}-{arrays_sha256(rows)[:8]}",
            hand(asked, self._path("exact", number), write_tensor, read_tensor, len(groups)),
            hand(rows, self._path("chosen", number), write_rows, read_rows, len(groups)),
            self.finish_exactly,
            self.memory.candidates,
        )
        scores = rescored(groups, stage, self.parts, self.counts)
        return {name: _as_float32(one) for name, one in scores.items()}

    def _path(self, name: str, number: int) -> Path:
        return self.parts.folder / f"{name}-{number}{SUFFIX}"


def first_stage(
    parts: PartsFolder,
    number: int,
    queries: Tensor,
    finish: Finish,
    lengths: tuple[int, int, int | None],
    rows_at_once: int,
    n_groups: int,
) -> Scan:
    """The first stage of a search for some queries.

    Args:
        parts: the folder of the search's own parts.
        number: what tells these queries from others of the search.
        queries: raw features of the queries, float32 ``[queries, dim]``.
        lengths: those of the lists, highest and lowest, and ``rerank``: see ``depths``.
        rows_at_once: passages in a block.
        n_groups: how many jobs there will be.
    """
    path = parts.folder / f"asked-{number}{SUFFIX}"
    asked = parts.handed(finish(queries), path, write_tensor, read_tensor, n_groups)
    return Scan(parts.folder, number, asked, finish, *depths(*lengths), rows_at_once)


def _as_float32(scores: np.ndarray) -> np.ndarray:
    """Scores rounded to float32, so that equal passages tie.

    The last bits of a float64 sum may differ with a passage's place in a product.
    """
    return scores.astype(np.float32).astype(np.float64)


def _best(rows: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    ranked = order(scores, rows)[:n]
    return rows[ranked], scores[ranked]


def _worst(rows: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    rows, negated = _best(rows, -scores, n)
    return rows, -negated
