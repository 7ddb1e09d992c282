"""Compact letter display: many pairwise tests written as a few letters beside each method."""

from __future__ import annotations

import string

import numpy as np


def compact_letters(differs: np.ndarray) -> list[str]:
    """Letters such that two methods share one if and only if they do not differ.

    Each letter stands for a group in which no two differ. Groups are grown from the first pair that
    shares no letter yet, which needs at most one group a pair; taking all groups that cannot grow
    would be simpler to say, but their number can double with every two methods.

    Args:
        differs: symmetric bool ``[n_methods, n_methods]``, False on the diagonal, methods in the
            order in which letters are given out (best first: the best has ``a``).

    Returns:
        each method's letters in the order of the alphabet.
    """
    n = len(differs)
    covered = np.zeros((n, n), dtype=bool)
    groups: list[list[int]] = []
    for first in range(n):
        # The pairs of a method before the method by itself: only one that differs from all others
        # is alone in its group.
        for second in [*range(first + 1, n), first]:
            if differs[first, second] or covered[first, second]:
                continue
            group = _grown(sorted({first, second}), differs)
            covered[np.ix_(group, group)] = True
            groups.append(group)
    groups.sort()
    return ["".join(_letter(i) for i, group in enumerate(groups) if m in group) for m in range(n)]


def _grown(group: list[int], differs: np.ndarray) -> list[int]:
    """``group`` and every method, in order, that differs from none in it."""
    for method in range(len(differs)):
        if method not in group and not differs[method, group].any():
            group = [*group, method]
    return sorted(group)


def _letter(place: int) -> str:
    """``a`` to ``z``, ``A`` to ``Z``, then ``a1``, ``b1``, ..."""
    rounds, letter = divmod(place, len(string.ascii_letters))
    return string.ascii_letters[letter] + (str(rounds) if rounds else "")
