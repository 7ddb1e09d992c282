"""How metrics, sizes and durations are written: the same in every format of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from metrics.influence import INFLUENCE
from metrics.length import LENGTH_RATIO
from metrics.stats.bootstrap import Estimate

MISSING = "–"
PREFERRED = ("mrr", "hit@1", "hit@10", "recall@10", *INFLUENCE)
# The paper prints tail-patch, a difference of probabilities, in percentage points.
_TITLES = {
    "mrr": "MRR", "tail_patch": "tail-patch (pp)", "tail_patch_log": "tail-patch (log p)",
    "removal_effect": "removal effect (pp)", "removal_effect_log": "removal effect (log p)",
    "lds": "LDS", "qld": "QLD", "opponent_tail_patch": "opponents' tail-patch (pp)",
    "opponent_tail_patch_log": "opponents' tail-patch (log p)",
}  # fmt: skip
_MEANINGS = {
    "mrr": "mean of 1 / rank of the first correct passage; 0 if the stored list holds none",
    "hit": "share of queries with any correct passage in the top k (the paper calls it recall)",
    "recall": "share of the annotated passages that are in the top k",
    "precision": "share of the top k that is correct",
    "map": "mean average precision: over the annotated passages, the precision at the rank of "
    "each; 0 for those not listed",
    "ndcg": "sum of 1 / log2(1 + rank) over the correct passages in the top k, over that of the "
    "best possible list",
    "tail_patch": "change of the target's probability after one training step on one proponent, "
    "mean over the top proponents, in percentage points",
    "tail_patch_log": "the same change in log-probability (nats)",
    "opponent_tail_patch": "tail-patch of the lowest ranked passages: below 0 where they speak "
    "against the target, in percentage points",
    "opponent_tail_patch_log": "the same in log-probability (nats)",
    "removal_effect": "fall of the target's probability in a model trained again without the top "
    "proponents of a group of queries, in percentage points",
    "removal_effect_log": "the same fall in log-probability (nats)",
    "lds": "linear datamodelling score: over models trained on random parts of the corpus, rank "
    "correlation of a part's summed scores and the target's log-probability",
    "qld": "rise of a query's loss (nats) in a model trained again without the top of its ranking",
    LENGTH_RATIO: "mean length of the top 10 proponents over that of all passages: a method that "
    "favours long passages is above 1",
}


_IN_POINTS = ("tail_patch", "opponent_tail_patch", "removal_effect")


def is_signed(metric: str) -> bool:
    """Whether a metric is a change, which is written with its sign."""
    return metric in INFLUENCE


def is_better_low(metric: str) -> bool:
    """Whether the lowest value is the best: opponents should speak against the target."""
    return metric.startswith("opponent_")


def is_diagnostic(metric: str) -> bool:
    """Whether a number describes a cell without judging its method."""
    return metric.startswith("base_") or metric == LENGTH_RATIO


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names in the order of the columns: the protocol's first, then by name."""
    known = {name: place for place, name in enumerate(PREFERRED)}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def title(metric: str) -> str:
    """The column head of a metric, with its unit where it has one."""
    return _TITLES.get(metric, metric)


def meaning(metric: str) -> str:
    """One line on what a metric measures, or an empty string for one that is not known here."""
    return _MEANINGS.get(metric, _MEANINGS.get(metric.partition("@")[0], ""))


def scaled(metric: str, value: float) -> float:
    """A metric in the unit it is shown in: percentage points for tail-patch."""
    return value * 100 if metric in _IN_POINTS else value


def number(metric: str, value: float) -> str:
    """A metric's value in its shown unit; differences carry a sign."""
    if math.isnan(value):
        return MISSING
    return difference(metric, value) if is_signed(metric) else _digits(metric, value)


def difference(metric: str, value: float) -> str:
    """A difference of two values of a metric, in its shown unit and with a sign."""
    return _digits(metric, value, "+")


def _digits(metric: str, value: float, sign: str = "") -> str:
    return f"{scaled(metric, value):{sign}.3f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with three digits; what would be 0.000 is told as a bound."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(metric: str, estimate: Estimate) -> str:
    """The 95% interval as ``[low, high]``, in the metric's shown unit."""
    low, high = (number(metric, bound) for bound in estimate.ci95)
    return f"[{low}, {high}]"


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}" if isinstance(value, int) else MISSING


def quantity(value: float | None) -> str:
    """A number with about three digits: seconds, MiB, bytes."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def natural(label: str) -> tuple[bool, float, str]:
    """Labels that begin with a number by its value, the others behind them by name."""
    digits = label[: len(label) - len(label.lstrip("0123456789"))]
    number = float(digits) if 0 < len(digits) < 20 and digits.isascii() else float("inf")
    return number == float("inf"), number, label
