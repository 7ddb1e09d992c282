"""Tables as GitHub-flavoured Markdown."""

from __future__ import annotations

from typing import ClassVar

from bench.core import escape
from bench.report.formats import Content, ReportFormat
from bench.report.leaderboard import LEGEND
from bench.report.table import Table, Value


class MarkdownFiles(ReportFormat):
    """The leaderboards, and what else there is to say of them, for a repository's pages."""

    links: ClassVar = {"Markdown": "leaderboard.md"}

    def files(self, content: Content) -> dict[str, str]:
        """``leaderboard.md``: the leaderboards, and what else there is to say of them."""
        lines = ["# Leaderboard", "", LEGEND, ""]
        for table in content.leaderboards:
            lines += section(table, with_legend=False)
        for table in (*content.foresights, *content.seeds, *content.pairs):
            lines += section(table) if table.rows else []
        return {"leaderboard.md": "\n".join(lines)}


def section(table: Table, *, with_legend: bool = True, level: int = 2) -> list[str]:
    """Lines of Markdown: a heading, what the table says, the table and its note."""
    head = [f"{'#' * level} {escape.markdown(table.title)}", ""]
    legend = [table.legend, ""] if with_legend else []
    note = [escape.markdown(table.note), ""] if table.note else []
    return [*head, *legend, *grid(table), "", *note]


def grid(table: Table) -> list[str]:
    """The lines of the table itself."""
    columns = table.shown()
    heads = [escape.markdown(column.head) for column in columns]
    ruler = [":--" if column.is_text else "--:" for column in columns]
    rows = [[_text(column.value(row)) for column in columns] for row in table.rows]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows)]


def _text(value: Value) -> str:
    text = escape.markdown(value.text)
    text = f"**{text}**" if value.is_best else text
    text += f"<sup>{value.letters}</sup>" if value.letters else ""
    return f"{text} {escape.markdown(value.interval)}" if value.interval else text
