"""Rank correlation beside scipy's, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.stats.correlation import rank_correlations

stats = pytest.importorskip("scipy.stats")  # comes with sentence-transformers


@given(
    st.integers(2, 8).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=2, max_size=2
        )
    )
)
def test_correlation_is_scipys(pair: list[list[int]]) -> None:
    one, other = (np.array([values], dtype=float) for values in pair)
    value = rank_correlations(one, other)[0]
    if len(set(pair[0])) == 1 or len(set(pair[1])) == 1:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(stats.spearmanr(*pair).statistic)
