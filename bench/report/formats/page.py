"""The leaderboard as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from bench.core.environment import __version__
from bench.core.escape import clean
from bench.report import display
from bench.report.board import Board, Row, flatten
from bench.report.content import Content
from bench.report.figures.catalog import FOLDER, FORMATS, ON_PAGE
from bench.report.formats import Format
from bench.report.leaderboard import LEGEND
from bench.report.pair_tables import pair_table
from bench.report.table import Column, Shown, Table, Value
from bench.report.viewer import sources
from bench.results.rankings import has_rankings
from bench.results.schema import RETRIEVALS
from metrics import measures

PAGE = "index.html"
_LONGEST_LIST = 80  # characters; such as the loss after every epoch of training


@dataclass(frozen=True)
class Line:
    """What opens below one row of a leaderboard."""

    row: Row
    details: list[tuple[str, list[tuple[str, str]]]]
    phases: list[tuple[str, str, str]]
    retrievals: str
    viewer: str


@dataclass(frozen=True)
class Folded:
    """A table below the leaderboard that opens on demand.

    Attributes:
        title, about: of the fold; the first stands out.
        noun: what a row is.
        css: its class.
    """

    title: str
    about: str
    noun: str
    css: str
    table: Table

    @property
    def size(self) -> str:
        """How many rows there are."""
        n = len(self.table.rows)
        return f"{n} {self.noun}{'' if n == 1 else 's'}"


@dataclass(frozen=True)
class Section:
    """One board of the page.

    Attributes:
        table: its leaderboard.
        shown: what readers see of that.
        lines: what opens below its rows.
        spans: for each column with intervals, the range that their bars are drawn in.
        plot: attribution against influence, where it was drawn, and its caption.
    """

    board: Board
    table: Table
    shown: Shown
    lines: list[Line]
    spans: list[tuple[float, float] | None]
    plot: tuple[Markup, str] | None
    folded: list[Folded]


class PageFiles(Format):
    """The page that people open first."""

    def files(self, content: Content) -> dict[str, str]:
        """``index.html``; its links are relative to the folder of the report."""
        folder = resources.files("bench.report") / "templates"
        template, style, script = (
            (folder / f"leaderboard.{kind}").read_text(encoding="utf-8")
            for kind in ("html", "css", "js")
        )
        environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        environment.filters.update(clean=clean, bar=_bar, key=_sort_key)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        boards = zip(content.boards, content.leaderboards, strict=True)
        page = environment.from_string(template).render(
            sections=[_section(board, table, content) for board, table in boards],
            figures=content.figures,
            figure_folder=FOLDER,
            figure_formats=FORMATS,
            legend=LEGEND,
            version=__version__,
            style=Markup(style),  # noqa: S704 - package data
            script=Markup(script),  # noqa: S704 - package data
            # Even if markup got past the escaping, no script but this one would run.
            script_hash=f"sha256-{digest}",
        )
        return {PAGE: page}


def _section(board: Board, table: Table, content: Content) -> Section:
    shown = table.shown()
    return Section(
        board=board,
        table=table,
        shown=shown,
        lines=[_line(row, board, content) for row in board.rows],
        spans=[
            _span([row[place] for row in shown.rows]) if column.has_interval else None
            for place, column in enumerate(shown.columns)
        ],
        plot=_plot(board, content),
        folded=[*_slices(board), *_pairs(board)],
    )


def _plot(board: Board, content: Content) -> tuple[Markup, str] | None:
    for figure in content.figures.figures if content.figures else ():
        if figure.name == ON_PAGE and figure.place == (board.task, board.model):
            svg = Markup(content.pictures[figure.stem])  # noqa: S704 - drawn here, names as text
            return svg, figure.caption
    return None


# ------------------------------------------------------------------ values


def _numbers(value: Value) -> list[float]:
    """The estimate and its bounds; none where one of them cannot be drawn."""
    numbers = [raw for raw in value.raw[:3] if isinstance(raw, int | float) and math.isfinite(raw)]
    return numbers if len(numbers) == 3 else []


def _span(values: Sequence[Value]) -> tuple[float, float]:
    """The range that a column's interval bars are drawn in; it always holds zero."""
    bounds = [0.0, *(number for value in values for number in _numbers(value))]
    low, high = min(bounds), max(bounds)
    return low, high if high > low else low + 1.0


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


def _line(row: Row, board: Board, content: Content) -> Line:
    is_viewed = content.has_viewer and has_rankings(row.cell.folder)
    relative = os.path.relpath(row.cell.folder / RETRIEVALS, content.folder)
    return Line(
        row=row,
        details=_details(row),
        phases=[
            (
                str(phase.get("name", "")),
                display.plain(phase.get("seconds")),
                display.plain(phase.get("peak_mib")),
            )
            for phase in row.result.phases
        ],
        # Bytes, not text: a folder's name need not be UTF-8. A colon would start a scheme: %3A.
        retrievals=quote(os.fsencode(Path(relative).as_posix())),
        viewer=sources.link(board.task, board.model, row.label) if is_viewed else "",
    )


def _details(row: Row) -> list[tuple[str, list[tuple[str, str]]]]:
    result = row.result
    record = {k: v for k, v in result.method.items() if k not in ("name", "config")}
    described = {
        name: f"{estimate.value:.4g}"
        for name, estimate in result.metrics.items()
        if not measures.of(name).judges
    }
    groups = {
        "Method configuration": result.method.get("config"),
        "Method record": record,
        "Task": {k: v for k, v in result.task.items() if k != "counts"},
        "Counts": result.task.get("counts"),
        "Model": {**result.model, **described},
        "Index": result.index,
        "Environment": {**result.env, "seed": result.seed, "date": result.date},
    }
    printed = {
        name: [(key, _leaf(leaf)) for key, leaf in flatten(value)] for name, value in groups.items()
    }
    return [(name, pairs) for name, pairs in printed.items() if pairs]


def _leaf(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # to be read; result.json has the rest
    if isinstance(value, list) and len(str(value)) > _LONGEST_LIST:
        return f"{len(value)} entries, see result.json"
    return "null" if value is None else str(value)


# ------------------------------------------------------------------ slices and pairs


def _slices(board: Board) -> Iterator[Folded]:
    """Breakdowns by group: of both sides of the benchmark, and what is known by group only."""
    by_slice: dict[str, dict[str, None]] = {}
    for row in board.rows:
        for name, groups in row.result.slices.items():
            for estimates in groups.values():
                by_slice.setdefault(name, {}).update(dict.fromkeys(estimates))
    shown = {board.main, measures.TAIL_PATCH}
    for name, metrics in by_slice.items():
        for metric in measures.in_order(metrics):
            if metric in shown or (measures.of(metric).judges and metric not in board.metrics):
                head = measures.of(metric).head
                yield Folded(head, f"by {name}", "group", "slice", _slice(board, name, metric))


def _slice(board: Board, name: str, metric: str) -> Table:
    """A row a group; a column a method, and how many queries were scored by any of them."""
    rows = [row for row in board.rows if name in row.result.slices]
    groups = dict.fromkeys(group for row in rows for group in row.result.slices[name])
    columns = [Column(name, is_text=True), Column("queries"), *(Column(row.label) for row in rows)]
    return Table("", columns, [_group(rows, name, group, metric) for group in groups])


def _group(
    rows: Sequence[Row], name: str, group: str, metric: str
) -> list[Value | str | int | None]:
    estimates = [row.result.slices[name].get(group, {}).get(metric) for row in rows]
    values = [
        Value(display.number(metric, estimate.value), interval=display.interval(metric, estimate))
        if estimate
        else Value()
        for estimate in estimates
    ]
    return [group, max((one.n for one in estimates if one), default=None), *values]


def _pairs(board: Board) -> Iterator[Folded]:
    for metric in dict.fromkeys(pair.metric for pair in board.pairs):
        table = pair_table(board, [pair for pair in board.pairs if pair.metric == metric])
        head = measures.of(metric).head
        yield Folded(head, "of every two methods", "pair", "slice pairs", table)
