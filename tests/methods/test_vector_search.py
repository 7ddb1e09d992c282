"""The streaming scan finds both ends of the list, however the rows are cut into blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.topk import TopK, order
from methods.vector_search import as_tensor, rescore, scan, scored_blocks


def whole_numbers(shape, seed):
    """Whole numbers in float32, so small that products of vectors are exact and often tie."""
    return np.random.default_rng(seed).integers(-2, 3, size=shape).astype(np.float32)


def blocks(stored, rows_at_once):
    for start in range(0, len(stored), rows_at_once):
        yield start, as_tensor(stored[start : start + rows_at_once])


def scan_of(queries: torch.Tensor, vectors, n_highest: int, n_lowest: int):
    return scan(len(queries), scored_blocks(queries, vectors), n_highest, n_lowest)


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("rows_at_once", [1, 7, 256, 1000])
def test_scan_equals_brute_force_at_both_ends(n_queries, rows_at_once):
    stored, queries = whole_numbers((700, 6), 0), whole_numbers((n_queries, 6), 1)
    highest, lowest = scan_of(torch.from_numpy(queries), blocks(stored, rows_at_once), 30, 20)
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
    highest, lowest = scan_of(torch.from_numpy(queries), blocks(stored, 9), 50, 50)
    for found in (highest, lowest):
        assert found.rows[0, -2:].tolist() == [3, 8]
        assert not np.isnan(found.scores[0, :-2]).any()
        assert found.rows[1].tolist() == list(range(50))


def test_no_lowest_rows_unless_asked_for():
    stored = whole_numbers((50, 4), 3)
    highest, lowest = scan_of(torch.from_numpy(stored[:2]), blocks(stored, 9), 5, 0)
    assert highest.rows.shape == (2, 5)
    assert lowest.rows.shape == (2, 0)


@st.composite
def cut_corpora(draw):
    """Whole numbers, so that sums are exact and ties many; cut into shards, in any order."""
    number = st.integers(-2, 2)
    n_rows = draw(st.integers(1, 20))
    line = st.lists(number, min_size=2, max_size=2)
    rows = np.array(draw(st.lists(line, min_size=n_rows, max_size=n_rows)), dtype=np.float32)
    queries = np.array(draw(st.lists(line, min_size=1, max_size=3)), dtype=np.float32)
    cuts = sorted({0, n_rows, *draw(st.lists(st.integers(0, n_rows), max_size=5))})
    shards = list(draw(st.permutations(list(itertools.pairwise(cuts)))))
    return queries, rows, shards, draw(st.integers(1, n_rows + 2)), draw(st.integers(0, n_rows + 2))


@settings(max_examples=200, deadline=None)
@given(cut_corpora())
def test_shards_in_any_order_are_one_shard_at_both_ends(problem):
    """Shards searched alone and merged, and all searched as one, give the sorted corpus."""
    queries, rows, shards, n_highest, n_lowest = problem
    asked, scores = torch.from_numpy(queries), queries.astype(float) @ rows.T
    parts = [(first, torch.from_numpy(rows[first:last])) for first, last in shards]
    whole = scan_of(asked, [(0, torch.from_numpy(rows))], n_highest, n_lowest)
    streamed = scan_of(asked, parts, n_highest, n_lowest)
    merged = TopK(len(queries), n_highest), TopK(len(queries), n_lowest)
    for part in parts:
        for total, found in zip(merged, scan_of(asked, [part], n_highest, n_lowest), strict=True):
            total.push(found.scores, found.rows)
    for highest, lowest in (whole, streamed, merged):
        for query, line in enumerate(scores):
            best = order(line, np.arange(len(rows)))[:n_highest]
            worst = order(-line, np.arange(len(rows)))[:n_lowest]
            assert highest.rows[query].tolist() == best.tolist()
            assert highest.scores[query].tolist() == line[best].tolist()
            assert lowest.rows[query].tolist() == worst.tolist()
            assert (-lowest.scores[query]).tolist() == line[worst].tolist()


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
def test_final_scores_are_sums_of_their_own(rows_at_once, factors):
    """They are bit by bit what one pair alone gives, in any chunks and with any threads."""
    draw = np.random.default_rng(4)
    vectors = draw.standard_normal((300, 40)).astype(np.float32)
    queries, times = draw.standard_normal((9, 40)), draw.random(300)
    candidates = np.stack([draw.choice(300, 50, replace=False) for _ in range(9)])

    def fetch(rows):
        return vectors[rows], times[rows] if factors else None

    found = rescore(queries, candidates, fetch, rows_at_once)
    for query, row in itertools.product(range(9), range(50)):
        number = candidates[query, row]
        expected = (vectors[number].astype(np.float64) * queries[query]).sum()
        assert found[query, row] == (expected * times[number] if factors else expected)
