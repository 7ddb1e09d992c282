"""One table of a report, whatever format it is written in.

A column says what it shows of a row, to readers and to programs. Formats for readers
(``formats.markdown``, ``formats.latex``, ``formats.page``, ``terminal``) show the text of a value;
``formats.comma_separated`` writes the raw values, in full precision and in the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from bench.report import display

Raw = str | float | None  # whole numbers and truth values among the floats


@dataclass(frozen=True)
class Value:
    """The content of one column of one row.

    Attributes:
        raw: the raw values, one for each field of the column.
        interval: the interval of an estimate, shown beside or below the text.
        is_best: whether the value stands out among those of its column.
        letters: groups of the value: two values without a common letter differ significantly.
    """

    text: str = display.MISSING
    raw: tuple[Raw, ...] = ()
    interval: str = ""
    is_best: bool = False
    letters: str = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        of: function from a row to its value here: a ``Value``, or a raw one that is shown as it is.
        head: name of the column for readers; a column without one is for programs alone.
        fields: names of its raw values for programs; a column without any is for readers alone.
        meaning: one line on what the column shows, where a format has room for it.
        is_text: whether it holds words, which stand on the left; numbers stand on the right.
        room: the room that a format must have to show it: 0 is shown everywhere, 1 not in LaTeX, 2
            neither there nor on a terminal.
        rank: order in which ranked columns are kept where there is no room for all, the lowest
            first; a column without a rank is never left out.
        short: the head where room is scarce, if it is another.
        key: number of the raw value that the column is sorted by.
        has_interval: whether its first three raw values are an estimate and the bounds of that.
    """

    of: Callable[[Any], Value | Raw]
    head: str = ""
    fields: tuple[str, ...] = ()
    meaning: str = ""
    is_text: bool = False
    room: int = 0
    rank: int | None = None
    short: str = ""
    key: int = 0
    has_interval: bool = False

    def value(self, row: Any) -> Value:
        """The value of a row in this column."""
        item = self.of(row)
        return item if isinstance(item, Value) else Value(display.plain(item), (item,))


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: the title, which names the board.
        rows: the things that the columns show something of.
        legend: what readers must know beforehand, equal for all tables of a kind.
        note: a sentence below this table alone.
        stacks: heads of columns that stand below each other where room is scarce.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Any] = field(repr=False)
    legend: str = ""
    note: str = ""
    stacks: Sequence[Sequence[str]] = ()

    @property
    def fields(self) -> list[str]:
        """The names of the raw values of a row, in their order."""
        return [name for column in self.columns for name in column.fields]

    def records(self) -> Iterator[dict[str, Raw]]:
        """The rows for programs: raw values by their names, None where there is none."""
        for row in self.rows:
            parts = ((one.fields, one.value(row).raw[: len(one.fields)]) for one in self.columns)
            yield {name: raw for names, raws in parts for name, raw in zip_longest(names, raws)}

    def shown(self, room: int = 2) -> list[Column]:
        """The columns that readers see in a format that has so much room."""
        return [column for column in self.columns if column.head and column.room <= room]
