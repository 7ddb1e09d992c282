"""How numbers are written: the same in every table, page and figure."""

from __future__ import annotations

import math
from collections.abc import Callable

from metrics import measures
from metrics.stats.bootstrap import Estimate

MISSING = "–"


def number(metric: str, value: float) -> str:
    """A metric's value in the unit that is shown; changes carry a sign."""
    if math.isnan(value):
        return MISSING
    return difference(metric, value) if measures.of(metric).signed else _digits(metric, value)


def difference(metric: str, value: float) -> str:
    """The difference of two values of a metric, in the unit that is shown and with a sign."""
    return _digits(metric, value, "+")


def _digits(metric: str, value: float, sign: str = "") -> str:
    return f"{measures.of(metric).scale * value:{sign}.3f}".replace("-", "−")


def interval(metric: str, estimate: Estimate, write: Callable[[str, float], str] = number) -> str:
    """The 95% interval as ``[low, high]``, each bound as ``write`` writes it."""
    low, high = (write(metric, bound) for bound in estimate.ci95)
    return f"[{low}, {high}]"


def p_value(p: float) -> str:
    """A p-value with three digits; what would be 0.000 is told as a bound."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: str | float | None) -> str:
    """A text as it is, a whole number with separators, another with about three digits."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def natural(label: str) -> tuple[bool, float, str]:
    """A key that sorts labels: those that begin with a number by its value, others behind them."""
    digits = label[: len(label) - len(label.lstrip("0123456789"))]
    start = float(digits) if 0 < len(digits) < 20 and digits.isascii() else float("inf")
    return start == float("inf"), start, label
