"""Percentile bootstrap over queries (Efron 1979)."""

from __future__ import annotations

import numpy as np

from bench.result import Estimate

_DRAWS_AT_ONCE = 1 << 21  # 16 MiB of indices: bounded memory however many queries there are


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
