"""What a report holds: the boards of a results folder and the tables made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report.board import Board
from bench.report.figures.catalog import FigurePlan
from bench.report.leaderboard import leaderboards
from bench.report.meta_evaluation import foresight_table
from bench.report.pair_tables import pair_table
from bench.report.reseed import reseedings, seeds_by_metric, seeds_table
from bench.report.table import Table


@dataclass(frozen=True)
class Content:
    """Everything that the formats of a report read.

    Attributes:
        boards: what is compared, sorted by task and model.
        folder: where the files go, to which addresses are relative.
        figures: those that are drawn beside the files, and those that lack data; None where none
            were asked for.
        pictures: the SVG of figures that stand on the page, by the stem of their files.
        has_viewer: whether the rankings of the cells are shown in a viewer beside the files.
        leaderboards, pairs, foresights, seeds: a table for each board, some without rows.
        seeds_by_metric: ``seeds`` for programs, a row a metric.
    """

    boards: Sequence[Board]
    folder: Path
    figures: FigurePlan | None = None
    pictures: Mapping[str, str] = field(default_factory=dict, repr=False)
    has_viewer: bool = True
    leaderboards: Sequence[Table] = ()
    pairs: Sequence[Table] = ()
    foresights: Sequence[Table] = ()
    seeds: Sequence[Table] = ()
    seeds_by_metric: Sequence[Table] = ()


def content_of(
    boards: Sequence[Board], folder: Path, figures: FigurePlan | None, *, has_viewer: bool
) -> Content:
    """Make the tables of some boards.

    Raises:
        UserError: a cell's rankings or its per-query table are damaged.
    """
    reseeded = [(board, reseedings(board)) for board in boards]
    return Content(
        boards,
        folder,
        figures,
        has_viewer=has_viewer,
        leaderboards=leaderboards(boards),
        pairs=[pair_table(board, board.pairs) for board in boards],
        foresights=[foresight_table(board) for board in boards],
        seeds=[seeds_table(board, rows) for board, rows in reseeded],
        seeds_by_metric=[seeds_by_metric(board, rows) for board, rows in reseeded],
    )
