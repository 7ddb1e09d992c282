"""Attribution against influence as inline SVG: does finding the fact also move the prediction?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bench.core.escape import clean

# Okabe & Ito's colours stay apart for colour-blind readers; the shapes say the same once more.
_STYLES = {
    "retrieval": ("#0072b2", "square"),
    "gradient": ("#d55e00", "circle"),
    "control": ("#7f7f7f", "cross"),
    "other": ("#009e73", "diamond"),
}
_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 20, 52
_LABEL_HEIGHT = 13  # px


@dataclass(frozen=True)
class Point:
    """One method: values and 95% bounds on both axes, in the axes' units."""

    label: str
    family: str
    x: float
    y: float
    x_ci: tuple[float, float]
    y_ci: tuple[float, float]


@dataclass(frozen=True)
class _Scale:
    """A linear map from values to pixels with round ticks."""

    low: float
    high: float
    start: float
    end: float
    step: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        n = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(n + 1)]


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Markup:
    """The plot as an ``<svg>`` element; text takes the page's colour, labels are escaped.

    Args:
        points: at least one, with finite values and bounds.
        x_title: what the horizontal axis shows.
        y_title: what the vertical axis shows.
    """
    x = _scale([v for p in points for v in (p.x, *p.x_ci)], _LEFT, _WIDTH - _RIGHT)
    y = _scale([v for p in points for v in (p.y, *p.y_ci)], _HEIGHT - _BOTTOM, _TOP)
    summary = f"{x_title} against {y_title} of {len(points)} methods, with 95% intervals"
    body = [
        _axes(x, y, x_title, y_title),
        *(_point(p, x, y) for p in points),
        *_labels(points, x, y),
        _legend([p.family for p in points]),
    ]
    return Markup(
        '<svg class="scatter" viewBox="0 0 {} {}" role="img" aria-label="{}" '
        'fill="currentColor" font-size="12">{}</svg>'
    ).format(_WIDTH, _HEIGHT, summary, Markup("").join(body))


def _scale(values: list[float], start: float, end: float) -> _Scale:
    low, high = min([*values, 0.0]), max([*values, 0.0])
    high = high if high > low else low + 1.0
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= 6)
    return _Scale(math.floor(low / step) * step, math.ceil(high / step) * step, start, end, step)


def _axes(x: _Scale, y: _Scale, x_title: str, y_title: str) -> Markup:
    line = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    text = Markup('<text class="axis" x="{}" y="{}" text-anchor="{}"{}>{}</text>')
    parts = []
    for tick in x.ticks:
        parts.append(line.format("grid", x(tick), y.start, x(tick), y.end))
        parts.append(text.format(x(tick), y.start + 18, "middle", "", _tick(tick, x.step)))
    for tick in y.ticks:
        css = "zero" if abs(tick) < y.step / 2 else "grid"
        parts.append(line.format(css, x.start, y(tick), x.end, y(tick)))
        parts.append(text.format(x.start - 10, y(tick) + 4, "end", "", _tick(tick, y.step)))
    middle = (y.start + y.end) / 2
    turned = Markup(' transform="rotate(-90 16 {})"').format(middle)
    parts.append(text.format((x.start + x.end) / 2, _HEIGHT - 12, "middle", "", x_title))
    parts.append(text.format(16, middle, "middle", turned, y_title))
    return Markup("").join(parts)


def _tick(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, decimals) != step:  # steps of 2.5 need one digit more
        decimals += 1
    return f"{value + 0.0:.{decimals}f}".replace("-", "−")


def _style(family: str) -> tuple[str, str]:
    return _STYLES.get(family, _STYLES["other"])


def _point(point: Point, x: _Scale, y: _Scale) -> Markup:
    color, shape = _style(point.family)
    bars = Markup(
        '<path d="M{} {}H{}M{} {}V{}" stroke="{}" stroke-width="1.5" opacity=".55" fill="none"/>'
    ).format(
        x(point.x_ci[0]), y(point.y), x(point.x_ci[1]),
        x(point.x), y(point.y_ci[0]), y(point.y_ci[1]), color,
    )  # fmt: skip
    title = f"{clean(point.label)}: {point.x:.3f}, {point.y:+.3f}"
    return Markup("<g><title>{}</title>{}{}</g>").format(
        title, bars, _shape(shape, x(point.x), y(point.y), color)
    )


def _shape(shape: str, x: float, y: float, color: str) -> Markup:
    form = {
        "circle": '<circle cx="{x}" cy="{y}" r="5" fill="{c}"/>',
        "square": '<rect x="{x}" y="{y}" width="9" height="9" '
        'transform="translate(-4.5 -4.5)" fill="{c}"/>',
        "diamond": '<path d="M{x} {y}m0-6.5l6.5 6.5l-6.5 6.5l-6.5-6.5z" fill="{c}"/>',
        "cross": '<path d="M{x} {y}m-4.5-4.5l9 9m0-9l-9 9" stroke="{c}" stroke-width="2.5" '
        'fill="none"/>',
    }[shape]
    return Markup(form).format(x=x, y=y, c=color)  # noqa: S704 - a constant from above


@dataclass(frozen=True)
class _Box:
    left: float
    right: float
    top: float
    bottom: float

    def covers(self, other: _Box) -> bool:
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)


def _labels(points: Sequence[Point], x: _Scale, y: _Scale) -> list[Markup]:
    """Method names beside their points, moved until none covers a marker or another name."""
    taken = [_Box(x(p.x) - 6, x(p.x) + 6, y(p.y) - 6, y(p.y) + 6) for p in points]
    labels = []
    for point in sorted(points, key=lambda p: (-p.y, p.x, p.label)):
        name = clean(point.label)
        name = name if len(name) <= 28 else f"{name[:27]}…"
        box = _place(6.8 * len(name), x(point.x), y(point.y), taken)
        taken.append(box)
        if abs(box.bottom - y(point.y)) > 2 * _LABEL_HEIGHT:
            leader = Markup('<line class="leader" x1="{}" y1="{}" x2="{}" y2="{}"/>')
            end = box.left if box.left > x(point.x) else box.right
            labels.append(leader.format(x(point.x), y(point.y), end, box.bottom - 7))
        text = Markup('<text class="name" x="{}" y="{}">{}</text>')
        labels.append(text.format(round(box.left, 1), round(box.bottom - 3, 1), name))
    return labels


def _place(width: float, x: float, y: float, taken: Sequence[_Box]) -> _Box:
    """The free place nearest to the point at (x, y), on its right or left; any if none is free."""
    places = []
    for step in sorted(range(-30, 31), key=abs):
        bottom = y - 3 + step * _LABEL_HEIGHT / 2
        for left in (x + 9, x - 9 - width):
            box = _Box(left, left + width, bottom - _LABEL_HEIGHT, bottom)
            if left >= _LEFT + 4 and box.top >= _TOP - 8 and bottom <= _HEIGHT - _BOTTOM:
                places.append(box)
    free = (box for box in places if not any(box.covers(other) for other in taken))
    return next(free, _Box(x + 9, x + 9 + width, y - 3 - _LABEL_HEIGHT, y - 3))


def _legend(families: Sequence[str]) -> Markup:
    shown = [family for family in _STYLES if any(_known(f) == family for f in families)]
    parts = []
    for row, family in enumerate(shown):
        color, shape = _style(family)
        baseline = _TOP + 14 + row * 20
        parts.append(_shape(shape, _WIDTH - _RIGHT + 52, baseline - 4, color))
        parts.append(
            Markup('<text x="{}" y="{}">{}</text>').format(
                _WIDTH - _RIGHT + 66, baseline, escape(family)
            )
        )
    return Markup("").join(parts)


def _known(family: str) -> str:
    return family if family in _STYLES else "other"
