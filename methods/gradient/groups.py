"""Groups: the pieces in which a pass over the passages is shared out among jobs.

A group is a run of shards of an index or, where passages are encoded anew, a run of passages. Where
one ends depends on the corpus and the number of dimensions alone, never on the engine or on how
many work at a time: sums over a group are the same numbers everywhere, and so is what they add up
to. There are at most ``MOST_GROUPS``, so that what a pass leaves behind stays small beside an index
of any length; and no group is smaller than a job is worth, so that a small corpus is one group.
"""

from __future__ import annotations

LEAST_SHARDS = 8  # 16,384 passages; of 65,536 dimensions they are 4 GiB in float32, read in seconds
LEAST_TEXTS = 4096  # encoded anew, each takes as long as the reading of hundreds
MOST_GROUPS = 256
_TEXT_VALUES = 2**28  # dimensions times passages of a group, where exact gradients make long rows


def cut(n_units: int, least: int, most: int = MOST_GROUPS) -> list[range]:
    """Runs of ``least`` units, doubled until they are at most ``most``: ranges in order.

    Sizes are ``least`` times a power of two, so that a corpus that grows at its end keeps the
    groups that it had, until they double.
    """
    size = least
    while size * most < n_units:
        size *= 2
    return [range(start, min(start + size, n_units)) for start in range(0, n_units, size)]


def least_texts(dim: int) -> int:
    """Passages in the smallest group of those that are encoded anew into ``dim`` dimensions."""
    return max(1, min(LEAST_TEXTS, _TEXT_VALUES // dim))
