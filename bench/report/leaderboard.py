"""The table of one board: a row a method, its metrics, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.report import display
from bench.report.board import Board, Row
from bench.report.costs import model_seconds, shared_seconds
from bench.report.table import Column, Raw, Table, Value
from metrics import measures
from metrics.measures import MetricKind
from metrics.stats.bootstrap import Estimate
from metrics.stats.significance import ALPHA

LEGEND = (
    "Values are means over the scored queries with their 95% bootstrap intervals. "
    "Bold: best of its column. Two methods that share no letter (a, b, …) differ significantly in "
    "that column: two-sided paired sign-flip randomisation tests over the queries that both were "
    f"scored on, Holm's correction for all pairs of the column, p < {ALPHA}, and an interval of "
    "the difference without 0. Controls are bounds and take no part in that, but for LDS, nor do "
    "rows that say in parentheses that they were measured in another way than most. "
    "MRR and map cannot see past the stored list (top k)."
)
_STACKS = (
    ("passages", "queries"),
    ("index B/passage", "top k"),
    ("seconds", "shared s"),
    ("peak MiB",),
)


def leaderboards(boards: Sequence[Board]) -> list[Table]:
    """A table for each board; all have the same fields, those of the metrics of any board."""
    names = (name for board in boards for row in board.rows for name in row.result.metrics)
    metrics = measures.in_order(names)
    return [
        Table(
            title=f"{board.task} × {board.model}",
            columns=[
                *_names(board), *(_metric(name, board) for name in metrics),
                *_FACTS[:3], *map(_diagnostic, _diagnostics(board)), *_FACTS[3:],
            ],
            rows=board.rows,
            legend=LEGEND,
            note=_note(board),
            stacks=_STACKS,
        )
        for board in boards
    ]  # fmt: skip


def _note(board: Board) -> str:
    """How many queries the means are of, and what the marks of their intervals mean."""
    parts = [f"Means of {board.samples}."] if board.samples else []
    shown = [row.result.metrics.get(name) for row in board.rows for name in board.metrics]
    parts += display.legend_of_intervals([one for one in shown if one is not None])
    model = max((model_seconds(row.result) or 0.0 for row in board.rows), default=0.0)
    if model >= 1:
        seconds = display.plain(model)
        parts += [f"Training or loading the model took {seconds} s, which no row is charged with."]
    return " ".join(parts + _knowledge(board))


def _knowledge(board: Board) -> list[str]:
    """What the models of a board knew of its facts when their training had ended."""
    logs = [row.result.model.get("training") or {} for row in board.rows]
    recalled = _shares(log.get("facts_recalled") for log in logs)
    likely = _shares(log.get("target_probability") for log in logs)
    if not recalled or not likely:
        return []
    share = " to ".join(f"{value:.0%}" for value in sorted({recalled[0], recalled[-1]}))
    mean = " to ".join(display.plain(value) for value in sorted({likely[0], likely[-1]}))
    return [
        f"After training {share} of the facts asked were recalled, at a mean probability of the "
        f"target of {mean}."
    ]


def _shares(values: Iterable[object]) -> list[float]:
    """Those that are numbers between 0 and 1, as a log of a training has them; sorted."""
    return sorted(v for v in values if isinstance(v, int | float) and 0 <= v <= 1)


def _diagnostics(board: Board) -> list[str]:
    """The diagnostic metrics that have a column of their own beside what a method costs."""
    known = {name for row in board.rows for name in row.result.metrics}
    told = {name for name in known if measures.of(name).kind is MetricKind.diagnostic}
    return measures.in_order({*told, measures.LENGTH_RATIO})


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
        (name, *(f"{name}_{part}" for part in ("low", "high", "n", "over"))),
        measure.meaning,
        rank=first.index(name) if name in first else len(first),
        has_interval=True,
    )


def value_of(metric: str, estimate: Estimate | None) -> Value:
    """An estimate with its interval, or the sign of a missing one."""
    if estimate is None:
        return Value()
    text, interval = display.number(metric, estimate.value), display.interval(metric, estimate)
    return Value(text, raw_of(metric, estimate), interval)


def raw_of(metric: str, estimate: Estimate) -> tuple[Raw, ...]:
    """An estimate for a program: value, bounds, how many queries, and what was resampled."""
    shown = measures.of(metric).shown
    return (*map(shown, (estimate.value, *estimate.ci95)), estimate.n, estimate.over)


def _queries(row: Row) -> Value:
    total, scored = (row.result.task.get(name) for name in ("n_queries", "n_scored"))
    return Value("/".join("?" if n is None else str(n) for n in (scored, total)), (total, scored))


def _diagnostic(name: str) -> Column:
    def value(row: Row) -> float | None:
        estimate = row.result.metrics.get(name)
        return estimate.value if estimate else None

    return Column(value, measures.of(name).head, meaning=measures.of(name).meaning, room=2)


def _passages(row: Row) -> Value:
    """The size of the corpus, and how many of its passages have the text of an earlier one."""
    n = row.result.task.get("n_passages")
    repeated = row.result.repeated_texts
    return Value(f"{display.plain(n)}{f' ({repeated:,} repeated)' if repeated else ''}", (n,))


def _index(row: Row) -> Value:
    size = row.index_bytes_per_passage
    return Value(display.plain(size), (row.result.index.get("bytes"), size))


_FACTS = (
    Column(
        _passages, "passages", ("n_passages",),
        "passages that were ranked, and how many of them have the text of an earlier one",
    ),
    Column(
        _queries, "queries", ("n_queries", "n_scored"), "queries that were scored, of all", key=1
    ),
    Column(
        lambda row: row.result.top_k, "top k", ("top_k",), "length of the stored lists", room=1
    ),
    Column(
        _index, "index B/passage", ("index_bytes", "index_bytes_per_passage"),
        "index size in bytes per passage", room=1, short="B/passage", key=1,
    ),
    Column(
        lambda row: row.seconds, "seconds", ("seconds",), "wall time of the row's own work: "
        "neither training or loading the model nor making an index that other rows use, too",
        room=1,
    ),
    Column(
        lambda row: shared_seconds(row.result), "shared s", ("shared_seconds",), "wall time of "
        "making the index, once for all rows that use it", room=1,
    ),
    Column(
        lambda row: row.peak_mib, "peak MiB", ("peak_mib",), "largest peak memory of any phase",
        room=1, short="MiB",
    ),
    Column(lambda row: str(row.result.task.get("sha256")), fields=("task_sha256",)),
    Column(lambda row: str(row.result.model.get("sha256")), fields=("model_sha256",)),
    Column(lambda row: row.result.imported, fields=("imported",)),
    Column(lambda row: str(row.result.date), fields=("date",)),
)  # fmt: skip
