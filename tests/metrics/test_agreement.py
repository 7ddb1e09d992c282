"""Agreement of two judgements: by hand, by scikit-learn, and where nothing is defined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metrics.stats.agreement import MEASURES, compare, measures_of


def test_kappa_by_hand() -> None:
    """20 both, 5 only judged, 10 only true, 15 neither: 35/50 observed, 0.5 by chance, 0.4."""
    found = dict(zip(MEASURES, measures_of(np.array([20, 5, 10, 15])), strict=True))
    assert found["kappa"] == pytest.approx(0.4)
    assert found["precision"] == pytest.approx(20 / 25)
    assert found["recall"] == pytest.approx(20 / 30)
    assert found["f1"] == pytest.approx(40 / 55)
    assert found["accuracy"] == pytest.approx(0.7)


def test_as_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for rate in (0.1, 0.5, 0.9):
        truth, judged = rng.random(300) < rate, rng.random(300) < 0.4
        judged = np.where(rng.random(300) < 0.6, truth, judged)
        found = compare(truth, judged, samples=2).measures
        assert found["kappa"].value == pytest.approx(metrics.cohen_kappa_score(truth, judged))
        for name in ("precision", "recall", "f1"):
            expected = getattr(metrics, f"{name}_score")(truth, judged)
            assert found[name].value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "undefined"),
    [
        ([5, 0, 0, 0], {"kappa"}),
        ([0, 0, 0, 5], {"kappa", "precision", "recall", "f1"}),
        ([0, 0, 3, 2], {"precision"}),
        ([0, 3, 0, 2], {"recall"}),
    ],
)
def test_what_has_no_denominator_is_nan(table: list[int], undefined: set[str]) -> None:
    found = dict(zip(MEASURES, measures_of(np.array(table)), strict=True))
    assert {name for name, value in found.items() if math.isnan(value)} == undefined


def test_intervals() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(400) < 0.5
    judged = np.where(rng.random(400) < 0.8, truth, ~truth)
    found = compare(truth, judged, seed=3)
    assert found == compare(truth, judged, seed=3)
    for one in found.measures.values():
        assert one.ci95[0] < one.value < one.ci95[1]
    assert found.n == 400 == sum(found.table)
    # Each pair ten times is no more evidence, if it is known to be the same.
    names = np.repeat(np.arange(400), 10)
    tenfold = compare(np.repeat(truth, 10), np.repeat(judged, 10), names, seed=3)
    assert tenfold.measures == found.measures
    naive = compare(np.repeat(truth, 10), np.repeat(judged, 10), seed=3).measures["kappa"]
    assert naive.ci95[1] - naive.ci95[0] < 0.6 * (
        found.measures["kappa"].ci95[1] - found.measures["kappa"].ci95[0]
    )


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="0 truths"):
        compare([], [])
    with pytest.raises(ValueError, match="1 truths and 2"):
        compare([True], [True, False])
