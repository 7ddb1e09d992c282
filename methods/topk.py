"""Running top-k over a stream of score blocks, with ties broken by passage row."""

from __future__ import annotations

import numpy as np


def order(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions that sort by (highest score, lowest row). The only tie rule of the project."""
    return np.lexsort((rows, -scores))


class TopK:
    """The ``k`` best rows of each query, from blocks that arrive in any order.

    Merging is associative: one block or a thousand give the same lists, ties included. Memory is
    ``queries × (k + block)``, never queries × passages.

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
            scores: ``[queries, block]``.
            rows: row of each column, int64 ``[block]``, or ``[queries, block]`` if they differ.
        """
        rows = np.broadcast_to(rows, scores.shape)
        scores, rows = _shortlist(np.asarray(scores, dtype=np.float64), rows, self.k)
        merged_scores = np.concatenate([self.scores, scores], axis=1)
        merged_rows = np.concatenate([self.rows, rows], axis=1)
        keep = np.lexsort((merged_rows, -merged_scores), axis=1)[:, : self.k]
        self.scores = np.take_along_axis(merged_scores, keep, axis=1)
        self.rows = np.take_along_axis(merged_rows, keep, axis=1)


def _shortlist(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a wide block to ``k`` columns a query, keeping the lowest rows among ties at the cut."""
    if scores.shape[1] <= k:
        return scores, rows
    kept_scores = np.empty((len(scores), k))
    kept_rows = np.empty((len(scores), k), dtype=np.int64)
    cut = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    for query, threshold in enumerate(cut):
        above = np.flatnonzero(scores[query] > threshold)
        tied = np.flatnonzero(scores[query] == threshold)
        if len(tied) > k - len(above):
            tied = tied[np.argsort(rows[query, tied], kind="stable")[: k - len(above)]]
        chosen = np.concatenate([above, tied])
        kept_scores[query], kept_rows[query] = scores[query, chosen], rows[query, chosen]
    return kept_scores, kept_rows
