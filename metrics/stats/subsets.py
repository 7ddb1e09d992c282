"""Resampling of a linear datamodelling score, over queries and over the random subsets as well.

A query's score is a rank correlation over some tens of subsets of the corpus, which are as much a
draw as the queries are, and the same draw for all of them: another one moves all queries' scores
together, which resampling queries alone does not see. Here both are drawn with replacement,
independently of each other (the pigeonhole bootstrap: Owen 2007), and each query's rank correlation
is taken anew over the subsets drawn.
"""

from __future__ import annotations

import numpy as np

from metrics.stats.bootstrap import unit_counts

MOST_SUBSETS = 1000  # ranks are counted pair by pair; each subset is a training
# The bounds of a 95% interval from ten thousand resamples are off by a hundredth of its width; with
# as many subsets as there may be, they take 80 MB.
MOST_RESAMPLES = 10_000
_RANKS_AT_ONCE = 1 << 21  # 16 MiB of them, and some times that on the way


def resampled_scores(
    predicted: np.ndarray,
    measured: np.ndarray,
    labels: np.ndarray | None,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Mean over resampled queries of each one's rank correlation over resampled subsets.

    Equal arguments but ``predicted`` give the same draws: the difference of two methods is that of
    what this returns for each.

    Args:
        predicted: what a method foresees of each subset, ``[n_queries, n_subsets]``.
        measured: what came of it, likewise.
        labels: the cluster of each query, ``[n_queries]``; None = each query is its own.
        seed: of the draws.

    Returns:
        float64 ``[samples]``. A query whose measured values are equal in a resample takes no part
        in it; where no query is left, the mean is NaN.

    Raises:
        ValueError: fewer than two subsets.
    """
    n_queries, n_subsets = predicted.shape
    codes = np.arange(n_queries)
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1]
    of_units = np.concatenate(list(unit_counts(int(codes.max()) + 1, samples, seed)))
    of_subsets = _drawn_subsets(n_subsets, samples, seed)
    sums, sizes = np.zeros(samples), np.zeros(samples)
    at_once = max(1, _RANKS_AT_ONCE // (samples * n_subsets))
    for start in range(0, n_queries, at_once):
        part = slice(start, start + at_once)
        scores = weighted_rank_correlations(predicted[part], measured[part], of_subsets)
        times = of_units[:, codes[part]]
        sums += np.where(np.isnan(scores), 0.0, scores * times).sum(axis=1)
        sizes += np.where(np.isnan(scores), 0.0, times).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return sums / sizes


def _drawn_subsets(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each subset is drawn, ``[samples, n]``; one subset alone has no ranks, and is drawn
    again."""
    if n < 2:
        raise ValueError(f"{n} subsets")
    # Another stream than that of the queries, or as many subsets as queries would be drawn alike.
    times = np.concatenate(list(unit_counts(n, samples, [seed, 1])))
    again = 1
    while (alone := times.max(axis=1) == n).any():
        again += 1
        times[alone] = np.concatenate(list(unit_counts(n, int(alone.sum()), [seed, again])))
    return times


def weighted_rank_correlations(
    predicted: np.ndarray, measured: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Spearman's rank correlations of samples in which each subset is repeated.

    Args:
        predicted, measured: ``[n_queries, n_subsets]``.
        times: how often each subset is in each sample, ``[samples, n_subsets]``.

    Returns:
        float64 ``[samples, n_queries]``, with mean ranks for ties; 0 where only the predicted
        values of a sample are equal, NaN where the measured ones are.
    """
    one, other = (_centred_ranks(values, times) for values in (predicted, measured))
    products, squares, others = (
        np.einsum("sm,sqm,sqm->sq", times, *pair)
        for pair in ((one, other), (one, one), (other, other))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = products / np.sqrt(squares * others)
    return np.where(others == 0, np.nan, np.where(squares == 0, 0.0, scores))


def _centred_ranks(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean rank of each value in each sample, less the mean of all: ``[samples, queries, n]``."""
    n_queries, n = values.shape
    below = (values[:, :, None] < values[:, None, :]) + 0.5 * (
        values[:, :, None] == values[:, None, :]
    )
    # Multiples of a half, which are summed without error: equal values have equal ranks.
    ranks = (times @ below.transpose(1, 0, 2).reshape(n, -1)).reshape(-1, n_queries, n)
    return ranks - times.sum(axis=1)[:, None, None] / 2
