"""Intervals over clusters, over seeds, and over subsets: against enumeration and plain loops."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.settings import Cluster
from metrics.stats import bootstrap
from metrics.stats.bootstrap import QUERIES, Interval, resampled_columns, widest_of
from metrics.stats.pairs import Scored, compare_methods
from metrics.stats.sampling import Sampling, cluster_labels
from metrics.stats.seeds import estimate_over_seeds
from metrics.stats.subsets import resampled_scores, weighted_rank_correlations
from tests.fixtures.estimates import estimate_mean

stats = pytest.importorskip("scipy.stats")  # comes with sentence-transformers


def percentile_of(distribution: list[float], share: float) -> float:
    ranked = sorted(distribution)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


# ------------------------------------------------------------------ clusters


def every_resample(groups: list[list[float]]) -> list[float]:
    """The ratio of sums of every equally likely draw of as many clusters, with replacement."""
    means = []
    for drawn in itertools.product(groups, repeat=len(groups)):
        values = [value for group in drawn for value in group]
        means.append(sum(values) / len(values))
    return means


def test_an_interval_over_clusters_is_that_of_every_draw_of_clusters() -> None:
    groups = [[0.1, 0.9, 0.4], [0.8], [0.0, 0.1], [0.7, 0.6, 0.9, 0.2], [0.3, 0.35], [1.0, 0.0]]
    values = np.array([value for group in groups for value in group])
    labels = np.array([i for i, group in enumerate(groups) for _ in group])
    exact = every_resample(groups)
    means = resampled_columns(values[:, None], labels, 40_000, 0)[:, 0]
    assert means.mean() == pytest.approx(np.mean(exact), abs=2e-3)
    assert means.std() == pytest.approx(np.std(exact), rel=0.02)
    sampling = Sampling(samples=40_000, labels={"relation": labels}, always=True)
    found = sampling.estimate("mrr", values)
    assert found is not None
    assert (found.value, found.n, found.over) == (values.mean(), 14, "relation")
    low, high = found.ci95
    assert low == pytest.approx(percentile_of(exact, 0.025), abs=0.01)
    assert high == pytest.approx(percentile_of(exact, 0.975), abs=0.01)
    assert found.intervals["relation"] == Interval(found.ci95, 6)
    assert found.intervals[QUERIES].ci95 == estimate_mean(values, samples=40_000).ci95


def test_queries_that_are_each_their_own_cluster_have_the_interval_over_queries() -> None:
    values = np.random.default_rng(0).random((50, 3))
    apart = resampled_columns(values, np.arange(50), 200, 4)
    np.testing.assert_array_equal(apart, resampled_columns(values, None, 200, 4))


def test_names_and_order_of_clusters_move_nothing_but_the_draw() -> None:
    rng = np.random.default_rng(1)
    values, labels = rng.random((60, 1)), rng.integers(0, 12, 60)
    turned = rng.permutation(60)
    one = resampled_columns(values, labels, 300, 0)
    np.testing.assert_allclose(resampled_columns(values[turned], labels[turned], 300, 0), one)


def test_memory_bound_moves_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = np.random.default_rng(2).random((60, 2)), np.arange(60) % 7
    whole = resampled_columns(values, labels, 100, 0)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7 * 13)
    np.testing.assert_array_equal(resampled_columns(values, labels, 100, 0), whole)


def test_coverage_where_queries_hang_together() -> None:
    """Of 40 clusters of 10 that share half of the variance: over queries, far too few hold it."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(40), 10)
    covered = {QUERIES: 0, "relation": 0}
    for seed in range(250):
        values = rng.normal(size=40)[labels] + rng.normal(size=400)
        sampling = Sampling(samples=300, seed=seed, labels={"relation": labels})
        found = sampling.estimate("mrr", values)
        assert found is not None
        for name in covered:
            low, high = found.intervals[name].ci95
            covered[name] += low <= 0 <= high
        assert found.over == "relation"
    assert covered[QUERIES] / 250 < 0.7
    assert 0.9 < covered["relation"] / 250 < 0.98


def test_an_interval_over_clusters_stands_where_it_is_wider_by_more_than_a_tenth() -> None:
    usual = Interval((0.0, 1.0), 90)
    for width, over in ((1.0999, QUERIES), (1.1001, "relation"), (0.5, QUERIES)):
        intervals = {QUERIES: usual, "relation": Interval((0.0, width), 9)}
        found = widest_of(0.5, 90, intervals, QUERIES, always=False)
        assert (found.over, found.ci95) == (over, intervals[over].ci95)
        assert found.intervals == intervals
        assert widest_of(0.5, 90, intervals, QUERIES, always=True).over == "relation"
    both = {QUERIES: usual, "a": Interval((0.0, 1.2), 9), "b": Interval((0.0, 1.3), 30)}
    assert widest_of(0.5, 90, both, QUERIES, always=False).over == "b"
    alone = widest_of(0.5, 90, {QUERIES: usual}, QUERIES, always=True)
    assert (alone.over, alone.intervals) == (QUERIES, {})


def test_one_cluster_alone_is_no_sample() -> None:
    values = np.array([0.0, 1.0, np.nan, 0.5])
    for labels in ([0, 0, 0, 0], [0, 0, 1, 0]):  # the other one's only query was not scored
        sampling = Sampling(labels={"relation": np.array(labels)}, always=True)
        found = sampling.estimate("mrr", values)
        assert found == estimate_mean(values)


def test_what_clusters_are_made_by() -> None:
    relations, answers = ["a", "b", "a", "a"], ["x", "x", "y", "x"]
    found = cluster_labels(Cluster.auto, relations, answers)
    assert {name: labels.tolist() for name, labels in found.items()} == {
        "relation": [0, 1, 0, 0], "relation_answer": [0, 1, 2, 0]
    }  # fmt: skip
    assert set(cluster_labels(Cluster.relation, relations, answers)) == {"relation"}
    assert cluster_labels(Cluster.none, relations, answers) == {}


def test_nothing_scored_has_no_estimate() -> None:
    assert Sampling().estimate("mrr", np.array([np.nan])) is None


# ------------------------------------------------------------------ pairs


def test_two_methods_that_differ_in_one_cluster_alone_are_not_told_apart() -> None:
    """By single queries they are: 30 of 90 differ, all the same way. By clusters, 1 of 6 does."""
    queries = [f"q{i:02}" for i in range(90)]
    better = {query: float(i < 30) for i, query in enumerate(queries)}
    worse = dict.fromkeys(queries, 0.0)
    scored = [Scored(better), Scored(worse)]
    labels = {query: min(5, i // 30 + (i % 5 if i >= 30 else 0)) for i, query in enumerate(queries)}
    plain = compare_methods("mrr", ["a", "b"], scored)
    assert plain.letters == ["a", "b"]
    held = compare_methods("mrr", ["a", "b"], scored, {"relation": labels})
    (pair,) = held.pairs
    assert pair.difference.over == "relation"
    assert pair.difference.holds_zero
    assert pair.p_holm < 0.05
    assert not pair.significant
    assert held.letters == ["a", "a"]


# ------------------------------------------------------------------ subsets


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=3, max_size=9),
    st.integers(0, 2**32 - 1),
)
def test_rank_correlations_of_repeated_subsets_are_scipys(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    one, other = np.array(pairs, dtype=float).T
    times = np.random.default_rng(seed).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), 5)
    found = weighted_rank_correlations(one[None], other[None], times.astype(float))
    for score, counts in zip(found[:, 0], times, strict=True):
        a, b = np.repeat(one, counts), np.repeat(other, counts)
        if len(set(b)) == 1:
            assert math.isnan(score)
        elif len(set(a)) == 1:
            assert score == 0
        else:
            assert score == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def slow_resamples(
    predicted: np.ndarray, measured: np.ndarray, groups: list[list[int]], n: int
) -> list[float]:
    """One draw after the other, with nothing but lists and scipy's rank correlation."""
    draw = random.Random(0)
    means = []
    subsets = range(predicted.shape[1])
    for _ in range(n):
        chosen_subsets = draw.choices(subsets, k=len(subsets))
        scores = []
        for group in draw.choices(groups, k=len(groups)):
            for query in group:
                a = [predicted[query][s] for s in chosen_subsets]
                b = [measured[query][s] for s in chosen_subsets]
                scores.append(stats.spearmanr(a, b).statistic)
        means.append(sum(scores) / len(scores))
    return means


@pytest.mark.parametrize("clustered", [False, True])
def test_lds_resamples_subsets_with_the_queries(clustered: bool) -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(size=9)  # a subset's own luck, which every query sees
    measured = rng.normal(size=(6, 9)) + shared
    predicted = 0.7 * measured + rng.normal(size=(6, 9))
    groups = [[0, 1, 2], [3], [4, 5]] if clustered else [[i] for i in range(6)]
    labels = np.array([next(g for g, own in enumerate(groups) if q in own) for q in range(6)])
    slow = slow_resamples(predicted, measured, groups, 700)
    fast = resampled_scores(predicted, measured, labels if clustered else None, 20_000, 0)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.03)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.1)


def test_one_subset_drawn_alone_is_drawn_again() -> None:
    """Of three, a ninth of the resamples would have no ranks; of one and the same value, all."""
    rng = np.random.default_rng(9)
    measured = rng.normal(size=(4, 3))
    means = resampled_scores(measured, measured, None, 2000, 0)
    assert means.tolist() == pytest.approx([1] * 2000)
    assert np.isnan(resampled_scores(measured, np.ones((4, 3)), None, 9, 0)).all()
    with pytest.raises(ValueError, match="1 subsets"):
        resampled_scores(measured[:, :1], measured[:, :1], None, 9, 0)


def test_a_query_whose_answers_are_equal_takes_no_part() -> None:
    """[0, 0, 1]: a resample without the third subset says nothing of it."""
    measured = np.array([[0.0, 0.0, 1.0]])
    sampling = Sampling(samples=400, subsets={"lds": (measured, measured)})
    found = sampling.estimate("lds", np.array([1.0]))
    assert found is not None
    assert (found.value, found.ci95) == (1, (1, 1))


def lds_sampling(n_subsets: int, n_queries: int, seed: int = 0) -> tuple[Sampling, np.ndarray]:
    """A method that foresees what all queries have in common: no query says more than another."""
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=n_subsets) + 0.05 * rng.normal(size=(n_queries, n_subsets))
    predicted = np.tile(rng.normal(size=n_subsets), (n_queries, 1))
    scores = np.array([stats.spearmanr(*pair).statistic for pair in zip(predicted, measured)])  # noqa: B905
    return Sampling(samples=500, subsets={"lds": (predicted, measured)}), scores


def test_the_interval_of_lds_knows_of_the_subsets() -> None:
    """The truth is 0. Over queries alone the interval of nearly every draw of subsets leaves it."""
    inside = {"queries": 0, "queries and subsets": 0}
    for seed in range(60):
        sampling, scores = lds_sampling(20, 30, seed)
        found = sampling.estimate("lds", scores)
        assert found is not None
        assert found.over == "queries and subsets"
        assert found.value == pytest.approx(scores.mean())
        alone = estimate_mean(scores, samples=500)
        assert alone is not None
        inside["queries"] += alone.holds_zero
        inside["queries and subsets"] += found.holds_zero
    assert inside["queries"] < 20
    assert inside["queries and subsets"] > 52


def test_blocks_of_queries_move_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    pair = rng.normal(size=(7, 6)), rng.normal(size=(7, 6))
    whole = resampled_scores(*pair, None, 50, 0)
    monkeypatch.setattr("metrics.stats.subsets._RANKS_AT_ONCE", 2 * 50 * 6)
    np.testing.assert_allclose(resampled_scores(*pair, None, 50, 0), whole, atol=1e-12)


def test_methods_are_compared_over_the_same_subsets() -> None:
    rng = np.random.default_rng(6)
    measured = rng.normal(size=(25, 16))
    good, equal = measured + 0.5 * rng.normal(size=(25, 16)), rng.normal(size=(25, 16))
    scored = []
    for predicted in (good, equal, equal):
        subsets = {f"q{i:02}": (predicted[i], measured[i]) for i in range(25)}
        scores = {q: float(stats.spearmanr(*pair).statistic) for q, pair in subsets.items()}
        scored.append(Scored(scores, subsets))
    found = compare_methods("lds", ["good", "one", "other"], scored)
    assert found.letters == ["a", "b", "b"]
    first, _, last = found.pairs
    assert first.difference.over == "queries and subsets"
    assert (last.difference.value, last.difference.ci95) == (0, (0, 0))
    rows = np.vstack([resampled_scores(p, measured, None, 1000, 0) for p in (good, equal)])
    low, high = np.percentile(rows[0] - rows[1], [2.5, 97.5])
    assert first.difference.ci95 == pytest.approx((low, high))


# ------------------------------------------------------------------ seeds


def test_seeds_and_queries_are_drawn_crosswise() -> None:
    """Every draw of 3 models and of 4 queries, the same queries for all models."""
    values = np.array([[0.1, 0.9, 0.4, 0.0], [0.5, 0.8, 0.7, 0.1], [0.3, 0.2, 0.6, 0.2]])
    exact = [
        sum(Fraction(str(values[s, q])) for s in seeds for q in queries) / 12
        for seeds in itertools.product(range(3), repeat=3)
        for queries in itertools.product(range(4), repeat=4)
    ]
    found = estimate_over_seeds(values, Sampling(samples=40_000))
    assert found is not None
    assert (found.value, found.n, found.over) == (values.mean(), 4, "seeds and queries")
    low, high = found.ci95
    assert low == pytest.approx(percentile_of(list(map(float, exact)), 0.025), abs=0.01)
    assert high == pytest.approx(percentile_of(list(map(float, exact)), 0.975), abs=0.01)


def test_seeds_and_clusters() -> None:
    values = np.array([[0.1, 0.9, 0.4, 0.0], [0.5, 0.8, 0.7, 0.1], [0.3, 0.2, 0.6, 0.2]])
    groups = [[0, 1, 2], [3]]
    exact = []
    for seeds in itertools.product(range(3), repeat=3):
        for drawn in itertools.product(groups, repeat=2):
            queries = [q for group in drawn for q in group]
            exact.append(np.mean([values[s, q] for s in seeds for q in queries]))
    sampling = Sampling(samples=40_000, labels={"relation": np.array([0, 0, 0, 1])}, always=True)
    found = estimate_over_seeds(values, sampling)
    assert found is not None
    assert found.over == "seeds and relation"
    low, high = found.ci95
    assert low == pytest.approx(percentile_of(exact, 0.025), abs=0.015)
    assert high == pytest.approx(percentile_of(exact, 0.975), abs=0.015)


def test_coverage_over_models_that_differ() -> None:
    """Ten models, whose means differ more than their queries do: one model's interval is blind."""
    rng = np.random.default_rng(7)
    inside = {"one": 0, "all": 0}
    for seed in range(200):
        values = rng.normal(size=(10, 1)) + rng.normal(size=30) + 0.3 * rng.normal(size=(10, 30))
        found = estimate_over_seeds(values, Sampling(samples=300, seed=seed))
        alone = estimate_mean(values[0], samples=300, seed=seed)
        assert found is not None
        assert alone is not None
        inside["all"] += found.holds_zero
        inside["one"] += alone.holds_zero
    assert inside["one"] / 200 < 0.5
    assert inside["all"] / 200 > 0.85  # ten models: a little below .95


def test_one_seed_is_the_interval_over_its_queries() -> None:
    values = np.random.default_rng(8).random((1, 40))
    values[0, 3] = np.nan
    found = estimate_over_seeds(values, Sampling(seed=5))
    alone = estimate_mean(values[0], seed=5)
    assert found is not None
    assert alone is not None
    assert (found.value, found.ci95, found.n) == (alone.value, pytest.approx(alone.ci95), 39)
    assert estimate_over_seeds(np.full((2, 3), np.nan), Sampling()) is None
