"""Percentile bootstrap over queries (Efron 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of indices: bounded memory however many queries there are


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95% bootstrap interval.

    Attributes:
        value: the mean.
        ci95: lower and upper bound.
        n: how many queries went into it.
    """

    value: float
    ci95: tuple[float, float]
    n: int


def estimate(
    values: np.ndarray, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate | None:
    """The mean of ``values`` with its percentile interval over resampled queries.

    Args:
        values: one score a query, float ``[n_queries]``. NaN is a query that was not scored: it is
            left out, and not counted in ``n``.
        samples: resamples; the interval's ends then lie between their order statistics.
        confidence: coverage of the interval.
        seed: the same seed and values give the same interval.

    Returns:
        None if no query was scored: there is no mean to report. A single query's interval is its
        value.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return None
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(_resampled_means(values, samples, seed), [tail, 100 - tail])
    return Estimate(value=float(values.mean()), ci95=(float(low), float(high)), n=n)


def estimate_columns(
    values: np.ndarray, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> list[Estimate]:
    """``estimate`` of each column, in one pass over the resamples that all columns share.

    Args:
        values: float ``[n_queries, n_columns]`` without NaN, at least one query.
        samples: see ``estimate``.
        confidence: see ``estimate``.
        seed: see ``estimate``; the result is that of ``estimate`` but for the last bits.
    """
    n = len(values)
    tail = 100 * (1 - confidence) / 2
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    means = np.empty((samples, values.shape[1]))
    for start in range(0, samples, at_once):
        block = means[start : start + at_once]
        drawn = rng.integers(n, size=(len(block), n))
        # How often each query was drawn: a matrix product then does for any number of columns.
        times = np.array([np.bincount(one, minlength=n) for one in drawn], dtype=np.float64)
        block[:] = times @ values / n
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return [
        Estimate(value=float(value), ci95=(float(one_low), float(one_high)), n=n)
        for value, one_low, one_high in zip(values.mean(axis=0), low, high, strict=True)
    ]


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
