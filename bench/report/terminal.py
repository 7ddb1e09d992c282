"""Tables for a terminal: as many columns as fit, and the names of the others below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from bench.core import escape
from bench.report import display
from bench.report.table import Table, Value

_NAME_WIDTH = 24
_STYLES = {True: "bold not dim", False: "not dim"}  # of values, the best ones and the others


def terminal(tables: Sequence[Table], width: int) -> Group:
    """Tables for a terminal of ``width`` columns, and their legend once below all of them."""
    legends = dict.fromkeys(table.legend for table in tables)
    notes = [Text(legend.replace("Bold: best", "*: best"), style="dim") for legend in legends]
    return Group(*(_fitting(table, width) for table in tables), *notes)


def _fitting(table: Table, width: int) -> Grid:
    """The table with as many ranked columns as it has room for, at least with one."""
    columns = table.shown(room=1).columns
    ranks = sorted((one.rank, place) for place, one in enumerate(columns) if one.rank is not None)
    console = Console(width=10_000)
    for n_kept in range(len(ranks), 1, -1):
        grid = _grid(table, {place for _, place in ranks[n_kept:]})
        if Measurement.get(console, console.options, grid).maximum <= width:
            return grid
    return _grid(table, {place for _, place in ranks[1:]})


def _grid(table: Table, hidden: set[int]) -> Grid:
    """The table without its ``hidden`` columns, which are named below it."""
    shown = table.shown(room=1)
    names = [shown.columns[place].head for place in sorted(hidden)]
    notes = [table.note] if table.note else []
    notes += [f"Also in the report: {', '.join(names)}."] if names else []
    grid = Grid(
        title=Text(escape.clean(table.title), style="bold"),
        caption=Text("\n".join(map(escape.clean, notes)), style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    stacks = _stacks(table, hidden)
    for stack in stacks:
        columns = [shown.columns[place] for place in stack]
        head = Text("\n".join(escape.clean(column.short or column.head) for column in columns))
        if columns[0].is_text:
            grid.add_column(head, min_width=10, max_width=_NAME_WIDTH, overflow="fold")
        else:
            grid.add_column(head, justify="right", no_wrap=True)
    for row in shown.rows:
        grid.add_row(*(_text([row[place] for place in stack]) for stack in stacks))
    return grid


def _stacks(table: Table, hidden: set[int]) -> list[list[int]]:
    """Places of the columns that share one of the terminal's, from the top down."""
    heads = [column.head for column in table.shown(room=1).columns]
    stacked = [[heads.index(head) for head in stack if head in heads] for stack in table.stacks]
    apart = hidden | {place for stack in stacked for place in stack}
    return [*([place] for place in range(len(heads)) if place not in apart), *stacked]


def _text(values: Sequence[Value]) -> Text:
    """Values below each other, and below a value its interval."""
    return Text("\n").join(_lines(values))


def _lines(values: Sequence[Value]) -> Iterator[Text]:
    for value in values:
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
