"""Every two methods of a board compared, query by query, on one metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from metrics.stats.bootstrap import Estimate, estimate_columns
from metrics.stats.letters import compact_letters
from metrics.stats.significance import ALPHA, FLIPS, holm, sign_flip_p


@dataclass(frozen=True)
class Pair:
    """Two methods on one metric.

    Attributes:
        a: label of the method with the higher mean.
        b: label of the other.
        difference: mean of a's score minus b's over the queries that both were scored on.
        p: of the paired sign-flip test.
        p_holm: the same, corrected for all pairs of the board on this metric.
    """

    metric: str
    a: str
    b: str
    difference: Estimate
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the two differ by more than the choice of queries explains."""
        return self.p_holm < ALPHA


@dataclass(frozen=True)
class Comparison:
    """All methods of a board on one metric.

    Attributes:
        pairs: in the order of the methods, without those that have no query in common.
        letters: one text a method; two methods that share no letter differ significantly.
    """

    pairs: list[Pair]
    letters: list[str]


def compare(
    metric: str, labels: Sequence[str], scores: Sequence[Mapping[str, float]]
) -> Comparison:
    """Test every two methods on one metric.

    Args:
        metric: its name.
        labels: of the methods, at least one, best first: the first gets the letter ``a``.
        scores: query id → score for each of them; NaN or absent where a query was not scored.
    """
    places = list(combinations(range(len(labels)), 2))
    differences = _differences(scores, places)
    # So many that the smallest p-value is below α still after the correction for all pairs.
    flips = max(FLIPS, round(2 * len(places) / ALPHA))
    p = sign_flip_p(differences, flips)
    p_holm = holm(p)
    estimates = _estimates(differences)
    differs = np.zeros((len(labels), len(labels)), dtype=bool)
    for i, (a, b) in enumerate(places):
        differs[a, b] = differs[b, a] = p_holm[i] < ALPHA  # False for NaN: nothing was shown
    pairs = [
        Pair(metric, labels[a], labels[b], estimates[i], float(p[i]), float(p_holm[i]))
        for i, (a, b) in enumerate(places)
        if i in estimates
    ]
    return Comparison(pairs, compact_letters(differs))


def _differences(
    scores: Sequence[Mapping[str, float]], places: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Differences ``[n_queries, n_pairs]``, NaN where either has no score.

    Queries are in the order of their ids, so that a table's own order moves no number.
    """
    queries = sorted({query for own in scores for query in own})
    matrix = np.array([[own.get(query, np.nan) for query in queries] for own in scores])
    differences = np.empty((len(queries), len(places)))
    for i, (a, b) in enumerate(places):
        differences[:, i] = matrix[a] - matrix[b]
    return differences


def _estimates(differences: np.ndarray) -> dict[int, Estimate]:
    """Mean and interval of each column over its own queries; columns of NaN are left out."""
    scored = ~np.isnan(differences)
    together: dict[bytes, list[int]] = {}
    for i in range(differences.shape[1]):
        together.setdefault(scored[:, i].tobytes(), []).append(i)
    found: dict[int, Estimate] = {}
    for columns in together.values():
        rows = scored[:, columns[0]]
        if rows.any():
            found.update(zip(columns, estimate_columns(differences[rows][:, columns]), strict=True))
    return found
