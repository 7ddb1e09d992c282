"""Spearman's rank correlation, row by row."""

from __future__ import annotations

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
