"""Every two methods of the leaderboard side by side, as text: Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bench.core import escape
from bench.report import display
from bench.report.board import Board
from bench.report.tables import section
from metrics.stats.pairs import Pair
from metrics.stats.significance import FLIPS

HEADS = ("a", "b", "a − b", "95% interval", "p", "p Holm", "queries")
LEGEND = (
    "Mean difference over the queries that both were scored on, with its 95% bootstrap interval, "
    "and the p-value of the paired sign-flip test (exact where few queries differ, else at least "
    f"{FLIPS:,} flips), before and after Holm's correction for all pairs of a metric. "
    "Bold: significant after it."
)
_FIELDS = (
    "task", "model", "metric", "method_a", "method_b", "difference", "difference_low",
    "difference_high", "p", "p_holm", "n",
)  # fmt: skip


def shown(pair: Pair) -> tuple[str, ...]:
    """What stands in the columns ``HEADS[2:]`` of one pair."""
    bounds = (display.difference(pair.metric, bound) for bound in pair.difference.ci95)
    return (
        display.difference(pair.metric, pair.difference.value),
        f"[{', '.join(bounds)}]",
        display.p_value(pair.p),
        display.p_value(pair.p_holm),
        display.count(pair.difference.n),
    )


def markdown(boards: Sequence[Board]) -> str:
    """The pairs of all boards as GitHub-flavoured Markdown, empty if there are none."""
    lines = [
        line
        for board in boards
        if board.pairs
        for line in section(
            "Pairs", board, LEGEND, ("metric", *HEADS), 3, map(_markdown_row, board.pairs)
        )
    ]
    return "\n".join(lines)


def _markdown_row(pair: Pair) -> list[str]:
    value, *others = map(escape.markdown, shown(pair))
    names = map(escape.markdown, (display.title(pair.metric), pair.a, pair.b))
    return [*names, f"**{value}**" if pair.significant else value, *others]


def csv_text(boards: Sequence[Board]) -> str:
    """One line per pair and metric, in full precision and in the metric's own unit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_FIELDS)
    for board in boards:
        for pair in board.pairs:
            texts = (board.task, board.model, pair.metric, pair.a, pair.b)
            numbers = (pair.difference.value, *pair.difference.ci95, pair.p, pair.p_holm)
            writer.writerow(
                [*map(escape.spreadsheet, texts), *map(repr, numbers), pair.difference.n]
            )
    return stream.getvalue()
