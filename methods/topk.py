"""Running top-k over a stream of blocks of scores, with ties broken by passage row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Scores that are looked at together. Their mask and, where a list is not full yet, their partition
# take some tens of megabytes, however wide a block is.
_SCORES_AT_ONCE = 1 << 22
# Raised whenever a change of code lists other passages among those that match; part of the version
# of every method that asks ``TopK.matches``.
MATCHES_VERSION = 1


def order(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions that sort by highest score, then lowest row: the only tie rule of the project."""
    return np.lexsort((rows, -scores))


def matching(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One query's rows and scores, without the passages that score nothing.

    For methods that score a passage above 0 if and only if it has something in common with the
    query. In any other order than by score, such passages would stand by their place in the corpus,
    and a metric would see a ranking where there is none. NaN is no score of nothing: it stays, for
    the check of a method's lists to refuse.
    """
    is_match = ~(scores <= 0)
    return rows[is_match], scores[is_match]


class TopK:
    """The ``k`` best rows of each query, from blocks that arrive in any order.

    Merging is associative: one block or a thousand give the same lists, ties included. Memory is
    ``queries × (k + block)``, never queries × passages. One comparison leaves out a score that
    cannot enter its query's list, so the cost of a long stream is that of reading it once. Scores
    that may enter wait until there are as many as the lists are long, and are sorted in together:
    the number of merges grows with the logarithm of the stream's length.

    Args:
        n_queries: number of queries that are searched together.
        k: length of a list; lists are shorter only if fewer rows were pushed.
    """

    def __init__(self, n_queries: int, k: int) -> None:
        self.k = k
        self._scores = np.empty((n_queries, 0), dtype=np.float64)
        self._rows = np.empty((n_queries, 0), dtype=np.int64)
        # Query, score and row of each entry that waits.
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_waiting = 0
        self._n_pushed = 0  # rows, which are columns of the blocks

    @property
    def scores(self) -> np.ndarray:
        """Scores of the rows pushed so far, highest first: float64 ``[queries, min(k, rows)]``."""
        self._merge()
        return self._scores

    @property
    def rows(self) -> np.ndarray:
        """Rows of ``scores``, the lowest first among equals: int64 ``[queries, min(k, rows)]``."""
        self._merge()
        return self._rows

    def matches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and scores of each query, without the passages that score nothing (``matching``)."""
        return map(matching, self.rows, self.scores)

    def push(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Take in a block; no reference to it is kept.

        Args:
            scores: scores ``[queries, block]``, laid out in memory by query or by column; blocks
                of float32 are not copied.
            rows: row of each column, int64 ``[block]``, or ``[queries, block]`` if queries differ.
        """
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float64)
        if rows.ndim == 1 and (np.diff(rows) < 0).any():
            columns = np.argsort(rows, kind="stable")
            scores, rows = scores[:, columns], rows[columns]
        width = max(1, _SCORES_AT_ONCE // max(1, len(scores)))
        for start in range(0, scores.shape[1], width):
            self._admit(scores[:, start : start + width], rows[..., start : start + width])

    def _admit(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Let the scores wait that may enter a list, by what the lists hold now."""
        entering = ~(scores < self._least(scores.dtype, rows)[:, np.newaxis])  # NaN enters, last
        if rows.ndim == 1 and np.count_nonzero(entering) > 2 * self.k * len(scores):
            entering = _shortlist(scores, self.k)
        self._n_pushed += scores.shape[1]
        query, column = _marked(entering)
        new_rows = rows[column] if rows.ndim == 1 else rows[query, column]
        self._waiting.append((query, scores[query, column].astype(np.float64), new_rows))
        self._n_waiting += len(query)
        if self._n_waiting >= self.k * len(scores):
            self._merge()

    def _merge(self) -> None:
        """Sort the entries that wait into the lists."""
        if not self._n_waiting:
            self._waiting.clear()
            return
        n_queries, kept = self._scores.shape
        listed = (np.repeat(np.arange(n_queries), kept), self._scores.ravel(), self._rows.ravel())
        queries, scores, rows = map(np.concatenate, zip(listed, *self._waiting, strict=True))
        ranked = np.lexsort((rows, -scores, queries))
        ends = np.cumsum(np.bincount(queries, minlength=n_queries))
        starts = np.concatenate([[0], ends[:-1]])
        kept = min(self.k, self._n_pushed)  # the same for all queries: what was left out is beaten
        best = ranked[starts[:, np.newaxis] + np.arange(kept)]
        self._scores, self._rows = scores[best], rows[best]
        self._waiting.clear()
        self._n_waiting = 0

    def _least(self, dtype: np.dtype, rows: np.ndarray) -> np.ndarray:
        """The least score of ``dtype`` with which a row of the block enters each list: ``[q]``."""
        if self._scores.shape[1] < self.k:
            return np.full(len(self._scores), -np.inf, dtype=dtype)
        last = self._scores[:, -1]
        with np.errstate(over="ignore"):
            least = last.astype(dtype)
        infinity = dtype.type(np.inf)
        # A row beyond the last of the list loses ties with it, so its score must be higher.
        beaten = (least < last) | ((least == last) & (rows.min() > self._rows[:, -1]))
        return np.where(beaten, np.nextafter(least, infinity), least)


def _marked(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Query and column of each mark of ``[queries, block]``, in the order of memory.

    Where marks are few, this is ten times faster than ``nonzero`` of two dimensions.
    """
    by_column = mask.flags.f_contiguous
    places = np.flatnonzero(mask.ravel(order="F" if by_column else "C"))
    query, column = np.unravel_index(places, mask.shape, order="F" if by_column else "C")
    return query, column


def _shortlist(scores: np.ndarray, k: int) -> np.ndarray:
    """Mark the ``k`` best columns of each query, the first ones among ties at the cut: bool."""
    if scores.shape[1] <= k:
        return np.ones(scores.shape, dtype=bool)
    falling = np.negative(scores, order="C")  # partition works along memory
    cut = -np.partition(falling, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > cut, scores == cut
    room = k - np.count_nonzero(above, axis=1)[:, np.newaxis]
    if (np.count_nonzero(tied, axis=1)[:, np.newaxis] > room).any():
        tied &= np.cumsum(tied, axis=1, dtype=np.int32) <= room
    return above | tied | np.isnan(cut)  # with fewer than k numbers, all are kept
