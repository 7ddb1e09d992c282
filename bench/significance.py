"""Is one method's mean over queries below another's by more than the choice of queries explains?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FLIPS = 2_000
ALPHA = 0.05
_BLOCK = 250  # flips at a time: bounds the memory at 5,000 queries to 10 MB


def sign_flip_p(best: np.ndarray, other: np.ndarray, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p-value of the paired sign-flip randomisation test of equal means.

    Under the null hypothesis the two methods are exchangeable on each query, so every sign of a
    difference is as likely as its opposite.

    Args:
        best: scores of one method, one per query; NaN where it was not scored.
        other: scores of the other method on the same queries.
        flips: how many random assignments of signs are drawn.
        seed: of the draw; equal arguments give an equal p-value.

    Returns:
        (1 + assignments at least as extreme) / (1 + flips), or NaN without a common scored query.
    """
    difference = best - other
    difference = difference[~np.isnan(difference)]
    if difference.size == 0:
        return float("nan")
    # A difference of zero adds nothing under either sign, and dropping it saves most of the work.
    difference = difference[difference != 0]
    observed = abs(difference.sum())
    # Sums of the same numbers in another order differ in the last bits; count those as equal.
    threshold = observed - 1e-9 * np.abs(difference).sum()
    extreme = 0
    for signs in _signs(difference.size, flips, seed):
        extreme += int((np.abs(signs @ difference) >= threshold).sum())
    return (1 + extreme) / (1 + flips)


@lru_cache(maxsize=8)
def _signs(n: int, flips: int, seed: int) -> tuple[np.ndarray, ...]:
    """Blocks of random ±1, ``[block, n]`` int8, that together have ``flips`` rows."""
    rng = np.random.default_rng(seed)
    sizes = [min(_BLOCK, flips - start) for start in range(0, flips, _BLOCK)]
    return tuple(rng.integers(0, 2, (size, n), dtype=np.int8) * 2 - 1 for size in sizes)
