"""The table of one board: a row a method, its metrics, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
_LENGTH = measures.of(measures.LENGTH_RATIO)
_STACKS = (("passages", "queries"), ("index B/passage", "top k"), ("seconds", "peak MiB"))


def leaderboards(boards: Sequence[Board]) -> list[Table]:
    """A table for each board; all have the same fields, those of the metrics of any board."""
    names = (name for board in boards for row in board.rows for name in row.result.metrics)
    metrics = measures.in_order(names)
    return [
        Table(
            title=f"{board.task} × {board.model}",
            columns=[*_names(board), *(_metric(name, board) for name in metrics), *_FACTS],
            rows=board.rows,
            legend=LEGEND,
            note=f"Means of {board.samples}." if board.samples else "",
            stacks=_STACKS,
        )
        for board in boards
    ]


def of_board(board: Board) -> list[Column]:
    """The columns by which a program tells the rows of several boards apart."""
    return [
        Column(lambda _: board.task, fields=("task",)),
        Column(lambda _: board.model, fields=("model",)),
    ]


def _names(board: Board) -> list[Column]:
    return [
        *of_board(board),
        Column(lambda row: row.method, fields=("method",)),
        Column(lambda row: row.label, "method", ("label",), is_text=True),
        Column(lambda row: row.result.seed, fields=("seed",)),
        Column(lambda row: row.cell.folder.name, fields=("key",)),
    ]


def _metric(name: str, board: Board) -> Column:
    """The column of one metric, which readers see where it judges the methods of this board."""
    measure, first = measures.of(name), measures.HEADLINE

    def estimate(row: Row) -> Value:
        value = value_of(name, row.result.metrics.get(name))
        return replace(value, is_best=name in row.best, letters=row.letters.get(name, ""))

    return Column(
        estimate,
        measure.head if name in board.metrics else "",
        (name, f"{name}_low", f"{name}_high", f"{name}_n"),
        measure.meaning,
        rank=first.index(name) if name in first else len(first),
        has_interval=True,
    )


def value_of(metric: str, estimate: Estimate | None) -> Value:
    """An estimate with its interval, or the sign of a missing one."""
    if estimate is None:
        return Value()
    text, interval = display.number(metric, estimate.value), display.interval(metric, estimate)
    return Value(text, raw_of(estimate), interval)


def raw_of(estimate: Estimate) -> tuple[Raw, ...]:
    """An estimate for a program: its value, its bounds, and how many queries it is a mean of."""
    return (estimate.value, *estimate.ci95, estimate.n)


def _queries(row: Row) -> Value:
    total, scored = (row.result.task.get(name) for name in ("n_queries", "n_scored"))
    return Value("/".join("?" if n is None else str(n) for n in (scored, total)), (total, scored))


def _length_ratio(row: Row) -> float | None:
    estimate = row.result.metrics.get(_LENGTH.name)
    return estimate.value if estimate else None


def _index(row: Row) -> Value:
    size = row.index_bytes_per_passage
    return Value(display.plain(size), (row.result.index.get("bytes"), size))


_FACTS = (
    Column(
        lambda row: row.result.task.get("n_passages"), "passages", ("n_passages",),
        "passages that were ranked",
    ),
    Column(
        _queries, "queries", ("n_queries", "n_scored"), "queries that were scored, of all", key=1
    ),
    Column(
        lambda row: row.result.top_k, "top k", ("top_k",), "length of the stored lists", room=1
    ),
    Column(_length_ratio, _LENGTH.head, meaning=_LENGTH.meaning, room=2),
    Column(
        _index, "index B/passage", ("index_bytes", "index_bytes_per_passage"),
        "index size in bytes per passage", room=1, short="B/passage", key=1,
    ),
    Column(lambda row: row.seconds, "seconds", ("seconds",), "wall time of all phases", room=1),
    Column(
        lambda row: row.peak_mib, "peak MiB", ("peak_mib",), "largest peak memory of any phase",
        room=1, short="MiB",
    ),
    Column(lambda row: str(row.result.task.get("sha256")), fields=("task_sha256",)),
    Column(lambda row: str(row.result.model.get("sha256")), fields=("model_sha256",)),
    Column(lambda row: row.result.imported, fields=("imported",)),
    Column(lambda row: str(row.result.date), fields=("date",)),
)  # fmt: skip
