"""The table of one row per query that lies beside every result.

Beside what was scored it holds what the intervals are made from: ``cluster=KIND``, the number of
the query's cluster, and ``METRIC_predicted`` and ``METRIC_measured``, lists of one number a subset
of the corpus, of a metric that is a rank correlation over subsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.results.schema import PER_QUERY
from bench.storage.tables import read_columns
from metrics.stats.subsets import MOST_SUBSETS

CLUSTER = "cluster="
_MOST_COUNTED = (
    10**7
)  # passages that state one fact: far above any corpus, and a file can hold them
SUPPORT = "top10_support"  # before "=KIND": the share of the first proponents of this kind


def cluster_columns(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns for the clusters of each query, by what clusters are made by."""
    return {f"{CLUSTER}{name}": values for name, values in labels.items()}


def cluster_labels_of(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The clusters that ``cluster_columns`` was given."""
    return {name.removeprefix(CLUSTER): v for name, v in table.items() if name.startswith(CLUSTER)}


def clusters_of(table: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """The cluster of each query by its id, by what clusters are made by."""
    queries = table.get("query_id", np.array([])).tolist()
    return {
        name: dict(zip(queries, values.tolist(), strict=True))
        for name, values in cluster_labels_of(table).items()
    }


def subset_columns(metric: str) -> tuple[str, str]:
    """Names of the columns of what was foreseen and what was measured of each subset."""
    return f"{metric}_predicted", f"{metric}_measured"


def subsets_of(table: Mapping[str, np.ndarray], metric: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """What was foreseen and what was measured, a pair a query; empty for metrics without subsets.

    Raises:
        UserError: the lists are of unequal length, too short or too long, or hold something else
            than numbers.
    """
    names = subset_columns(metric)
    if not all(name in table for name in names):
        return []
    try:
        columns = [np.array([np.asarray(v, np.float64) for v in table[name]]) for name in names]
    except (TypeError, ValueError) as error:
        raise UserError(f"{names[0]}: no lists of numbers", where=PER_QUERY) from error
    if any(column.ndim != 2 for column in columns) or columns[0].shape != columns[1].shape:
        raise UserError(f"{names[0]}: no lists of equal length", where=PER_QUERY)
    if not 2 <= columns[0].shape[1] <= MOST_SUBSETS:
        raise UserError(f"{names[0]}: lists of {columns[0].shape[1]} subsets", where=PER_QUERY)
    return list(zip(*columns, strict=True))


def read_per_query(folder: Path, n_queries: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a cell's ``per_query.parquet`` in the order of its rows.

    Args:
        n_queries: queries that the cell has, as its result says; None where nobody says.

    Returns:
        Column name → array: ``query_id`` and other texts as objects that are str, numbers as
        float64 with NaN where not scored, lists of numbers as objects.

    Raises:
        UserError: missing or damaged file, more rows than queries, no ``query_id`` column, a query
            that has no id or occurs twice, clusters that are no numbers, or ``n_gold`` that are no
            counts.
    """
    path = folder / PER_QUERY
    columns = read_columns(path, n_queries)
    if "query_id" not in columns:
        raise UserError("has no column query_id", where=str(path))
    queries = columns["query_id"].tolist()
    if not all(isinstance(query, str) for query in queries):
        raise UserError("query_id is no column of texts", where=str(path))
    if len(set(queries)) != len(queries):
        raise UserError("lists a query twice", where=str(path))
    for name, labels in cluster_labels_of(columns).items():
        if labels.dtype.kind != "f" or not np.isfinite(labels).all():
            raise UserError(f"{CLUSTER}{name} is no column of numbers", where=str(path))
    if (counts := columns.get("n_gold")) is not None and not _are_counts(counts):
        raise UserError("n_gold is no column of counts", where=str(path))
    return columns


def _are_counts(values: np.ndarray) -> bool:
    """Whether all are whole numbers from 0, or NaN where nobody has counted."""
    if values.dtype.kind != "f":
        return False
    known = values[~np.isnan(values)]
    return bool(np.all((known >= 0) & (known <= _MOST_COUNTED) & (known == np.floor(known))))
