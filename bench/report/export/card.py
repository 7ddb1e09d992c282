"""Cells as a data set for the Hugging Face Hub: card, leaderboard, rankings as Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import yaml
from pyarrow import parquet

from bench.core import escape, progress
from bench.core.environment import __version__
from bench.core.errors import UserError
from bench.report.board import Board, Row
from bench.report.export.cells import check_new, file_stem, ranked_boards
from bench.report.formats import comma_separated, markdown
from bench.report.leaderboard import LEGEND, leaderboards
from bench.report.table import Column, Table
from bench.report.viewer.values import valid_unicode
from bench.results.schema import RETRIEVALS
from bench.results.verify import verify
from bench.storage.whole_folders import whole_folder
from bench.tasks.records import RetrievalRecord, read_retrievals

CARD, LEADERBOARD, DATA = "README.md", "leaderboard.csv", "data"
_RECORDS = 200  # lists of a hundred passages in one row group: some megabytes of memory
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")  # bounds of the Hub's size categories
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow(annotation: Any) -> pa.DataType:
    """The Arrow type of a field of a record; every one may be null."""
    if get_origin(annotation) is list:
        return pa.list_(_arrow(get_args(annotation)[0]))
    if annotation in _ARROW:
        return _ARROW[annotation]
    (inner,) = (part for part in get_args(annotation) if part is not NoneType)
    return _arrow(inner)


# A field that a cell does not have is null, so that all cells load as one table.
SCHEMA = pa.schema([(name, _arrow(kind)) for name, kind in get_type_hints(RetrievalRecord).items()])


def export_card(results_dir: Path, out_dir: Path, license_id: str) -> int:
    """Write ``README.md``, ``leaderboard.csv`` and ``data/CELL.parquet`` for each cell.

    Args:
        license_id: the Hub's identifier of the licence, e.g. ``"cc-by-4.0"``.

    Returns:
        the number of cells.

    Raises:
        UserError: the licence is no identifier, ``verify`` finds fault with a cell, there are no
            rankings, or the folder is there already or cannot be written.
    """
    if not _LICENSE.fullmatch(license_id):
        raise UserError(
            f"{license_id!r:.60} is no identifier of the Hub",
            where="--license",
            fix="lower case, such as cc-by-4.0, apache-2.0, mit, or other",
        )
    check_new(out_dir)
    boards = ranked_boards(results_dir)
    if problems := verify(results_dir):
        raise UserError(
            f"{problems[0]}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}",
            fix="nothing is published that its own rankings contradict: see `tdabench verify`",
        )
    tables = leaderboards([board for board, _ in boards])
    rows = [row for _, group in boards for row in group]
    with whole_folder(out_dir) as partial:
        (partial / DATA).mkdir()
        n_records = sum(_write_rankings(row, partial / DATA) for row in rows)
        (partial / LEADERBOARD).write_text(comma_separated.of_tables(tables), encoding="utf-8")
        card = f"---\n{_front_matter(boards, license_id, n_records)}---\n\n{_body(tables, rows)}"
        (partial / CARD).write_text(card, encoding="utf-8")
    return len(rows)


def _write_rankings(row: Row, folder: Path) -> int:
    """Stream a cell's rankings into Parquet; returns the number of queries."""
    n_records = 0
    with parquet.ParquetWriter(folder / f"{file_stem(row)}.parquet", SCHEMA) as writer:
        records = progress.track(read_retrievals(row.cell.folder / RETRIEVALS), row.label)
        for batch in _batches(records):
            values = [_valid(record.to_json()) for record in batch]
            writer.write_table(pa.Table.from_pylist(values, schema=SCHEMA))
            n_records += len(batch)
    return n_records


def _batches(records: Iterable[RetrievalRecord]) -> Iterator[list[RetrievalRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, _RECORDS)):
        yield batch


def _valid(value: Any) -> Any:
    """A record whose texts are valid Unicode, as Parquet asks: lone surrogates are replaced."""
    if isinstance(value, dict):
        return {key: _valid(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_valid(inner) for inner in value]
    return valid_unicode(value) if isinstance(value, str) else value


def _front_matter(
    boards: Sequence[tuple[Board, list[Row]]], license_id: str, n_records: int
) -> str:
    """The YAML that the Hub reads: licence, tags, and a configuration for each cell's file."""
    tasks = list(dict.fromkeys(board.task for board, _ in boards))
    configs: list[dict[str, Any]] = [
        {"config_name": "leaderboard", "data_files": LEADERBOARD, "default": True}
    ]
    configs += [
        {"config_name": file_stem(row), "data_files": f"{DATA}/{file_stem(row)}.parquet"}
        for _, rows in boards
        for row in rows
    ]
    fields = {
        "license": license_id,
        "pretty_name": f"tdabench rankings: {', '.join(map(escape.clean, tasks))}",
        "task_categories": ["text-retrieval"],
        "tags": ["training-data-attribution", "influence-functions", "tdabench"],
        "size_categories": [_size_category(n_records)],
        "configs": configs,
    }
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)


def _size_category(n: int) -> str:
    place = min(max(len(str(n)) - 3, 0), len(_SIZES) - 1)
    return f"{_SIZES[place - 1]}<n<{_SIZES[place]}" if place else f"n<{_SIZES[0]}"


def _body(tables: Sequence[Table], rows: Sequence[Row]) -> str:
    sections = [markdown.section(table, with_legend=False, level=3) for table in tables]
    return "\n".join(
        [
            "# Rankings of training passages",
            "",
            "For each query of each cell (task × model × method × seed), the training passages "
            "that the method ranked highest, with their scores and whether they state the fact. "
            f"Made with tdabench {__version__}. Every attribution metric below was recomputed from "
            "these rankings before they were written here; of what takes a model (tail-patch, "
            "retraining), means and intervals were, from the stored values of each query.",
            "",
            "```python",
            "from datasets import load_dataset",
            f'rankings = load_dataset("NAME", "{file_stem(rows[0])}", split="train")',
            "```",
            "",
            "The passages are quoted from the corpora of the tasks, whose own licences hold for "
            "them. Columns are those of the data release of arXiv 2410.17413: lists run from the "
            "strongest proponent down; `proponent_correct` is the annotation, "
            "`proponent_ais_scores` a judge's scores; a column that a cell lacks is null. Some "
            "columns are not the release's: `proponent_support`, what each passage says about the "
            "fact; `proponent_tail_patch`, what a training step on it does to the probability; "
            "`proponent_spans` and `opponent_spans`, what each token adds to a passage's score, as "
            "`[start, end, share]` of its characters.",
            "",
            "## Leaderboard",
            "",
            LEGEND,
            "",
            *chain.from_iterable(sections),
            "## Provenance",
            "",
            *markdown.grid(_provenance(rows)),
            "",
        ]
    )


def _provenance(rows: Sequence[Row]) -> Table:
    """What each cell was made of."""
    facts: dict[str, Callable[[Row], str]] = {
        "config": file_stem,
        "method": lambda row: row.label,
        "command": lambda row: row.result.command,
        "task sha256": lambda row: str(row.result.task.get("sha256") or "")[:16],
        "model sha256": lambda row: str(row.result.model.get("sha256") or "")[:16],
        "rankings sha256": lambda row: row.result.rankings_sha256[:16],
        "date": lambda row: row.result.date,
        "git": lambda row: _commit(row.result.env),
        "torch": lambda row: str(row.result.env.get("torch") or ""),
        "device": lambda row: str(row.result.env.get("device") or ""),
    }
    return Table("", [Column(fact, head, is_text=True) for head, fact in facts.items()], rows)


def _commit(env: dict[str, Any]) -> str:
    commit = str(env.get("git_sha") or "")[:12]
    return f"{commit} dirty" if env.get("dirty") else commit
