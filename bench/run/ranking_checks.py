"""What every list must hold before it is measured, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.core.errors import UserError
from bench.tasks.base import Query
from methods.base import Ranking


def check_rankings(
    rankings: Sequence[Ranking], queries: Sequence[Query], n_passages: int, top_k: int
) -> None:
    """Hold a method to its promise, so that a faulty plug-in cannot reach the leaderboard.

    Raises:
        UserError: other queries than asked for, rows out of range or repeated, scores that are not
            finite or not sorted, ties out of row order, or lists longer than ``top_k``.
    """
    faults = []
    if [r.query_id for r in rankings] != [q.query_id for q in queries]:
        faults.append("it did not answer the queries asked, in their order")
    for ranking in rankings:
        opponents = (ranking.opponent_rows, -np.asarray(ranking.opponent_scores), n_passages)
        for name, (rows, scores, longest) in (
            ("ranking", (ranking.rows, ranking.scores, top_k)),
            ("opponents", opponents),  # as many as the method's own setting asks for
        ):
            fault = _fault(np.asarray(rows), np.asarray(scores), n_passages, longest)
            if fault:
                faults.append(f"the {name} of query {ranking.query_id} {fault}")
    if faults:
        raise UserError(f"the method returned a wrong ranking: {faults[0]}", where="method")


def _fault(rows: np.ndarray, scores: np.ndarray, n_passages: int, longest: int) -> str:
    """What is wrong with one list whose scores should fall; empty if nothing is."""
    step = np.diff(scores)
    if len(rows) != len(scores) or len(rows) > longest:
        return f"has {len(rows)} rows and {len(scores)} scores, where {longest} fit"
    if not np.isfinite(scores).all():
        return "has scores that are NaN or infinite"
    if len(set(rows.tolist())) != len(rows) or ((rows < 0) | (rows >= n_passages)).any():
        return "has rows that repeat or do not exist"
    if (step > 0).any() or ((step == 0) & (np.diff(rows) < 0)).any():
        return "is not sorted by score, then rising row"
    return ""
