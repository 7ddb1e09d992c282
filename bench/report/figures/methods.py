"""The data of figures that compare methods, on one board or over models of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from bench.report import display
from bench.report.board import Board, Row
from bench.report.costs import ranking_seconds
from bench.report.figures.data import Bar, Bars, Dot, Lines, Panel, Point, Scatter, Series
from bench.report.figures.selection import (
    cells_of,
    finite,
    measured,
    methods_of,
    named,
    sweeps,
)
from bench.report.telling_apart import settings
from bench.tasks.buckets import FREQUENCY
from bench.tasks.support import Support
from metrics import measures
from metrics.measures import LDS, MRR, REMOVAL_EFFECT, SIDES

_DIMENSION = "projection_dim"


def attribution_influence(board: Board) -> Scatter | None:
    """MRR against tail-patch."""
    x, y = SIDES
    dots = list(_pairs(board, x, y))
    return Scatter([Panel(x, measures.of(x).head, y, dots)]) if len(dots) > 1 else None


def retraining(board: Board) -> Scatter | None:
    """What the cheap metrics say against what training without the proponents does."""
    panels = [
        Panel(name, measures.of(name).head, REMOVAL_EFFECT, dots)
        for name in (*SIDES, LDS)
        if len(dots := list(_pairs(board, name, REMOVAL_EFFECT))) > 1
    ]
    return Scatter(panels) if panels else None


def _pairs(board: Board, x: str, y: str) -> Iterator[Dot]:
    for series, row in cells_of(board.rows):
        if (across := measured(row, x)) and (up := measured(row, y)):
            yield Dot(series, row.cell.folder.name, across, up)


def cost_quality(board: Board) -> Scatter | None:
    """Seconds of indexing and search, and bytes of the index per passage, against MRR."""
    chosen = [(series, row) for series, row in cells_of(board.rows) if not row.is_control]
    panels = [
        Panel(column, title, MRR, dots, is_log=True, unit=unit)
        for column, title, unit, quantity in (
            (
                "seconds",
                "index and search (seconds)",
                "count",
                lambda row: ranking_seconds(row.result),
            ),
            (
                "index_bytes_per_passage",
                "index (bytes per passage)",
                "bytes",
                attrgetter("index_bytes_per_passage"),
            ),
        )
        if len(dots := list(_costs(chosen, quantity))) > 1
    ]
    return Scatter(panels) if panels else None


def _costs(
    chosen: Sequence[tuple[Series, Row]], quantity: Callable[[Row], float | None]
) -> Iterator[Dot]:
    for series, row in chosen:
        mrr, cost = measured(row, MRR), quantity(row)
        if mrr and cost:
            yield Dot(series, row.cell.folder.name, float(cost), mrr)


def frequency(board: Board) -> Lines | None:
    """Both metrics by how often the corpus states the fact."""
    chosen = methods_of([row for row in board.rows if FREQUENCY in row.result.slices])
    buckets = sorted(
        {bucket for _, row in chosen for bucket in row.result.slices[FREQUENCY]},
        key=display.natural,
    )
    points = [
        Point(series, row.cell.folder.name, float(place), bucket, metric, estimate)
        for series, row in chosen
        for metric in SIDES
        for place, bucket in enumerate(buckets)
        if (estimate := finite(row.result.slices[FREQUENCY].get(bucket, {}).get(metric)))
    ]
    if not points or len(buckets) < 2:
        return None
    return Lines(points, FREQUENCY, "statements of the fact in the corpus", "groups")


def proponent_kinds(board: Board) -> Bars | None:
    """What the first ten proponents say about the fact, by method."""
    bars = []
    for series, row in methods_of(board.rows):
        kinds = row.result.slices.get("top10_support", {})
        shares = {kind: finite(group.get("share")) for kind, group in kinds.items()}
        known = {kind: share for kind, share in shares.items() if share is not None}
        if known:
            bars.append(Bar(series, row.cell.folder.name, known))
    parts = [kind.value for kind in Support if any(kind.value in bar.shares for bar in bars)]
    return Bars("share of the top 10 proponents", "kind", parts, bars) if bars else None


def model_size(boards: Sequence[Board]) -> Lines | None:
    """Both metrics by the parameters of the model; boards are of one task."""
    rows = [row for board in boards for row in board.rows]
    # A method that needs no model knows of none, but its neighbours do.
    models = [row.result.model for row in rows if row.result.model.get("n_params")]
    sizes = {model.get("name"): int(model["n_params"]) for model in models}
    own = [row for row in rows if _is_own_dimension(row)]
    fixed = [row for row in rows if not _is_own_dimension(row)]
    points = []
    for series, sweep in named([*sweeps(own, ("model", _DIMENSION)), *sweeps(fixed, ("model",))]):
        # Of two cells of one model name, such as trained for longer, the later one counts.
        by_name = {
            row.result.model.get("name"): row
            for _, row in sorted(sweep.rows, key=lambda item: item[1].result.date)
        }
        placed = sorted(
            ((sizes[name], str(name), row) for name, row in by_name.items() if name in sizes),
            key=lambda item: item[:2],
        )
        if len({size for size, _, _ in placed}) < 2:
            continue
        points += [
            Point(series, row.cell.folder.name, float(size), name, metric, estimate)
            for metric in SIDES
            for size, name, row in placed
            if (estimate := measured(row, metric))
        ]
    return Lines(points, "n_params", "model parameters", "log", "count") if points else None


def _is_own_dimension(row: Row) -> bool:
    """Whether the projection follows the model, as the default does, or there is none."""
    config = row.cell.config.get("model")
    default = config.get(_DIMENSION) if isinstance(config, dict) else None
    return settings(row.cell).get(_DIMENSION, default) == default
