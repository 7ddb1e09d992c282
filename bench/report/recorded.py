"""Leaderboards that are kept with the cells that they were made of, and that can be made again.

A folder such as ``results/quickstart`` holds tables and ``cells/``: of each cell the settings, the
result and the values of each query. The lists are left out, since they quote the corpus, and the
means of groups of queries, which follow from the values. That is enough for every mean, interval,
letter and p-value of the tables.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.core import progress
from bench.core.errors import UserError
from bench.report.board import make_boards
from bench.report.formats import all_files
from bench.report.reseed import reseedings
from bench.report.write import content_of
from bench.results.problems import Problem, Problems
from bench.results.rankings import keep_first_passages
from bench.results.schema import CONFIG, PER_QUERY, RESULT, read_cells
from bench.results.verify import Lists, verify
from bench.storage.bounds import MOST_TABLE_BYTES, check_inside, read_bytes
from bench.storage.documents import read_json
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import scratch_folder

CELLS = "cells"
LEADERBOARD = "leaderboard.csv"
_TABLES = (".csv", ".md", ".tex")  # files of a report that hold numbers and nothing else
_TOLERANCE = 1e-9  # relative: other processors add up in another order


def record_cells(results_dir: Path, folder: Path) -> int:
    """Copy what the tables of a results folder are made of to ``folder/cells``.

    Returns:
        the number of cells.

    Raises:
        UserError: there is no cell, one is damaged, or the folder cannot be written.
    """
    cells = read_cells(results_dir)
    reseeded = any(reseedings(board) for board in make_boards(cells))
    with scratch_folder(folder / CELLS) as scratch:
        copies = scratch / CELLS
        for cell in cells:
            copy = copies / cell.folder.relative_to(results_dir)
            copy.mkdir(parents=True)
            for name in (CONFIG, PER_QUERY):
                (copy / name).write_bytes(read_bytes(cell.folder / name, MOST_TABLE_BYTES))
            if reseeded:  # how far the rankings of seeds agree is told from their first passages
                keep_first_passages(cell.folder, copy)
            result = read_json(cell.folder / RESULT)
            with whole_file(copy / RESULT) as stream:
                stream.write(json.dumps({**result, "slices": {}}, separators=(",", ":")) + "\n")
        if (folder / CELLS).exists():  # only now: an older record stays until the new one is whole
            shutil.rmtree(folder / CELLS)
        copies.rename(folder / CELLS)
    return len(cells)


def recorded_boards(folder: Path) -> list[Path]:
    """The folders that hold a leaderboard and its cells: this one, or folders in it, sorted."""
    candidates = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    return [path for path in candidates if (path / CELLS).is_dir()]


def verify_recorded(folder: Path) -> Problems:
    """Check the cells of every board below a folder, and make its tables again from them.

    What is compared are all tables that ``tdabench report`` writes and that the board's folder
    holds: numbers up to rounding, words letter by letter.

    Raises:
        UserError: a table is no file, too large, or a link that leads out of its folder.
    """
    problems = Problems()
    boards = recorded_boards(folder)
    for board in progress.track(boards, "verify", unit="boards"):
        of_cells = verify(board / CELLS, Lists.none)
        problems += [_beside(problem, board, folder) for problem in of_cells]
        problems.n_cells += of_cells.n_cells
        problems.n_numbers += of_cells.n_numbers
        problems.n_without_identity += of_cells.n_without_identity
        if not of_cells:
            problems += _compared(board, board.relative_to(folder).as_posix(), problems)
        if not (board / LEADERBOARD).exists():
            name = board.relative_to(folder).as_posix()
            problems.append(Problem(name, CELLS, f"have no {LEADERBOARD} beside them"))
    for path in sorted(folder.glob(f"*/{LEADERBOARD}")):
        if path.parent not in boards:
            problems.append(Problem(path.parent.name, LEADERBOARD, f"has no {CELLS}/ beside it"))
    return problems


def _beside(problem: Problem, board: Path, folder: Path) -> Problem:
    name = (board / CELLS / problem.cell).relative_to(folder).as_posix()
    return Problem(name, problem.metric, problem.stored, problem.recomputed)


def _compared(board: Path, name: str, problems: Problems) -> Iterator[Problem]:
    """The first difference of each table from the one that its cells give."""
    try:
        texts = all_files(content_of(make_boards(read_cells(board / CELLS)), board))
    except UserError as error:
        yield Problem(name, CELLS, error.what)
        return
    for file, made in sorted(texts.items()):
        path = board / file
        if path.suffix not in _TABLES or not path.exists():
            continue
        check_inside(path, board)
        stored = read_bytes(path, MOST_TABLE_BYTES).decode("utf-8", errors="replace")
        split = _cells_of_csv if path.suffix == ".csv" else _lines
        pairs = list(zip(split(stored), split(made), strict=False))
        problems.n_numbers += sum(_number(value) is not None for _, (value, _) in _flat(pairs))
        differing = [(line, pair) for line, pair in _flat(pairs) if not _same(*pair)]
        if differing:
            line, (old, new) = differing[0]
            yield Problem(name, f"{file}, line {line}", old, new)
        elif len(split(stored)) != len(split(made)):
            yield Problem(name, file, f"{len(split(stored))} lines", str(len(split(made))))


def _lines(text: str) -> list[list[str]]:
    return [[line] for line in text.splitlines()]


def _cells_of_csv(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def _flat(
    pairs: list[tuple[list[str], list[str]]],
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Line number, counted from 1, and the two values of each place of two tables."""
    for number, (old, new) in enumerate(pairs, start=1):
        if len(old) != len(new):
            yield number, (f"{len(old)} columns", f"{len(new)} columns")
        else:
            yield from ((number, pair) for pair in zip(old, new, strict=True))


def _same(old: str, new: str) -> bool:
    if old == new:
        return True
    values = _number(old), _number(new)
    if values[0] is None or values[1] is None:
        return False
    return math.isclose(values[0], values[1], rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
