"""Every two methods of a board side by side, metric by metric."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import display
from bench.report.board import Board
from bench.report.leaderboard import of_board, raw_of
from bench.report.table import Column, Table, Value
from metrics import measures
from metrics.stats.pairs import MethodPair
from metrics.stats.significance import FLIPS

LEGEND = (
    "Mean difference over the queries that both were scored on, with its 95% bootstrap interval, "
    "and the p-value of the paired sign-flip test (exact where few queries differ, else at least "
    f"{FLIPS:,} flips), before and after Holm's correction for all pairs of a metric. "
    "Bold: significant after it, with an interval that leaves out 0."
)


def pair_table(board: Board, pairs: Sequence[MethodPair]) -> Table:
    """A row for each of a board's pairs; readers are told the metric by its title."""
    columns = [
        *of_board(board),
        Column(
            lambda pair: Value(measures.of(pair.metric).head, (pair.metric,)),
            "metric",
            ("metric",),
            is_text=True,
        ),
        Column(lambda pair: pair.a, "a", ("method_a",), is_text=True),
        Column(lambda pair: pair.b, "b", ("method_b",), is_text=True),
        Column(_difference, "a − b", ("difference", "difference_low", "difference_high")),
        Column(lambda pair: pair.difference.over, fields=("difference_over",)),
        Column(
            lambda pair: display.interval(pair.metric, pair.difference, display.difference),
            "95% interval",
        ),
        Column(lambda pair: Value(display.p_value(pair.p), (pair.p,)), "p", ("p",)),
        Column(
            lambda pair: Value(display.p_value(pair.p_holm), (pair.p_holm,)), "p Holm", ("p_holm",)
        ),
        Column(lambda pair: pair.difference.n, "queries", ("n",)),
    ]
    note = " ".join(display.legend_of_intervals(pair.difference for pair in pairs))
    return Table(f"Pairs: {board.task} × {board.model}", columns, pairs, LEGEND, note)


def _difference(pair: MethodPair) -> Value:
    text = display.difference(pair.metric, pair.difference.value)
    return Value(text, raw_of(pair.metric, pair.difference), is_best=pair.significant)
