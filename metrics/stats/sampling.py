"""What the queries of a table are a sample of, and the interval that follows from it.

Beside the interval over queries stand those over clusters of them; which one a table shows is a
rule, not a choice made by looking at it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from metrics.settings import Cluster
from metrics.stats.bootstrap import (
    QUERIES,
    Estimate,
    Interval,
    percentiles,
    resampled_columns,
    widest_of,
)
from metrics.stats.subsets import resampled_scores

AND_SUBSETS = " and subsets"  # behind what else was resampled for an interval


def cluster_labels(
    cluster: Cluster, relations: Sequence[str], answers: Sequence[str]
) -> dict[str, np.ndarray]:
    """The clusters of each query, by what they are made by.

    Args:
        relations: the relation of each query; all empty where a task knows of none.
        answers: the target of each query.

    Returns:
        int64 ``[n_queries]`` for each kind that was asked for, numbered as they first occur.
    """
    made_by: dict[str, Sequence[Hashable]] = {
        Cluster.relation.value: relations,
        Cluster.relation_answer.value: list(zip(relations, answers, strict=True)),
    }
    return {
        name: _numbered(keys)
        for name, keys in made_by.items()
        if cluster in (Cluster.auto, Cluster(name))
    }


def _numbered(keys: Sequence[Hashable]) -> np.ndarray:
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


@dataclass(frozen=True)
class Sampling:
    """How intervals are made.

    Attributes:
        seed: of their draws.
        labels: the cluster of each query, by what clusters are made by, ``[n_queries]`` each.
        always: whether an interval over clusters is shown in any case; otherwise it is where it is
            wider by more than a tenth, and the widest of several.
        subsets: of a metric that is a rank correlation over subsets of the corpus, what was
            foreseen and what was measured, ``[n_queries, n_subsets]`` each: subsets are then drawn
            with the queries.
    """

    samples: int = 1000
    seed: int = 0
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    always: bool = False
    subsets: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def of(self, rows: np.ndarray) -> Sampling:
        """The same of some of the queries: bool ``[n_queries]``, or their places."""
        labels = {name: values[rows] for name, values in self.labels.items()}
        pairs = {name: (one[rows], other[rows]) for name, (one, other) in self.subsets.items()}
        return replace(self, labels=labels, subsets=pairs)

    def estimate(self, metric: str, values: np.ndarray) -> Estimate | None:
        """The mean of a metric over queries, with its interval.

        Args:
            values: one score a query, float ``[n_queries]``; NaN where a query was not scored.

        Returns:
            None if no query was scored.
        """
        values = np.asarray(values, dtype=np.float64)
        own = self.of(~np.isnan(values))
        values = values[~np.isnan(values)]
        if not len(values):
            return None
        resampled = own.resampled(metric, values[:, None])
        (one,) = estimates_from(values[:, None], resampled, self.always)
        return one

    def resampled(self, metric: str, values: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
        """Means of resamples by what was resampled, the usual one first, and the units drawn from.

        Args:
            values: float ``[n_queries, n_columns]`` without NaN; one column if the metric is one
                over subsets.

        Returns:
            float64 ``[samples, n_columns]``, and how many units there are.
        """
        kinds: dict[str, np.ndarray | None] = {QUERIES: None}
        kinds |= {k: v for k, v in self.labels.items() if len(np.unique(v)) > 1}
        units = {k: len(values) if v is None else len(np.unique(v)) for k, v in kinds.items()}
        if metric in self.subsets:
            pair = self.subsets[metric]
            return {
                name + AND_SUBSETS: (
                    resampled_scores(*pair, labels, self.samples, self.seed)[:, None], units[name]
                )
                for name, labels in kinds.items()
            }  # fmt: skip
        return {
            name: (resampled_columns(values, labels, self.samples, self.seed), units[name])
            for name, labels in kinds.items()
        }


def estimates_from(
    values: np.ndarray, resampled: Mapping[str, tuple[np.ndarray, int]], always: bool
) -> list[Estimate]:
    """The estimate of each column of ``values`` from the means of its resamples.

    Args:
        values: float ``[n_queries, n_columns]``.
        resampled, always: see ``Sampling``.
    """
    bounds = {name: (percentiles(means), units) for name, (means, units) in resampled.items()}
    usual = next(iter(bounds))
    return [
        widest_of(
            float(value),
            len(values),
            {
                name: Interval((float(low[column]), float(high[column])), units)
                for name, ((low, high), units) in bounds.items()
            },
            usual,
            always,
        )
        for column, value in enumerate(values.mean(axis=0))
    ]
