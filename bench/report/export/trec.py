"""Cells as TREC runs and qrels, which evaluation tools for search read.

What the tools compute from them equals what the cell stores, under four rules:

* Ids are percent-encoded, since columns end at white space: whatever is no printable ASCII, and
  ``%`` itself, becomes ``%XX`` for each byte of its UTF-8. ``urllib.parse.unquote`` reads it back.
* trec_eval orders by score alone, in single precision, ties by id. Where a score would not be below
  the one before it, the least step that single precision shows is taken off: order is kept, scores
  change in the sixth digit.
* A ranking knows which of its passages are correct and how many are in the corpus, not which the
  unlisted ones are. They stand in the qrels as ``%unlisted-1``, ..., which no encoded id can be.
* A query that a method lists nothing for has no line in its run. It counts as 0, as in the cell:
  ir_measures does so, trec_eval with ``-c``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.report.board import Row
from bench.report.export.cells import check_new, file_stem, ranked_boards
from bench.report.formats.markdown import grid
from bench.report.table import Column, Table
from bench.results.per_query import read_per_query
from bench.results.rankings import correct_of
from bench.results.schema import RESULT, RETRIEVALS
from bench.storage.keys import path_part
from bench.storage.whole_folders import whole_folder
from bench.tasks.records import read_retrievals
from metrics import measures
from metrics.measures import MRR

RUNS, QRELS, README = "runs", "qrels", "README.md"
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


@dataclass
class Exported:
    """How many files were written."""

    runs: int = 0
    qrels: int = 0


@dataclass
class _Gold:
    """What the cells of one task say about one query.

    Attributes:
        correct: encoded ids of the correct passages that any cell lists.
        wanted: number of correct passages in the corpus; None where nobody has counted.
    """

    correct: set[str] = field(default_factory=set)
    wanted: int | None = None


@dataclass
class _Task:
    """The qrels of one task.

    Attributes:
        counts_empty: whether a query without correct passage is scored 0, and not left out.
        queries: the gold of each query, by its encoded id.
    """

    name: str
    counts_empty: bool
    queries: dict[str, _Gold] = field(default_factory=dict)


def export_trec(results_dir: Path, out_dir: Path) -> Exported:
    """Write ``runs/CELL.run`` for each cell and ``qrels/TASK.qrels`` for each judged task.

    Raises:
        UserError: there is no ranking, one is damaged, cells of a task contradict each other, or
            the folder is there already or cannot be written.
    """
    check_new(out_dir)
    boards = ranked_boards(results_dir)
    tasks: dict[tuple[str, bool], _Task] = {}
    lines = []
    exported = Exported()
    with whole_folder(out_dir) as partial:
        (partial / RUNS).mkdir()
        (partial / QRELS).mkdir()
        for board, rows in boards:
            for row in rows:
                is_zero = row.cell.measured_by.get("no_gold") == "zero"
                key = (board.task, is_zero)
                task = tasks.setdefault(key, _Task(_name(*key, taken=tasks), is_zero))
                stem = file_stem(row)
                with open(partial / RUNS / f"{stem}.run", "w", encoding="ascii") as stream:
                    _write_run(row, stem, task, stream)
                lines.append((row, stem, task))
                exported.runs += 1
        for task in tasks.values():
            if task.queries:
                with open(partial / QRELS / f"{task.name}.qrels", "w", encoding="ascii") as stream:
                    stream.writelines(_qrels(task))
                exported.qrels += 1
        (partial / README).write_text(_readme(lines), encoding="utf-8")
    return exported


def _name(task: str, is_zero: bool, taken: Mapping[tuple[str, bool], _Task]) -> str:
    """The name of a task's file; two tasks may differ only in what such a name cannot hold."""
    name = path_part(f"{task} no_gold=zero" if is_zero else task)
    others = {other.name for key, other in taken.items() if key != (task, is_zero)}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in others)


def encode(name: str) -> str:
    """The id as a column: printable ASCII without ``%`` as it is, all else percent-encoded."""
    # Lone surrogates cannot be UTF-8; Python's own form of them is read back the same way.
    return quote(name, safe=_PLAIN, errors="surrogatepass")


def falling(scores: Sequence[float]) -> list[float]:
    """The nearest scores in single precision of which each is below the one before it.

    Args:
        scores: finite scores, none above the one before it.
    """
    with np.errstate(over="ignore"):
        single = np.asarray(scores, dtype=np.float64).astype(np.float32)
        largest = np.abs(single).max(initial=0.0)
        step = np.float32(2) * np.spacing(largest) if largest > _TINY else _TINY
        for i in range(1, len(single)):
            single[i] = min(single[i], single[i - 1] - step)
    if not np.isfinite(single).all():  # beyond single precision: the order is all that can be kept
        return [float(-i) for i in range(len(scores))]
    return [float(score) for score in single]


_MOST_UNLISTED = 10**7  # lines of a qrels file for passages that nobody lists
_TINY = np.float32(1e-30)  # far below any score that means something, far above denormal numbers


def _write_run(row: Row, tag: str, task: _Task, stream: IO[str]) -> None:
    """Write a cell's rankings and note what they say about the gold."""
    threshold = row.result.threshold
    n_gold = _n_gold(row)
    records = progress.track(read_retrievals(row.cell.folder / RETRIEVALS), row.label)
    for record in records:
        query = encode(record.example_id)
        ids = [encode(passage_id) for passage_id in record.proponent_ids]
        pairs = zip(ids, falling(record.proponent_scores), strict=True)
        for rank, (passage, score) in enumerate(pairs, start=1):
            stream.write(f"{query} Q0 {passage} {rank} {score:.9g} {encode(tag)}\n")
        correct = correct_of(record, threshold)
        if correct is not None:
            listed = {one for one, right in zip(ids, correct, strict=True) if right}
            _note(task, query, listed, n_gold.get(record.example_id), row)


def _note(task: _Task, query: str, listed: set[str], wanted: int | None, row: Row) -> None:
    """Add to a task's gold what one cell says of a query."""
    gold = task.queries.setdefault(query, _Gold())
    gold.correct |= listed
    if None not in (gold.wanted, wanted) and gold.wanted != wanted:
        raise UserError(
            f"counts {wanted} correct passages for query {query}, another cell {gold.wanted}",
            where=str(row.cell.folder / RESULT),
            fix="see `tdabench verify`",
        )
    gold.wanted = gold.wanted if wanted is None else wanted
    if gold.wanted is not None and len(gold.correct) > gold.wanted:
        raise UserError(
            f"lists more correct passages for query {query} than the {gold.wanted} of the corpus",
            where=str(row.cell.folder),
            fix="see `tdabench verify`",
        )


def _qrels(task: _Task) -> Iterator[str]:
    left = _MOST_UNLISTED
    for query, gold in task.queries.items():
        unlisted = max(0, (gold.wanted or 0) - len(gold.correct))
        if (left := left - unlisted) < 0:
            raise UserError(
                f"counts more than {_MOST_UNLISTED:,} correct passages that no list holds",
                where=f"task {task.name}",
                fix="qrels name each of them; see `tdabench verify`",
            )
        names = [*sorted(gold.correct), *(f"%unlisted-{i + 1}" for i in range(unlisted))]
        for passage in names:
            yield f"{query} 0 {passage} 1\n"
        if not names and (task.counts_empty or gold.wanted is None):
            yield f"{query} 0 %none 0\n"  # scored 0, and not left out


def _n_gold(row: Row) -> dict[str, int]:
    """The number of correct passages in the corpus, for the queries of which it is known."""
    table = read_per_query(row.cell.folder, row.result.n_queries)
    if "n_gold" not in table or row.result.judge:
        return {}
    pairs = zip(table["query_id"].tolist(), table["n_gold"].tolist(), strict=True)
    return {query: int(n) for query, n in pairs if not math.isnan(n)}


# ------------------------------------------------------------------ what lies beside


_COLUMNS = (  # of rows (cell, name of its run, its task)
    Column(lambda line: f"{RUNS}/{line[1]}.run", "run", is_text=True),
    Column(lambda line: f"{QRELS}/{line[2].name}.qrels", "qrels", is_text=True),
    Column(lambda line: line[0].label, "method", is_text=True),
    Column(lambda line: str(line[0].result.task["name"]), "task", is_text=True),
    Column(lambda line: _stored(line[0]), f"{measures.of(MRR).head} stored", is_text=True),
)


def _stored(row: Row) -> str:
    stored = row.result.metrics.get(MRR)
    return repr(stored.value) if stored else ""


def _readme(lines: Sequence[tuple[Row, str, _Task]]) -> str:
    rules = (__doc__ or "").split("\n\n", 1)[1].strip()
    example = 'ir_measures qrels/TASK.qrels runs/CELL.run "RR Success@10 R@10"'
    return "\n".join(
        [
            "# Rankings as TREC runs",
            "",
            f"    {example}",
            "",
            rules.replace("``", "`"),
            "",
            "A query that a judge could not judge in one cell and could in another is in the "
            "qrels, and counts as 0 in a run that a tool evaluates; the stored mean leaves it out.",
            "",
            *grid(Table("", _COLUMNS, lines)),
            "",
        ]
    )
