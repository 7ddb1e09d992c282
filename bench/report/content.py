"""What the formats of a report read: the boards of a results folder and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report.board import Board
from bench.report.figures.catalog import FigurePlan
from bench.report.table import Table


@dataclass(frozen=True)
class Content:
    """Everything that the formats of a report read.

    Attributes:
        boards: what is compared, sorted by task and model.
        folder: where the files go, to which addresses are relative.
        figures: those that are drawn beside the files, and those that lack data; None where none
            were asked for.
        has_viewer: whether the rankings of the cells are shown in a viewer beside the files.
        leaderboards, pairs, foresights, seeds: a table for each board, some without rows.
        seeds_by_metric: ``seeds`` for programs, a row a metric.
        pictures: the SVG of figures that stand on the page, by the stem of their files.
    """

    boards: Sequence[Board]
    folder: Path
    figures: FigurePlan | None
    has_viewer: bool
    leaderboards: Sequence[Table]
    pairs: Sequence[Table]
    foresights: Sequence[Table]
    seeds: Sequence[Table]
    seeds_by_metric: Sequence[Table]
    pictures: Mapping[str, str] = field(default_factory=dict, repr=False)
