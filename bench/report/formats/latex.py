"""Tables as LaTeX, for a document that loads ``booktabs``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from bench.core import escape
from bench.report import display
from bench.report.formats import Content, ReportFormat
from bench.report.leaderboard import LEGEND
from bench.report.table import Table, Value


class LatexFiles(ReportFormat):
    """The leaderboards for a paper."""

    links: ClassVar = {"LaTeX": "leaderboard.tex"}

    def files(self, content: Content) -> dict[str, str]:
        """``leaderboard.tex``: a ``tabular`` for each board."""
        lines = ["% Needs \\usepackage{booktabs}.", f"% {LEGEND}"]
        for table in content.leaderboards:
            lines += ["", *tabular(table)]
        return {"leaderboard.tex": "\n".join(lines) + "\n"}


def tabular(table: Table) -> list[str]:
    """The lines of one table, its title and its note as comments."""
    columns = table.shown(room=0)
    sides = "".join("l" if column.is_text else "r" for column in columns)
    return [
        f"% {escape.latex(table.title)}",
        f"\\begin{{tabular}}{{{sides}}}",
        "\\toprule",
        _line(escape.latex(column.head) for column in columns),
        "\\midrule",
        *(_line(_text(column.value(row)) for column in columns) for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        f"% {escape.latex(table.note)}",
    ]


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _text(value: Value) -> str:
    if value.text == display.MISSING:
        return "--"
    if not value.interval:
        return escape.latex(value.text)
    number, bounds = (text.replace("−", "-") for text in (value.text, value.interval))
    number = f"\\mathbf{{{number}}}" if value.is_best else number
    number += f"^{{\\mathrm{{{value.letters}}}}}" if value.letters else ""
    return f"${number}$ {{\\scriptsize ${bounds}$}}"
