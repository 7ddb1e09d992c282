"""Tables as CSV: numbers in full precision and in the units of the other formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import ClassVar

from bench.core import escape
from bench.report.formats import Content, ReportFormat
from bench.report.table import Raw, Table


class CsvFiles(ReportFormat):
    """A file for each kind of table, with the rows of all boards."""

    links: ClassVar = {"CSV": "leaderboard.csv", "Significance": "significance.csv"}

    def files(self, content: Content) -> dict[str, str]:
        """A file for each kind of table, with the rows of all boards."""
        return {
            "leaderboard.csv": of_tables(content.leaderboards),
            "significance.csv": of_tables(content.pairs),
            "meta_evaluation.csv": of_tables(content.foresights),
            "seeds.csv": of_tables(content.seeds_by_metric),
        }


def of_tables(tables: Sequence[Table]) -> str:
    """The rows of tables with the same fields, at least one table."""
    return of_records(tables[0].fields, chain.from_iterable(one.records() for one in tables))


def of_records(fields: Sequence[str], records: Iterable[Mapping[str, Raw]]) -> str:
    """A line of names and one for each record; no text is a formula of a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(escape.clean, fields))
    for record in records:
        raws = (record[name] for name in fields)
        writer.writerow([escape.spreadsheet(raw) if isinstance(raw, str) else raw for raw in raws])
    return stream.getvalue()
