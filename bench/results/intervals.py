"""How the intervals of a finished cell were made, from what lies beside its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bench.core.errors import UserError
from bench.results.per_query import cluster_labels_of, subsets_of
from bench.results.schema import PER_QUERY, RETRIEVALS
from metrics.settings import Cluster
from metrics.stats.bootstrap import Estimate
from metrics.stats.sampling import Sampling, cluster_labels

Complaint = tuple[str, str]  # what is wrong, and in which way


def stored_sampling(
    asked_for: tuple[Sequence[str], Sequence[str]] | None,
    table: dict[str, np.ndarray],
    cluster: Cluster,
    metrics: Iterable[str],
) -> tuple[Sampling, list[Complaint]]:
    """What the intervals of a cell are over, and what does not hold of it.

    Clusters follow from the relations and targets of the rankings; of a metric that is a rank
    correlation over subsets of the corpus, the table has what it is the correlation of.

    Args:
        asked_for: relation and target of each query, as the rankings have them, in the order of
            the table; None without rankings: the clusters of the table are then believed.
        cluster: the cell's setting.
        metrics: names of the cell's metrics.
    """
    labels = stored = cluster_labels_of(table)
    if asked_for is not None:
        labels = cluster_labels(cluster, *asked_for)
    complaints = [
        (f"clusters by {name}", f"{PER_QUERY} has others than {RETRIEVALS}")
        for name in sorted({*labels, *stored})
        if not np.array_equal(stored.get(name, []), labels.get(name, []))
    ]
    subsets = {}
    for name in metrics:
        try:
            pairs = subsets_of(table, name)
        except UserError as error:
            complaints.append((name, error.what))
            continue
        if pairs:
            subsets[name] = (np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))
    always = cluster not in (Cluster.none, Cluster.auto)
    return Sampling(labels=labels, always=always, subsets=subsets), complaints


def numbers_beside(stored: Estimate, expected: Estimate) -> dict[str, tuple[float, float]]:
    """Every number of two estimates of the same kind, side by side, by its name."""
    numbers: dict[str, tuple[float, float]] = {
        "": (stored.value, expected.value), " n": (stored.n, expected.n)
    }  # fmt: skip
    bounds = {"": (stored.ci95, expected.ci95)}
    for over, interval in expected.intervals.items():
        bounds[f" over {over}"] = (stored.intervals[over].ci95, interval.ci95)
        numbers[f" {over}"] = (stored.intervals[over].units, interval.units)
    for over, (old, new) in bounds.items():
        numbers[f" interval{over}, low"] = (old[0], new[0])
        numbers[f" interval{over}, high"] = (old[1], new[1])
    return numbers
