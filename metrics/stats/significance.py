"""Paired sign-flip tests of whether two methods differ, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

FLIPS = 10_000
ALPHA = 0.05
EXACT = 12  # differences that are not zero, up to which all 2^n signs are tried
_TESTS = 4096  # whose sums are made at a time, which bounds the memory at 8 MB
_BLOCK = 250  # flips at a time: bounds the memory at 5,000 queries to 10 MB


@dataclass(frozen=True)
class MethodScores:
    """What each test compares, where each is the difference of two of a few methods.

    Attributes:
        scores: float ``[n_queries, n_methods]``; NaN where a method was not scored.
        pairs: the places of the two methods of each test, int ``[n_tests, 2]``.
    """

    scores: np.ndarray
    pairs: np.ndarray


def sign_flip_p(
    differences: np.ndarray,
    flips: int = FLIPS,
    seed: int = 0,
    methods: MethodScores | None = None,
) -> np.ndarray:
    """Two-sided p-values of paired sign-flip randomisation tests of equal means.

    Under the null hypothesis two methods are exchangeable on each query, so every sign of a
    difference is as likely as its opposite. A difference of zero is the same under either sign.

    Args:
        differences: score of one method minus that of the other, float ``[n_queries, n_tests]``;
            NaN where either was not scored. All tests see the same signs.
        flips: how many random assignments of signs are drawn.
        seed: of the draw; equal arguments give equal p-values.
        methods: what the differences are of, which moves no p-value: signed sums of 30 methods
            are made faster than those of their 435 differences.

    Returns:
        float ``[n_tests]``: with up to ``EXACT`` differences that are not zero, the share of all
        assignments that are at least as extreme as the one observed; else (1 + drawn assignments
        at least as extreme) / (1 + flips), which keeps the test's level (Phipson & Smyth 2010). NaN
        without a query that both methods were scored on.
    """
    scored = ~np.isnan(differences).all(axis=0)
    differences = np.nan_to_num(differences, nan=0.0)
    moved = differences != 0
    observed = np.abs(differences.sum(axis=0))
    # Sums of the same numbers in another order differ in the last bits; count those as equal.
    thresholds = observed - 1e-9 * np.abs(differences).sum(axis=0)
    p = np.full(differences.shape[1], np.nan)
    few = moved.sum(axis=0) <= EXACT
    for test in np.flatnonzero(few & scored):
        own = differences[moved[:, test], test]
        p[test] = (np.abs(_all_signs(len(own)) @ own) >= thresholds[test]).mean()
    many = np.flatnonzero(~few)
    if len(many):
        used = moved[:, many].any(axis=1)
        left = differences[np.ix_(used, many)]
        sums = _Sums(left, methods and MethodScores(methods.scores[used], methods.pairs[many]))
        extreme = np.zeros(len(many), dtype=np.int64)
        rng = np.random.default_rng(seed)
        for start in range(0, flips, _BLOCK):
            n_signs = min(_BLOCK, flips - start)
            signs = rng.integers(0, 2, (n_signs, len(left)), dtype=np.int8) * 2.0 - 1.0
            for tests, of_tests in sums.of(signs):
                extreme[tests] += (np.abs(of_tests) >= thresholds[many][tests]).sum(axis=0)
        p[many] = (1 + extreme) / (1 + flips)
    return p


class _Sums:
    """Sums of signed differences, from those of the two methods wherever these are as exact.

    They are if both were scored on the same queries, and if rounding, which is of the size of the
    scores and not of their differences, stays far below what counts as equal.
    """

    def __init__(self, differences: np.ndarray, methods: MethodScores | None) -> None:
        n_tests = differences.shape[1]
        self._scores, self._first, self._second = np.empty((len(differences), 0)), [], []
        quick = np.zeros(n_tests, dtype=bool)
        if methods is not None:
            a, b = methods.pairs.T
            self._scores = np.nan_to_num(methods.scores, nan=0.0)
            missing = [column.tobytes() for column in np.isnan(methods.scores).T]
            alike = np.array([missing[i] == missing[j] for i, j in methods.pairs])
            sizes = np.abs(self._scores).sum(axis=0)
            quick = alike & (np.abs(differences).sum(axis=0) > 1e-4 * (sizes[a] + sizes[b]))
            self._first, self._second = a[quick], b[quick]
        self._quick, self._slow = np.flatnonzero(quick), np.flatnonzero(~quick)
        self._left = differences[:, self._slow]

    def of(self, signs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tests and their sums ``[n_signs, n_tests]``, a part of the tests at a time."""
        if len(self._quick):
            own = signs @ self._scores
            for start in range(0, len(self._quick), _TESTS):
                part = slice(start, start + _TESTS)
                yield self._quick[part], own[:, self._first[part]] - own[:, self._second[part]]
        if len(self._slow):
            yield self._slow, signs @ self._left


@lru_cache(maxsize=EXACT + 1)
def _all_signs(n: int) -> np.ndarray:
    """Every assignment of signs to ``n`` differences: ±1, ``[2^n, n]``."""
    return 1.0 - 2.0 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values of one family of tests, corrected step by step (Holm 1979).

    Rejecting what is below α afterwards makes the chance of any false rejection at most α, however
    the tests depend on each other.

    Args:
        p: float ``[n_tests]``; a NaN is no test and stays NaN.

    Returns:
        float ``[n_tests]``: the running maximum of ``(m - i) · p_i`` over the ``m`` p-values in
        ascending order (``i`` from 0), at most 1.
    """
    corrected = np.full(len(p), np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
