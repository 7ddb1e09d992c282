"""Scores of one ranked list against the passages annotated to state the fact.

A metric has a name that can be parsed back: ``parse_metric(str(metric)) == metric``. The paper
(2410.17413) and its viewer call ``hit@10`` "recall@10"; here ``recall@k`` is true recall, and both
are reported under their own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.core.errors import UserError, did_you_mean
from metrics import measures
from metrics.settings import NoGold


@dataclass(frozen=True)
class Judged:
    """One judged list of passages.

    Attributes:
        correct: whether each listed passage is annotated, strongest first, bool ``[list length]``.
        n_gold: how many annotated passages the corpus holds, listed or not.
    """

    query_id: str
    correct: np.ndarray
    n_gold: int


@dataclass(frozen=True)
class Metric:
    """A number in ``[0, 1]`` for one query.

    Attributes:
        kind: the name of its formula, such as ``"hit"``.
        k: how many of the strongest passages count; None for the whole stored list.
    """

    kind: str
    k: int | None = None

    @property
    def name(self) -> str:
        """The name that ``parse_metric`` reads, e.g. ``"hit@10"``."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    @property
    def needs_n_gold(self) -> bool:
        """Whether the score depends on how many annotated passages the corpus holds.

        Such a metric cannot be told from a list of judged passages alone.
        """
        return self.kind in _COUNT_THE_CORPUS

    @property
    def depth(self) -> int:
        """The least length of the stored list with which the number means what its name says."""
        return measures.of(self.name).depth or 1

    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """The score of one list.

        Args:
            correct: bool ``[list length]``, strongest first. What a short list lacks is wrong.
            n_gold: annotated passages in the corpus, at least 1.
        """
        formula = _WHOLE_LIST[self.kind] if self.k is None else _AT_K[self.kind]
        return formula(correct[: self.k], n_gold, self.k or len(correct))

    def __str__(self) -> str:
        return self.name


# ------------------------------------------------------------------ formulas
# Each takes which of the passages that count are correct, bool ``[at most k]``, how many passages
# the corpus has that are annotated, and k.

Formula = Callable[[np.ndarray, int, int], float]


def _mrr(correct: np.ndarray, n_gold: int, k: int) -> float:  # noqa: ARG001
    """Reciprocal rank of the first correct passage, 0 if the stored list holds none.

    The mean over queries is the mean reciprocal rank. It cannot see past the list, whose length is
    therefore part of every result.
    """
    hits = np.flatnonzero(correct)
    return 1.0 / (int(hits[0]) + 1) if len(hits) else 0.0


def _hit(correct: np.ndarray, n_gold: int, k: int) -> float:  # noqa: ARG001
    """Whether any passage is correct: Success@k. The paper says "recall@10"."""
    return float(np.any(correct))


def _recall(correct: np.ndarray, n_gold: int, k: int) -> float:  # noqa: ARG001
    """Share of the annotated passages that are among the ``k`` strongest."""
    return int(np.sum(correct)) / n_gold


def _precision(correct: np.ndarray, n_gold: int, k: int) -> float:  # noqa: ARG001
    """Share of the ``k`` strongest that is correct; at most ``n_gold / k``."""
    return int(np.sum(correct)) / k


def _map(correct: np.ndarray, n_gold: int, k: int) -> float:  # noqa: ARG001
    """Mean over the annotated passages of the precision at the rank where each of them stands.

    ``AP = 1 / n_gold · Σ_{correct ranks r <= k} (correct among the first r) / r``; the mean over
    queries is MAP, trec_eval's ``map`` and ``map_cut_K``. Passages that are not listed, or stand
    below ``k``, add 0 and still count in ``n_gold``: on a list that is shorter than the corpus, the
    number is a lower bound of the one on the whole ranking, and ``map`` means "over the stored
    list", whose length is part of every result. With ``n_gold > k``, ``map@k`` cannot reach 1.
    """
    ranks = np.flatnonzero(correct) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / n_gold


def _ndcg(correct: np.ndarray, n_gold: int, k: int) -> float:
    """Discounted cumulative gain of the ``k`` strongest over that of the best possible list.

    ``DCG = Σ_{correct ranks r <= k} 1 / log2(1 + r)`` with gain 1 for every annotated passage; the
    ideal list has the ``min(n_gold, k)`` first ranks correct, whether or not those passages are
    listed (trec_eval's ``ndcg_cut_K``). What a list shorter than ``k`` lacks has gain 0.
    """
    ranks = np.flatnonzero(correct) + 1, np.arange(1, min(n_gold, k) + 1)  # as listed, and ideal
    gained, ideal = ((1 / np.log2(1 + some)).sum() for some in ranks)
    return float(gained / ideal)


_WHOLE_LIST: dict[str, Formula] = {"mrr": _mrr, "map": _map}
_AT_K: dict[str, Formula] = {
    "hit": _hit,
    "recall": _recall,
    "precision": _precision,
    "map": _map,
    "ndcg": _ndcg,
}
_COUNT_THE_CORPUS = ("recall", "map", "ndcg")


def parse_metric(name: str) -> Metric:
    """The metric called ``name``.

    That is ``mrr``, ``map``, or one of ``hit``, ``recall``, ``precision``, ``map``, ``ndcg``
    followed by ``@K``, K >= 1.

    Raises:
        UserError: an unknown name, or a cut-off that is no positive integer.
    """
    if not isinstance(name, str):  # settings hold anything, and lists of lists are let through
        raise UserError(f"expected a metric's name, found {name!r:.40}", fix="for example mrr")
    if name in _WHOLE_LIST:
        return Metric(name)
    kind, at, cut = name.partition("@")
    if kind not in _AT_K or not at:
        known = [*_WHOLE_LIST, *(f"{known}@{cut or 10}" for known in _AT_K)]
        raise UserError(f"unknown metric {name!r}", fix=did_you_mean(name, known))
    if not measures.CUT_OFF.fullmatch(cut):
        raise UserError(
            f"metric {name!r:.60}: expected a positive integer after @, found {cut!r:.30}",
            fix=f"for example {kind}@10",
        )
    return Metric(kind, int(cut))


def check_depth(metrics: Iterable[Metric], top_k: int) -> None:
    """Make sure that the stored lists are long enough for every metric.

    Raises:
        UserError: a metric looks deeper than ``top_k``.
    """
    for metric in metrics:
        if metric.depth > top_k:
            raise UserError(
                f"metric {metric} needs lists of {metric.depth}, but top_k is {top_k}",
                fix=f"set top_k={metric.depth} or more, or leave the metric out",
            )


def score_rankings(
    judged: Iterable[Judged], metrics: Sequence[Metric], no_gold: NoGold
) -> pd.DataFrame:
    """Score every list: one row a query, in the order given.

    Returns:
        columns ``query_id``, ``n_gold`` and one per metric. Queries without gold are NaN or 0 as
        ``no_gold`` says, so ``frame[metric].notna().sum()`` is n_scored and ``len(frame)`` n_total.
    """
    without_gold = {NoGold.skip: np.nan, NoGold.zero: 0.0}[no_gold]
    query_ids: list[str] = []
    n_gold: list[int] = []
    scores: list[list[float]] = [[] for _ in metrics]
    for one in judged:
        query_ids.append(one.query_id)
        n_gold.append(one.n_gold)
        for metric, column in zip(metrics, scores, strict=True):
            column.append(metric.score(one.correct, one.n_gold) if one.n_gold else without_gold)
    columns = {str(m): np.array(s, dtype=np.float64) for m, s in zip(metrics, scores, strict=True)}
    return pd.DataFrame(
        {"query_id": query_ids, "n_gold": np.array(n_gold, dtype=np.int64), **columns}
    )
