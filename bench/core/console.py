"""The console that results and lists are printed on, and the style of their tables."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

LOG_WIDTH = 120  # columns, where the output goes to a file and has no width of its own


def stdout() -> Console:
    """A console on standard output: as wide as the terminal, or 120 columns."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)


def titled_table(title: str) -> Table:
    """An empty table in the style of every list that is printed."""
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
