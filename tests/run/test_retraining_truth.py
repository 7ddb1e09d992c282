"""Removal effect, LDS and QLD against their definitions, on retrained models that are made up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.models.retraining import Removal
from bench.tasks.base import Query
from metrics.retraining import (
    RetrainingConfig,
    RetrainingTruth,
    reseed_agreement,
    summed_scores,
)
from metrics.stats.correlation import rank_correlation

stats = pytest.importorskip("scipy.stats")  # comes with sentence-transformers
N_PASSAGES, N_QUERIES = 40, 5
QUERIES = [Query(f"q{i}", "p", "t") for i in range(N_QUERIES)]
N_TOKENS = [1, 2, 3, 4, 5]
GROUP = {"removal": ["q0", "q2", "q4"], "qld": ["q1", "q3"]}
CONFIG = RetrainingConfig(
    seeds=1, removal_queries=3, removal_group=3, removal_top=2, lds_subsets=8, lds_share=0.5,
    qld_queries=2, qld_share=0.1,
)  # fmt: skip
WORTH = np.random.default_rng(0).normal(size=(N_QUERIES, N_PASSAGES)) / 10


def additive(removals: Sequence[Removal], worth: np.ndarray = WORTH) -> np.ndarray:
    """A world in which each passage is worth a fixed number of nats to each query."""
    kept = np.ones((len(removals), N_PASSAGES))
    for row, removal in zip(kept, removals, strict=True):
        row[list(removal.rows)] = 0
    seeds = np.array([[removal.seed] for removal in removals])
    return kept @ worth.T - 3 + 0.01 * seeds


def rankings(
    scores: np.ndarray, length: int = N_PASSAGES
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    orders = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    return {
        query.query_id: (order, line[order])
        for query, order, line in zip(QUERIES, orders, scores, strict=True)
    }


def measure(
    scores: np.ndarray,
    length: int = N_PASSAGES,
    retrain: Any = additive,
    top_k: int = N_PASSAGES,
    **change: Any,
):
    config = dataclasses.replace(CONFIG, **change)
    truth = RetrainingTruth(config, QUERIES, N_TOKENS, N_PASSAGES, top_k, 0, retrain)
    return truth.measure(rankings(scores, length), GROUP)


# ------------------------------------------------------------------ removal effect and QLD


@pytest.mark.parametrize("seeds", [1, 3])
def test_removal_effect_is_what_the_group_loses(seeds: int) -> None:
    measured = measure(WORTH, seeds=seeds)
    lists = {name: rows for name, (rows, _) in rankings(WORTH).items()}
    removed = sorted({row for i in GROUP["removal"] for row in lists[i][:2].tolist()})
    assert measured.facts["removed_passages"] == len(removed)
    table = measured.per_query.set_index("query_id")
    for number, query in enumerate(QUERIES):
        found = table.loc[query.query_id]
        if query.query_id not in GROUP["removal"]:
            assert math.isnan(found["removal_effect"])
            continue
        lost = WORTH[number, removed].sum()
        before = [WORTH[number].sum() - 3 + 0.01 * seed for seed in range(seeds)]
        falls = [math.exp(b) - math.exp(b - lost) for b in before]
        assert found["removal_effect_log"] == pytest.approx(lost)
        assert found["removal_effect"] == pytest.approx(np.mean(falls))
        assert found["removal_effect_token"] == pytest.approx(lost / N_TOKENS[number])


def test_a_group_of_one_loses_its_own() -> None:
    found = measure(WORTH, removal_group=1).per_query.set_index("query_id")["removal_effect_log"]
    for number in (0, 2, 4):
        assert found[f"q{number}"] == pytest.approx(np.sort(WORTH[number])[-2:].sum())
    pairs = measure(WORTH, removal_group=2).per_query.set_index("query_id")["removal_effect_log"]
    lists = {name: rows for name, (rows, _) in rankings(WORTH).items()}
    removed = list({*lists["q0"][:2].tolist(), *lists["q4"][:2].tolist()})  # every second one
    assert pairs["q0"] == pytest.approx(WORTH[0, removed].sum())
    assert pairs["q2"] == pytest.approx(found["q2"])


def test_qld_is_what_each_query_alone_loses() -> None:
    table = measure(WORTH).per_query.set_index("query_id")["qld"]
    for number, query in enumerate(QUERIES):
        if query.query_id in GROUP["qld"]:
            top = np.sort(WORTH[number])[-4:]  # a tenth of 40 passages
            assert table[query.query_id] == pytest.approx(top.sum())
        else:
            assert math.isnan(table[query.query_id])


def test_what_is_not_asked_for_trains_nothing() -> None:
    asked: list[Removal] = []

    def noting(removals: Sequence[Removal]) -> np.ndarray:
        asked.extend(removals)
        return additive(removals)

    measured = measure(WORTH, retrain=noting, removal_queries=0, qld_queries=0, lds_subsets=0)
    assert list(measured.per_query) == ["query_id"]
    assert measured.subsets == {}
    assert (asked, measured.facts) == ([], {})
    measure(WORTH, retrain=noting, removal_queries=0, qld_queries=0)
    assert len(set(asked)) == CONFIG.lds_subsets
    assert {len(removal.rows) for removal in asked} == {N_PASSAGES // 2}


# ------------------------------------------------------------------ LDS


def test_the_true_worth_has_lds_one() -> None:
    assert measure(WORTH).per_query["lds"].tolist() == pytest.approx([1] * N_QUERIES)
    assert measure(-WORTH).per_query["lds"].tolist() == pytest.approx([-1] * N_QUERIES)
    assert measure(np.ones_like(WORTH)).per_query["lds"].tolist() == [0] * N_QUERIES


def test_every_method_sees_the_same_subsets() -> None:
    asked: list[list[Removal]] = []

    def noting(removals: Sequence[Removal]) -> np.ndarray:
        asked.append(list(removals))
        return additive(removals)

    for scores in (WORTH, -WORTH):
        measure(scores, retrain=noting, removal_queries=0, qld_queries=0)
    assert asked[0] == asked[1]


def score(rows, scores, kept, outputs) -> float:
    return rank_correlation(summed_scores(rows, scores, kept, is_cut=True), outputs)


@given(st.integers(0, 2**32 - 1), st.integers(1, N_PASSAGES), st.floats(-5, 5), st.floats(0.1, 9))
def test_lds_against_its_definition(seed: int, length: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    scores, outputs = rng.normal(size=N_PASSAGES), rng.normal(size=12)
    kept = np.stack([rng.permutation(N_PASSAGES) < N_PASSAGES // 2 for _ in range(12)])
    order = np.argsort(-scores)[:length]
    found = score(order, scores[order], kept, outputs)
    full = np.full(N_PASSAGES, scores[order[-1]])  # who is not listed scores as the last one
    full[order] = scores[order]
    sums = np.array([full[subset].sum() for subset in kept])
    assert found == pytest.approx(rank_correlation(sums.round(9), outputs), abs=1e-6)
    # Subsets of one size: neither the origin nor the scale of the scores matters.
    moved = score(order, scores[order] * scale + shift, kept, outputs)
    assert moved == pytest.approx(found, abs=0.03)


def test_unlisted_passages_of_a_method_with_no_more_to_say_count_nothing() -> None:
    worth = np.where(np.quantile(WORTH, 0.9) < WORTH, 1.0, 0.0)

    def counting(removals: Sequence[Removal]) -> np.ndarray:
        return additive(removals, worth)

    few = int(worth.sum(axis=1).min())
    assert few > 0
    same = np.argsort(-worth, axis=1, kind="stable")[:, :few]
    scores = np.full_like(worth, -1.0)
    np.put_along_axis(scores, same, 1.0, axis=1)
    exact = np.where(scores > 0, 1.0, 0.0)
    asked = {"retrain": counting, "removal_queries": 0, "qld_queries": 0}
    short = measure(scores, few, **asked).per_query["lds"]
    whole = measure(exact, **asked).per_query["lds"]
    cut = measure(scores, few, top_k=few, **asked).per_query["lds"]
    assert short.tolist() == pytest.approx(whole.tolist())
    assert cut.tolist() == [0] * N_QUERIES, "all listed count as much as the last: nothing is told"


def test_an_empty_list_foresees_nothing() -> None:
    rows = np.empty(0, dtype=np.int64)
    kept = np.ones((3, 4), dtype=bool)
    for is_cut in (False, True):
        summed = summed_scores(rows, np.empty(0), kept, is_cut=is_cut)
        assert rank_correlation(summed, np.arange(3.0)) == 0


def test_empty_lists_remove_nothing() -> None:
    empty = (np.empty(0, dtype=np.int64), np.empty(0))
    config = dataclasses.replace(CONFIG, removal_group=1, lds_subsets=0)
    truth = RetrainingTruth(config, QUERIES, N_TOKENS, N_PASSAGES, N_PASSAGES, 0, additive)
    lists = {**rankings(WORTH), "q2": empty, "q3": empty}
    table = truth.measure(lists, GROUP).per_query.set_index("query_id")
    assert table.loc["q2", "removal_effect_log"] == table.loc["q3", "qld"] == 0
    assert table.loc["q0", "removal_effect_log"] != 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=30))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = np.array(pairs, dtype=float).T
    if len(set(other)) == 1:
        assert math.isnan(rank_correlation(one, other))
    elif len(set(one)) == 1:
        assert rank_correlation(one, other) == 0
    else:
        expected = stats.spearmanr(one, other).statistic
        assert rank_correlation(one, other) == pytest.approx(expected)


def test_the_ceiling() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.normal(size=(1, 20, 4)), 3, axis=0)
    assert reseed_agreement(same) == pytest.approx(1)
    assert abs(reseed_agreement(rng.normal(size=(3, 200, 4)))) < 0.1
    assert "lds_ceiling" not in measure(WORTH).facts
    assert measure(WORTH, seeds=2).facts["lds_ceiling"] == pytest.approx(1)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, r"retraining\.seeds: expected at least 1, found 0"),
        ({"removal_top": 0}, r"removal_top: expected at least 1, found 0"),
        ({"lds_subsets": 2}, r"lds_subsets: a rank correlation takes at least 3"),
        ({"lds_subsets": 1001}, r"lds_subsets: expected 0 to 1000, found 1001"),
        ({"lds_share": 1.0}, r"lds_share: expected a share between 0 and 1, found 1"),
        ({"lds_share": 0.001}, r"lds_share: leaves none or all of 40 passages in each part"),
        ({"qld_share": 0.0}, r"qld_share: expected a share between 0 and 1, found 0"),
        ({"removal_top": 11}, r"removal_top: needs lists of 11 passages, .* 10; raise top_k"),
        ({"qld_share": 0.5}, r"qld_share: needs lists of 20 passages, and top_k is 10"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], message: str) -> None:
    def check(config: RetrainingConfig) -> None:
        config.check(top_k=10)
        config.check_corpus(top_k=10, n_passages=N_PASSAGES)

    check(CONFIG)
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(CONFIG, **change))
