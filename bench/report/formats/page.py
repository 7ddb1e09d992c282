"""The leaderboard as one self-contained HTML page."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from bench.core.escape import clean
from bench.report import display
from bench.report.board import Board, Row
from bench.report.figures.catalog import FOLDER, FORMATS, on_page
from bench.report.formats import Content, ReportFormat, formats
from bench.report.leaderboard import LEGEND, value_of
from bench.report.pair_tables import pair_table
from bench.report.rendering import rendered
from bench.report.table import Column, Table, Value
from bench.report.telling_apart import flatten
from bench.report.viewer import sources
from bench.results.rankings import has_rankings
from bench.results.schema import RETRIEVALS
from metrics import measures
from metrics.stats.bootstrap import Estimate

PAGE = "index.html"
_LONGEST_LIST = 80  # characters; such as the loss after every epoch of training


@dataclass(frozen=True)
class Fold:
    """A table below the leaderboard that opens on demand: what it is called and what a row is."""

    title: str
    about: str
    noun: str
    table: Table


class PageFiles(ReportFormat):
    """The page that people open first."""

    def files(self, content: Content) -> dict[str, str]:
        """``index.html``; its links are relative to the folder of the report."""
        filters: dict[str, Callable[..., Any]] = {
            "bar": _bar,
            "breakable": _breakable,
            "chosen": _chosen,
            "details": _details,
            "folds": _folds,
            "key": _sort_key,
            "number": display.plain,
            "plots": partial(_plots, content),
            "rankings": partial(_rankings, content),
            "spans": _spans,
            "viewed": partial(_viewed, content),
        }
        page = rendered(
            "leaderboard",
            filters=filters,
            boards=[*zip(content.boards, content.leaderboards, strict=True)],
            columns=_all_columns(content.leaderboards),
            files={title: name for form in formats() for title, name in form.links.items()},
            figures=content.figures,
            figure_folder=FOLDER,
            figure_formats=FORMATS,
            legend=LEGEND,
            quotes_nothing=not _any_rankings(content),
            site=content.site,
            viewer=f"{sources.FOLDER}/{sources.PAGE}"
            if content.has_viewer and _any_rankings(content)
            else "",
        )
        return {PAGE: page}


# ------------------------------------------------------------------ the choice of columns


@dataclass(frozen=True)
class Choice:
    """A column as the page chooses it.

    Attributes:
        id: name of the column in the page's address.
        rank: order in which columns are kept where there is no room for all, the lowest first.
        is_alike: whether all rows have the same value: it stands below the table instead.
    """

    column: Column
    id: str
    rank: int
    is_alike: bool


# What a method costs comes behind what it is worth, and before the same value in another unit.
_COSTS, _VARIANTS = 100, 200


def _chosen(table: Table) -> list[Choice]:
    """The columns of a table, as the page chooses among them."""
    return [
        Choice(column, _id(column), _rank(column), _is_alike(table, column))
        for column in table.shown()
    ]


def _id(column: Column) -> str:
    return column.fields[0] if column.fields else column.head


def _rank(column: Column) -> int:
    if column.is_text:
        return 0
    if measures.of(_id(column)).variant_of:
        return _VARIANTS
    return _COSTS - column.room if column.rank is None else 1 + column.rank


def _is_alike(table: Table, column: Column) -> bool:
    """Whether a fact is the same of every row; a metric is never left out for that."""
    texts = {column.value(row).text for row in table.rows}
    return len(table.rows) > 1 and len(texts) == 1 and not (column.is_text or column.has_interval)


def _all_columns(tables: Sequence[Table]) -> dict[str, Column]:
    """Every column that a reader may choose, by its name in the address."""
    return {
        _id(column): column for table in tables for column in table.shown() if not column.is_text
    }


def _any_rankings(content: Content) -> bool:
    rows = (row for board in content.boards for row in board.rows)
    return any(has_rankings(row.cell.folder) for row in rows)


def _breakable(text: str) -> Markup:
    """A name that may go on in the next line behind an underscore, never within a word."""
    return escape(clean(text)).replace("_", Markup("_<wbr>"))


# ------------------------------------------------------------------ intervals and sorting


def _numbers(value: Value) -> list[float]:
    """The estimate and its bounds; none where one of them cannot be drawn."""
    numbers = [raw for raw in value.raw[:3] if isinstance(raw, int | float) and math.isfinite(raw)]
    return numbers if len(numbers) == 3 else []


def _spans(table: Table) -> dict[str, tuple[float, float]]:
    """By the head of each column, the range that its interval bars are drawn in; it holds zero."""
    spans = {}
    for column in table.shown():
        bounds = [0.0, *(number for row in table.rows for number in _numbers(column.value(row)))]
        low, high = min(bounds), max(bounds)
        spans[column.head] = low, high if high > low else low + 1.0
    return spans


def _bar(value: Value, span: tuple[float, float]) -> tuple[float, float, float] | None:
    """Left end, width and point of an interval in percent of its column's range."""
    if not (numbers := _numbers(value)):
        return None
    point, low, high = (100 * (x - span[0]) / (span[1] - span[0]) for x in numbers)
    return round(low, 1), round(high - low, 1), round(point, 1)


def _sort_key(value: Value, column: Column) -> str:
    """What a row is sorted by, in full precision; empty where nothing was measured."""
    raw = value.raw[column.key] if len(value.raw) > column.key else None
    if isinstance(raw, str):
        return raw
    return repr(raw) if raw is not None and math.isfinite(raw) else ""


# ------------------------------------------------------------------ what opens below a row


def _rankings(content: Content, row: Row) -> str:
    """The address of a row's rankings; empty where none are kept, or they are on no site."""
    if content.site or not has_rankings(row.cell.folder):
        return ""
    relative = os.path.relpath(row.cell.folder / RETRIEVALS, content.folder)
    # Bytes, not text: a folder's name need not be UTF-8. A colon would start a scheme: %3A.
    return quote(os.fsencode(Path(relative).as_posix()))


def _viewed(content: Content, row: Row, board: Board) -> str:
    """The address of a row's rankings in the viewer, empty where they are not shown there."""
    if content.has_viewer and has_rankings(row.cell.folder):
        return sources.link(board.task, board.model, row.label)
    return ""


def _details(row: Row) -> dict[str, list[tuple[str, str]]]:
    """All that is known of a row, in titled groups of names and values."""
    result = row.result
    described = {
        name: f"{estimate.value:.4g}"
        for name, estimate in result.metrics.items()
        if not measures.of(name).judges
    }
    groups = {
        "Method configuration": result.method.get("config"),
        "Method record": {k: v for k, v in result.method.items() if k not in ("name", "config")},
        "Task": {k: v for k, v in result.task.items() if k != "counts"},
        "Counts": result.task.get("counts"),
        "Model": {**result.model, **described},
        "Index": result.index,
        "Environment": {**result.env, "seed": result.seed, "date": result.date},
    }
    return {
        name: [(key, _leaf(leaf)) for key, leaf in leaves]
        for name, values in groups.items()
        if (leaves := flatten(values))
    }


def _leaf(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # to be read; result.json has the rest
    if isinstance(value, list) and len(str(value)) > _LONGEST_LIST:
        return f"{len(value)} entries, see result.json"
    return "null" if value is None else str(value)


# ------------------------------------------------------------------ what stands below a board


def _plots(content: Content, board: Board) -> list[tuple[Markup, str]]:
    """The figures of a board that stand on the page, where they were drawn, and their captions."""
    figures = content.figures.figures if content.figures else ()
    return [
        (Markup(content.pictures[figure.stem]), figure.caption)  # noqa: S704 - names are text there
        for figure in on_page(figures, board.task, board.model)
    ]


def _folds(board: Board) -> Iterator[Fold]:
    """Breakdowns by group, of both sides of the benchmark and of what is known by group only."""
    by_slice: dict[str, dict[str, None]] = {}
    for row in board.rows:
        for name, groups in row.result.slices.items():
            for estimates in groups.values():
                by_slice.setdefault(name, {}).update(dict.fromkeys(estimates))
    for name, metrics in by_slice.items():
        for metric in measures.in_order(metrics):
            is_new = measures.of(metric).judges and metric not in board.metrics
            if is_new or metric in (board.main, measures.TAIL_PATCH):
                head = measures.of(metric).head
                yield Fold(head, f"by {name}", "group", _slice(board, name, metric))
    for metric in dict.fromkeys(pair.metric for pair in board.pairs):
        table = pair_table(board, [pair for pair in board.pairs if pair.metric == metric])
        table = replace(table, columns=[one for one in table.columns if one.head != "metric"])
        yield Fold(measures.of(metric).head, "of every two methods", "pair", table)


def _slice(board: Board, name: str, metric: str) -> Table:
    """A row a group; a column a method, and how many queries were scored by any of them."""
    rows = [row for row in board.rows if name in row.result.slices]

    def at(row: Row, group: str) -> Estimate | None:
        return row.result.slices[name].get(group, {}).get(metric)

    def scored(group: str) -> int | None:
        return max((one.n for row in rows if (one := at(row, group))), default=None)

    def column(row: Row) -> Column:
        return Column(lambda group: value_of(metric, at(row, group)), row.label)

    groups = dict.fromkeys(group for row in rows for group in row.result.slices[name])
    names = [Column(str, name, is_text=True), Column(scored, "queries")]
    return Table("", [*names, *map(column, rows)], list(groups))
