"""Cells of bundles on the boards that they are comparable with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.report.telling_apart import hash_of, name_of
from bench.results.schema import Cell


def _content(cell: Cell) -> tuple[str, str]:
    """What rows must have in common to be compared: the hashes of their task and their model."""
    return hash_of(cell.result.task), hash_of(cell.result.model)


def joined(cells: Sequence[Cell], handed_in: Iterable[Cell]) -> list[Cell]:
    """The cells, and those of others whose task and model have the same hashes as one of them.

    Such a cell is called by the names that the task and the model have on the board: the hash says
    that they are the same, whatever whoever ran it calls them.
    """
    places: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        places.setdefault(_content(cell), cell)
    return [
        *cells,
        *(_named_as(places[_content(one)], one) for one in handed_in if _content(one) in places),
    ]


def without_a_board(boards: Iterable[Sequence[Cell]], handed_in: Sequence[Cell]) -> list[Cell]:
    """The cells of others that are comparable with no cell of any board, for boards of their own.

    Where several of them are of one task and model, these have the names that the first one gives.
    """
    known = {_content(cell) for cells in boards for cell in cells}
    left: list[Cell] = []
    for cell in handed_in:
        if _content(cell) not in known:
            same = next((one for one in left if _content(one) == _content(cell)), cell)
            left.append(_named_as(same, cell))
    return left


def _named_as(known: Cell, cell: Cell) -> Cell:
    task = {**cell.result.task, "name": name_of(known, "task")}
    model = {**cell.result.model, "name": name_of(known, "model")}
    return replace(cell, result=replace(cell.result, task=task, model=model))
