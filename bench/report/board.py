"""From finished cells to tables: one board per task × model, one row per cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from bench.core import progress
from bench.engines.environment import cores
from bench.report.costs import own_seconds
from bench.report.telling_apart import hash_of, labels_of, measured_alike, name_of
from bench.results.per_query import clusters_of, read_per_query, subsets_of
from bench.results.schema import ENTAILED, PER_QUERY, Cell, Result, Source
from methods import METHODS
from metrics import measures
from metrics.stats.bootstrap import Estimate
from metrics.stats.pairs import MethodPair, Scored, compare_methods


@dataclass(frozen=True)
class Row:
    """One cell on a board.

    Attributes:
        label: the name of the row, which no other has (``telling_apart.labels_of``).
        family: the method's group in the registry, ``"other"`` for one that is not in it.
        best: metrics on which no other method of the board is better, controls aside.
        letters: metric → letters (``Comparison.letters``); absent where there is nothing to test.
    """

    cell: Cell = field(repr=False)
    label: str
    family: str
    best: set[str] = field(default_factory=set)
    letters: dict[str, str] = field(default_factory=dict)

    @property
    def result(self) -> Result:
        """The cell's result."""
        return self.cell.result

    @property
    def method(self) -> str:
        """The method's name, without settings."""
        return name_of(self.cell, "method")

    @property
    def source(self) -> Source | None:
        """Where the row is from, if it came in a bundle."""
        return self.cell.source

    @property
    def is_control(self) -> bool:
        """Whether the method is a control, which no method competes with."""
        return self.family == "control"

    @property
    def seconds(self) -> float | None:
        """Wall time of the row's own work in seconds, None if none was measured."""
        return own_seconds(self.result)

    @property
    def peak_mib(self) -> float | None:
        """The largest peak memory of any phase in MiB, None if none was measured."""
        peaks = [phase["peak_mib"] for phase in self.result.phases if phase.get("peak_mib")]
        return max(peaks, default=None)

    @property
    def index_bytes_per_passage(self) -> float | None:
        """Size of the index in bytes per passage, None if the method has none."""
        return self.result.index.get("bytes_per_passage")


@dataclass(frozen=True)
class Board:
    """Cells that may be compared: one task (same content) and one model name.

    Attributes:
        metrics: every metric of any row that judges a method, in the order of the columns.
        main: the metric that rows are sorted by, best first: MRR wherever it was measured.
        rows: sorted by ``main``, then by label.
        pairs: every two methods, metric by metric; controls only where they are tested, too.
    """

    task: str
    model: str
    metrics: list[str]
    main: str | None
    rows: list[Row]
    pairs: list[MethodPair] = field(default_factory=list)

    @property
    def samples(self) -> str:
        """How many queries the metrics are means of, e.g. ``"MRR, hit@10 over 200 queries"``."""
        titles: dict[tuple[int, int], list[str]] = {}
        for metric in self.metrics:
            ns = [row.result.metrics[metric].n for row in self.rows if metric in row.result.metrics]
            titles.setdefault((min(ns), max(ns)), []).append(measures.of(metric).head)
        return "; ".join(
            f"{', '.join(names)} over {low:,}{f' to {high:,}' if high > low else ''} queries"
            for (low, high), names in titles.items()
        )


def make_boards(cells: Iterable[Cell]) -> list[Board]:
    """Boards sorted by task, then model.

    Two cells whose tasks have one name but different content are not comparable and get boards of
    their own, told apart by the first digits of the content's hash. An imported ranking that names
    no model was measured by nothing of a model: it stands on every board of its task.

    Raises:
        UserError: a cell's per-query table is damaged.
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        # Judged by another, the same ranking has other numbers: they are not to be compared.
        task = f"{name_of(cell, 'task')}{_judge(cell)}"
        key = (task, hash_of(cell.result.task), name_of(cell, "model"))
        groups.setdefault(key, []).append(cell)
    _join_imported(groups)
    contents: dict[str, set[str]] = {}
    for task, sha, _ in groups:
        contents.setdefault(task, set()).add(sha)
    ordered = sorted(groups.items(), key=lambda item: item[0])

    def board(item: tuple[tuple[str, str, str], list[Cell]]) -> Board:
        (task, sha, model), group = item
        return _board(f"{task} @{sha[:8]}" if len(contents[task]) > 1 else task, model, group)

    # Most of the work is numpy's products and sorts, which threads do side by side.
    pool = ThreadPoolExecutor(cores())
    try:
        boards = pool.map(board, ordered)
        return list(progress.track(boards, "compare methods", len(ordered), unit="boards"))
    finally:  # boards that still wait are left out where one failed, or the command is stopped
        pool.shutdown(cancel_futures=True)


def _join_imported(groups: dict[tuple[str, str, str], list[Cell]]) -> None:
    """Put imported rankings of no model on the boards of their task, where there are any."""
    for key in list(groups):
        guests = [
            cell for cell in groups[key] if cell.result.imported and not hash_of(cell.result.model)
        ]
        hosts = [other for other in groups if other[:2] == key[:2] and other != key and key[1]]
        if len(guests) == len(groups[key]) and hosts:
            for host in hosts:
                groups[host] += guests
            del groups[key]


def _board(task: str, model: str, cells: list[Cell]) -> Board:
    measured = (name for cell in cells for name in cell.result.metrics)
    metrics = measures.in_order(name for name in measured if measures.of(name).judges)
    main = metrics[0] if metrics else None
    labels = labels_of(cells)
    rows = [Row(cell, label, _family(cell)) for cell, label in zip(cells, labels, strict=True)]
    rows.sort(key=lambda row: (-_value(row, main), row.label))
    tables = [(row, table_of(row.cell)) for row in rows]
    pairs = [pair for metric in metrics for pair in _compared(metric, tables)]
    return Board(task, model, metrics, main, rows, pairs)


_Table = dict[str, np.ndarray]


def _compared(metric: str, tables: Sequence[tuple[Row, _Table]]) -> list[MethodPair]:
    """Note the best of a column and everyone's letters in the rows; the pairs behind them.

    Rows that were measured unlike each other are not compared. Each group of rows that were
    measured alike has its pairs; letters and the best are of the largest group, or two groups would
    share one column's letters.
    """
    with_controls = measures.of(metric).tests_controls
    rivals = [(row, own) for row, own in tables if with_controls or not row.is_control]
    groups: dict[str, list[tuple[Row, _Table]]] = {}
    for row, own in rivals:
        if not math.isinf(_value(row, metric)):
            groups.setdefault(measured_alike(metric, row.cell), []).append((row, own))
    pairs: list[MethodPair] = []
    by_size = sorted(groups.values(), key=len, reverse=True)
    for number, measured in enumerate(by_size):
        # Best first; equal values stay in the board's order.
        measured.sort(key=lambda rival: -_value(rival[0], metric))
        if number == 0:
            best = max(
                (_value(row, metric) for row, _ in measured if not row.is_control), default=None
            )
            for row, _ in measured:
                if not row.is_control and _value(row, metric) == best:
                    row.best.add(metric)
        pairs += _tested(metric, measured, with_letters=number == 0)
    return pairs


def _tested(
    metric: str, measured: Sequence[tuple[Row, _Table]], with_letters: bool
) -> list[MethodPair]:
    """The pairs of rows that were measured alike, with the letters noted if they are wanted."""
    tested = [(row, table) for row, table in measured if _has_numbers(table, metric)]
    if len(tested) < 2:
        return []
    comparison = compare_methods(
        metric,
        [row.label for row, _ in tested],
        [_scored(table, metric) for _, table in tested],
        clusters_of(tested[0][1]),
        always=tested[0][0].cell.clusters_always,
    )
    if with_letters:
        for (row, _), letters in zip(tested, comparison.letters, strict=True):
            row.letters[metric] = letters
    return comparison.pairs


def table_of(cell: Cell) -> _Table:
    """The columns of a cell's per-query table; empty if it has none."""
    has_table = (cell.folder / PER_QUERY).exists()
    return read_per_query(cell.folder, cell.result.n_queries) if has_table else {}


def scores_of(table: Mapping[str, np.ndarray], metric: str) -> dict[str, float]:
    """The scores of the queries that have one, by query id, from a cell's per-query table."""
    values = table.get(metric)
    if values is None or values.dtype.kind != "f":
        return {}
    pairs = zip(table["query_id"].tolist(), values.tolist(), strict=True)
    return {query: value for query, value in pairs if not math.isnan(value)}


def _has_numbers(table: _Table, metric: str) -> bool:
    return metric in table and table[metric].dtype.kind == "f"


def _scored(table: _Table, metric: str) -> Scored:
    pairs = subsets_of(table, metric)
    queries = table["query_id"].tolist() if pairs else []
    return Scored(scores_of(table, metric), dict(zip(queries, pairs, strict=True)))


# ------------------------------------------------------------------ fields of a result


def _value(row: Row, metric: str | None) -> float:
    """A row's value, the more the better, or minus infinity where it has none: it sorts last."""
    estimate: Estimate | None = row.result.metrics.get(metric) if metric else None
    if metric is None or estimate is None or math.isnan(estimate.value):
        return -math.inf
    return estimate.value if measures.of(metric).higher_is_better else -estimate.value


def _judge(cell: Cell) -> str:
    judge = cell.result.judge
    if not judge:
        return ""
    threshold = cell.result.threshold
    above = "" if threshold == ENTAILED else f" above {threshold:g}"
    return f" judged by {judge.get('name')} {str(judge.get('identity'))[:8]}{above}"


def _family(cell: Cell) -> str:
    name = name_of(cell, "method")
    return (METHODS.entry(name).family if name in METHODS else "") or "other"
