"""The streaming scan: both ends of the list, any blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.vector_search import as_tensor, scan


def whole_numbers(shape, seed):
    """Float32 whole numbers so small that every product of vectors is exact, with many ties."""
    return np.random.default_rng(seed).integers(-2, 3, size=shape).astype(np.float32)


def blocks(stored, rows_at_once):
    for start in range(0, len(stored), rows_at_once):
        yield start, as_tensor(stored[start : start + rows_at_once])


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("rows_at_once", [1, 7, 256, 1000])
def test_scan_equals_brute_force_at_both_ends(n_queries, rows_at_once):
    stored, queries = whole_numbers((700, 6), 0), whole_numbers((n_queries, 6), 1)
    highest, lowest = scan(torch.from_numpy(queries), blocks(stored, rows_at_once), 30, 20)
    for query, line in enumerate(queries @ stored.T):
        best, worst = np.lexsort((np.arange(700), -line)), np.lexsort((np.arange(700), line))
        assert highest.rows[query].tolist() == best[:30].tolist()
        assert highest.scores[query].tolist() == line[best[:30]].tolist()
        assert lowest.rows[query].tolist() == worst[:20].tolist()
        assert lowest.scores[query].tolist() == (-line[worst[:20]]).tolist()


def test_scores_that_are_no_numbers_come_last():
    stored = whole_numbers((50, 4), 2)
    stored[[3, 8]] = np.nan
    queries = np.ones((2, 4), dtype=np.float32)
    queries[1] = np.nan
    highest, lowest = scan(torch.from_numpy(queries), blocks(stored, 9), 50, 50)
    for found in (highest, lowest):
        assert found.rows[0, -2:].tolist() == [3, 8]
        assert not np.isnan(found.scores[0, :-2]).any()
        assert found.rows[1].tolist() == list(range(50))


def test_no_lowest_rows_unless_asked_for():
    stored = whole_numbers((50, 4), 3)
    highest, lowest = scan(torch.from_numpy(stored[:2]), blocks(stored, 9), 5, 0)
    assert highest.rows.shape == (2, 5)
    assert lowest.rows.shape == (2, 0)
