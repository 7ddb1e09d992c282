"""How numbers are written: the same in every table, page and figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

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
    return f"{measures.of(metric).shown(value):{sign}.3f}".replace("-", "−")


# Before an interval, what was resampled beside or instead of queries.
_MARKS = {"relation": "r", "relation_answer": "ra", "subsets": "s"}
_MARKED = {
    "r": "r, over relations",
    "ra": "ra, over relations × answers",
    "s": "s, over subsets of the corpus, too",
}


def interval(metric: str, estimate: Estimate, write: Callable[[str, float], str] = number) -> str:
    """The 95% interval as ``[low, high]``, each bound as ``write`` writes it.

    Letters before it say what was resampled, where that is not queries alone.
    """
    low, high = (write(metric, bound) for bound in estimate.ci95)
    return f"{''.join(_marks(estimate))}[{low}, {high}]"


def legend_of_intervals(estimates: Iterable[Estimate]) -> list[str]:
    """A sentence on the letters before the intervals of some estimates; empty if there are none."""
    used = {mark for estimate in estimates for mark in _marks(estimate)}
    told = [meaning for mark, meaning in _MARKED.items() if mark in used]
    return [f"Intervals: over queries; {'; '.join(told)}."] if told else []


def _marks(estimate: Estimate) -> list[str]:
    return [_MARKS[word] for word in estimate.over.split() if word in _MARKS]


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
