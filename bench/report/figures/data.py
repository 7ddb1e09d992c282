"""The content of figures before anything is drawn: the rows of their CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics import measures
from metrics.stats.bootstrap import Estimate

Record = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One line of a figure, or one mark of a scatter.

    Attributes:
        label: name of the series in the figure.
        method: name of the method in the registry, which decides the colour.
        family: the method's group in the registry.
    """

    label: str
    method: str
    family: str

    def record(self) -> Record:
        """The columns of the CSV that name the series."""
        return {"series": self.label, "method": self.method, "family": self.family}


@dataclass(frozen=True)
class Point:
    """One value of a line.

    Attributes:
        key: key of the cell that the value is from.
        x: place on the axis; None for a value without one, which becomes a level line.
        text: name of the setting, group or model.
        estimate: the value as results store it.
        mark: reason why the value is set apart from the line; empty if it is not.
    """

    series: Series
    key: str
    x: float | None
    text: str
    metric: str
    estimate: Estimate
    mark: str = ""


@dataclass(frozen=True)
class Lines:
    """A line a series over one axis, a panel a metric.

    Attributes:
        column: name of the axis in the CSV.
        title: name of the axis in the figure, with its unit.
        scale: ``"linear"``, ``"log"``, or ``"groups"`` for labels at 0, 1, 2, ...
        unit: ``"count"`` or ``"bytes"`` for ticks as 2M or 4 kB; empty for plain numbers.
        named_points: whether each point is labelled with its ``text``.
    """

    points: Sequence[Point]
    column: str
    title: str
    scale: str
    unit: str = ""
    named_points: bool = False

    def records(self) -> list[Record]:
        """The rows of the CSV, values in the units that the figure shows."""
        return [
            {
                **point.series.record(),
                "key": point.key,
                self.column: point.text if point.x is None or self.scale == "groups" else point.x,
                "name": point.text,
                "mark": point.mark,
                "metric": point.metric,
                **estimate_record(point.metric, point.estimate),
            }
            for point in self.points
        ]


@dataclass(frozen=True)
class Dot:
    """One cell of a scatter, as results store it; a number as ``x`` has no interval."""

    series: Series
    key: str
    x: Estimate | float
    y: Estimate


@dataclass(frozen=True)
class Panel:
    """One scatter.

    Attributes:
        column: name of the horizontal axis in the CSV: a metric, or another quantity.
        title: name of that axis in the figure.
        metric: the metric of the vertical axis.
        is_log: whether the horizontal axis is logarithmic.
        unit: as in ``Lines``.
    """

    column: str
    title: str
    metric: str
    dots: Sequence[Dot]
    is_log: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Scatter:
    """One or several scatters of the same cells, one below the other."""

    panels: Sequence[Panel]

    def records(self) -> list[Record]:
        """The rows of the CSV, values in the units that the figure shows."""
        return [
            {
                **dot.series.record(),
                "key": dot.key,
                "x": panel.column,
                **_x_record(panel.column, dot.x),
                "metric": panel.metric,
                **estimate_record(panel.metric, dot.y),
            }
            for panel in self.panels
            for dot in panel.dots
        ]


@dataclass(frozen=True)
class Bar:
    """One method's shares: part → share, which sum to 1."""

    series: Series
    key: str
    shares: dict[str, Estimate]


@dataclass(frozen=True)
class Bars:
    """A stacked bar for each method; ``parts`` are in the order in which they are stacked."""

    title: str
    column: str
    parts: Sequence[str]
    bars: Sequence[Bar]

    def records(self) -> list[Record]:
        """The rows of the CSV."""
        return [
            {
                **bar.series.record(),
                "key": bar.key,
                self.column: part,
                "metric": "share",
                **estimate_record("share", bar.shares[part]),
            }
            for bar in self.bars
            for part in self.parts
            if part in bar.shares
        ]


Body = Lines | Scatter | Bars


@dataclass(frozen=True)
class Figure:
    """A figure that can be drawn.

    Attributes:
        name: name of the figure in the catalog.
        place: the task and, where the figure shows one board alone, the model.
        stem: stem of the files' names: ``name`` and, where there are several of it, ``place``.
        caption: one sentence on what is shown.
        body: what is drawn.
    """

    name: str
    place: tuple[str, ...]
    stem: str
    caption: str
    body: Body = field(repr=False)


def estimate_record(metric: str, estimate: Estimate) -> Record:
    """The columns of the CSV that hold an estimate."""
    value, low, high = map(measures.of(metric).shown, (estimate.value, *estimate.ci95))
    return {"value": value, "low": low, "high": high, "n": estimate.n}


def _x_record(column: str, x: Estimate | float) -> Record:
    if isinstance(x, Estimate):
        value, low, high = map(measures.of(column).shown, (x.value, *x.ci95))
        return {"x_value": value, "x_low": low, "x_high": high}
    return {"x_value": x, "x_low": "", "x_high": ""}
