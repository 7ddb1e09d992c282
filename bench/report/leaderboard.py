"""The table of one board: a row a method, its metrics, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import display
from bench.report.board import Board, Row
from bench.report.table import Column, Raw, Table, Value
from metrics import measures
from metrics.stats.bootstrap import Estimate
from metrics.stats.significance import ALPHA

LEGEND = (
    "Values are means over the scored queries with their 95% bootstrap intervals. "
    "Bold: best of its column. Two methods that share no letter (a, b, …) differ significantly in "
    "that column: two-sided paired sign-flip randomisation tests over the queries that both were "
    f"scored on, Holm's correction for all pairs of the column, p < {ALPHA}. "
    "Controls are bounds and take no part in that, nor do rows that say in parentheses that they "
    "were measured in another way than most. "
    "MRR and map cannot see past the stored list (top k)."
)
_NAMES = (
    Column(fields=("task",)),
    Column(fields=("model",)),
    Column(fields=("method",)),
    Column("method", ("label",), is_text=True),
    Column(fields=("seed",)),
    Column(fields=("key",)),
)
_FACTS = (
    Column("passages", ("n_passages",), "passages that were ranked"),
    Column("queries", ("n_queries", "n_scored"), "queries that were scored, of all", key=1),
    Column("top k", ("top_k",), "length of the stored lists", room=1),
    Column(
        measures.of(measures.LENGTH_RATIO).head,
        meaning=measures.of(measures.LENGTH_RATIO).meaning,
        room=2,
    ),
    Column(
        "index B/passage",
        ("index_bytes", "index_bytes_per_passage"),
        "index size in bytes per passage",
        room=1,
        short="B/passage",
        key=1,
    ),
    Column("seconds", ("seconds",), "wall time of all phases", room=1),
    Column("peak MiB", ("peak_mib",), "largest peak memory of any phase", room=1, short="MiB"),
)
_ORIGIN = tuple(
    Column(fields=(name,)) for name in ("task_sha256", "model_sha256", "imported", "date")
)
_STACKS = (("passages", "queries"), ("index B/passage", "top k"), ("seconds", "peak MiB"))


def leaderboards(boards: Sequence[Board]) -> list[Table]:
    """A table for each board; all have the same fields, those of the metrics of any board."""
    names = (name for board in boards for row in board.rows for name in row.result.metrics)
    metrics = measures.in_order(names)
    return [_leaderboard(board, metrics) for board in boards]


def _leaderboard(board: Board, metrics: Sequence[str]) -> Table:
    return Table(
        title=f"{board.task} × {board.model}",
        columns=[*_NAMES, *(_metric(name, board) for name in metrics), *_FACTS, *_ORIGIN],
        rows=[_row(row, board, metrics) for row in board.rows],
        legend=LEGEND,
        note=f"Means of {board.samples}." if board.samples else "",
        stacks=_STACKS,
    )


def _metric(name: str, board: Board) -> Column:
    """The column of one metric, which readers see where it judges the methods of this board."""
    measure = measures.of(name)
    first = measures.HEADLINE
    return Column(
        measure.head if name in board.metrics else "",
        (name, f"{name}_low", f"{name}_high", f"{name}_n"),
        measure.meaning,
        rank=first.index(name) if name in first else len(first),
        has_interval=True,
    )


def _row(row: Row, board: Board, metrics: Sequence[str]) -> list[Value | Raw]:
    result = row.result
    return [
        board.task,
        board.model,
        row.method,
        row.label,
        result.seed,
        row.cell.folder.name,
        *(_estimate(row, name) for name in metrics),
        result.task.get("n_passages"),
        Value(row.queries, (result.task.get("n_queries"), result.task.get("n_scored"))),
        result.top_k,
        row.length_ratio,
        Value(
            display.plain(row.index_bytes_per_passage),
            (result.index.get("bytes"), row.index_bytes_per_passage),
        ),
        row.seconds,
        row.peak_mib,
        str(result.task.get("sha256")),
        str(result.model.get("sha256")),
        str(result.imported),
        str(result.date),
    ]


def _estimate(row: Row, metric: str) -> Value | None:
    estimate = row.result.metrics.get(metric)
    if estimate is None:
        return None
    return Value(
        display.number(metric, estimate.value),
        raw_of(estimate),
        display.interval(metric, estimate),
        is_best=metric in row.best,
        letters=row.letters.get(metric, ""),
    )


def raw_of(estimate: Estimate) -> tuple[Raw, ...]:
    """An estimate for a program: its value, its bounds, and how many queries it is a mean of."""
    return (estimate.value, *estimate.ci95, estimate.n)
