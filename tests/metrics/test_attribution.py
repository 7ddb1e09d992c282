from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from metrics.attribution import (
    Judged,
    Metric,
    NoGold,
    check_depth,
    parse_metric,
    score_rankings,
)

NAMES = (
    "mrr", "hit@1", "hit@10", "recall@10", "precision@3", "recall@1000", "map", "map@10", "ndcg@1",
    "ndcg@10",
)  # fmt: skip


def score(name, correct, n_gold):
    return parse_metric(name).score(np.array(correct, dtype=bool), n_gold)


def test_values_by_hand():
    correct = [False, True, False, True, True]
    assert score("mrr", correct, 6) == 1 / 2
    assert score("hit@1", correct, 6) == 0
    assert score("hit@2", correct, 6) == 1
    assert score("recall@2", correct, 6) == 1 / 6
    assert score("recall@5", correct, 6) == 3 / 6
    assert score("precision@2", correct, 6) == 1 / 2
    assert score("precision@4", correct, 6) == 2 / 4
    assert score("map", correct, 6) == pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 6)
    assert score("map@4", correct, 6) == pytest.approx((1 / 2 + 2 / 4) / 6)
    assert score("map@1", correct, 6) == 0
    ideal = sum(1 / math.log2(1 + rank) for rank in (1, 2, 3, 4))
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert score("ndcg@4", correct, 6) == pytest.approx(gain / ideal)
    assert score("ndcg@2", correct, 6) == pytest.approx(1 / math.log2(3) / (1 + 1 / math.log2(3)))


def test_hit_and_recall_differ_when_a_fact_is_stated_twice():
    correct = [True] + [False] * 9
    assert score("hit@10", correct, 2) == 1
    assert score("recall@10", correct, 2) == 0.5
    assert score("hit@10", correct, 1) == score("recall@10", correct, 1) == 1


def test_what_a_short_list_lacks_is_wrong():
    assert score("precision@10", [True, True], 2) == 0.2
    assert score("recall@10", [True, True], 4) == 0.5
    assert score("hit@10", [False], 1) == 0
    assert score("map@10", [True, True], 4) == score("map", [True, True], 4) == 0.5
    assert score("ndcg@10", [True], 2) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    for name in NAMES:
        assert score(name, [], 1) == 0


def test_unlisted_gold_keeps_a_perfect_list_below_one():
    for name in ("map", "map@10", "ndcg@10", "recall@10"):
        assert score(name, [True] * 3, 3) == 1, name
        assert score(name, [True] * 3, 4) < 1, name
    # Beyond the cut-off, gold counts against map, not against ndcg: no list of 2 can hold it.
    assert score("map@2", [True] * 3, 3) == pytest.approx(2 / 3)
    assert score("ndcg@2", [True] * 3, 3) == 1


def test_a_metric_that_needs_the_gold_count_changes_with_it():
    for name in NAMES:
        metric = parse_metric(name)
        moved = score(name, [True] * 2, 2) != score(name, [True] * 2, 3)
        # One passage of two fills a list of one: only there does the count not show.
        assert metric.needs_n_gold == moved or name == "ndcg@1", name


def test_mrr_does_not_see_past_the_list():
    correct = [False] * 9 + [True]
    assert score("mrr", correct, 1) == 1 / 10
    assert score("mrr", correct[:9], 1) == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.booleans(), max_size=30), st.integers(0, 5), st.integers(1, 35))
def test_scores_equal_a_plain_oracle(correct, unlisted, k):
    n_gold = sum(correct) + unlisted
    if n_gold == 0:
        return
    first = next((1 / rank for rank, hit in enumerate(correct, start=1) if hit), 0.0)
    found = len([hit for rank, hit in enumerate(correct, start=1) if hit and rank <= k])
    assert score("mrr", correct, n_gold) == first
    assert score(f"hit@{k}", correct, n_gold) == (1.0 if found else 0.0)
    assert score(f"recall@{k}", correct, n_gold) == found / n_gold
    assert score(f"precision@{k}", correct, n_gold) == found / k
    precisions = [sum(correct[:rank]) / rank for rank, hit in enumerate(correct, start=1) if hit]
    assert score("map", correct, n_gold) == pytest.approx(sum(precisions) / n_gold)
    assert score(f"map@{k}", correct, n_gold) == pytest.approx(sum(precisions[:found]) / n_gold)
    gains = [hit / math.log2(1 + rank) for rank, hit in enumerate(correct, start=1)]
    ideal = [1 / math.log2(1 + rank) for rank in range(1, n_gold + 1)]
    expected = sum(gains[:k]) / sum(ideal[:k])
    assert score(f"ndcg@{k}", correct, n_gold) == pytest.approx(expected)
    assert 0 <= score(f"ndcg@{k}", correct, n_gold) <= 1


def test_names_round_trip():
    for name in NAMES:
        assert str(parse_metric(name)) == name
        assert parse_metric(str(parse_metric(name))) == parse_metric(name)
    metrics = {
        Metric("mrr"), Metric("hit", 10), Metric("recall", 10), Metric("precision", 10),
        Metric("hit", 1), Metric("map"), Metric("map", 10), Metric("ndcg", 10),
    }  # fmt: skip
    assert {parse_metric(str(metric)) for metric in metrics} == metrics


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hits@10", "did you mean hit@10"),
        ("MRR", "known: hit@10, map, map@10, mrr, ndcg@10"),
        ("ndcg", "did you mean ndcg@10"),
        ("map@", "positive integer"),
        ("map10", "did you mean map@10"),
        ("ndcg@0", "for example ndcg@10"),
        ("hit", "hit@10"),
        ("mrr@10", "mrr"),
        ("", "unknown metric ''"),
        ("hit@", "positive integer"),
        ("hit@0", "found '0'"),
        ("recall@-1", "found '-1'"),
        ("recall@1.5", "for example recall@10"),
        ("hit@010", "found '010'"),
        ("hit@1\n", "positive integer"),
    ],
)
def test_unknown_names_are_one_line(name, message):
    with pytest.raises(UserError) as error:
        parse_metric(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_metric_deeper_than_the_list_is_refused():
    metrics = [parse_metric(name) for name in ("mrr", "hit@10")]
    check_depth(metrics, 10)
    with pytest.raises(UserError, match="hit@10 needs lists of 10, but top_k is 9"):
        check_depth(metrics, 9)
    check_depth([parse_metric("map")], 1)  # what it looks at is the stored list
    for name in ("map@10", "ndcg@10"):
        with pytest.raises(UserError, match=f"{name} needs lists of 10"):
            check_depth([parse_metric(name)], 9)


def test_queries_without_gold_are_skipped_or_zero():
    judged = [
        Judged("a", np.array([False, True]), 1),
        Judged("none", np.array([False, False]), 0),
        Judged("c", np.array([], dtype=bool), 3),
    ]
    metrics = [parse_metric("mrr"), parse_metric("hit@1")]
    skipped = score_rankings(judged, metrics, NoGold.skip)
    assert list(skipped.columns) == ["query_id", "n_gold", "mrr", "hit@1"]
    assert skipped["query_id"].tolist() == ["a", "none", "c"]
    assert skipped["n_gold"].tolist() == [1, 0, 3]
    assert math.isnan(skipped["mrr"][1])
    assert skipped["mrr"].notna().sum() == 2
    assert skipped["mrr"].mean() == 0.25
    zero = score_rankings(judged, metrics, NoGold.zero)
    assert zero["mrr"].tolist() == [0.5, 0, 0]
    assert zero["hit@1"].tolist() == [0, 0, 0]


def test_no_query_gives_an_empty_table():
    frame = score_rankings([], [parse_metric("mrr")], NoGold.skip)
    assert list(frame.columns) == ["query_id", "n_gold", "mrr"]
    assert len(frame) == 0
