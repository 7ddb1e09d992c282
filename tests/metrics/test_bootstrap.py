from __future__ import annotations

import numpy as np
import pytest

from metrics.stats import bootstrap
from tests.fixtures.estimates import estimate_mean

VALUES = np.random.default_rng(1).exponential(size=80)


def test_value_interval_and_count():
    found = estimate_mean(VALUES)
    assert found.value == VALUES.mean()
    assert found.n == 80
    low, high = found.ci95
    assert low < found.value < high
    error = VALUES.std() / np.sqrt(80)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_the_seed_decides():
    assert estimate_mean(VALUES, seed=3) == estimate_mean(VALUES.copy(), seed=3)
    assert estimate_mean(VALUES, seed=3).ci95 != estimate_mean(VALUES, seed=4).ci95


def test_unscored_queries_are_left_out():
    with_gaps = np.insert(VALUES, [0, 7, 80], np.nan)
    assert estimate_mean(with_gaps) == estimate_mean(VALUES)


def test_few_values():
    assert estimate_mean(np.array([])) is None
    assert estimate_mean(np.array([np.nan, np.nan])) is None
    single = estimate_mean(np.array([0.25, np.nan]))
    assert (single.value, single.ci95, single.n) == (0.25, (0.25, 0.25), 1)
    assert estimate_mean(np.zeros(9)).ci95 == (0, 0)


def test_coverage_on_simulated_data():
    rng = np.random.default_rng(0)
    covered = sum(
        low <= 0.3 <= high
        for low, high in (
            estimate_mean((rng.random(100) < 0.3).astype(float), samples=300, seed=seed).ci95
            for seed in range(400)
        )
    )
    assert 0.90 < covered / 400 < 0.98  # 0.95 ± 3.3 standard errors, less a little for small n


def test_memory_bound_changes_no_number(monkeypatch):
    whole = estimate_mean(VALUES)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7 * len(VALUES))
    assert estimate_mean(VALUES) == whole


def test_columns_have_the_resamples_of_each_alone():
    columns = np.random.default_rng(5).normal(size=(70, 4))
    together = bootstrap.resampled_columns(columns, None, 300, 2)
    for means, column in zip(together.T, columns.T, strict=True):
        alone = estimate_mean(column, samples=300, seed=2)
        low, high = bootstrap.percentiles(means)
        assert (low, high) == pytest.approx(alone.ci95, abs=1e-12)


def test_equals_scipys_percentile_bootstrap():
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    ours = estimate_mean(VALUES, samples=5000).ci95
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)
