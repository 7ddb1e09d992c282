"""Ranking passages by inner products of finished features, in two stages and bounded memory.

The first stage streams all passages once for a group of resident queries and keeps each query's
candidates. The second scores the candidates again, pair by pair in float64: from the index, or, if
the index is lossy, from gradients that are encoded anew (``rerank``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.core import memory, progress
from bench.core.errors import UserError
from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.source import FeatureSource
from methods.gradient.whitening import Whitening
from methods.topk import order
from methods.vector_search import MARGIN, Fetched, rescore, scan

_ROWS_AT_ONCE = 4096  # more make no product faster
_CONVERTED_AT_ONCE = 1 << 19  # numbers: enough for all threads, and still in the cache they share


class Finish:
    """What is done to features before inner products: R^(-1/2), unit norm, weights; in this order.

    With several checkpoints each has its own unit norm, so that a score is a weighted sum of their
    cosines. Zero rows stay zero.

    Args:
        layout: of a row.
        whitening: None leaves the features as they are.
        unit_norm: divide each row by its norm.
        dtype, device: what it computes in, and where.
    """

    def __init__(
        self,
        layout: FeatureLayout,
        whitening: Whitening | None,
        unit_norm: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.dtype, self._device, self._unit_norm = dtype, device, unit_norm
        self._layout = layout
        self._whitening = whitening and whitening.to(dtype, device)
        roots = torch.tensor(layout.weights, dtype=torch.float64).sqrt()
        parts = torch.tensor(layout.parts)
        self._roots = None
        if layout.weights != [1.0]:
            self._roots = roots.repeat_interleave(parts).to(device, dtype)

    def __call__(self, features: Tensor) -> Tensor:
        """Raw features ``[rows, dim]`` of any dtype, finished: ``[rows, blocks' dim]``."""
        features, factors = self.apart(features)
        features = features.to(self.dtype)
        return features if factors is None else features * factors

    def products(self, features: Tensor, queries: Tensor) -> Tensor:
        """Of raw features with finished queries: ``[rows, queries]``."""
        features, factors = self.apart(features)
        # The long side first: see vector_search.products.
        scores = features.to(self.dtype) @ queries.T
        return scores if factors is None else scores.mul_(factors)

    def apart(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """What of it changes a row's direction, and its length.

        A factor of a whole row is cheaper on its scores, which are fewer than its dimensions.

        Args:
            features: raw, ``[rows, dim]``, of any dtype.

        Returns:
            features ``[rows, blocks' dim]``, in their own dtype if nothing is done to them, and
            what each row is still to be multiplied by, ``[rows, 1]``, if anything.
        """
        features = features.to(self._device)
        factors: Tensor | None = None
        if self._layout.weighted:
            features, factors = features[:, :-1], features[:, -1:].to(self.dtype)
        if self._whitening is not None:
            features = self._whitening.apply(features.to(self.dtype))
        if self._unit_norm and len(self._layout.parts) == 1:
            one_over_norm = _reciprocal_norms(features, self.dtype)
            factors = one_over_norm if factors is None else factors * one_over_norm
        elif self._unit_norm:
            parts = features.to(self.dtype).split(self._layout.parts, dim=1)
            features = torch.cat([part * _reciprocal_norms(part, self.dtype) for part in parts], 1)
        if self._roots is not None:
            features = features.to(self.dtype) * self._roots
        return features, factors


def _reciprocal_norms(features: Tensor, dtype: torch.dtype) -> Tensor:
    """``[rows, 1]`` in ``dtype``; 1 for rows that are as good as zero."""
    at_once = len(features)
    if features.dtype != dtype:  # what is converted at once would leave the cache, and take memory
        at_once = _CONVERTED_AT_ONCE // features.shape[1]
    parts = features.split(max(1, at_once))
    norms = torch.cat([part.to(dtype).norm(dim=1, keepdim=True) for part in parts])
    return torch.where(norms > torch.finfo(dtype).tiny, norms, 1.0).reciprocal_()


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
    """How much of each side is held at a time, so that a search stays within a bound.

    Attributes:
        queries: queries that are resident together; more take another pass over the passages.
        rows: passages in a block.
        candidates: passages that the second stage takes together.
    """

    queries: int
    rows: int
    candidates: int

    @staticmethod
    def of(memory_mib: int, n_queries: int, dim: int, dtype: torch.dtype) -> MemoryPlan:
        """Half of the memory for the queries, the rest for a block of passages."""
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
class RankedRows:
    """Rows and scores of one query: highest first, and lowest first."""

    rows: np.ndarray
    scores: np.ndarray
    opponent_rows: np.ndarray
    opponent_scores: np.ndarray


@dataclass(frozen=True)
class Search:
    """One search over all passages.

    Attributes:
        scanned: streamed in the first stage.
        candidates: read in the second; None leaves it out, and the scan's scores are final.
        finish, finish_exactly: for the two stages; the second in float64.
        rerank: candidates a query that the first stage keeps at either end, at least.
        memory: how many passages are held at a time, in either stage.
    """

    scanned: FeatureSource
    candidates: FeatureSource | None
    finish: Finish
    finish_exactly: Finish
    rerank: int | None
    memory: MemoryPlan

    def find(self, queries: Tensor, n_highest: int, n_lowest: int) -> Iterator[RankedRows]:
        """Rank the passages for some queries.

        Args:
            queries: raw features, float32 ``[queries, dim]``.
            n_highest, n_lowest: lengths of the two lists.
        """
        scored = self._scored(self.finish(queries))
        n_kept = depths(n_highest, n_lowest, self.rerank)
        highest, lowest = scan(len(queries), scored, *n_kept)
        scores = self._score(queries, highest.rows, highest.scores)
        opposed = self._score(queries, lowest.rows, -lowest.scores)
        for number in range(len(queries)):
            yield RankedRows(
                *_best(highest.rows[number], scores[number], n_highest),
                *_worst(lowest.rows[number], opposed[number], n_lowest),
            )

    def _scored(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        blocks = self.scanned.blocks(self.memory.rows)
        total = self.scanned.n_blocks(self.memory.rows)
        for first_row, block in progress.track(blocks, "search", total=total, unit="blocks"):
            yield first_row, self.finish.products(block, queries)

    def _score(self, queries: Tensor, rows: np.ndarray, scanned: np.ndarray) -> np.ndarray:
        """Final scores ``[queries, candidates]``: anew, or as scanned."""
        if self.candidates is not None and rows.shape[1]:
            return self.score(queries, rows)
        return _as_float32(scanned)

    def score(self, queries: Tensor, rows: np.ndarray) -> np.ndarray:
        """Second stage alone: of chosen rows, int64 ``[queries, candidates]``, the final scores."""
        asked = self.finish_exactly(queries).cpu().numpy()
        return _as_float32(rescore(asked, rows, self._fetch, self.memory.candidates))

    def _fetch(self, rows: np.ndarray) -> Fetched:
        memory.give_back()  # what the scan, or the last of these, took
        source = self.scanned if self.candidates is None else self.candidates
        features, factors = self.finish_exactly.apart(source.rows(rows))
        return features.cpu().numpy(), None if factors is None else factors[:, 0].cpu().numpy()


def _as_float32(scores: np.ndarray) -> np.ndarray:
    """Float32 numbers: of equal passages, the last bits of a float64 sum may differ with their
    place in a product, and would break the tie."""
    return scores.astype(np.float32).astype(np.float64)


def _best(rows: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    ranked = order(scores, rows)[:n]
    return rows[ranked], scores[ranked]


def _worst(rows: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    rows, negated = _best(rows, -scores, n)
    return rows, -negated
