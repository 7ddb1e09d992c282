from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.topk import TopK, order


def brute_force(scores, rows, k):
    """The lists as they must be, in plain Python: by highest score, then lowest row."""
    lists = []
    for line in scores.tolist():
        ranked = sorted(zip(line, rows.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
        lists.append(ranked[:k])
    return lists


def lists_of(best):
    return [
        list(zip(scores, rows, strict=True))
        for scores, rows in zip(best.scores.tolist(), best.rows.tolist(), strict=True)
    ]


@st.composite
def problems(draw):
    """Scores of few distinct values (many ties), and the columns cut into blocks in any order."""
    n_queries, n_rows = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    score = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e300, -np.inf])
    line = st.lists(score, min_size=n_rows, max_size=n_rows)
    scores = np.array(draw(st.lists(line, min_size=n_queries, max_size=n_queries)))
    columns = np.array(draw(st.permutations(range(n_rows))))
    cuts = draw(st.lists(st.integers(0, n_rows), max_size=6))
    return scores, np.split(columns, sorted(cuts)), draw(st.integers(1, n_rows + 3))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_any_blocks_in_any_order_equal_a_sort(problem):
    scores, blocks, k = problem
    best = TopK(len(scores), k)
    for columns in blocks:
        best.push(scores[:, columns], columns)
    assert lists_of(best) == brute_force(scores, np.arange(scores.shape[1]), k)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_matches_are_the_head_of_each_list_that_scores_above_0(problem):
    scores, blocks, k = problem
    best = TopK(len(scores), k)
    for columns in blocks:
        best.push(scores[:, columns], columns)
    whole = brute_force(scores, np.arange(scores.shape[1]), k)
    found = [list(zip(s.tolist(), rows.tolist(), strict=True)) for rows, s in best.matches()]
    assert found == [[(s, row) for s, row in line if s > 0] for line in whole]


def test_what_is_no_number_is_not_taken_for_no_match():
    best = TopK(1, 4)
    best.push(np.array([[0.0, np.nan, 2.0]]), np.arange(3))
    ((rows, scores),) = best.matches()
    assert rows.tolist() == [2, 1]
    assert np.isnan(scores[1])


@settings(max_examples=100, deadline=None)
@given(problems(), st.booleans())
def test_neither_the_layout_of_a_block_nor_looking_at_a_list_matters(problem, looked_at):
    """Blocks are laid out by column and their memory is used again; lists are read in between."""
    scores, blocks, k = problem
    best = TopK(len(scores), k)
    for number, columns in enumerate(blocks):
        block = np.asfortranarray(scores[:, columns])
        best.push(block, columns)
        block[:] = np.inf
        if looked_at:
            seen = np.sort(np.concatenate(blocks[: number + 1]))
            assert lists_of(best) == brute_force(scores[:, seen], seen, k)
    assert lists_of(best) == brute_force(scores, np.arange(scores.shape[1]), k)


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(0, 6))
def test_merging_is_associative(problem, split):
    """The merged lists of two parts are the list of the whole, with rows that differ by query."""
    scores, blocks, k = problem
    left, right = TopK(len(scores), k), TopK(len(scores), k)
    for number, columns in enumerate(blocks):
        (left if number < split else right).push(scores[:, columns], columns)
    merged = TopK(len(scores), k)
    merged.push(right.scores, right.rows)
    merged.push(left.scores, left.rows)
    assert lists_of(merged) == brute_force(scores, np.arange(scores.shape[1]), k)


def test_ties_at_the_cut_keep_the_lowest_rows():
    best = TopK(1, 2)
    best.push(np.zeros((1, 5)), np.array([9, 3, 7, 1, 5]))
    assert best.rows.tolist() == [[1, 3]]


def test_what_is_kept_does_not_grow():
    best = TopK(2, 3)
    for block in range(10):
        best.push(np.full((2, 50), float(block)), np.arange(50 * block, 50 * block + 50))
        assert best.rows.shape == best.scores.shape == (2, 3)
    assert best.rows.tolist() == [[450, 451, 452]] * 2


def test_lists_of_a_long_stream_are_those_of_a_sort():
    """Most scores are left out, and the others wait to be merged."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 5000)).round(2).astype(np.float32)
    scores[rng.random(scores.shape) < 0.01] = np.nan
    scores[2, 40:] = np.nan  # fewer numbers than the list is long
    best = TopK(3, 50)
    for columns in np.array_split(np.arange(5000), 37):
        best.push(scores[:, columns], columns)
        assert best._n_waiting < 50 * 3  # whatever came, what is kept stays bounded
    assert best.rows.tolist() == [order(line, np.arange(5000))[:50].tolist() for line in scores]


def test_order_is_by_score_then_row():
    scores, rows = np.array([1.0, 2.0, 1.0, 2.0]), np.array([4, 9, 2, 0])
    assert order(scores, rows).tolist() == [3, 1, 2, 0]
