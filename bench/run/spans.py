"""The shares of tokens beside the lists: from a method's tokens to characters of the passages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core import progress
from bench.core.errors import UserError
from bench.results.spans import LISTED, sum_fault
from bench.tasks.spans import Spans

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.tasks.base import Query
    from methods.base import Method, Ranking

_DIGITS = 6  # significant digits of a share: more are below what its sum is checked to


@dataclass(frozen=True)
class ListedSpans:
    """The spans of one query's listed passages, None beyond the first ten of either end."""

    proponents: list[Spans | None]
    opponents: list[Spans | None]


def tolerance(dtype: torch.dtype) -> float:
    """How far shares may sum beside a score, as a share of their amounts.

    It is the root of the rounding of the gradients, which is float32's where these are wider, since
    the index keeps float32. An inner product of many dimensions that nearly cancel loses digits.
    """
    import torch

    return math.sqrt(max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps))


def spans_of_lists(
    method: Method, queries: Sequence[Query], rankings: Sequence[Ranking]
) -> Iterator[ListedSpans]:
    """Stream the spans of each query's list, computed as they are asked for.

    Args:
        method: one that has searched, in a context with ``spans``.
        rankings: what it found for these queries.

    Raises:
        UserError: the shares of a passage do not sum to its score.
    """
    shares = method.shares(queries, rankings, LISTED)
    counted = progress.track(rankings, "shares of tokens", unit="queries")
    for ranking, one in zip(counted, shares, strict=True):
        yield ListedSpans(
            _spans(method, ranking.query_id, ranking.rows, ranking.scores, one.proponents),
            _spans(
                method, ranking.query_id, ranking.opponent_rows, ranking.opponent_scores,
                one.opponents,
            ),
        )  # fmt: skip


def _spans(
    method: Method,
    query: str,
    rows: np.ndarray,
    scores: np.ndarray,
    shares: Sequence[np.ndarray],
) -> list[Spans | None]:
    """The spans of one end of a list, None for each passage beyond those that have shares."""
    model, passages = method.context.model, method.context.task.passages
    limit = tolerance(model.gradient_dtype)
    spans: list[Spans | None] = []
    for row, score, of_tokens in zip(rows.tolist(), scores.tolist(), shares, strict=False):
        passage = passages[row]
        places = model.passage_places(passage.text)
        own = [
            [start, end, float(f"{share:.{_DIGITS}g}")]
            for (start, end), share in zip(places, of_tokens.tolist(), strict=True)
        ]
        if fault := sum_fault(own, score, limit):
            raise UserError(
                fault,
                where=f"query {query}, passage {passage.passage_id}",
                fix="set spans=false, or a wider model.gradient_dtype",
            )
        spans.append(own)
    return [*spans, *[None] * (len(rows) - len(spans))]
