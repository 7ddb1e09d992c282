"""The data of figures over one setting: cells that differ in it and in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.report.board import Board, Row
from bench.report.figures.data import Lines, Point, Series
from bench.report.figures.selection import measured, named, sweeps
from bench.report.telling_apart import settings
from metrics.measures import MRR, SIDES

MIXING, _STORAGE, _RERANK = "mixing", "storage", "rerank"


def over(
    setting: str, title: str, scale: str = "log", metrics: Sequence[str] = SIDES
) -> Callable[[Board], Lines | None]:
    """The function that collects metrics by a setting; ``title`` and ``scale`` are of the axis."""

    def collect(board: Board) -> Lines | None:
        rows = board.rows
        if setting == MIXING:  # without the queries' part in R, nothing reads it
            rows = [row for row in rows if settings(row.cell).get("hessian") == "mixed"]
        points = _swept(rows, setting, metrics)
        column = setting.removeprefix("metric.").replace(".", "_")
        return Lines(points, column, title, scale) if points else None

    return collect


def storage_quality(board: Board) -> Lines | None:
    """MRR by bytes per passage: a point a format, a line with and one without re-ranking."""
    points = []
    for base, sweep in named(sweeps(board.rows, (_STORAGE, _RERANK))):
        for chosen, row in sorted(sweep.rows, key=lambda item: repr(item[0])):
            suffix = f", rerank={chosen[_RERANK]}" if chosen[_RERANK] else ""
            series = Series(f"{base.label}{suffix}", base.method, base.family)
            size, mrr = row.index_bytes_per_passage, measured(row, MRR)
            if mrr and size is not None:
                text, key = str(chosen[_STORAGE]), row.cell.folder.name
                points.append(Point(series, key, size or None, text, MRR, mrr))
    if len({point.text for point in points}) < 2:
        return None
    points.sort(key=lambda point: (point.series.label, point.x or 0.0))
    return Lines(
        points, "index_bytes_per_passage", "index (bytes per passage)", "log", "bytes", True
    )


def _swept(rows: Sequence[Row], setting: str, metrics: Sequence[str]) -> list[Point]:
    """The points of all sweeps over ``setting``, those of a sweep by rising value."""
    swept = [
        sweep
        for sweep in sweeps(rows, (setting,))
        if len({repr(chosen) for chosen, _ in sweep.rows}) > 1  # not one value in two versions
    ]
    points = []
    for series, sweep in named(swept):
        placed = [(*_place(setting, chosen[setting], row), row) for chosen, row in sweep.rows]
        placed.sort(key=lambda item: (item[0] is None, item[0] or 0.0, item[1]))
        points += [
            Point(series, row.cell.folder.name, x, text, metric, estimate, mark)
            for metric in metrics
            for x, text, mark, row in placed
            if (estimate := measured(row, metric))
        ]
    return points


def _place(setting: str, value: Any, row: Row) -> tuple[float | None, str, str]:
    """The place of a value on the axis, its name, and the reason why it is set apart."""
    if setting == MIXING and value == "auto":
        chosen = row.result.method.get("facts", {}).get(MIXING)
        return (chosen, f"auto: {chosen:.3g}", "auto") if _is_number(chosen) else (None, "auto", "")
    if _is_number(value):
        return float(value), f"{value:g}", ""
    # The projection that is none, and the learning rate that is the model's own.
    unset = {"projection_dim": "exact"}.get(setting, "the model's")
    return None, unset if value is None else str(value), ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
