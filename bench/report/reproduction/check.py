"""Whether the boards of a results folder show what the paper reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from bench.report import display
from bench.report.board import Board, Row, table_of
from bench.report.reproduction.claims import Claim, Kind
from bench.report.telling_apart import measured_alike
from metrics import measures
from metrics.stats.bootstrap import Estimate, estimate

_CLOSE = 5  # tolerances within which a figure is close


class Verdict(str, Enum):
    """What a board says of a claim."""

    ok = "OK"  # as the paper has it, and more than chance
    close = "close"  # within the interval, or within five tolerances of a figure
    differs = "differs"
    absent = "no data"


@dataclass(frozen=True)
class Finding:
    """One claim, on one metric, on one board.

    Attributes:
        where: ``task × model``; empty where no board has the data.
        what: what was looked at, e.g. ``"bm25 > trackstar, MRR"``.
        found: what the cells say, with its interval.
    """

    claim: Claim
    verdict: Verdict
    where: str = ""
    what: str = ""
    found: str = ""


def check(claims: Sequence[Claim], boards: Sequence[Board]) -> list[Finding]:
    """Every claim on every board that can say something of it; those without data once."""
    findings = []
    for claim in claims:
        checks = {Kind.order: _order, Kind.value: _value, Kind.rises: _rises}
        found = list(checks[claim.kind](claim, boards))
        findings += found or [Finding(claim, Verdict.absent)]
    return findings


# ------------------------------------------------------------------ orders


def _order(claim: Claim, boards: Sequence[Board]) -> Iterator[Finding]:
    for board in boards:
        rows = _rows(board)
        for metric in claim.metrics:
            for above in claim.above:
                for below in claim.below:
                    if above in rows and below in rows:
                        yield from _above(claim, board, metric, rows[above], rows[below])


def _above(claim: Claim, board: Board, metric: str, above: Row, below: Row) -> Iterator[Finding]:
    if measured_alike(metric, above.cell) != measured_alike(metric, below.cell):
        return
    one, other = _scores(above, metric), _scores(below, metric)
    queries = sorted(set(one) & set(other))
    differences = np.array([one[query] - claim.times * other[query] for query in queries])
    found = estimate(differences) if queries else None
    if found is None:
        return
    factor = "" if claim.times == 1 else f"{claim.times:g} × "
    what = f"{above.method} > {factor}{below.method}, {measures.of(metric).head}"
    bounds = display.interval(metric, found, display.difference)
    shown = f"{display.difference(metric, found.value)} {bounds}"
    yield Finding(claim, _sign(found), _name(board), what, shown)


def _sign(found: Estimate) -> Verdict:
    low, high = found.ci95
    if low <= 0 <= high:
        return Verdict.close
    return Verdict.ok if low > 0 else Verdict.differs


# ------------------------------------------------------------------ figures


def _value(claim: Claim, boards: Sequence[Board]) -> Iterator[Finding]:
    for board in boards:
        if not _of_scale(claim, board):
            continue
        row = _rows(board).get(claim.method)
        for metric in claim.metrics:
            stored = row.result.metrics.get(metric) if row else None
            if stored is not None:
                away = abs(stored.value - claim.value)
                what = f"{claim.method}, {measures.of(metric).head}"
                shown = (
                    f"{display.number(metric, stored.value)} {display.interval(metric, stored)}, "
                    f"the paper {display.number(metric, claim.value)} ({claim.status.value})"
                )
                yield Finding(claim, _distance(away, claim.tolerance), _name(board), what, shown)


def _distance(away: float, tolerance: float) -> Verdict:
    if away <= tolerance + 1e-12:
        return Verdict.ok
    return Verdict.close if away <= _CLOSE * tolerance else Verdict.differs


def _of_scale(claim: Claim, board: Board) -> bool:
    """Figures hold for the paper's own task and model, not for a world of the same name."""
    sizes = [row.result.task.get("n_passages") for row in board.rows]
    if any(size is not None and size < claim.least_passages for size in sizes):
        return False
    names = {"task": board.task.partition(" ")[0], "model": board.model}
    return all(names[part] in allowed for part, allowed in claim.scale.items())


# ------------------------------------------------------------------ trends


def _rises(claim: Claim, boards: Sequence[Board]) -> Iterator[Finding]:
    """Over the models of one task, by size: the first and the last decide, by their intervals."""
    tasks: dict[str, list[tuple[int, Board, Row]]] = {}
    for board in boards:
        row = _rows(board).get(claim.method)
        size = row.result.model.get("n_params") if row else None
        if row and isinstance(size, int):
            tasks.setdefault(board.task, []).append((size, board, row))
    for task, ladder in tasks.items():
        ladder.sort(key=lambda rung: rung[0])
        for metric in claim.metrics:
            steps = [(b.model, row.result.metrics.get(metric)) for _, b, row in ladder]
            known = [(name, value) for name, value in steps if value is not None]
            if len(known) >= 2:
                shown = " → ".join(f"{n} {display.number(metric, v.value)}" for n, v in known)
                what = f"{claim.method} by size, {measures.of(metric).head}"
                yield Finding(claim, _trend([v for _, v in known]), task, what, shown)


def _trend(values: Sequence[Estimate]) -> Verdict:
    first, last = values[0], values[-1]
    if last.ci95[0] > first.ci95[1]:
        rising = all(a.value <= b.value for a, b in pairwise(values))
        return Verdict.ok if rising else Verdict.close
    return Verdict.differs if last.ci95[1] < first.ci95[0] else Verdict.close


# ------------------------------------------------------------------ rows


def _rows(board: Board) -> dict[str, Row]:
    """The row of each method that has only one: of several, none is what the paper means."""
    names = [row.method for row in board.rows]
    return {row.method: row for row in board.rows if names.count(row.method) == 1}


def _scores(row: Row, metric: str) -> dict[str, float]:
    table = table_of(row.cell)
    values = table.get(metric)
    if values is None or values.dtype.kind != "f":
        return {}
    pairs = zip(table["query_id"].tolist(), values.tolist(), strict=True)
    return {query: value for query, value in pairs if not math.isnan(value)}


def _name(board: Board) -> str:
    return f"{board.task} × {board.model}"
