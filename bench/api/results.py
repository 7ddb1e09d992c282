"""Finished cells as tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.core.errors import UserError, did_you_mean
from bench.core.escape import clean
from bench.report.board import Board, Row, make_boards, scores_of, table_of
from bench.report.figures import catalog
from bench.report.leaderboard import leaderboards
from bench.report.pair_tables import pair_table
from bench.report.table import Table
from bench.results.rankings import correct_of, has_rankings
from bench.results.schema import RETRIEVALS, Cell, read_cells
from bench.storage import jsonlines
from bench.tasks.records import RetrievalRecord, parse_retrieval
from metrics import measures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BY = ("task", "model", "method", "label")  # what tells the rows of every table apart


def load(results_dir: str | Path = "runs") -> Results:
    """The finished cells of a results folder.

    Args:
        results_dir: the folder that ``tdabench run`` wrote to.

    Raises:
        UserError: no such folder, no cell in it, or a damaged one.
    """
    return Results(read_cells(Path(results_dir).expanduser()))


class Results:
    """Finished cells, with the numbers and the names that ``tdabench report`` gives them.

    In all tables ``task`` and ``model`` are those of a board, whose cells may be compared,
    ``method`` is the method's name alone, and ``label`` is what tells a cell from the others of its
    board, such as ``"bm25"`` or ``"trackstar (mixing=0.5)"``.

    Attributes:
        cells: the cells, each with its folder and its ``result.json``.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = list({cell.folder: cell for cell in cells}.values())

    def __len__(self) -> int:
        """The number of cells."""
        return len(self.cells)

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        lines = [f"Results of {len(self)} cell{plural}"]
        for board in self._boards:
            shown = (f"{row.label}{_main(board, row)}" for row in board.rows)
            lines.append(clean(f"  {board.task} × {board.model}: {', '.join(shown)}"))
        lines.append(
            "  .to_dataframe() .per_query() .significance() .rankings(query) .plot(name) .cells"
        )
        return "\n".join(lines)

    @cached_property
    def _boards(self) -> list[Board]:
        return make_boards(self.cells)

    @property
    def _rows(self) -> Iterator[tuple[dict[str, str], Row]]:
        """The rows of all boards, each with what its lines in a table begin with."""
        for board in self._boards:
            for row in board.rows:
                yield (
                    dict(zip(_BY, (board.task, board.model, row.method, row.label), strict=True)),
                    row,
                )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cell, best first within its board: ``leaderboard.csv`` as a data frame.

        Returns:
            columns ``task``, ``model``, ``method``, ``label``, ``seed``, ``key``; for each metric
            ``NAME`` (the mean, in the unit that tables show: percentage points for tail-patch),
            ``NAME_low`` and ``NAME_high`` (its 95% interval), ``NAME_n`` (queries that
            it is over) and ``NAME_over`` (what was resampled); then sizes, times, hashes and the
            date.

        Raises:
            UserError: a cell's per-query table is damaged.
        """
        return _frame(leaderboards(self._boards))

    def per_query(self) -> pd.DataFrame:
        """One row for each query and metric of each cell; what was not scored is left out.

        Values are in the units of ``to_dataframe``.

        Returns:
            columns ``task``, ``model``, ``method``, ``label``, ``query_id``, ``metric``, ``value``.

        Raises:
            UserError: a cell's per-query table is damaged.
        """
        parts = []
        for named, row in self._rows:
            table = table_of(row.cell)
            for metric in measures.in_order(table):
                if measures.of(metric).is_averaged and (scores := scores_of(table, metric)):
                    values = map(measures.of(metric).shown, scores.values())
                    part = pd.DataFrame({"query_id": list(scores), "value": list(values)})
                    parts.append(part.assign(**named, metric=metric))
        columns = [*_BY, "query_id", "metric", "value"]
        return (
            pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame({}, [], columns)
        )

    def significance(self) -> pd.DataFrame:
        """Every two methods of a board compared on each metric: ``significance.csv``.

        Returns:
            one row a pair and metric, with the mean difference over the queries that both were
            scored on, its interval, and the p-value with and without Holm's correction.
        """
        return _frame([pair_table(board, board.pairs) for board in self._boards])

    def rankings(self, query: str) -> pd.DataFrame:
        """The stored lists of one query, method by method.

        Args:
            query: the query's id.

        Returns:
            columns ``task``, ``model``, ``method``, ``label``, ``rank`` (from 1), ``passage_id``,
            ``score``, ``correct`` (whether the passage states the fact; missing where nobody
            judged) and ``text``.

        Raises:
            UserError: no cell has this query, naming the nearest one; or a damaged file.
        """
        known: set[str] = set()
        parts = []
        for named, row in self._rows:
            if has_rankings(row.cell.folder):
                record = _find(row.cell.folder / RETRIEVALS, str(query), known)
                if record is not None:
                    parts.append(_listed(record, row.result.threshold).assign(**named))
        if not parts:
            fix = did_you_mean(str(query), known) if known else "these cells are kept without lists"
            raise UserError(f"unknown query {query!r:.60}", where="rankings", fix=fix)
        columns = [*_BY, "rank", "passage_id", "score", "correct", "text"]
        return pd.concat(parts, ignore_index=True)[columns]

    def plot(self, name: str) -> Figure:
        """A figure of the report.

        Args:
            name: its name, such as ``"attribution_influence"`` or ``"cost_quality"``; of a figure
                that several boards have, the name of its file (the message says which there are).

        Returns:
            the figure of matplotlib, drawn in the report's style; a notebook shows it as it is.

        Raises:
            UserError: an unknown name, with the nearest one; a figure without data, with what it
                lacks; or one of several boards.
        """
        plan = catalog.plan(self._boards, self.cells[0].folder.parents[3])
        fitting = [figure for figure in plan.figures if name in (figure.stem, figure.name)]
        if len(fitting) > 1:
            stems = ", ".join(figure.stem for figure in fitting)
            raise UserError(f"there are {len(fitting)} figures {name!r}", fix=f"one of {stems}")
        if fitting:
            from bench.report.figures.drawing import drawn  # matplotlib is slow to import

            return drawn(fitting[0].body)
        for missing in plan.missing:
            if missing.name == name:
                raise UserError(f"no data for it: {missing.reason}", where=f"figure {name}")
        known = [figure.stem for figure in plan.figures] + [one.name for one in plan.missing]
        raise UserError(f"unknown figure {name!r:.60}", fix=did_you_mean(str(name), known))


def _main(board: Board, row: Row) -> str:
    """The value of a row that its board is sorted by, in parentheses."""
    estimate = row.result.metrics.get(board.main or "")
    if estimate is None:
        return ""
    measure = measures.of(str(board.main))
    return f" ({measure.title} {measure.shown(estimate.value):.3f})"


def _frame(tables: Sequence[Table]) -> pd.DataFrame:
    records: list[dict[str, Any]] = [record for table in tables for record in table.records()]
    return pd.DataFrame(records, columns=tables[0].fields)


def _find(path: Path, query: str, known: set[str]) -> RetrievalRecord | None:
    """The list of a query in a file; the ids of the queries before it are added to ``known``."""
    for place, raw in jsonlines.read(path):
        record = parse_retrieval(raw, place)
        if record.example_id == query:
            return record
        known.add(record.example_id)
    return None


def _listed(record: RetrievalRecord, threshold: float) -> pd.DataFrame:
    judged = correct_of(record, threshold)
    correct = [None] * len(record.proponents) if judged is None else judged.tolist()
    return pd.DataFrame(
        {
            "rank": range(1, len(record.proponents) + 1),
            "passage_id": record.proponent_ids,
            "score": record.proponent_scores,
            "correct": pd.array(correct, "boolean"),
            "text": record.proponents,
        }
    )
