"""Do the cheap metrics foresee what retraining says? Rank correlation across methods.

Every method of a board that was measured both ways is one point; controls, which never look at the
query, are none. The interval is over resampled queries, the same ones for all methods and metrics:
it says how sure the order of *these* methods is, not how others would fare.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.core import escape
from bench.report import display
from bench.report.board import Board, Row, table_of
from bench.report.display import in_order, is_diagnostic, title
from bench.report.tables import section
from metrics.stats.correlation import rank_correlations

TRUTHS = ("removal_effect", "removal_effect_log", "lds", "qld")
LEAST_METHODS = 4  # of fewer, any order is likely enough by chance
SAMPLES = 1000  # bootstrap resamples, as of every other interval
LEGEND = (
    "Spearman's rank correlation, across methods, of a metric and of what retraining says, with "
    "its 95% interval over resampled queries. Controls are left out."
)
_FIELDS = (
    "task", "model", "metric", "truth", "rank_correlation", "low", "high", "n_methods", "n_queries",
)  # fmt: skip


@dataclass(frozen=True)
class Foresight:
    """How well one metric foresees one truth.

    Attributes:
        correlation: Spearman's; NaN where all methods are equal.
        ci95: its bounds.
        n_methods, n_queries: how many were seen both ways.
    """

    metric: str
    truth: str
    correlation: float
    ci95: tuple[float, float]
    n_methods: int
    n_queries: int


def foresights(board: Board, seed: int = 0) -> list[Foresight]:
    """Every metric of a board against every truth; empty if too few methods have one."""
    tables = [_merged(rows) for rows in _systems(board)]
    names = in_order({name for table in tables for name in table if _is_metric(name, board)})
    found = []
    for truth in (name for name in names if name in TRUTHS):
        for metric in names:
            if not _same_kind(metric, truth):
                both = [table for table in tables if metric in table and truth in table]
                if len(both) >= LEAST_METHODS:
                    found.append(_foresight(metric, truth, both, seed))
    return found


def _is_metric(name: str, board: Board) -> bool:
    return name.partition(" ")[0] in board.metrics and not is_diagnostic(name)


def _same_kind(metric: str, truth: str) -> bool:
    """A truth does not foresee itself, nor its own logarithm."""
    return metric.removesuffix("_log") == truth.removesuffix("_log")


# ------------------------------------------------------------------ one method, several cells


def _systems(board: Board) -> list[list[Row]]:
    """Rows of the same method, settings and seed, which differ in how they were measured."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in board.rows:
        if row.family != "control":
            key = (row.method, str(row.result.method.get("key")), row.result.seed)
            groups.setdefault(key, []).append(row)
    return [part for rows in groups.values() for part in _by_model(rows)]


def _by_model(rows: list[Row]) -> list[list[Row]]:
    """Rows apart whose models are known to differ.

    A row that needed no model goes with those of one model; of several, it fits none more.
    """
    models = [str(row.result.model.get("sha256") or "") for row in rows]
    known = sorted({*models} - {""})
    if len(known) < 2:
        return [rows]
    return [[row for row, own in zip(rows, models, strict=True) if own == one] for one in known]


def _merged(rows: Sequence[Row]) -> dict[str, pd.Series]:
    """Metric → values by query. Where cells differ in tail-patch's learning rate, so do names."""
    rates = {_rate(row) for row in rows}
    merged: dict[str, pd.Series] = {}
    for row in rows:
        table = table_of(row.cell)
        for name, values in table.items():
            if values.dtype.kind == "f":
                told = name.startswith("tail_patch") and len(rates) > 1
                key = f"{name} (learning rate {_rate(row)})" if told else name
                merged.setdefault(key, pd.Series(values, index=table["query_id"]))
    return merged


def _rate(row: Row) -> str:
    rate = row.cell.measured_by.get("tail_patch", {}).get("learning_rate")
    return "of the training" if rate is None else f"{rate:g}"


# ------------------------------------------------------------------ correlation and its interval


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
    found = rank_correlations(*(_means(values, times) for values in columns))
    low, high = np.nanpercentile(found[1:], [2.5, 97.5]) if np.isfinite(found[1:]).any() else [
        np.nan, np.nan
    ]  # fmt: skip
    n_queries = int((one.notna().any(axis=1) & other.notna().any(axis=1)).sum())
    return Foresight(
        metric, truth, float(found[0]), (float(low), float(high)), len(tables), n_queries
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


# ------------------------------------------------------------------ as text


Found = Sequence[tuple[Board, Sequence[Foresight]]]  # a board and what was found on it


def markdown(found: Found) -> str:
    """A table a board as GitHub-flavoured Markdown, empty where nothing was retrained."""
    heads = ("metric", "truth", "rank correlation", "95% interval", "methods")
    lines = [
        line
        for board, rows in found
        if rows
        for line in section("What foresees retraining", board, LEGEND, heads, 2, map(_cells, rows))
    ]
    return "\n".join(lines)


def _cells(row: Foresight) -> list[str]:
    numbers = (f"{value:+.2f}".replace("-", "−") for value in (row.correlation, *row.ci95))
    value, low, high = (display.MISSING if "nan" in number else number for number in numbers)
    name, _, rate = row.metric.partition(" ")
    shown = f"{title(name)} {rate}".strip()
    texts = [escape.markdown(shown), escape.markdown(title(row.truth))]
    return [*texts, value, f"[{low}, {high}]", display.count(row.n_methods)]


def csv_text(found: Found) -> str:
    """One line per metric and truth, in full precision."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_FIELDS)
    for board, rows in found:
        for row in rows:
            texts = (board.task, board.model, row.metric, row.truth)
            numbers = (row.correlation, *row.ci95)
            counts = (row.n_methods, row.n_queries)
            writer.writerow([*map(escape.spreadsheet, texts), *map(repr, numbers), *counts])
    return stream.getvalue()
