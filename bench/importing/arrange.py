"""The order of an imported list: by score, ties by row of the corpus, whatever the file's ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bench.core.errors import UserError
from methods.topk import order


class Arranger:
    """Orders lists and counts those whose ranks say otherwise.

    Args:
        counts: the counter to which ``lists_out_of_score_order`` and ``lists_with_ties_reordered``
            are added.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._rising = self._uneven = 0

    def strongest(
        self, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores, highest score first, equal ones by rising row.

        Args:
            rows, scores, ranks: the entries of one list ``[n]`` each, in the order of the file.
        """
        chosen = order(scores, rows)
        as_ranked = np.argsort(ranks, kind="stable")
        steps = np.diff(scores[as_ranked])
        self._uneven += bool((steps != 0).any())
        self._rising += bool((steps >= 0).all() and (steps > 0).any())
        if (steps > 0).any():
            self._counts["lists_out_of_score_order"] += 1
        elif not np.array_equal(chosen, as_ranked):
            self._counts["lists_with_ties_reordered"] += 1
        return rows[chosen], scores[chosen]

    def weakest(self, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of opponents, lowest score first, equal ones by rising row."""
        chosen = order(-scores, rows)
        return rows[chosen], scores[chosen]

    def check(self) -> None:
        """Refuse a file whose scores are distances.

        Raises:
            UserError: every list whose scores differ has the lowest one at its first rank.
        """
        if self._rising and self._rising == self._uneven:
            raise UserError(
                "in every list the scores rise from rank to rank: they seem to be distances",
                fix="negate them, so that a higher score is a stronger one",
            )
