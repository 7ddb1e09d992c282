"""Every two methods of a board compared, query by query, on one metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from metrics.stats.bootstrap import Estimate
from metrics.stats.letters import compact_letters
from metrics.stats.sampling import Sampling, estimates_from
from metrics.stats.significance import ALPHA, FLIPS, MethodScores, holm, sign_flip_p


@dataclass(frozen=True)
class Scored:
    """What one method scored on one metric.

    Attributes:
        by_query: query id → score; NaN or absent where a query was not scored.
        subsets: query id → what was foreseen of each subset of the corpus and what was measured, of
            a metric that is a rank correlation over them; empty for the others.
    """

    by_query: Mapping[str, float]
    subsets: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodPair:
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
        """Whether the two differ by more than the choice of queries explains.

        The test flips the signs of single queries; where these hang together in clusters, or were
        measured over the same subsets, it is the interval that knows of it.
        """
        return self.p_holm < ALPHA and not self.difference.holds_zero


@dataclass(frozen=True)
class Comparison:
    """All methods of a board on one metric.

    Attributes:
        pairs: in the order of the methods, without those that have no query in common.
        letters: one text a method; two methods that share no letter differ significantly.
    """

    pairs: list[MethodPair]
    letters: list[str]


def compare_methods(
    metric: str,
    labels: Sequence[str],
    scored: Sequence[Scored],
    clusters: Mapping[str, Mapping[str, float]] | None = None,
    always: bool = False,
) -> Comparison:
    """Test every two methods on one metric.

    Args:
        labels: of the methods, at least one, best first: the first gets the letter ``a``.
        clusters: the cluster of each query, by what clusters are made by; for the intervals.
        always: see ``Sampling``.
    """
    places = list(combinations(range(len(labels)), 2))
    queries = sorted({query for own in scored for query in own.by_query})
    # In the order of the queries' ids, so that a table's own order moves no number.
    matrix = np.array([[own.by_query.get(query, np.nan) for query in queries] for own in scored])
    differences = _differences(matrix, places)
    # So many that the smallest p-value is below α still after the correction for all pairs.
    flips = max(FLIPS, round(2 * len(places) / ALPHA))
    p = sign_flip_p(differences, flips, methods=MethodScores(matrix.T, np.array(places)))
    p_holm = holm(p)
    known = {
        name: np.array([of_query.get(query, np.nan) for query in queries])
        for name, of_query in (clusters or {}).items()
    }
    sampling = Sampling(labels=known, always=always)
    estimates = _estimates(metric, scored, places, queries, differences, sampling)
    pairs = {
        i: MethodPair(metric, labels[a], labels[b], estimates[i], float(p[i]), float(p_holm[i]))
        for i, (a, b) in enumerate(places)
        if i in estimates
    }
    differs = np.zeros((len(labels), len(labels)), dtype=bool)
    for i, pair in pairs.items():
        differs[places[i]] = differs[places[i][::-1]] = pair.significant
    return Comparison(list(pairs.values()), compact_letters(differs))


def _differences(matrix: np.ndarray, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """Differences ``[n_queries, n_pairs]``, NaN where either has no score.

    Args:
        matrix: scores ``[n_methods, n_queries]``.
    """
    differences = np.empty((matrix.shape[1], len(places)))
    for i, (a, b) in enumerate(places):
        differences[:, i] = matrix[a] - matrix[b]
    return differences


def _estimates(
    metric: str,
    scored: Sequence[Scored],
    places: Sequence[tuple[int, int]],
    queries: Sequence[str],
    differences: np.ndarray,
    sampling: Sampling,
) -> dict[int, Estimate]:
    """Mean and interval of each column over its own queries; columns of NaN are left out."""
    is_scored = ~np.isnan(differences)
    together: dict[bytes, list[int]] = {}
    for i in range(differences.shape[1]):
        together.setdefault(is_scored[:, i].tobytes(), []).append(i)
    estimates: dict[int, Estimate] = {}
    for columns in together.values():
        rows = is_scored[:, columns[0]]
        if not rows.any():
            continue
        own, values = sampling.of(rows), differences[rows][:, columns]
        if all(one.subsets for one in scored):
            asked = [query for query, known in zip(queries, rows, strict=True) if known]
            resampled = _over_subsets(metric, scored, [places[i] for i in columns], asked, own)
        else:
            resampled = own.resampled(metric, values)
        of_columns = estimates_from(values, resampled, sampling.always)
        estimates.update(zip(columns, of_columns, strict=True))
    return estimates


def _over_subsets(
    metric: str,
    scored: Sequence[Scored],
    places: Sequence[tuple[int, int]],
    queries: Sequence[str],
    sampling: Sampling,
) -> dict[str, tuple[np.ndarray, int]]:
    """Resampled differences of methods that were measured on equal subsets, by what was resampled.

    See ``Sampling.resampled``.
    """
    of_methods = {}
    for method in {method for pair in places for method in pair}:
        pairs = [scored[method].subsets[query] for query in queries]
        subsets = (np.stack([one for one, _ in pairs]), np.stack([other for _, other in pairs]))
        own = replace(sampling, subsets={metric: subsets})
        of_methods[method] = own.resampled(metric, np.empty((len(queries), 1)))
    kinds = next(iter(of_methods.values()))
    return {
        kind: (
            np.hstack([of_methods[a][kind][0] - of_methods[b][kind][0] for a, b in places]), units
        )
        for kind, (_, units) in kinds.items()
    }  # fmt: skip
