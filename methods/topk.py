"""Running top-k over a stream of score blocks, with ties broken by passage row."""

from __future__ import annotations

import numpy as np

# Scores looked at together: their mask and, where a list is not full yet, their partition take
# some tens of megabytes, however wide a block is.
_SCORES_AT_ONCE = 1 << 22


def order(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions that sort by (highest score, lowest row). The only tie rule of the project."""
    return np.lexsort((rows, -scores))


class TopK:
    """The ``k`` best rows of each query, from blocks that arrive in any order.

    Merging is associative: one block or a thousand give the same lists, ties included. Memory is
    ``queries × (k + block)``, never queries × passages. A score that cannot enter its query's list
    is left out by one comparison, so the cost of a long stream is that of reading it once.

    Args:
        n_queries: how many queries are searched together.
        k: list length; lists are shorter only if fewer rows were pushed.
    """

    def __init__(self, n_queries: int, k: int) -> None:
        self.k = k
        self.scores = np.empty((n_queries, 0), dtype=np.float64)
        self.rows = np.empty((n_queries, 0), dtype=np.int64)

    def push(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Merge a block.

        Args:
            scores: ``[queries, block]``; float32 blocks are read as they are, not copied.
            rows: row of each column, int64 ``[block]``, or ``[queries, block]`` if they differ.
        """
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float64)
        if rows.ndim == 1 and (np.diff(rows) < 0).any():
            columns = np.argsort(rows, kind="stable")
            scores, rows = scores[:, columns], rows[columns]
        width = max(1, _SCORES_AT_ONCE // max(1, len(scores)))
        for start in range(0, scores.shape[1], width):
            self._merge(scores[:, start : start + width], rows[..., start : start + width])

    def _merge(self, scores: np.ndarray, rows: np.ndarray) -> None:
        entering = ~(scores < self._least(scores.dtype, rows)[:, np.newaxis])  # NaN enters, last
        if rows.ndim == 1 and np.count_nonzero(entering) > 2 * self.k * len(scores):
            entering = _shortlist(scores, self.k)
        query, column = np.nonzero(entering)
        if not len(query):
            return
        n_queries, kept = self.scores.shape
        queries = np.concatenate([np.repeat(np.arange(n_queries), kept), query])
        merged_scores = np.concatenate([self.scores.ravel(), scores[query, column]])
        new_rows = rows[column] if rows.ndim == 1 else rows[query, column]
        merged_rows = np.concatenate([self.rows.ravel(), new_rows])
        ranked = np.lexsort((merged_rows, -merged_scores, queries))
        ends = np.cumsum(np.bincount(queries, minlength=n_queries))
        starts = np.concatenate([[0], ends[:-1]])
        kept = min(self.k, kept + scores.shape[1])  # the same for all: who was left out was beaten
        best = ranked[starts[:, np.newaxis] + np.arange(kept)]
        self.scores, self.rows = merged_scores[best], merged_rows[best]

    def _least(self, dtype: np.dtype, rows: np.ndarray) -> np.ndarray:
        """The least score of ``dtype`` with which a row of the block enters each list: ``[q]``."""
        if self.scores.shape[1] < self.k:
            return np.full(len(self.scores), -np.inf, dtype=dtype)
        last = self.scores[:, -1]
        with np.errstate(over="ignore"):
            least = last.astype(dtype)
        infinity = dtype.type(np.inf)
        # Rows beyond the last of the list lose ties with it, and must be above it.
        beaten = (least < last) | ((least == last) & (rows.min() > self.rows[:, -1]))
        return np.where(beaten, np.nextafter(least, infinity), least)


def _shortlist(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the ``k`` best columns of each query, the first ones among ties at the cut: bool."""
    if scores.shape[1] <= k:
        return np.ones(scores.shape, dtype=bool)
    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > cut, scores == cut
    room = k - np.count_nonzero(above, axis=1)[:, np.newaxis]
    if (np.count_nonzero(tied, axis=1)[:, np.newaxis] > room).any():
        tied &= np.cumsum(tied, axis=1, dtype=np.int32) <= room
    return above | tied | np.isnan(cut)  # fewer than k numbers: keep all
