"""Exact search by dot product over rows of vectors that stay on disk.

The search has two stages. A scan in float32 streams the rows once and keeps, for each query, a few
more candidates than asked for: rounding may swap rows whose scores differ by about 1e-6 of their
size. The candidates' final scores are float64 sums over two vectors and nothing else, so they do
not depend on how the rows were cut into blocks. (Of more than ``MARGIN`` rows so near each other at
the end of a list, rounding decides which are candidates.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from methods.topk import TopK, order

MARGIN = 32  # candidates kept beyond the list's length
# Sizes of a block, fixed so that no setting changes which candidates the scan finds. The scores of
# a block take 16 MiB.
_QUERIES_AT_ONCE = 1024
QUERIES_LISTED_AT_ONCE = 1 << 14  # whose candidates are held together: 2 KiB each, for lists of 100
_ROWS_AT_ONCE = 4096
_FETCHED_AT_ONCE = 2048  # candidates brought from disk together
_PRODUCTS_AT_ONCE = 1 << 16  # numbers of float64 that a core's cache holds


# Rows of each query, int64 [queries, n], and their scores, by highest score, then lowest row.
Lists = tuple[np.ndarray, np.ndarray]


def search_rows(
    queries: np.ndarray, stored: np.ndarray, top_k: int, find: Callable[[np.ndarray, int], Lists]
) -> Iterator[Lists]:
    """The ``top_k`` rows with the highest dot product, for each query in turn.

    Args:
        queries: vectors of the queries, float32 ``[queries, dim]``.
        stored: vectors to search, float32 ``[rows, dim]``, usually memory-mapped.
        find: the first stage, such as ``nearest`` over all rows: the lists of some queries, of a
            given length.

    Yields:
        rows, int64 ``[k]``, and scores, float64 ``[k]``, by highest score, then lowest row, with
        ``k = min(top_k, rows)``.
    """
    for start in range(0, len(queries), QUERIES_LISTED_AT_ONCE):
        asked = queries[start : start + QUERIES_LISTED_AT_ONCE]
        candidates, _ = find(asked, top_k + MARGIN)
        yield from _ranked(asked, candidates, stored, top_k)


def nearest(queries: np.ndarray, stored: np.ndarray, rows: range, n: int) -> Lists:
    """The ``n`` rows of a range whose dot products are highest in float32: the first stage.

    Args:
        queries: vectors of the queries, float32 ``[queries, dim]``.
        rows: begins with a block; the product of a block depends on how it is cut.
    """
    lists = []
    starts = range(0, len(queries), _QUERIES_AT_ONCE)
    for start in progress.track(starts, "search vectors", unit=f"times {_QUERIES_AT_ONCE} queries"):
        asked = torch.from_numpy(queries[start : start + _QUERIES_AT_ONCE])
        best, _ = scan(len(asked), scored_blocks(asked, blocks_of(stored, rows)), n, 0)
        lists.append((best.rows, best.scores))
    found, scores = map(np.concatenate, zip(*lists, strict=True))
    return found, scores


def _ranked(
    queries: np.ndarray, candidates: np.ndarray, stored: np.ndarray, top_k: int
) -> Iterator[Lists]:
    """Rank candidates by sums in float64, the second stage; yields as ``search_rows`` does.

    Args:
        candidates: rows to rank for each query, int64 ``[queries, candidates]``.
    """
    scores = rescore(
        queries.astype(np.float64), candidates, lambda rows: (stored[rows], None), _FETCHED_AT_ONCE
    )
    for rows, line in zip(candidates, scores, strict=True):
        order_of_line = order(line, rows)[:top_k]
        yield rows[order_of_line], line[order_of_line]


def blocks_of(stored: np.ndarray, rows: range) -> Iterator[tuple[int, Tensor]]:
    """Stream the first row and the vectors ``[rows, dim]`` of each block of a range of rows."""
    for start in range(rows.start, rows.stop, _ROWS_AT_ONCE):
        yield start, as_tensor(stored[start : min(start + _ROWS_AT_ONCE, rows.stop)])


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory; where that is a read-only map, never write to it."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    # torch has no read-only tensors and would warn of one.
    return torch.from_numpy(np.asarray(_Writable(array)))


class _Writable:
    """The memory of an array, presented to torch as writable."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def scored_blocks(
    queries: Tensor, blocks: Iterable[tuple[int, Tensor]]
) -> Iterator[tuple[int, Tensor]]:
    """Stream the number of the first row and the scores ``[rows, queries]`` of each block.

    The long side comes first: this product is a quarter faster than its transpose, and ``TopK``
    reads either.

    Args:
        queries: vectors of the queries, ``[queries, dim]``.
        blocks: number of the first row, and vectors ``[rows, dim]`` in the queries' dtype.
    """
    for first_row, block in blocks:
        yield first_row, block @ queries.T


def scan(
    n_queries: int, scored: Iterable[tuple[int, Tensor]], n_highest: int, n_lowest: int
) -> tuple[TopK, TopK]:
    """Stream blocks of scores once, and keep the best and the worst rows of each query.

    Args:
        scored: number of the first row, and scores ``[rows, queries]``, which are written over.
        n_highest: number of rows with the highest scores to keep.
        n_lowest: number of rows with the lowest scores to keep.

    Returns:
        the highest and the lowest; scores of the latter are negated, so that lowest comes first.
    """
    highest, lowest = TopK(n_queries, n_highest), TopK(n_queries, n_lowest)
    for first_row, block in scored:
        scores = block.cpu().numpy().T
        rows = np.arange(first_row, first_row + len(block))
        highest.push(scores, rows)
        if n_lowest:
            lowest.push(np.negative(scores, out=scores), rows)
    return highest, lowest


# Vectors [n, dim], and the number [n] that products with each are to be multiplied by, if any.
Fetched = tuple[np.ndarray, np.ndarray | None]


def rescore(
    queries: np.ndarray,
    candidates: np.ndarray,
    fetch: Callable[[np.ndarray], Fetched],
    rows_at_once: int,
) -> np.ndarray:
    """Dot products of each query with its own candidates, summed in float64.

    Each pair is summed alone: the rounding of a matrix product depends on a row's place in it.

    Args:
        queries: vectors of the queries, float64 ``[queries, dim]``.
        candidates: rows to score for each query, int64 ``[queries, candidates]``.
        fetch: brings the vectors of ascending rows; asked once for each row.
        rows_at_once: number of rows that are fetched together, at most.

    Returns:
        scores, float64 ``[queries, candidates]``.
    """
    distinct, place = np.unique(candidates, return_inverse=True)
    place = place.reshape(candidates.shape)
    scores = np.empty(candidates.shape)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for first in range(0, len(distinct), rows_at_once):
            fetched = fetch(distinct[first : first + rows_at_once])
            _fill(scores, place - first, queries, fetched, pool)
    return scores


def _fill(
    scores: np.ndarray,
    place: np.ndarray,
    queries: np.ndarray,
    fetched: Fetched,
    pool: ThreadPoolExecutor,
) -> None:
    """Write the scores of the candidates that were fetched.

    Args:
        scores: all scores, float64 ``[queries, candidates]``.
        place: place of each candidate among the fetched, int64 ``[queries, candidates]``; others
            are out of range.
    """
    vectors, factors = fetched
    inside = (place >= 0) & (place < len(vectors))

    def score(query: int) -> None:
        rows = place[query, inside[query]]
        sums = _dot_products(vectors, rows, queries[query])
        scores[query, inside[query]] = sums if factors is None else sums * factors[rows]

    list(pool.map(score, np.flatnonzero(inside.any(axis=1))))


def _dot_products(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Dot products of some rows with a query, float64 ``[rows]``, in parts that fit the cache."""
    step = max(1, _PRODUCTS_AT_ONCE // len(query))
    sums = np.empty(len(rows))
    for start in range(0, len(rows), step):
        part = vectors[rows[start : start + step]].astype(np.float64, copy=False)
        sums[start : start + step] = np.multiply(part, query, out=part).sum(axis=1)
    return sums
