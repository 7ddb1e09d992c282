"""The rankings that a viewer shows, by task and model, and the links that lead to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from bench.core.errors import UserError
from bench.core.escape import clean
from bench.report.board import Board, table_of
from bench.results.per_query import read_per_query
from bench.results.rankings import has_rankings
from bench.results.schema import ENTAILED, PER_QUERY, RESULT, RETRIEVALS, Cell, read_result

FOLDER, PAGE = "viewer", "index.html"


@dataclass(frozen=True)
class RankingSource:
    """The rankings of one method.

    Attributes:
        label: name of the method on the leaderboard.
        rankings: a file in the release's format.
        table: the columns by query (``bench.results.per_query``), empty where there are only the
            rankings.
        threshold: score of the judge above which a passage is correct.
        is_control: whether the method is a control, which the viewer does not open on.
    """

    label: str
    rankings: Path
    table: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    threshold: float = ENTAILED
    is_control: bool = False


@dataclass(frozen=True)
class RankingGroup:
    """Methods that ranked the same corpus for the same queries and model."""

    task: str
    model: str
    sources: list[RankingSource]


def groups_of(boards: Iterable[Board]) -> list[RankingGroup]:
    """One group a board, of the cells whose rankings are stored; groups without any are left out.

    Raises:
        UserError: a cell's per-query table is damaged.
    """
    groups = [
        RankingGroup(
            board.task,
            board.model,
            [
                replace(_source(row.label, row.cell), is_control=row.is_control)
                for row in board.rows
                if has_rankings(row.cell.folder)
            ],
        )
        for board in boards
    ]
    return [group for group in groups if group.sources]


def group_of_files(paths: Sequence[Path], task: str = "rankings", model: str = "–") -> RankingGroup:
    """One group of bare ranking files or cell folders, called by their names.

    Raises:
        UserError: a path is neither.
    """
    sources = []
    for path in paths:
        if path.is_dir() and has_rankings(path):
            sources.append(_of_folder(path))
        elif path.is_file():
            sources.append(RankingSource(path.name, path))
        else:
            raise UserError(
                f"neither a ranking file nor a folder with {RETRIEVALS}", where=str(path)
            )
    labels = [source.label for source in sources]
    return RankingGroup(
        task,
        model,
        [
            RankingSource(f"{source.label} [{place}]", source.rankings, source.table)
            if labels.count(source.label) > 1
            else source
            for place, source in enumerate(sources, start=1)
        ],
    )


def _source(label: str, cell: Cell) -> RankingSource:
    rankings = cell.folder / RETRIEVALS
    return RankingSource(label, rankings, table_of(cell), cell.result.threshold)


def _of_folder(folder: Path) -> RankingSource:
    """The rankings of a folder that need not be a cell's; a result there says how to judge them."""
    label = f"{folder.parent.name}/{folder.name[:8]}"
    path = folder / RESULT
    if path.exists():
        return _source(label, Cell(folder, read_result(path)))
    has_table = (folder / PER_QUERY).exists()
    return RankingSource(label, folder / RETRIEVALS, read_per_query(folder) if has_table else {})


def link(task: str, model: str, method: str) -> str:
    """The address of a method's rankings, relative to the report's folder."""
    state = urlencode({"task": clean(task), "model": clean(model), "method": clean(method)})
    return f"{FOLDER}/{PAGE}#{state}"
