"""Every two methods of a board side by side, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import display
from bench.report.board import Board
from bench.report.leaderboard import raw_of
from bench.report.table import Column, Raw, Table, Value
from metrics import measures
from metrics.stats.pairs import Pair
from metrics.stats.significance import FLIPS

LEGEND = (
    "Mean difference over the queries that both were scored on, with its 95% bootstrap interval, "
    "and the p-value of the paired sign-flip test (exact where few queries differ, else at least "
    f"{FLIPS:,} flips), before and after Holm's correction for all pairs of a metric. "
    "Bold: significant after it."
)
_COLUMNS = (
    Column(fields=("task",)),
    Column(fields=("model",)),
    Column("metric", ("metric",), is_text=True),
    Column("a", ("method_a",), is_text=True),
    Column("b", ("method_b",), is_text=True),
    Column("a − b", ("difference", "difference_low", "difference_high")),
    Column("95% interval"),
    Column("p", ("p",)),
    Column("p Holm", ("p_holm",)),
    Column("queries", ("n",)),
)


def pair_table(board: Board, pairs: Sequence[Pair]) -> Table:
    """A row for each of a board's pairs; readers are told the metric by its title."""
    rows = [_row(board, pair) for pair in pairs]
    return Table(f"Pairs: {board.task} × {board.model}", _COLUMNS, rows, LEGEND)


def _row(board: Board, pair: Pair) -> list[Value | Raw]:
    *bounds, n = raw_of(pair.difference)
    return [
        board.task,
        board.model,
        Value(measures.of(pair.metric).head, (pair.metric,)),
        pair.a,
        pair.b,
        Value(
            display.difference(pair.metric, pair.difference.value),
            tuple(bounds),
            is_best=pair.significant,
        ),
        Value(display.interval(pair.metric, pair.difference, display.difference)),
        Value(display.p_value(pair.p), (pair.p,)),
        Value(display.p_value(pair.p_holm), (pair.p_holm,)),
        n,
    ]
