"""Does a method favour long passages? Raw dot products do: long texts have large gradients.

A diagnostic, not a score: 2410.17413 names retrieval of long, repetitive passages as the failure
that unit norm mends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from metrics import measures

DEPTH = measures.of(measures.LENGTH_RATIO).depth  # proponents that are looked at


def length_ratio(lengths: Sequence[int], mean_length: float) -> float:
    """Mean length of the first ``DEPTH`` proponents over the corpus's mean, both in characters.

    Args:
        lengths: of each proponent in characters, strongest first.
        mean_length: of all passages, in characters.

    Returns:
        1 for a method that does not look at length, NaN for an empty list or an empty corpus.
    """
    first = lengths[:DEPTH]
    if not first or not mean_length:
        return math.nan
    return sum(first) / len(first) / mean_length
