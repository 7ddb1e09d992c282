"""Scores of one ranked list against the passages annotated to state the fact.

A metric has a name that can be parsed back: ``parse_metric(str(metric)) == metric``. The paper
(2410.17413) and its viewer call ``hit@10`` "recall@10"; here ``recall@k`` is true recall, and both
are reported under their own names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class Metric(ABC):
    """A number in ``[0, 1]`` for one query.

    Attributes:
        needs_n_gold: whether the score depends on how many annotated passages the corpus holds;
            such a metric cannot be told from a list of judged passages alone.
    """

    needs_n_gold = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that ``parse_metric`` reads, e.g. ``"hit@10"``."""

    @property
    def depth(self) -> int:
        """The least length of the stored list with which the number means what its name says."""
        return measures.of(self.name).depth or 1

    @abstractmethod
    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """The score of one list.

        Args:
            correct: bool ``[list length]``, strongest first. What a short list lacks is wrong.
            n_gold: annotated passages in the corpus, at least 1.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MRR(Metric):
    """Reciprocal rank of the first correct passage, 0 if the stored list holds none.

    The mean over queries is the mean reciprocal rank. It cannot see past the list, whose length is
    therefore part of every result.
    """

    name = measures.MRR

    def score(self, correct: np.ndarray, n_gold: int) -> float:  # noqa: ARG002
        """See ``Metric.score``."""
        hits = np.flatnonzero(correct)
        return 1.0 / (int(hits[0]) + 1) if len(hits) else 0.0


@dataclass(frozen=True)
class _AtK(Metric):
    """A metric of the ``k`` strongest passages."""

    k: int
    kind = ""

    @property
    def name(self) -> str:
        """See ``Metric.name``."""
        return f"{self.kind}@{self.k}"


@dataclass(frozen=True)
class Hit(_AtK):
    """Whether any of the ``k`` strongest is correct: Success@k. The paper says "recall@10"."""

    kind = "hit"

    def score(self, correct: np.ndarray, n_gold: int) -> float:  # noqa: ARG002
        """See ``Metric.score``."""
        return float(np.any(correct[: self.k]))


@dataclass(frozen=True)
class Recall(_AtK):
    """Share of the annotated passages that are among the ``k`` strongest."""

    kind = "recall"
    needs_n_gold = True

    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """See ``Metric.score``."""
        return int(np.sum(correct[: self.k])) / n_gold


@dataclass(frozen=True)
class Precision(_AtK):
    """Share of the ``k`` strongest that is correct; at most ``n_gold / k``."""

    kind = "precision"

    def score(self, correct: np.ndarray, n_gold: int) -> float:  # noqa: ARG002
        """See ``Metric.score``."""
        return int(np.sum(correct[: self.k])) / self.k


@dataclass(frozen=True)
class AveragePrecision(Metric):
    """Mean over the annotated passages of the precision at the rank where each of them stands.

    ``AP = 1 / n_gold · Σ_{correct ranks r <= k} (correct among the first r) / r``; the mean over
    queries is MAP, trec_eval's ``map`` and ``map_cut_K``. Passages that are not listed, or stand
    below ``k``, add 0 and still count in ``n_gold``: on a list that is shorter than the corpus, the
    number is a lower bound of the one on the whole ranking, and ``map`` means "over the stored
    list", whose length is part of every result. With ``n_gold > k``, ``map@k`` cannot reach 1.

    Attributes:
        k: the cut-off, None for the whole stored list.
    """

    k: int | None = None
    needs_n_gold = True

    @property
    def name(self) -> str:
        """See ``Metric.name``."""
        return "map" if self.k is None else f"map@{self.k}"

    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """See ``Metric.score``."""
        ranks = np.flatnonzero(correct[: self.k]) + 1
        return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / n_gold


@dataclass(frozen=True)
class NDCG(_AtK):
    """Discounted cumulative gain of the ``k`` strongest over that of the best possible list.

    ``DCG = Σ_{correct ranks r <= k} 1 / log2(1 + r)`` with gain 1 for every annotated passage; the
    ideal list has the ``min(n_gold, k)`` first ranks correct, whether or not those passages are
    listed (trec_eval's ``ndcg_cut_K``). What a list shorter than ``k`` lacks has gain 0.
    """

    kind = "ndcg"
    needs_n_gold = True

    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """See ``Metric.score``."""
        ranks = np.flatnonzero(correct[: self.k]) + 1
        ideal = np.arange(1, min(n_gold, self.k) + 1)
        return float(_discounts(ranks).sum() / _discounts(ideal).sum())


def _discounts(ranks: np.ndarray) -> np.ndarray:
    return 1 / np.log2(1 + ranks)


_WHOLE_LIST: dict[str, Metric] = {metric.name: metric for metric in (MRR(), AveragePrecision())}
_AT_K: dict[str, Callable[[int], Metric]] = {
    **{kind.kind: kind for kind in (Hit, Recall, Precision)},
    "map": AveragePrecision,
    NDCG.kind: NDCG,
}


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
        return _WHOLE_LIST[name]
    kind, at, cut = name.partition("@")
    if kind not in _AT_K or not at:
        known = [*_WHOLE_LIST, *(f"{known}@{cut or 10}" for known in _AT_K)]
        raise UserError(f"unknown metric {name!r}", fix=did_you_mean(name, known))
    if not measures.CUT_OFF.fullmatch(cut):
        raise UserError(
            f"metric {name!r:.60}: expected a positive integer after @, found {cut!r:.30}",
            fix=f"for example {kind}@10",
        )
    return _AT_K[kind](int(cut))


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
