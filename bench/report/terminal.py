"""Tables for a terminal: as many columns as fit, and the names of the others below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from bench.core import escape
from bench.report import display
from bench.report.table import Column, Table

_NAME_WIDTH = 24
_STYLES = {True: "bold not dim", False: "not dim"}  # of values, the best ones and the others


def terminal(tables: Sequence[Table], width: int) -> Group:
    """Tables for a terminal of ``width`` columns, and their legend once below all of them."""
    legends = dict.fromkeys(table.legend for table in tables)
    notes = [Text(legend.replace("Bold: best", "*: best"), style="dim") for legend in legends]
    return Group(*(_fitting(table, width) for table in tables), *notes)


def _fitting(table: Table, width: int) -> Grid:
    """The table with as many ranked columns as it has room for, at least with one."""
    ranked = [column for column in table.shown(room=1) if column.rank is not None]
    ranked.sort(key=lambda column: column.rank or 0)
    console = Console(width=10_000)
    for n_kept in range(len(ranked), 1, -1):
        grid = _grid(table, ranked[n_kept:])
        if Measurement.get(console, console.options, grid).maximum <= width:
            return grid
    return _grid(table, ranked[1:])


def _grid(table: Table, hidden: Sequence[Column]) -> Grid:
    """The table without some columns, which are named below it."""
    shown = table.shown(room=1)
    names = [column.head for column in shown if column in hidden]
    notes = [table.note] if table.note else []
    notes += [f"Also in the report: {', '.join(names)}."] if names else []
    grid = Grid(
        title=Text(escape.clean(table.title), style="bold"), title_justify="left",
        caption=Text("\n".join(map(escape.clean, notes)), style="dim"), caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
    )  # fmt: skip
    stacks = [
        [
            column
            for head in stack
            for column in shown
            if column.head == head and column.rank is None
        ]
        for stack in table.stacks
    ]
    apart = [column for stack in stacks for column in stack] + [*hidden]
    places = [*([column] for column in shown if column not in apart), *filter(None, stacks)]
    for stack in places:
        head = Text("\n".join(escape.clean(column.short or column.head) for column in stack))
        if stack[0].is_text:
            grid.add_column(head, min_width=10, max_width=_NAME_WIDTH, overflow="fold")
        else:
            grid.add_column(head, justify="right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*(Text("\n").join(_lines(stack, row)) for stack in places))
    return grid


def _lines(stack: Sequence[Column], row: Any) -> Iterator[Text]:
    """Values of a row below each other, and below a value its interval."""
    for value in (column.value(row) for column in stack):
        if value.text == display.MISSING:
            yield Text(value.text, style="dim")
            continue
        # The letters stand before the value, so that the digits of a column are below each other.
        line = Text(value.letters, style="dim")
        marked = f"{'*' if value.is_best else ''}{escape.clean(value.text)}"
        line.append(f" {marked}" if line else marked, style=_STYLES[value.is_best])
        yield line
        if value.interval:
            yield Text(value.interval, style="dim not bold")
