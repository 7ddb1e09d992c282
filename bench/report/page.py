"""The leaderboard as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from bench.core.environment import __version__
from bench.core.escape import clean
from bench.report import display, pair_tables
from bench.report.board import LEGEND, Board, Row, flatten
from bench.report.figures.catalog import FOLDER, FORMATS, Plan
from bench.report.scatter import Point, scatter
from bench.report.viewer import sources
from bench.results.schema import RETRIEVALS
from metrics.length import LENGTH_RATIO

_X, _Y = "mrr", "tail_patch"
_LONGEST_LIST = 80  # characters; such as the loss after every epoch of training


@dataclass(frozen=True)
class Value:
    """One metric of one row, ready to print.

    Attributes:
        sort: what the column is sorted by, in full precision; empty where not measured.
        best: whether it is the best of its column.
        letters: what tells which other methods it differs from significantly.
        bar: ``left, width, point`` of the interval in percent of the column's range.
    """

    text: str = display.MISSING
    interval: str = ""
    sort: str = ""
    best: bool = False
    letters: str = ""
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Line:
    """One cell: its line in the table and what opens below it."""

    row: Row
    values: list[Value]
    facts: list[tuple[str, str]]
    details: list[tuple[str, list[tuple[str, str]]]]
    phases: list[tuple[str, str, str]]
    command: str
    retrievals: str
    viewer: str


@dataclass(frozen=True)
class Slice:
    """One breakdown by group, for one metric: a column per method.

    Attributes:
        groups: name, number of scored queries (the most that any method has), value per method.
    """

    name: str
    metric: str
    methods: list[str]
    groups: list[tuple[str, str, list[Value]]]


@dataclass(frozen=True)
class PairLine:
    """Two methods on one metric; ``cells`` are those of ``pair_tables.HEADS`` after the names."""

    a: str
    b: str
    significant: bool
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One board of the page; ``pairs`` by metric."""

    board: Board
    heads: list[tuple[str, str]]
    lines: list[Line]
    plot: Markup | None
    slices: list[Slice] = field(default_factory=list)
    pairs: dict[str, list[PairLine]] = field(default_factory=dict)


def page(
    boards: Sequence[Board], out_dir: Path, figures: Plan | None = None, has_viewer: bool = True
) -> str:
    """The page's HTML, for a file in ``out_dir``: links to the rankings are relative to it.

    Args:
        figures: that are linked, and those that lack data; None where none are drawn.
        has_viewer: whether each cell's rankings can be linked in the viewer.
    """
    folder = resources.files("bench.report") / "templates"
    template, style, script = (
        (folder / f"leaderboard.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(clean=clean, title_of=display.title)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(template).render(
        sections=[_section(board, out_dir, has_viewer) for board in boards],
        figures=figures,
        figure_folder=FOLDER,
        figure_formats=FORMATS,
        legend=LEGEND,
        pair_legend=pair_tables.LEGEND,
        pair_heads=pair_tables.HEADS,
        length_meaning=display.meaning(LENGTH_RATIO),
        version=__version__,
        style=Markup(style),  # noqa: S704 - package data
        script=Markup(script),  # noqa: S704 - package data
        # Even if markup got past the escaping, no script but this one would run.
        script_hash=f"sha256-{digest}",
    )


def _section(board: Board, out_dir: Path, has_viewer: bool) -> Section:
    spans = {metric: _span(metric, board) for metric in board.metrics}
    return Section(
        board=board,
        heads=[(display.title(metric), display.meaning(metric)) for metric in board.metrics],
        lines=[_line(row, board, spans, out_dir, has_viewer) for row in board.rows],
        plot=_plot(board),
        slices=_slices(board),
        pairs=_pairs(board),
    )


# ------------------------------------------------------------------ rows


def _span(metric: str, board: Board) -> tuple[float, float]:
    """The range that a column's interval bars are drawn in; it always holds zero."""
    estimates = [row.result.metrics[metric] for row in board.rows if metric in row.result.metrics]
    bounds = [v for e in estimates for v in (*e.ci95, e.value) if math.isfinite(v)]
    return min([0.0, *bounds]), max([0.0, *bounds]) or 1.0


def _value(row: Row, metric: str, span: tuple[float, float]) -> Value:
    estimate = row.result.metrics.get(metric)
    if estimate is None:
        return Value()
    low, high = estimate.ci95
    drawable = all(map(math.isfinite, (low, high, estimate.value)))
    return Value(
        text=display.number(metric, estimate.value),
        interval=display.interval(metric, estimate),
        sort=repr(estimate.value) if math.isfinite(estimate.value) else "",
        best=metric in row.best,
        letters=row.letters.get(metric, ""),
        bar=_bar(low, high, estimate.value, span) if drawable else None,
    )


def _bar(
    low: float, high: float, value: float, span: tuple[float, float]
) -> tuple[float, float, float]:
    def share(x: float) -> float:
        return 100 * (x - span[0]) / (span[1] - span[0])

    return round(share(low), 1), round(share(high) - share(low), 1), round(share(value), 1)


def _line(
    row: Row,
    board: Board,
    spans: dict[str, tuple[float, float]],
    out_dir: Path,
    has_viewer: bool,
) -> Line:
    result = row.result
    is_viewed = has_viewer and sources.has_rankings(row.cell.folder)
    relative = os.path.relpath(row.cell.folder / RETRIEVALS, out_dir)
    return Line(
        row=row,
        values=[_value(row, metric, span) for metric, span in spans.items()],
        facts=_facts(row),
        details=_details(row),
        phases=[
            (
                str(phase.get("name", "")),
                display.quantity(phase.get("seconds")),
                display.quantity(phase.get("peak_mib")),
            )
            for phase in result.phases
        ],
        command=result.command,
        # Bytes, not text: a folder's name need not be UTF-8. A colon would start a scheme: %3A.
        retrievals=quote(os.fsencode(Path(relative).as_posix())),
        viewer=sources.link(board.task, board.model, row.label) if is_viewed else "",
    )


def _facts(row: Row) -> list[tuple[str, str]]:
    """Text and sort value of the columns right of the metrics."""
    result = row.result
    pool, scored = result.task.get("n_passages"), result.task.get("n_scored")
    return [
        (display.count(pool), _sortable(pool)),
        (row.queries, _sortable(scored)),
        (str(result.top_k), _sortable(result.top_k)),
        (display.quantity(row.length_ratio), _sortable(row.length_ratio)),
        (display.quantity(row.index_bytes_per_passage), _sortable(row.index_bytes_per_passage)),
        (display.quantity(row.seconds), _sortable(row.seconds)),
        (display.quantity(row.peak_mib), _sortable(row.peak_mib)),
    ]


def _sortable(value: Any) -> str:
    return "" if value is None else repr(value)


def _details(row: Row) -> list[tuple[str, list[tuple[str, str]]]]:
    result = row.result
    config = result.method.get("config")
    found = {k: v for k, v in result.method.items() if k not in ("name", "config")}
    data = {k: v for k, v in result.task.items() if k != "counts"}
    origin = {"seed": result.seed, "date": result.date}
    before = {k: f"{v.value:.4g}" for k, v in result.metrics.items() if display.is_diagnostic(k)}
    groups = {
        "Method configuration": config,
        "Method record": found,
        "Task": data,
        "Counts": result.task.get("counts"),
        "Model": {**result.model, **before},
        "Index": result.index,
        "Environment": {**result.env, **origin},
    }
    shown = {name: _printed(value) for name, value in groups.items()}
    return [(name, pairs) for name, pairs in shown.items() if pairs]


def _printed(value: Any) -> list[tuple[str, str]]:
    return [(key, _leaf(leaf)) for key, leaf in flatten(value)]


def _leaf(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # to be read; result.json has the rest
    if isinstance(value, list) and len(str(value)) > _LONGEST_LIST:
        return f"{len(value)} entries, see result.json"
    return "null" if value is None else str(value)


# ------------------------------------------------------------------ plot, slices, pairs


def _plot(board: Board) -> Markup | None:
    points = [point for row in board.rows if (point := _point(row)) is not None]
    if not points:
        return None
    return scatter(points, display.title(_X), display.title(_Y))


def _point(row: Row) -> Point | None:
    x, y = (row.result.metrics.get(name) for name in (_X, _Y))
    if x is None or y is None:
        return None
    if not all(map(math.isfinite, (x.value, *x.ci95, y.value, *y.ci95))):
        return None
    low, high = (display.scaled(_Y, bound) for bound in y.ci95)
    return Point(row.label, row.family, x.value, display.scaled(_Y, y.value), x.ci95, (low, high))


def _slices(board: Board) -> list[Slice]:
    tables: dict[str, dict[str, None]] = {}
    for row in board.rows:
        for name, groups in row.result.slices.items():
            for estimates in groups.values():
                tables.setdefault(name, {}).update(dict.fromkeys(estimates))
    # Both sides of the benchmark, and what is known by group only; the rest is in result.json.
    shown = {board.main, _Y}
    return [
        _slice(board, name, metric)
        for name, metrics in tables.items()
        for metric in display.in_order(metrics)
        if metric in shown or not (metric in board.metrics or display.is_diagnostic(metric))
    ]


def _slice(board: Board, name: str, metric: str) -> Slice:
    rows = [row for row in board.rows if name in row.result.slices]
    groups = dict.fromkeys(group for row in rows for group in row.result.slices[name])
    return Slice(
        name=name,
        metric=metric,
        methods=[row.label for row in rows],
        groups=[_group(rows, name, group, metric) for group in groups],
    )


def _group(rows: Sequence[Row], name: str, group: str, metric: str) -> tuple[str, str, list[Value]]:
    found = [row.result.slices[name].get(group, {}).get(metric) for row in rows]
    values = [
        Value(display.number(metric, estimate.value), display.interval(metric, estimate))
        if estimate
        else Value()
        for estimate in found
    ]
    n = max((estimate.n for estimate in found if estimate), default=None)
    return group, display.count(n), values


def _pairs(board: Board) -> dict[str, list[PairLine]]:
    found: dict[str, list[PairLine]] = {}
    for pair in board.pairs:
        line = PairLine(pair.a, pair.b, pair.significant, pair_tables.shown(pair))
        found.setdefault(pair.metric, []).append(line)
    return found
