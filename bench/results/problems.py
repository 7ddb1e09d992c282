"""What ``tdabench verify`` finds, and the lines that tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.core.escape import clean

_LONGEST = 200  # characters of a value that a line shows


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold.

    Attributes:
        cell: the cell's folder below the results folder.
        metric: the metric, or the file, that is wrong.
        stored: the value that the cell gives.
        recomputed: the value that follows from its rankings, or that was expected.
    """

    cell: str
    metric: str
    stored: str
    recomputed: str = ""

    def __str__(self) -> str:
        stored, recomputed = (text[:_LONGEST] for text in (self.stored, self.recomputed))
        expected = f", recomputed {recomputed}" if recomputed else ""
        return clean(f"{self.cell}: {self.metric:.{_LONGEST}}: {stored}{expected}")


class Problems(list[Problem]):
    """The problems of a results folder, with what was looked at.

    Attributes:
        n_cells: cells.
        n_numbers: numbers that were compared.
        n_without_identity: cells that do not say what their key was made from.
    """

    n_cells = 0
    n_numbers = 0
    n_without_identity = 0


def verdict_lines(problems: Problems) -> Iterator[str]:
    """The lines that ``tdabench verify`` prints: one for each problem, then what was compared."""
    yield from map(str, problems)
    count = (
        f"{len(problems)} problem{'s' if len(problems) != 1 else ''}" if problems else "all hold"
    )
    cells = f"{problems.n_cells} cell{'s' if problems.n_cells != 1 else ''}"
    yield f"{cells}, {problems.n_numbers:,} numbers compared: {count}"
    if problems.n_without_identity:
        yield f"keys: {problems.n_without_identity} of the cells do not say what theirs is made of"
    yield "influence: means and intervals recomputed; steps and trainings are not run again"
    yield "origin: that somebody really ran this, no file can prove; running a cell again does"
