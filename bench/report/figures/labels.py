"""Names beside lines and marks, placed so that none covers another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from bench.report.figures.style import NAME_SIZE

_GAP = 3.0  # points between a mark and its name
_STEPS = 40  # places that are tried above and below a mark, half a line apart
_STRIDE = 4.0  # points between the places of a line that names keep clear of
_MARK = 3.5  # points from the centre of a mark to its edge


@dataclass(frozen=True)
class Name:
    """A name and the point (x, y) that it belongs to, in data coordinates."""

    text: str
    x: float
    y: float
    color: str


def beside_marks(
    figure: Figure,
    axes: Axes,
    names: Sequence[Name],
    bars: Sequence[Bbox],
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """Put each name on the free place nearest to its mark.

    Args:
        bars: error bars as boxes in data coordinates: covered only where there is no other place.
        lines: lines through points in data coordinates, likewise.
    """
    figure.draw_without_rendering()  # fixes where the axes are
    point = figure.dpi / 72
    frame = axes.get_window_extent()
    marks = [axes.transData.transform((name.x, name.y)).tolist() for name in names]
    reach = [-_MARK * point, -_MARK * point, _MARK * point, _MARK * point]
    taken = np.array(marks)[:, [0, 1, 0, 1]] + reach
    soft = _boxes([bar.transformed(axes.transData) for bar in bars])
    for line in lines:
        along = _along(axes.transData.transform(line), _STRIDE * point)
        soft = np.concatenate([soft, along[:, [0, 1, 0, 1]]])
    order = sorted(range(len(names)), key=lambda i: (-marks[i][1], marks[i][0], names[i].text))
    for i in order:
        text = axes.annotate(
            names[i].text, (names[i].x, names[i].y), (0, 0), textcoords="offset points",
            fontsize=NAME_SIZE, color=names[i].color, va="center", ha="left",
            annotation_clip=False, zorder=5,
            path_effects=[withStroke(linewidth=1.5, foreground="white")],  # readable over a bar
        )  # fmt: skip
        size = text.get_window_extent()
        box = _place(marks[i], (size.width, size.height), frame, taken, soft, _GAP * point)
        taken = np.concatenate([taken, _boxes([box])])
        _move(axes, text, marks[i], box, point)


def _boxes(boxes: Sequence[Bbox]) -> np.ndarray:
    """Left, lower, right and upper edges of boxes, shape (boxes, 4)."""
    edges = np.array([box.extents for box in boxes]).reshape(-1, 4)
    corners = edges.reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _along(corners: np.ndarray, stride: float) -> np.ndarray:
    """Points, ``stride`` apart, on the line through ``corners``, shape (points, 2)."""
    points = []
    for start, end in itertools.pairwise(corners):
        n = max(1, int(math.hypot(*(end - start)) / stride))
        points.append(start + (end - start) * np.arange(n + 1)[:, None] / n)
    return np.concatenate(points) if points else np.empty((0, 2))


def _place(
    mark: Sequence[float],
    size: tuple[float, float],
    frame: Bbox,
    taken: np.ndarray,
    soft: np.ndarray,
    gap: float,
) -> Bbox:
    """The cheapest box for a name of ``size``: near, within the frame, on nothing else.

    Args:
        taken, soft: edges of what a name may not cover, and of what it rather should not cover, as
            of ``_boxes``.
    """
    width, height = size
    places = []  # by how many halves of a line it is above the mark, and its left edge
    for step in range(-_STEPS, _STEPS + 1):
        lefts = [mark[0] + gap * 1.6, mark[0] - gap * 1.6 - width]
        if abs(step) > 2:  # above or below its mark: it may stand over it
            lefts.append(mark[0] - width / 2)
        places += [(step, left) for left in lefts]
    steps, left = np.array(places).T
    lower = mark[1] + steps * height / 2 - height / 2
    boxes = np.stack([left, lower, left + width, lower + height], axis=1)
    outside = np.maximum(0, [frame.x0, frame.y0] - boxes[:, :2]).sum(axis=1)
    outside += np.maximum(0, boxes[:, 2:] - [frame.x1, frame.y1]).sum(axis=1)
    cost = (
        np.abs(steps) * height / 2
        + 1000 * _overlaps(boxes, taken)
        + 1.5 * height * np.minimum(4, _overlaps(boxes, soft))
        + 20 * outside
    )
    return Bbox.from_extents(*boxes[cost.argmin()])


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many of the others each box touches, shape (boxes,)."""
    one, other = boxes[:, None], others[None]
    apart = (one[..., 2:] < other[..., :2]) | (other[..., 2:] < one[..., :2])
    return (~apart.any(axis=2)).sum(axis=1)


def _move(axes: Axes, text: Annotation, mark: Sequence[float], box: Bbox, point: float) -> None:
    """Move a name into its box; a thin line leads back where it is far from its mark."""
    middle = (box.y0 + box.y1) / 2
    text.set_position(((box.x0 - mark[0]) / point, (middle - mark[1]) / point))
    if abs(middle - mark[1]) > 1.6 * box.height:
        _lead(axes, text, box.x0 <= mark[0] <= box.x1, box.x0 > mark[0], middle > mark[1])


def _lead(axes: Axes, text: Annotation, is_over: bool, is_right: bool, is_above: bool) -> None:
    """Draw a thin line from a name's near edge to what it names."""
    across = 0.5 if is_over else (0.0 if is_right else 1.0)
    up = (0.0 if is_above else 1.0) if is_over else 0.5
    axes.annotate(
        "", xy=text.xy, xytext=(across, up), textcoords=text,
        arrowprops={
            "arrowstyle": "-", "linewidth": 0.4, "color": text.get_color(), "shrinkA": 0,
            "shrinkB": _MARK, "alpha": 0.7,
        },
        annotation_clip=False, zorder=4,
    )  # fmt: skip


def at_line_ends(figure: Figure, axes: Axes, names: Sequence[Name]) -> None:
    """Put the names of lines right of the axes, each at its line's end or as near as they fit."""
    figure.draw_without_rendering()
    point = figure.dpi / 72
    frame = axes.get_window_extent()
    line = NAME_SIZE * 1.25 * point
    ends = [axes.transData.transform((name.x, name.y)) for name in names]
    order = sorted(range(len(names)), key=lambda i: (ends[i][1], names[i].text))
    heights = spread_apart([float(ends[i][1]) for i in order], line, frame.y0, frame.y1)
    for i, height in zip(order, heights, strict=True):
        offset = ((frame.x1 - ends[i][0]) / point + 8, (height - ends[i][1]) / point)
        axes.annotate(
            names[i].text, (names[i].x, names[i].y), offset, textcoords="offset points",
            fontsize=NAME_SIZE, color=names[i].color, va="center", ha="left",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "linewidth": 0.4, "color": names[i].color, "shrinkA": 1,
                "shrinkB": _MARK, "alpha": 0.6, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def spread_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising places moved as little as need be to lie ``gap`` apart, between ``low`` and ``high``.

    Where they cannot all fit, they overflow upwards.
    """
    groups: list[tuple[float, int]] = []  # middle and number of names that touch each other
    for place in places:
        middle, n = min(max(place, low), max(low, high)), 1
        while (
            groups
            and groups[-1][0] + (groups[-1][1] - 1) * gap / 2 + gap > middle - (n - 1) * gap / 2
        ):
            before, m = groups.pop()
            middle, n = (before * m + middle * n) / (m + n), m + n
            half = (n - 1) * gap / 2
            middle = max(min(middle, high - half), low + half)
        groups.append((middle, n))
    return [middle + (i - (n - 1) / 2) * gap for middle, n in groups for i in range(n)]
