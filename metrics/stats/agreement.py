"""How well one yes/no judgement agrees with another: kappa, precision, recall, F1, with intervals.

Cohen's kappa (1960): ``(observed − chance) / (1 − chance)``, where chance is the agreement of two
judges who say yes as often as these do, but independently of each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.stats.bootstrap import percentiles

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
    total = tables.sum(axis=0)
    chance = np.full(len(tables), 1 / len(tables))
    times = np.random.default_rng(seed).multinomial(len(tables), chance, size=samples)
    bounds = percentiles(measures_of(times @ tables))
    return Agreement(
        n=len(right),
        table=tuple(total.astype(int).tolist()),
        measures={
            name: Measure(value, (low, high))
            for name, value, low, high in zip(
                MEASURES, *(one.tolist() for one in (measures_of(total), *bounds)), strict=True
            )
        },
    )


def measures_of(tables: np.ndarray) -> np.ndarray:
    """The numbers of ``MEASURES`` for some tables.

    Args:
        tables: true positives, false positives, false negatives, true negatives: ``[..., 4]``.

    Returns:
        float64 ``[..., 5]``; NaN where a denominator is 0.
    """
    both, only_judged, only_true, neither = np.moveaxis(np.asarray(tables, dtype=np.float64), -1, 0)
    n = both + only_judged + only_true + neither
    judged, true = both + only_judged, both + only_true
    chance = judged * true + (n - judged) * (n - true)  # times n²
    observed = both + neither
    parts = np.stack([both, both, 2 * both, observed * n - chance, observed], axis=-1)
    wholes = np.stack([judged, true, judged + true, n * n - chance, n], axis=-1)
    return np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes != 0)
