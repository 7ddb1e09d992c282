"""Drawing of what ``data`` describes: with its helpers, the only part that needs matplotlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from bench.report.figures import labels
from bench.report.figures.canvas import Canvas
from bench.report.figures.data import Bars, Body, Dot, Lines, Panel, Point, Scatter, Series
from bench.report.figures.style import (
    FAMILIES,
    INK,
    PANEL_HEIGHT,
    SOFT,
    WIDTH,
    Look,
    looks,
    name,
    names,
    quantity,
    style,
)
from metrics import measures
from metrics.stats.bootstrap import Estimate

_BAR: dict[str, Any] = {"elinewidth": 0.7, "capsize": 1.6, "capthick": 0.7}
_MOST_TICKS = 7  # that stand at the values of a sweep; more take round numbers
_LEFT, _BOTTOM, _TOP, _EDGE = 0.48, 0.42, 0.1, 0.08  # inches around the axes
_CHARACTER = 0.054  # inches of a name, about


def draw(body: Body) -> Canvas:
    """The figure; to be called and saved within ``style()``."""
    if isinstance(body, Lines):
        return _draw_lines(body)
    return _draw_scatter(body) if isinstance(body, Scatter) else _draw_bars(body)


def drawn(body: Body) -> Canvas:
    """The figure, finished in the one style: what is done to it later needs no ``style()``."""
    with style():
        canvas = draw(body)
        canvas.draw_without_rendering()  # ticks are made as they are drawn
    return canvas


def _panels(n: int, height: float, right: float, shared: bool) -> tuple[Canvas, list[Axes]]:
    """Axes below each other, in inches: names need the same room whatever is on the axes."""
    between = 0.12 if shared else _BOTTOM + 0.08
    total = _TOP + n * height + (n - 1) * between + _BOTTOM
    canvas = Canvas(figsize=(WIDTH, total))
    width = WIDTH - _LEFT - right
    axes = []
    for i in range(n):
        bottom = _BOTTOM + (n - 1 - i) * (height + between)
        place = (_LEFT / WIDTH, bottom / total, width / WIDTH, height / total)
        axes.append(canvas.add_axes(place))
    return canvas, axes


def _scaled(metric: str, estimate: Estimate) -> tuple[float, list[list[float]]]:
    """A value and the lengths of its error bar, in the unit that is shown."""
    shown = measures.of(metric).shown
    value, low, high = map(shown, (estimate.value, *estimate.ci95))
    return value, [[max(0.0, value - low)], [max(0.0, high - value)]]


def _draw_lines(lines: Lines) -> Canvas:
    series = list(dict.fromkeys(point.series for point in lines.points))
    metrics = measures.in_order(point.metric for point in lines.points)
    short = names(one.label for one in series)
    right = 0.24 + _CHARACTER * max(map(len, short.values()))
    height = PANEL_HEIGHT - 0.3 if len(metrics) > 1 else PANEL_HEIGHT
    canvas, panels = _panels(len(metrics), height, min(right, WIDTH / 2.2), shared=True)
    styles = looks(series)
    for axes, metric in zip(panels, metrics, strict=True):
        of_metric = [point for point in lines.points if point.metric == metric]
        _x_axis(axes, lines, is_last=axes is panels[-1])
        _y_axis(axes, metric)
        ends = [
            _draw_series(
                axes, one, of_metric, styles[one], _nudge(lines, place, len(series)), short
            )
            for place, one in enumerate(series)
        ]
        _name_points(canvas, axes, lines, of_metric, styles)
        labels.at_line_ends(canvas, axes, [end for end in ends if end])
    return canvas


def _nudge(lines: Lines, place: int, n: int) -> float:
    """Groups stand apart: methods may stand beside each other there, and their bars be seen."""
    return 0.3 * (place / max(1, n - 1) - 0.5) if lines.scale == "groups" else 0.0


def _draw_series(
    axes: Axes,
    series: Series,
    points: Sequence[Point],
    look: Look,
    nudge: float,
    short: Mapping[str, str],
) -> labels.Name | None:
    """Draw one line with its intervals; returns its name at its last point."""
    own = [point for point in points if point.series == series]
    placed = [point for point in own if point.x is not None]
    for point in placed:
        assert point.x is not None
        value, bar = _scaled(point.metric, point.estimate)
        axes.errorbar(
            [point.x + nudge], [value], yerr=bar, fmt="none", color=look.color, alpha=0.6, **_BAR
        )
        if point.mark:
            axes.plot(
                [point.x], [value], marker="*", markersize=9, color=look.color,
                markeredgecolor="white", markeredgewidth=0.6, linestyle="none", zorder=4,
            )  # fmt: skip
    joined = [(p.x + nudge, _value(p)) for p in placed if not p.mark and p.x is not None]
    if joined:
        xs, ys = zip(*joined, strict=True)
        axes.plot(
            xs, ys, color=look.color, linestyle=look.dashes, linewidth=1.1, zorder=3, **look.mark
        )
    for point in own:
        if point.x is None:
            _level(axes, point, look)
    if joined:
        return labels.Name(short[series.label], *joined[-1], look.ink)
    return None


def _value(point: Point) -> float:
    return measures.of(point.metric).shown(point.estimate.value)


def _level(axes: Axes, point: Point, look: Look) -> None:
    """A value without a place on the axis: a level line with its name."""
    axes.axhline(_value(point), color=look.color, linewidth=0.7, linestyle=(0, (1, 2)), zorder=2)
    axes.annotate(
        name(point.text), (0.01, _value(point)), (0, 1.5), textcoords="offset points",
        xycoords=("axes fraction", "data"), fontsize=6, color=look.ink, va="bottom",
    )  # fmt: skip


def _name_points(
    canvas: Canvas, axes: Axes, lines: Lines, points: Sequence[Point], styles: dict[Series, Look]
) -> None:
    """Name every point, or those that are set apart."""
    placed = [(point.x, _value(point), point) for point in points if point.x is not None]
    beside = [
        labels.Name(name(point.text), x, y, styles[point.series].ink)
        for x, y, point in placed
        if lines.named_points or point.mark
    ]
    bars = [_box(x, None, y, point.estimate, point.metric) for x, y, point in placed]
    joined = [
        [(x, y) for x, y, point in placed if point.series == one and not point.mark]
        for one in styles
    ]
    if beside:
        labels.beside_marks(canvas, axes, beside, bars, [line for line in joined if line])


def _x_axis(axes: Axes, lines: Lines, is_last: bool) -> None:
    xs = sorted({point.x for point in lines.points if point.x is not None})
    if lines.scale == "groups":
        texts = {point.x: point.text for point in lines.points}
        axes.set_xticks(xs, [name(texts[x], 12) for x in xs])
        axes.set_xlim(min(xs) - 0.35, max(xs) + 0.35)
    elif lines.scale == "log":
        _log_axis(axes, xs, lines.unit)
    else:
        margin = 0.05 * (max(xs) - min(xs) or 1.0)
        axes.set_xlim(min(xs) - margin, max(xs) + margin)
    if is_last:
        axes.set_xlabel(lines.title)
    else:
        axes.tick_params(labelbottom=False)


def _log_axis(axes: Axes, xs: Sequence[float], unit: str) -> None:
    axes.set_xscale("log")
    low, high = math.log10(min(xs)), math.log10(max(xs))
    margin = 0.06 * (high - low) or 0.3
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    apart = [b - a for a, b in zip(map(math.log10, xs), map(math.log10, xs[1:]), strict=False)]
    inches = axes.get_position().width * WIDTH
    room = _CHARACTER * (1 + max(len(quantity(x, unit)) for x in xs)) * (high - low) / inches
    if len(xs) <= _MOST_TICKS and all(gap > room for gap in apart):
        axes.xaxis.set_major_locator(FixedLocator(list(xs)))
    else:
        subs = (1.0,) if high - low > 2 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, unit)))


def _y_axis(axes: Axes, metric: str) -> None:
    axes.set_ylabel(name(measures.of(metric).head))
    axes.locator_params(axis="y", nbins=5)
    if measures.of(metric).signed:
        axes.axhline(0, color=SOFT, linewidth=0.6, zorder=1)


def _draw_scatter(scatter: Scatter) -> Canvas:
    n = len(scatter.panels)
    canvas, panels = _panels(n, 2.5 if n == 1 else PANEL_HEIGHT, _EDGE, shared=False)
    styles = looks(dot.series for panel in scatter.panels for dot in panel.dots)
    short = names(dot.series.label for panel in scatter.panels for dot in panel.dots)
    numbers = itertools.count()
    for axes, panel in zip(panels, scatter.panels, strict=True):
        _draw_panel(canvas, axes, panel, styles, short, numbers)
    _legend(canvas, panels[0], [dot.series.family for p in scatter.panels for dot in p.dots])
    return canvas


def dot_id(number: int) -> str:
    """The name of a dot's mark in an SVG; dots are counted through all panels of a scatter."""
    return f"dot{number}"


def _draw_panel(
    canvas: Canvas,
    axes: Axes,
    panel: Panel,
    styles: dict[Series, Look],
    short: Mapping[str, str],
    numbers: Iterator[int],
) -> None:
    beside, bars = [], []
    for dot in panel.dots:
        color, marker = styles[dot.series].color, styles[dot.series].marker
        x, across = _x_scaled(panel, dot)
        y, up = _scaled(panel.metric, dot.y)
        axes.errorbar([x], [y], xerr=across, yerr=up, fmt="none", color=color, alpha=0.5, **_BAR)
        axes.plot(
            [x], [y], marker=marker, color=color, markersize=4.5, linestyle="none", zorder=3,
            markeredgecolor="white", markeredgewidth=0.4, gid=dot_id(next(numbers)),
        )  # fmt: skip
        beside.append(labels.Name(short[dot.series.label], x, y, styles[dot.series].ink))
        bars.append(_box(x, None, y, dot.y, panel.metric))
        if isinstance(dot.x, Estimate):
            bars.append(_box(x, dot.x, y, dot.y, panel.metric, panel.column))
    if panel.is_log:
        _log_axis(axes, sorted({float(_x_scaled(panel, dot)[0]) for dot in panel.dots}), panel.unit)
    axes.margins(0.08)
    axes.set_xlabel(panel.title)
    _y_axis(axes, panel.metric)
    labels.beside_marks(canvas, axes, beside, bars)


def _x_scaled(panel: Panel, dot: Dot) -> tuple[float, list[list[float]] | None]:
    return _scaled(panel.column, dot.x) if isinstance(dot.x, Estimate) else (dot.x, None)


def _box(
    x: float, across: Estimate | None, y: float, up: Estimate, metric: str, column: str = ""
) -> Bbox:
    """An error bar as a box in data coordinates: the horizontal one if ``across`` is given."""
    if across is not None:
        low, high = map(measures.of(column).shown, across.ci95)
        return Bbox.from_extents(low, y, high, y)
    low, high = map(measures.of(metric).shown, up.ci95)
    return Bbox.from_extents(x, low, x, high)


def _legend(canvas: Canvas, axes: Axes, families: Sequence[str]) -> None:
    """The families above the axes, in one line."""
    known = [family if family in FAMILIES else "other" for family in families]
    shown = [family for family in FAMILIES if family in known]
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 4.5}
    handles = [
        axes.plot([], [], marker=marker, color=color, label=family, **marks)[0]
        for family, (color, marker) in ((family, FAMILIES[family]) for family in shown)
    ]
    canvas.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(shown),
        frameon=False, handletextpad=0.1, columnspacing=1.0, borderpad=0.1, borderaxespad=0.0,
    )  # fmt: skip


# From blue, what states the fact, over what leads to it, to grey, what has nothing to do with it;
# a hatch for what denies it.
_PARTS = {
    "entails": ("#0072b2", ""),
    "entails_alias": ("#56b4e9", ""),
    "denied": ("#d55e00", "////"),
    "one_hop": ("#009e73", ""),
    "same_subject": ("#f0e442", ""),
    "near_name": ("#e69f00", ""),
    "prior": ("#cc79a7", ""),
    "unrelated": ("#c9ced4", ""),
    "unannotated": ("#eceef0", ""),
}
_OTHER = ("#999999", "")


def _draw_bars(bars: Bars) -> Canvas:
    short = names(bar.series.label for bar in bars.bars)
    labelled = [short[bar.series.label] for bar in bars.bars]
    left = 0.15 + _CHARACTER * max(map(len, labelled))
    height = 0.17 * len(labelled) + 0.1
    n_rows = math.ceil(len(bars.parts) / 3)
    top = 0.15 * n_rows + 0.1
    total = top + height + _BOTTOM
    canvas = Canvas(figsize=(WIDTH, total))
    axes = canvas.add_axes(
        (left / WIDTH, _BOTTOM / total, (WIDTH - left - 0.12) / WIDTH, height / total)
    )
    places = range(len(labelled))
    done = [0.0] * len(labelled)
    for part in bars.parts:
        shares = [bar.shares[part].value if part in bar.shares else 0.0 for bar in bars.bars]
        color, hatch = _PARTS.get(part, _OTHER)
        axes.barh(
            places, shares, left=done, color=color, hatch=hatch, edgecolor="white", linewidth=0.4,
            height=0.78,
        )  # fmt: skip
        done = [before + share for before, share in zip(done, shares, strict=True)]
    axes.set_yticks(list(places), labelled)
    axes.invert_yaxis()
    axes.set_ylim(len(labelled) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1)
    axes.set_xlabel(bars.title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    handles = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=part.replace("_", " "))
        for part, (color, hatch) in ((part, _PARTS.get(part, _OTHER)) for part in bars.parts)
    ]
    canvas.legend(
        handles=handles, loc="upper center", ncols=3, frameon=False, handlelength=1.1,
        handleheight=0.9, columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2, labelcolor=INK,
    )  # fmt: skip
    return canvas
