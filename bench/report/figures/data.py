"""What a figure shows, before anything is drawn: the rows of its CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics.stats.bootstrap import Estimate

Record = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """One line of a figure, or one mark of a scatter.

    Attributes:
        label: what it is called in the figure.
        method: name in the registry, which decides its colour.
        family: the method's group in the registry.
    """

    label: str
    method: str
    family: str

    def record(self) -> Record:
        """Its columns of the CSV."""
        return {"series": self.label, "method": self.method, "family": self.family}


@dataclass(frozen=True)
class Point:
    """One value of a line.

    Attributes:
        key: of the cell that it is from.
        x: where it is; None for one that has no place on the axis, which becomes a level line.
        text: what the setting, group or model is called.
        estimate: in the metric's own unit.
        mark: why it is set apart from the line; empty if it is not.
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
        column: what the CSV calls the axis.
        title: what the figure calls it, with its unit.
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
        """The rows of the CSV, values in the metrics' own units (not in percentage points)."""
        return [
            {
                **point.series.record(),
                "key": point.key,
                self.column: point.text if point.x is None or self.scale == "groups" else point.x,
                "name": point.text,
                "mark": point.mark,
                "metric": point.metric,
                **estimate_record(point.estimate),
            }
            for point in self.points
        ]


@dataclass(frozen=True)
class Dot:
    """One cell of a scatter; estimates in their own units, ``x`` without interval if a number."""

    series: Series
    key: str
    x: Estimate | float
    y: Estimate


@dataclass(frozen=True)
class Panel:
    """One scatter.

    Attributes:
        column: what the CSV calls the horizontal axis: a metric, or another quantity.
        title: what the figure calls it.
        metric: the vertical axis.
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
        """The rows of the CSV, values in their own units."""
        return [
            {
                **dot.series.record(),
                "key": dot.key,
                "x": panel.column,
                **_x_record(dot.x),
                "metric": panel.metric,
                **estimate_record(dot.y),
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
    """A stacked bar a method; ``parts`` in the order in which they are stacked."""

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
                **estimate_record(bar.shares[part]),
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
        name: which of the catalog's.
        place: the task and, where it shows one board alone, the model.
        stem: of its files: the name and, where there are several of it, task and model.
        caption: one sentence on what is shown.
        body: what is drawn.
    """

    name: str
    place: tuple[str, ...]
    stem: str
    caption: str
    body: Body = field(repr=False)


def estimate_record(estimate: Estimate) -> Record:
    """An estimate's columns of a CSV."""
    low, high = estimate.ci95
    return {"value": estimate.value, "low": low, "high": high, "n": estimate.n}


def _x_record(x: Estimate | float) -> Record:
    if isinstance(x, Estimate):
        return {"x_value": x.value, "x_low": x.ci95[0], "x_high": x.ci95[1]}
    return {"x_value": x, "x_low": "", "x_high": ""}
