"""The choice of the cells that a figure shows, and the names of their lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.report.board import Row
from bench.report.figures.data import Series
from bench.report.telling_apart import MODEL_SEED, Settings, differing, settings, spelled
from metrics.stats.bootstrap import Estimate

_MOST_CELLS = 16  # names of more do not fit beside their points


@dataclass(frozen=True)
class Sweep:
    """Cells that differ in nothing but the swept settings.

    Attributes:
        shared: the settings that the cells have in common.
        rows: the cells, each with its swept settings.
    """

    shared: Settings
    rows: list[tuple[Settings, Row]]


def sweeps(rows: Iterable[Row], swept: Sequence[str]) -> list[Sweep]:
    """Group cells that are equal in all settings but ``swept``; a lone cell is no sweep.

    Settings are those of ``telling_apart.settings``: of the method, of its metrics, the model's
    hash, the seed, the list length, and whether the ranking was imported.
    """
    groups: dict[str, Sweep] = {}
    for row in rows:
        own = settings(row.cell)
        if swept[0] not in own:
            continue
        drawn = {MODEL_SEED} if "model" in swept else set()
        shared = {key: value for key, value in own.items() if key not in {*swept, *drawn}}
        name = repr(sorted(shared.items(), key=lambda item: item[0]))
        chosen = {key: own.get(key) for key in swept}
        groups.setdefault(name, Sweep(shared, [])).rows.append((chosen, row))
    return [sweep for _, sweep in sorted(groups.items()) if len(sweep.rows) > 1]


def named(swept: Sequence[Sweep]) -> list[tuple[Series, Sweep]]:
    """Each sweep with its name: the method, and the settings that tell it from its neighbours."""
    series = []
    for sweep in swept:
        peers = [s.shared for s in swept if s.shared["method"] == sweep.shared["method"]]
        apart = spelled(differing(sweep.shared, peers))
        method = str(sweep.shared["method"])
        label = f"{method} ({apart})" if apart else method
        series.append((Series(label, method, sweep.rows[0][1].family), sweep))
    return series


def comparable(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The cells that were measured in the way that most were, and a note if there are others.

    Tail-patch of one proponent and tail-patch of ten are not to be compared, nor are a list of ten
    passages and one of a hundred.
    """
    ways = [_measurement(row) for row in rows]
    counts = Counter(map(repr, ways))
    chosen = max(ways, key=lambda own: counts[repr(own)], default={})
    kept = [row for row, own in zip(rows, ways, strict=True) if own == chosen]
    apart = spelled(differing(chosen, ways))
    return kept, f"Only cells with {apart}." if len(kept) < len(rows) else ""


def _measurement(row: Row) -> Settings:
    own = settings(row.cell)
    measured_by = {key: value for key, value in own.items() if key.startswith("metric.")}
    return {**measured_by, "top_k": own["top_k"]}


def methods_of(rows: Sequence[Row]) -> list[tuple[Series, Row]]:
    """One cell a method: of several, the one whose settings are the most common among them.

    That is the one which single sweeps over several settings start from.
    """
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.result.imported), []).append(row)
    chosen = []
    for (method, imported), group in groups.items():
        label = f"{method} (imported)" if imported else method
        chosen.append((Series(label, method, group[0].family), _most_common(group)))
    return chosen


def cells_of(rows: Sequence[Row]) -> list[tuple[Series, Row]]:
    """Every cell under its label on the leaderboard or, where they are many, one a method."""
    if len(rows) > _MOST_CELLS:
        return methods_of(rows)
    return [(Series(row.label, row.method, row.family), row) for row in rows]


def _most_common(rows: Sequence[Row]) -> Row:
    of_rows = [{key: repr(value) for key, value in settings(row.cell).items()} for row in rows]
    counts = Counter(item for own in of_rows for item in own.items())
    scores = [sum(counts[item] for item in own.items()) for own in of_rows]
    return rows[scores.index(max(scores))]


def measured(row: Row, metric: str) -> Estimate | None:
    """A metric of a cell, None where it was not measured."""
    return finite(row.result.metrics.get(metric))


def finite(estimate: Estimate | None) -> Estimate | None:
    """The estimate if it can be drawn."""
    if estimate is None or not all(map(math.isfinite, (estimate.value, *estimate.ci95))):
        return None
    return estimate
