"""Do the cheap metrics foresee what retraining says? Rank correlation across methods.

Every method of a board that was measured both ways is one point; controls, which never look at the
query, are none. The interval is over resampled queries, the same ones for all methods and metrics:
it says how sure the order of *these* methods is, not how others would fare.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.report import display
from bench.report.board import Board, Row, table_of
from bench.report.leaderboard import of_board
from bench.report.table import Column, Table, Value
from metrics import measures
from metrics.measures import MetricKind
from metrics.stats.correlation import rank_correlations

LEAST_METHODS = 4  # of fewer, any order is likely enough by chance
SAMPLES = 1000  # bootstrap resamples, as of every other interval
LEGEND = (
    "Spearman's rank correlation, across methods, of a metric and of what retraining says, with "
    "its 95% interval over resampled queries. Controls are left out."
)


@dataclass(frozen=True)
class Foresight:
    """How well one metric foresees one truth.

    Attributes:
        correlation: Spearman's rank correlation; NaN where all methods are equal.
        ci95: the bounds of its interval.
        n_methods, n_queries: number of methods and of queries that were measured both ways.
    """

    metric: str
    truth: str
    correlation: float
    ci95: tuple[float, float]
    n_methods: int
    n_queries: int


def foresights(board: Board, seed: int = 0) -> list[Foresight]:
    """Every metric of a board beside every truth, a metric of retraining.

    Empty where fewer than ``LEAST_METHODS`` methods have both.
    """
    tables = [_merged(rows) for rows in _systems(board)]
    columns = {name for table in tables for name in table}
    names = measures.in_order(name for name in columns if _metric_of(name) in board.metrics)
    truths = [name for name in names if measures.of(name).kind is MetricKind.retraining]
    rows = []
    for truth, metric in itertools.product(truths, names):
        # A truth does not foresee itself, nor itself in another unit.
        if measures.of(metric).quantity != measures.of(truth).quantity:
            both = [table for table in tables if metric in table and truth in table]
            if len(both) >= LEAST_METHODS:
                rows.append(_foresight(metric, truth, both, seed))
    return rows


def _metric_of(column: str) -> str:
    """The metric of a column of ``_merged``, whose name may go on with a learning rate."""
    return column.partition(" ")[0]


# ------------------------------------------------------------------ one method, several cells


def _systems(board: Board) -> list[list[Row]]:
    """Rows of the same method, settings and seed, which differ in how they were measured."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in board.rows:
        if not row.is_control:
            key = (row.method, str(row.result.method.get("key")), row.result.seed)
            groups.setdefault(key, []).append(row)
    return [part for rows in groups.values() for part in _by_model(rows)]


def _by_model(rows: list[Row]) -> list[list[Row]]:
    """The rows in one group, or in one a model where their models are known to differ.

    A row that needed no model stays with the rows of one model; of several, it fits none.
    """
    models = [str(row.result.model.get("sha256") or "") for row in rows]
    known = sorted({*models} - {""})
    if len(known) < 2:
        return [rows]
    return [[row for row, own in zip(rows, models, strict=True) if own == one] for one in known]


def _merged(rows: Sequence[Row]) -> dict[str, pd.Series]:
    """The values of each metric by query.

    Where cells step with different learning rates, the names of what a step measures tell the rate.
    """
    rates = {_rate(row) for row in rows}
    merged: dict[str, pd.Series] = {}
    for row in rows:
        table = table_of(row.cell)
        for name, values in table.items():
            if values.dtype.kind == "f":
                is_step = measures.of(name).kind is MetricKind.influence
                told = is_step and len(rates) > 1
                key = f"{name} (learning rate {_rate(row)})" if told else name
                merged.setdefault(key, pd.Series(values, index=table["query_id"]))
    return merged


def _rate(row: Row) -> str:
    step = row.cell.measured_by.get("tail_patch")
    rate = step.get("learning_rate") if isinstance(step, dict) else None
    return f"{rate:g}" if isinstance(rate, int | float) else "of the training"


def _foresight(
    metric: str, truth: str, tables: Sequence[Mapping[str, pd.Series]], seed: int
) -> Foresight:
    one = pd.concat([table[metric] for table in tables], axis=1)
    other = pd.concat([table[truth] for table in tables], axis=1).reindex(one.index)
    seen = one.notna().any(axis=1) | other.notna().any(axis=1)
    columns = [frame.loc[seen].to_numpy(dtype=np.float64) for frame in (one, other)]
    n = int(seen.sum())
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=SAMPLES)
    times = np.vstack([np.ones(n), drawn])  # the first: every query once
    correlation, *resampled = rank_correlations(*(_means(values, times) for values in columns))
    low, high = math.nan, math.nan
    if np.isfinite(resampled).any():
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
    n_queries = int((one.notna().any(axis=1) & other.notna().any(axis=1)).sum())
    return Foresight(
        metric, truth, float(correlation), (float(low), float(high)), len(tables), n_queries
    )


def _means(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean of each method over each resample, ``[resamples, methods]``; NaN is not scored.

    Args:
        values: ``[queries, methods]``.
        times: how often each query was drawn, ``[resamples, queries]``.
    """
    scored = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (times @ np.where(scored, values, 0.0)) / (times @ scored.astype(np.float64))


def foresight_table(board: Board) -> Table:
    """A row for each metric and truth of a board, none where nothing was retrained."""
    columns = [
        *of_board(board),
        Column(lambda one: _titled(one.metric), "metric", ("metric",), is_text=True),
        Column(lambda one: _titled(one.truth), "truth", ("truth",), is_text=True),
        Column(_correlation, "rank correlation", ("rank_correlation", "low", "high")),
        Column(lambda one: f"[{', '.join(map(_signed, one.ci95))}]", "95% interval"),
        Column(lambda one: one.n_methods, "methods", ("n_methods",)),
        Column(lambda one: one.n_queries, fields=("n_queries",)),
    ]
    title = f"What foresees retraining: {board.task} × {board.model}"
    return Table(title, columns, foresights(board), LEGEND)


def _titled(column: str) -> Value:
    name = _metric_of(column)
    return Value(column.replace(name, measures.of(name).head, 1), (column,))


def _correlation(one: Foresight) -> Value:
    return Value(_signed(one.correlation), (one.correlation, *one.ci95))


def _signed(correlation: float) -> str:
    if math.isnan(correlation):
        return display.MISSING
    return f"{correlation:+.2f}".replace("-", "−")
