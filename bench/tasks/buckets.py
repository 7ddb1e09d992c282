"""Names of the groups that facts belong to: by relation, and by how often they are stated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from bench.tasks.records import RetrievalRecord

RELATION, FREQUENCY = "relation", "frequency"  # names of slices
# First frequencies of the buckets, and where the last one ends. The release's own buckets 0-5 have
# bounds that are unverified, so its facts are grouped by powers of ten.
POWERS_OF_TEN = (0, *(10**digits for digits in range(19)))


def frequency_bucket(frequency: int | None, bounds: Sequence[int]) -> str:
    """The bucket of a frequency, as ``"4-7"``, or as ``"1"`` where it holds one number.

    Args:
        frequency: at least ``bounds[0]``; None gives ``"unknown"``.
        bounds: the first frequency of each bucket, ascending, and the first one beyond the last.
    """
    if frequency is None:
        return "unknown"
    place = bisect_right(bounds, frequency)
    if place == len(bounds):
        return f"{bounds[-1]} or more"
    low, high = bounds[place - 1], bounds[place] - 1
    return str(low) if low == high else f"{low}-{high}"


def groups_named_by(record: RetrievalRecord) -> dict[str, str]:
    """The groups that a stored ranking itself names, by slice; the release's bucket has its own."""
    groups = {RELATION: record.relation} if record.relation else {}
    if record.c4_frequency_bucket is not None:
        return {**groups, "frequency_bucket": str(record.c4_frequency_bucket)}
    if record.c4_frequency is not None:
        return {**groups, FREQUENCY: frequency_bucket(record.c4_frequency, POWERS_OF_TEN)}
    return groups
