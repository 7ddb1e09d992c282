"""Exact search by dot product over rows of vectors that stay on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench import progress
from methods.topk import TopK, order

# Fixed, so that no setting changes which candidates the scan finds. A block's scores take 32 MiB.
_QUERIES_AT_ONCE = 1024
_ROWS_AT_ONCE = 4096
# Rounding in the float32 scan may swap passages within 1e-6 of each other; this many more than
# asked for are kept, and scored again in float64.
_MARGIN = 32


def search_rows(
    queries: np.ndarray, stored: np.ndarray, top_k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ``top_k`` rows with the highest dot product, for each query in turn.

    A scan in float32 finds candidates; the candidates' scores are float64 sums over the stored
    vectors, so they depend on nothing but the two vectors.

    Args:
        queries: float32 ``[queries, dim]``.
        stored: float32 ``[rows, dim]``, usually memory-mapped; read block by block.

    Yields:
        rows, int64 ``[k]``, and scores, float64 ``[k]``, by (highest score, lowest row), with
        ``k = min(top_k, rows)``.
    """
    starts = range(0, len(queries), _QUERIES_AT_ONCE)
    blocks = [(q, r) for q in starts for r in range(0, len(stored), _ROWS_AT_ONCE)]
    best = TopK(0, 0)
    for first_query, first_row in progress.track(blocks, "search vectors", unit="blocks"):
        asked = queries[first_query : first_query + _QUERIES_AT_ONCE]
        if first_row == 0:
            best = TopK(len(asked), top_k + _MARGIN)
        block = np.asarray(stored[first_row : first_row + _ROWS_AT_ONCE])
        best.push(asked @ block.T, np.arange(first_row, first_row + len(block)))
        if first_row + len(block) == len(stored):
            for query, candidates in zip(asked, best.rows, strict=True):
                yield _rescored(query, stored, candidates, top_k)


def _rescored(
    query: np.ndarray, stored: np.ndarray, candidates: np.ndarray, top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of ``candidates`` by float64 dot product."""
    rows = np.sort(candidates)  # in the order in which they lie on disk
    # A sum per row, not a matrix product, whose rounding depends on a row's place in the matrix.
    scores = (stored[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    best = order(scores, rows)[:top_k]
    return rows[best], scores[best]
