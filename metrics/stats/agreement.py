"""How well one yes/no judgement agrees with another: kappa, precision, recall, F1, with intervals.

Cohen's kappa (1960): ``(observed − chance) / (1 − chance)``, where chance is the agreement of two
judges who say yes as often as these do, but independently of each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

MEASURES = ("precision", "recall", "f1", "kappa", "accuracy")


@dataclass(frozen=True)
class Measure:
    """A number with its 95% bootstrap interval; NaN where it is not defined."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """A judgement compared with the truth.

    Attributes:
        n: pairs that both have judged.
        table: true positives, false positives, false negatives, true negatives.
        measures: by the names of ``MEASURES``.
    """

    n: int
    table: tuple[int, int, int, int]
    measures: dict[str, Measure]


def compare(
    truth: Sequence[bool],
    judged: Sequence[bool],
    clusters: Sequence[Hashable] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare ``judged`` with ``truth``.

    Args:
        truth: ``[n]``.
        judged: ``[n]``.
        clusters: what each pair belongs to, such as its claim: whole clusters are resampled, since
            pairs of one claim are no independent evidence. None = each pair is its own.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: lengths differ, or there is nothing to compare.
    """
    right, said = np.asarray(truth, dtype=bool), np.asarray(judged, dtype=bool)
    if len(right) != len(said) or len(right) == 0:
        raise ValueError(f"{len(right)} truths and {len(said)} judgements")
    kinds = np.where(said, np.where(right, 0, 1), np.where(right, 2, 3))
    names = list(range(len(right))) if clusters is None else list(clusters)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tables = np.zeros((len(numbers), 4))
    np.add.at(tables, (np.array([numbers[name] for name in names]), kinds), 1)
    point = measures_of(tables.sum(axis=0))
    rng = np.random.default_rng(seed)
    chance = np.full(len(tables), 1 / len(tables))
    drawn = np.stack(
        [measures_of(rng.multinomial(len(tables), chance) @ tables) for _ in range(samples)]
    )
    total = tables.sum(axis=0).astype(int).tolist()
    return Agreement(
        n=len(right),
        table=(total[0], total[1], total[2], total[3]),
        measures={
            name: Measure(float(point[i]), _interval(drawn[:, i]))
            for i, name in enumerate(MEASURES)
        },
    )


def measures_of(table: np.ndarray) -> np.ndarray:
    """The numbers of ``MEASURES`` for one table.

    Args:
        table: true positives, false positives, false negatives, true negatives: ``[4]``.

    Returns:
        float64 ``[5]``; NaN where a denominator is 0.
    """
    both, only_judged, only_true, neither = map(float, table)
    n = both + only_judged + only_true + neither
    judged, true = both + only_judged, both + only_true
    chance = judged * true + (n - judged) * (n - true)  # times n²
    observed = both + neither
    return np.array(
        [
            _ratio(both, judged),
            _ratio(both, true),
            _ratio(2 * both, judged + true),
            _ratio(observed * n - chance, n * n - chance),
            _ratio(observed, n),
        ]
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Percentiles of the resamples in which the measure is defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
