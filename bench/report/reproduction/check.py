"""Whether the boards of a results folder show what the paper reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from bench.report import display
from bench.report.board import Board, Row, scores_of, table_of
from bench.report.reproduction.claims import ClaimKind, PaperClaim
from bench.report.telling_apart import measured_alike
from bench.results.per_query import clusters_of
from metrics import measures
from metrics.stats.bootstrap import Estimate
from metrics.stats.sampling import Sampling

_CLOSE = 5  # tolerances within which a figure is close


class Verdict(str, Enum):
    """What a board says of a claim, the best first."""

    ok = "OK"  # as the paper has it, and by more than chance
    close = "close"  # a figure within five tolerances
    undecided = "undecided"  # the interval of a difference holds 0: it may be either way
    differs = "differs"
    absent = "no data"


@dataclass(frozen=True)
class Finding:
    """One comparison that speaks of a claim, on one metric, on one board.

    Attributes:
        where: ``task × model``.
        what: what was looked at, e.g. ``"bm25 > trackstar, MRR"``.
        seen: what the cells say, with its interval.
    """

    verdict: Verdict
    where: str
    what: str
    seen: str


@dataclass(frozen=True)
class CheckedClaim:
    """A claim and all that speaks of it.

    Attributes:
        findings: one comparison each; a claim about seven methods and two metrics has fourteen of
            them, and is still one claim.
    """

    claim: PaperClaim
    findings: list[Finding]

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings: a claim holds where all of it does."""
        if not self.findings:
            return Verdict.absent
        verdicts = list(Verdict)
        return max((finding.verdict for finding in self.findings), key=verdicts.index)


def check(claims: Sequence[PaperClaim], boards: Sequence[Board]) -> list[CheckedClaim]:
    """Every claim, with what every board says of it."""
    checks = {
        ClaimKind.order: _order,
        ClaimKind.value: _value,
        ClaimKind.rises: _rises,
    }
    return [CheckedClaim(claim, list(checks[claim.kind](claim, boards))) for claim in claims]


def _order(claim: PaperClaim, boards: Sequence[Board]) -> Iterator[Finding]:
    for board in boards:
        rows = _rows(board)
        for metric in claim.metrics:
            for above in claim.above:
                for below in claim.below:
                    if above in rows and below in rows:
                        yield from _above(claim, board, metric, rows[above], rows[below])


def _above(
    claim: PaperClaim, board: Board, metric: str, above: Row, below: Row
) -> Iterator[Finding]:
    if measured_alike(metric, above.cell) != measured_alike(metric, below.cell):
        return
    tables = table_of(above.cell), table_of(below.cell)
    one, other = (scores_of(table, metric) for table in tables)
    queries = sorted(set(one) & set(other))
    differences = np.array([one[query] - claim.times * other[query] for query in queries])
    labels = {
        name: np.array([of_query[query] for query in queries])
        for name, of_query in clusters_of(tables[0]).items()
    }
    sampling = Sampling(labels=labels, always=above.cell.clusters_always)
    difference = sampling.estimate(metric, differences)
    if difference is None:
        return
    factor = "" if claim.times == 1 else f"{claim.times:g} × "
    what = f"{above.method} > {factor}{below.method}, {measures.of(metric).head}"
    bounds = display.interval(metric, difference, display.difference)
    shown = f"{display.difference(metric, difference.value)} {bounds}"
    yield Finding(_sign(difference), _name(board), what, shown)


def _sign(difference: Estimate) -> Verdict:
    if difference.holds_zero:
        return Verdict.undecided
    return Verdict.ok if difference.value > 0 else Verdict.differs


def _value(claim: PaperClaim, boards: Sequence[Board]) -> Iterator[Finding]:
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
                yield Finding(_distance(away, claim.tolerance), _name(board), what, shown)


def _distance(away: float, tolerance: float) -> Verdict:
    if away <= tolerance + 1e-12:
        return Verdict.ok
    return Verdict.close if away <= _CLOSE * tolerance else Verdict.differs


def _of_scale(claim: PaperClaim, board: Board) -> bool:
    """Figures hold for the paper's own task and model, not for a world of the same name."""
    sizes = [row.result.task.get("n_passages") for row in board.rows]
    if any(size is not None and size < claim.least_passages for size in sizes):
        return False
    names = {"task": board.task.partition(" ")[0], "model": board.model}
    return all(names[part] in allowed for part, allowed in claim.scale.items())


def _rises(claim: PaperClaim, boards: Sequence[Board]) -> Iterator[Finding]:
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
                yield Finding(_trend([v for _, v in known]), task, what, shown)


def _trend(values: Sequence[Estimate]) -> Verdict:
    """Undecided where the intervals of the first and the last overlap, or the way is not all up."""
    first, last = values[0], values[-1]
    if last.ci95[0] > first.ci95[1]:
        rising = all(a.value <= b.value for a, b in pairwise(values))
        return Verdict.ok if rising else Verdict.undecided
    return Verdict.differs if last.ci95[1] < first.ci95[0] else Verdict.undecided


def _rows(board: Board) -> dict[str, Row]:
    """The row of each method that has only one: of several, none is what the paper means."""
    names = [row.method for row in board.rows]
    return {row.method: row for row in board.rows if names.count(row.method) == 1}


def _name(board: Board) -> str:
    return f"{board.task} × {board.model}"
