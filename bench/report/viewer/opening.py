"""What a viewer shows first: two methods that disagree, at a query on which they do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from bench.report.viewer.sources import RankingSource


def opening(
    sources: Sequence[RankingSource], reciprocals: Sequence[np.ndarray]
) -> tuple[int, int | None, int | None]:
    """The numbers of a method, of another to compare it with, and of a query.

    The pair is the one whose parts complement each other most: the mean, over the queries that both
    were scored on, of the better of two reciprocal ranks exceeds the better of the two means by the
    largest amount. A method that wins everywhere tells nothing by its single wins, and two that
    agree tell nothing at all. The query is the one that the first method wins by most.

    Args:
        reciprocals: the reciprocal rank of the first correct passage of each query, an array of the
            shape (queries,) a method, not a number where the query was not scored.

    Returns:
        no other method and no query where no two methods differ. Controls are shown only where
        there is nothing else.
    """
    rivals = [place for place, source in enumerate(sources) if not source.is_control]
    most, chosen = 0.0, None
    for one, other in itertools.combinations(rivals, 2):
        both = np.stack([reciprocals[one], reciprocals[other]])
        both = both[:, np.isfinite(both).all(axis=0)]
        if not both.size:
            continue
        differs = float(np.abs(both[0] - both[1]).mean())
        gain = float(both.max(axis=0).mean() - both.mean(axis=1).max())
        # One that wins everywhere gains nothing; it still tells more than two that agree.
        if (worth := gain + 1e-3 * differs) > most:
            most, chosen = worth, (one, other)
    if chosen is None:
        return (rivals[0] if rivals else 0), None, None
    one, other = chosen
    gains = reciprocals[one] - reciprocals[other]
    best = int(np.nanargmax(gains))
    return one, other, best if gains[best] > 0 else int(np.nanargmin(gains))
