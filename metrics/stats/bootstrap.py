"""Percentile bootstrap (Efron 1979) over queries, or over clusters of queries.

Queries that share a relation or an answer are no independent draws: a method that misses one of a
relation tends to miss the others. An interval over queries is then too narrow, and whole clusters
are drawn instead, with replacement; the mean of a resample is the ratio of its sums, since clusters
are not of one size (Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

QUERIES = "queries"
WIDER = 1.1  # an interval over clusters takes the place of that over queries from here on
_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of indices: bounded memory however many queries there are


@dataclass(frozen=True)
class Interval:
    """A 95% interval over one kind of unit.

    Attributes:
        ci95: lower and upper bound.
        units: how many were drawn from. Of few, an interval is too narrow.
    """

    ci95: tuple[float, float]
    units: int

    @property
    def width(self) -> float:
        """Upper bound less the lower one."""
        return self.ci95[1] - self.ci95[0]


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95% bootstrap interval.

    Attributes:
        value: the mean.
        ci95: lower and upper bound.
        n: how many queries went into it.
        over: what was resampled for ``ci95``, e.g. ``"queries"`` or ``"relation"``.
        intervals: every interval that ``ci95`` was chosen from, by what was resampled; empty where
            there was one alone.
    """

    value: float
    ci95: tuple[float, float]
    n: int
    over: str = QUERIES
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def holds_zero(self) -> bool:
        """Whether 0 is in the interval, bounds included: a difference may then be either way."""
        return self.ci95[0] <= 0 <= self.ci95[1]


def percentiles(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the 95% interval of ``[samples, ...]`` resampled means: ``[...]`` each.

    A mean that is NaN is none; a bound is NaN where all are.
    """
    percentile = np.nanpercentile if np.isnan(means).any() else np.percentile
    low, high = percentile(means, [2.5, 97.5], axis=0)
    return low, high


def widest_of(
    value: float, n: int, intervals: dict[str, Interval], usual: str, always: bool
) -> Estimate:
    """The estimate whose interval is the widest that was asked for.

    Args:
        value: the mean.
        n: queries that it is of.
        intervals: by what was resampled; the first is the usual one.
        usual: the one that stands unless another is wider by more than a tenth.
        always: whether another, if there is any, stands in any case.
    """
    others = [name for name in intervals if name != usual]
    widest = max(others, key=lambda name: intervals[name].width, default=usual)
    wider = intervals[widest].width > WIDER * intervals[usual].width
    over = widest if always or wider else usual
    kept = intervals if others else {}
    return Estimate(value, intervals[over].ci95, n, over, kept)


def resampled_columns(
    values: np.ndarray, labels: np.ndarray | None, samples: int, seed: int
) -> np.ndarray:
    """Means of each column over resampled clusters: float64 ``[samples, n_columns]``.

    Args:
        values: float ``[n_queries, n_columns]`` without NaN, at least one query.
        labels: the cluster of each query, of any sortable kind, ``[n_queries]``; None = each query
            is its own.
        seed: of the draws, which all columns share.
    """
    if labels is None and values.shape[1] == 1:
        return _resampled_means(values[:, 0], samples, seed)[:, None]
    sums, sizes = values, np.ones(len(values))
    if labels is not None:
        names, codes = np.unique(labels, return_inverse=True)
        sums, sizes = np.zeros((len(names), values.shape[1])), np.zeros(len(names))
        np.add.at(sums, codes, values)
        np.add.at(sizes, codes, 1.0)
    means = np.empty((samples, values.shape[1]))
    start = 0
    for times in unit_counts(len(sums), samples, seed):
        means[start : start + len(times)] = times @ sums / (times @ sizes)[:, None]
        start += len(times)
    return means


def unit_counts(n: int, samples: int, seed: int | list[int]) -> Iterator[np.ndarray]:
    """How often each of ``n`` units is drawn in each resample: float64 blocks ``[block, n]``.

    A matrix product then does for any number of columns.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, samples, at_once):
        drawn = rng.integers(n, size=(min(at_once, samples - start), n))
        drawn += n * np.arange(len(drawn))[:, None]  # a range of numbers of its own for each row
        counts = np.bincount(drawn.ravel(), minlength=drawn.size)
        yield counts.reshape(drawn.shape).astype(np.float64)


def _resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of ``samples`` draws of ``len(values)`` queries with replacement: ``[samples]``."""
    rng = np.random.default_rng(seed)
    n = len(values)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    means = np.empty(samples)
    for start in range(0, samples, at_once):
        block = means[start : start + at_once]
        block[:] = values[rng.integers(n, size=(len(block), n))].mean(axis=1)
    return means
