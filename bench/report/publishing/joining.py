"""Cells of bundles on the boards that they are comparable with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from bench.report.board import table_of
from bench.report.telling_apart import hash_of, name_of
from bench.results.schema import Cell


def _content(cell: Cell) -> tuple[str, str]:
    """What rows must have in common to be compared: the hashes of their task and their model."""
    return hash_of(cell.result.task), hash_of(cell.result.model)


def unlike(known: Sequence[Cell], cells: Iterable[Cell]) -> str:
    """Why cells of others cannot be of the task whose hash they give; empty if nothing says so.

    A hash of a task that nobody has at hand is believed, but whoever else has a cell of it knows
    its queries, how many passages it has, and, where these are annotated, how many state each fact.
    """
    places: dict[str, Cell] = {}
    for one in known:
        places.setdefault(hash_of(one.result.task), one)
    for cell in cells:
        board = places.get(hash_of(cell.result.task))
        if board is not None and (reason := _difference(board, cell)):
            return f"{'/'.join(cell.folder.parts[-4:])}: {reason}"
    return ""


def _difference(board: Cell, cell: Cell) -> str:
    sizes = [one.result.task.get("n_passages") for one in (cell, board)]
    if sizes[0] != sizes[1]:
        return f"n_passages is {sizes[0]}, and {sizes[1]} in other cells with its task's hash"
    own, other = table_of(cell), table_of(board)
    rows = {query: row for row, query in enumerate(other["query_id"].tolist())}
    if strange := [query for query in own["query_id"].tolist() if query not in rows]:
        return f"query {strange[0]!r:.60} is in no other cell with its task's hash"
    if cell.result.judge or board.result.judge:
        return ""  # a judge has no count of what it would call correct
    order = [rows[query] for query in own["query_id"].tolist()]
    gold, expected = own["n_gold"], other["n_gold"][order]
    if (wrong := np.flatnonzero((gold != expected) & ~np.isnan(gold) & ~np.isnan(expected))).size:
        at = wrong[0]
        return (
            f"n_gold of query {own['query_id'][at]!r:.60} is {gold[at]:.0f}, and "
            f"{expected[at]:.0f} in other cells with its task's hash"
        )
    return ""


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
