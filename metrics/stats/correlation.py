"""Spearman's rank correlation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


def rank_correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row with its counterpart, mean ranks for ties.

    Args:
        one, other: ``[rows, n]``.

    Returns:
        from -1 to 1, ``[rows]``; NaN where either row is constant.
    """
    ranks = (pd.DataFrame(values).rank(axis=1).to_numpy() for values in (one, other))
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def rank_correlation(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's rank correlation, with mean ranks for ties.

    Args:
        predicted, measured: ``[n]``.

    Returns:
        from -1 to 1; 0 if only ``predicted`` is constant: it foresees no difference; NaN if
        ``measured`` is: there was none to see.
    """
    if np.ptp(measured) == 0:
        return math.nan
    correlation = float(rank_correlations(predicted[None], measured[None])[0])
    return 0.0 if math.isnan(correlation) else correlation
