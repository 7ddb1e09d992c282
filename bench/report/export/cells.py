"""Finished cells as both formats need them: those with rankings, and a file name for each."""

from __future__ import annotations

from pathlib import Path

from bench.core.errors import UserError
from bench.report.board import Board, Row, make_boards
from bench.results.rankings import has_rankings
from bench.results.schema import read_cells
from bench.storage.keys import path_part


def ranked_boards(results_dir: Path) -> list[tuple[Board, list[Row]]]:
    """Every board with those of its rows that have kept their rankings.

    Raises:
        UserError: there is no cell or none with rankings, or one is damaged.
    """
    boards = make_boards(read_cells(results_dir))
    kept = [[row for row in board.rows if has_rankings(row.cell.folder)] for board in boards]
    if not any(kept):
        raise UserError(
            "no cell has kept its rankings", where=str(results_dir), fix="run the cells again"
        )
    return [(board, rows) for board, rows in zip(boards, kept, strict=True) if rows]


def file_stem(row: Row) -> str:
    """The name of a cell's file, which no other cell has: task, model, method and key."""
    folder = row.cell.folder
    names = (folder.parents[2].name, folder.parents[1].name, folder.parent.name, folder.name)
    return "-".join(path_part(name) for name in names)


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: it does, or a file is in its place.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("is there already", where=str(folder), fix="give --out a new folder")
