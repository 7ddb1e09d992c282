"""Paired sign-flip tests, Holm's correction and letters: against brute force and by hand."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.stats import significance
from metrics.stats.letters import compact_letters
from metrics.stats.pairs import Comparison, Scored, compare_methods
from metrics.stats.significance import EXACT, MethodScores, holm, sign_flip_p
from tests.fixtures.estimates import estimate_mean


def p_of(a: np.ndarray, b: np.ndarray, **settings: int) -> float:
    return float(sign_flip_p((a - b)[:, None], **settings)[0])


def brute_force(differences: list[float]) -> float:
    observed = abs(sum(differences))
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(one, differences, strict=True))) for one in signs]
    return sum(found >= observed - 1e-9 for found in sums) / len(sums)


# ------------------------------------------------------------------ sign flips


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=10))
def test_few_queries_are_enumerated(differences: list[float]) -> None:
    p = sign_flip_p(np.array(differences)[:, None])
    assert p[0] == pytest.approx(brute_force(differences), abs=1e-12)


def test_by_hand() -> None:
    # 3 positive differences: of 8 assignments only all plus and all minus are as extreme.
    assert sign_flip_p(np.ones((3, 1)))[0] == 2 / 8
    assert sign_flip_p(np.ones((EXACT, 1)))[0] == 2 / 2**EXACT


def test_sampling_is_close_to_enumeration_and_counts_the_observed() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, (EXACT + 2, 1))
    exact = brute_force(differences[:, 0].tolist())
    assert sign_flip_p(differences, flips=20_000)[0] == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(np.ones((40, 1)), flips=99)[0] == 1 / 100


def test_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    continuous = sign_flip_p(rng.normal(size=(40, 600)), flips=999)
    for level in (0.05, 0.25, 0.5, 0.75):
        margin = 3.5 * np.sqrt(level * (1 - level) / 600)
        assert abs((continuous <= level).mean() - level) < margin, level
    # Hits are 0 or 1 and many differences 0: the test may be careful there, never bold.
    hits = rng.random((2, 40, 600)) < 0.4
    discrete = sign_flip_p(hits[0].astype(float) - hits[1], flips=999)
    assert (discrete <= 0.05).mean() < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 600)


def test_a_true_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    assert (sign_flip_p(rng.normal(0.6, 1, (60, 40)), flips=999) < 0.05).mean() > 0.9


@pytest.mark.parametrize("n", [5, 60])
def test_swapping_the_two_changes_nothing(n: int) -> None:
    a, b = np.random.default_rng(n).random((2, n))
    assert p_of(a, b) == p_of(b, a)
    assert p_of(a, b) == p_of(a, b), "the draw is seeded"


@pytest.mark.parametrize("n", [1, 5, 60])
def test_equal_scores_have_p_one(n: int) -> None:
    a = np.random.default_rng(n).random(n)
    assert p_of(a, a) == 1


def test_unscored_queries_take_no_part() -> None:
    a, b = np.random.default_rng(0).random((2, 9))
    gaps = np.insert(a, [0, 4, 9], np.nan)
    assert p_of(gaps, np.insert(b, [0, 4, 9], 1.0)) == p_of(a, b)
    assert np.isnan(p_of(np.array([np.nan, 1.0]), np.array([1.0, np.nan])))


def test_many_tests_at_once_are_the_tests_one_by_one() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1, (50, 6))
    differences[:, 2] = np.nan
    differences[5:, 3] = 0
    together = sign_flip_p(differences, flips=500)
    one_by_one = [sign_flip_p(column[:, None], flips=500)[0] for column in differences.T]
    np.testing.assert_array_equal(together, one_by_one)


@pytest.mark.parametrize("kind", ["normal", "hits", "gaps", "alike but for rounding"])
def test_what_differences_are_of_moves_no_p_value(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over methods in place of sums over pairs: the same signs, the same counts."""
    monkeypatch.setattr(significance, "_TESTS", 4)
    rng = np.random.default_rng(5)
    scores = rng.normal(rng.normal(0, 0.2, 8), 1, (40, 8))
    if kind == "hits":
        scores = (scores > 0.3).astype(float)
    if kind == "gaps":
        scores[:7, [1, 2]] = np.nan
        scores[30:, 4] = np.nan
        scores[:, 6] = np.nan
    if kind == "alike but for rounding":  # differences of the size at which sums are rounded
        scores[:, 1:] = scores[:, :1] + rng.choice([-1e-15, 0, 1e-15], (40, 7))
    pairs = np.array(list(itertools.combinations(range(8), 2)))
    differences = scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]
    alone = sign_flip_p(differences, flips=3000)
    of_methods = MethodScores(scores, pairs)
    np.testing.assert_array_equal(sign_flip_p(differences, 3000, methods=of_methods), alone)


# ------------------------------------------------------------------ holm


def test_holm_by_hand() -> None:
    # In ascending order .005 · 4, .01 · 3, .03 · 2, and .04 · 1 raised to the one before it.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.6])), [1, 1])
    np.testing.assert_allclose(holm(np.array([0.04, np.nan, 0.01])), [0.04, np.nan, 0.02])
    assert holm(np.array([])).shape == (0,)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_its_procedure_rejects(p: list[float], alpha: float) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - step) >= alpha:
            break
        rejected.add(i)
    corrected = holm(np.array(p))
    assert set(np.flatnonzero(corrected < alpha)) == rejected
    assert (corrected >= p).all()
    assert (corrected <= 1).all()


# ------------------------------------------------------------------ letters


def symmetric(n: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    differs = np.zeros((n, n), dtype=bool)
    for a, b in pairs:
        differs[a, b] = differs[b, a] = True
    return differs


def split(letters: str) -> set[str]:
    return set(re.findall(r"[a-zA-Z]\d*", letters))


@pytest.mark.parametrize(
    ("n", "pairs", "expected"),
    [
        (1, [], ["a"]),
        (3, [], ["a", "a", "a"]),
        (2, [(0, 1)], ["a", "b"]),
        (3, [(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        (3, [(0, 2)], ["a", "ab", "b"]),
        (4, [(0, 2), (0, 3), (1, 3)], ["a", "ab", "bc", "c"]),
        (4, [(0, 3)], ["a", "ab", "ab", "b"]),
        # The best differs from the second, not from the third, which no line of means could say.
        (3, [(0, 1)], ["a", "b", "ab"]),
        (4, [(0, 1), (2, 3)], ["ab", "cd", "ac", "bd"]),
    ],
)
def test_letters_by_hand(n: int, pairs: list[tuple[int, int]], expected: list[str]) -> None:
    assert compact_letters(symmetric(n, pairs)) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_two_share_a_letter_if_and_only_if_they_do_not_differ(
    n: int, density: float, seed: int
) -> None:
    upper = np.triu(np.random.default_rng(seed).random((n, n)) < density, 1)
    differs = upper | upper.T
    letters = [split(one) for one in compact_letters(differs)]
    for a, b in itertools.product(range(n), repeat=2):
        assert bool(letters[a] & letters[b]) == (not differs[a, b])


def test_more_methods_than_letters() -> None:
    n = 60
    letters = compact_letters(~np.eye(n, dtype=bool))
    assert letters[:2] == ["a", "b"]
    assert letters[26] == "A"
    assert letters[52:54] == ["a1", "b1"]
    assert len(set(letters)) == n


# ------------------------------------------------------------------ pairs


def compared(**scores: list[float]) -> Comparison:
    tables = [{f"q{i:03}": value for i, value in enumerate(own)} for own in scores.values()]
    return compare("mrr", list(scores), tables)


def compare(metric: str, labels: list[str], tables: list[dict[str, float]]) -> Comparison:
    return compare_methods(metric, labels, [Scored(table) for table in tables])


def test_pairs_hold_difference_interval_and_both_p_values() -> None:
    rng = np.random.default_rng(0)
    good, fair = rng.random(30), rng.random(30) * 0.9
    bad = fair - 0.6
    found = compared(good=good.tolist(), fair=fair.tolist(), bad=bad.tolist())
    assert [(pair.a, pair.b) for pair in found.pairs] == [
        ("good", "fair"), ("good", "bad"), ("fair", "bad")
    ]  # fmt: skip
    for pair, difference in zip(found.pairs, (good - fair, good - bad, fair - bad), strict=True):
        expected = estimate_mean(difference)
        assert expected is not None
        assert pair.difference.value == pytest.approx(expected.value)
        assert pair.difference.ci95 == pytest.approx(expected.ci95)
        assert pair.difference.n == 30
        assert pair.p <= pair.p_holm
    assert [pair.significant for pair in found.pairs] == [False, True, True]
    assert found.letters == ["a", "a", "b"]


def test_equal_methods_share_a_letter() -> None:
    own = np.random.default_rng(0).random(40).tolist()
    found = compared(a=own, b=own)
    (pair,) = found.pairs
    assert (pair.p, pair.p_holm, pair.difference.value, pair.difference.ci95) == (1, 1, 0, (0, 0))
    assert found.letters == ["a", "a"]


def test_only_queries_scored_by_both_count() -> None:
    a = {"q0": 1.0, "q1": 0.5, "q2": np.nan, "q3": 1.0}
    b = {"q3": 0.5, "q1": 0.25, "q2": 0.1, "q9": 1.0}
    none = {"q7": 1.0}
    found = compare("mrr", ["a", "b", "none"], [a, b, none])
    (pair,) = found.pairs
    assert (pair.difference.value, pair.difference.n) == (0.375, 2)
    assert pair.p == pair.p_holm == 0.5
    assert found.letters == ["a", "a", "a"], "nothing was shown to differ"


def test_the_order_of_queries_moves_no_number() -> None:
    rng = np.random.default_rng(4)
    tables = [{f"q{i}": float(x) for i, x in enumerate(rng.random(50))} for _ in range(3)]
    turned = [dict(reversed(list(table.items()))) for table in tables]
    assert compare("mrr", ["a", "b", "c"], tables) == compare("mrr", ["a", "b", "c"], turned)


def test_many_methods_can_still_differ() -> None:
    """With a fixed number of flips, (1 / flips) · pairs would exceed any level."""
    n = 30
    tables = [
        {f"q{i}": 1.0 - m / n + 0.001 * (i % 7) * (-1) ** m for i in range(40)} for m in range(n)
    ]
    found = compare("mrr", [f"m{m}" for m in range(n)], tables)
    assert len(found.pairs) == n * (n - 1) // 2
    assert all(pair.significant for pair in found.pairs)
