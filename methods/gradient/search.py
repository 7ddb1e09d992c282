"""Ranking passages by inner products of finished features, in two stages and bounded memory.

The first stage streams all passages once for a group of resident queries and keeps each query's
candidates. The second stage scores the candidates again, pair by pair in float64: from the index
or, if the index is lossy, from gradients that are encoded anew (``rerank``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.core import memory, progress
from bench.core.errors import UserError
from methods.base import Ranking
from methods.gradient.checkpoints import FeatureLayout
from methods.gradient.source import FeatureSource
from methods.gradient.whitening import Whitening
from methods.topk import order
from methods.vector_search import MARGIN, Fetched, rescore, scan

_ROWS_AT_ONCE = 4096  # passages in a block, at most; more make no product faster
# Numbers that are converted at a time: enough for all threads, and still in the cache they share.
_CONVERTED_AT_ONCE = 1 << 19


class Finish:
    """The last steps before inner products: R^(-1/2), then unit norm, then weights.

    With several checkpoints each has a unit norm of its own, so that a score is a weighted sum of
    their cosines. Zero rows stay zero.

    Args:
        whitening: R^(-1/2); None leaves the features as they are.
        unit_norm: whether each row is divided by its norm.
        dtype, device: dtype and device of the computation.
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
        """Finished features ``[rows, blocks' dim]`` of raw ones, ``[rows, dim]`` in any dtype."""
        features, factors = self.apart(features)
        features = features.to(self.dtype)
        return features if factors is None else features * factors

    def products(self, features: Tensor, queries: Tensor) -> Tensor:
        """Inner products ``[rows, queries]`` of raw features with finished queries."""
        features, factors = self.apart(features)
        # The long side comes first, as in ``vector_search.scored_blocks``.
        scores = features.to(self.dtype) @ queries.T
        return scores if factors is None else scores.mul_(factors)

    def apart(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features in their final direction, and apart from them the factors of whole rows.

        A factor of a row is cheaper on its scores, which are fewer than its dimensions.

        Args:
            features: raw features, ``[rows, dim]``, of any dtype.

        Returns:
            features ``[rows, blocks' dim]``, in their own dtype if nothing was done to them, and
            the factors that rows are still to be multiplied by, ``[rows, 1]``, if there are any.
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

    def pulled_back(self, queries: Tensor) -> Tensor:
        """Vectors whose inner products with raw features are scores, but for ``own_factors``.

        Args:
            queries: finished queries, ``[queries, blocks' dim]``.
        """
        if self._roots is not None:
            queries = queries * self._roots
        return queries if self._whitening is None else self._whitening.transposed(queries)

    def own_factors(self, features: Tensor) -> Tensor:
        """What each checkpoint's part of a passage's score is multiplied by.

        It is the passage's weight, if it has one, over its norm, if that is to be one.

        Args:
            features: raw features, ``[rows, dim]``.

        Returns:
            ``[rows, checkpoints]``.
        """
        features = features.to(self._device, self.dtype)
        factors = features.new_ones(len(features), len(self._layout.parts))
        if self._layout.weighted:
            features, factors = features[:, :-1], factors * features[:, -1:]
        if self._unit_norm:
            whitened = features if self._whitening is None else self._whitening.apply(features)
            parts = whitened.split(self._layout.parts, dim=1)
            factors *= torch.cat([_reciprocal_norms(part, self.dtype) for part in parts], 1)
        return factors


def _reciprocal_norms(features: Tensor, dtype: torch.dtype) -> Tensor:
    """One over the norm of each row, ``[rows, 1]`` in ``dtype``; 1 for rows as good as zero."""
    at_once = len(features)
    if features.dtype != dtype:  # converted in parts, they stay in the cache
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
    """One search over all passages.

    Attributes:
        scanned: features that the first stage streams.
        candidates: features that the second stage reads; with None there is no second stage, and
            the scores of the first are final.
        finish, finish_exactly: last steps of the two stages; those of the second are in float64.
        rerank: candidates a query that the first stage keeps at either end, at least.
        memory: number of passages that are held at a time, in either stage.
    """

    scanned: FeatureSource
    candidates: FeatureSource | None
    finish: Finish
    finish_exactly: Finish
    rerank: int | None
    memory: MemoryPlan

    def find(
        self, ids: Sequence[str], queries: Tensor, n_highest: int, n_lowest: int
    ) -> Iterator[Ranking]:
        """Rank the passages for some queries, with so many opponents.

        Args:
            queries: raw features of the queries, float32 ``[queries, dim]``.
        """
        scored = self._scored(self.finish(queries))
        n_kept = depths(n_highest, n_lowest, self.rerank)
        highest, lowest = scan(len(queries), scored, *n_kept)
        scores = self._score(queries, highest.rows, highest.scores)
        opposed = self._score(queries, lowest.rows, -lowest.scores)
        for number, query_id in enumerate(ids):
            yield Ranking(
                query_id,
                *_best(highest.rows[number], scores[number], n_highest),
                *_worst(lowest.rows[number], opposed[number], n_lowest),
            )

    def _scored(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        blocks = self.scanned.blocks(self.memory.rows)
        total = self.scanned.n_blocks(self.memory.rows)
        for first_row, block in progress.track(blocks, "search", total=total, unit="blocks"):
            yield first_row, self.finish.products(block, queries)

    def _score(self, queries: Tensor, rows: np.ndarray, scanned: np.ndarray) -> np.ndarray:
        """Final scores ``[queries, candidates]``: computed anew, or those of the scan."""
        if self.candidates is not None and rows.shape[1]:
            return self.score(queries, rows)
        return _as_float32(scanned)

    def score(self, queries: Tensor, rows: np.ndarray) -> np.ndarray:
        """Final scores ``[queries, candidates]`` of chosen rows: the second stage alone."""
        asked = self.finish_exactly(queries).cpu().numpy()
        return _as_float32(rescore(asked, rows, self._fetch, self.memory.candidates))

    def features(self, rows: np.ndarray) -> Tensor:
        """Raw features ``[len(rows), dim]`` of ascending rows, as the final scores are made of."""
        return (self.scanned if self.candidates is None else self.candidates).rows(rows)

    def _fetch(self, rows: np.ndarray) -> Fetched:
        memory.give_back()  # that the scan, or the previous fetch, took
        features, factors = self.finish_exactly.apart(self.features(rows))
        return features.cpu().numpy(), None if factors is None else factors[:, 0].cpu().numpy()


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
