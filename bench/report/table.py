"""One table of a report: what stands in it, whatever format it is written in.

A column says what it shows of a row: what readers see and what a program reads. Formats for people
(``formats.markdown``, ``formats.latex``, ``formats.page``, ``terminal``) show the first,
``formats.comma_separated`` writes the second, in full precision and in the metrics' own units.
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
    """What stands in one column of one row.

    Attributes:
        text: what readers see.
        raw: one value for each field of the column, and first of all the one it is sorted by.
        interval: the interval of an estimate, beside or below the text.
        is_best: whether it stands out among the values of its column.
        letters: groups that it belongs to: values without a common letter differ significantly.
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
        of: what it shows of a row: a ``Value``, or a raw one that is shown as it is.
        head: what readers see above it; a column without is for programs alone.
        fields: what a program calls its raw values; a column without is for readers alone.
        meaning: one line on what it shows, where a format has room for it.
        is_text: whether it holds words, which stand on the left; numbers stand on the right.
        room: how much room a format must have to show it: 0 is shown everywhere, 1 not in LaTeX,
            2 neither there nor on a terminal.
        rank: where there is no room for all ranked columns, those of the lowest rank stay; a column
            without is never left out.
        short: the head where room is scarce, if it is another.
        key: which of its raw values it is sorted by.
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
        """What stands in this column of a row."""
        item = self.of(row)
        return item if isinstance(item, Value) else Value(display.plain(item), (item,))


@dataclass(frozen=True)
class Table:
    """A titled table.

    Attributes:
        title: what it is about.
        columns: in their order.
        rows: whatever the columns say something of.
        legend: what the reader must know beforehand, may be long.
        note: what holds of this table alone, in a sentence below it.
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
        """What a program calls the raw values of a row, in their order."""
        return [name for column in self.columns for name in column.fields]

    def records(self) -> Iterator[dict[str, Raw]]:
        """The rows for a program: field → raw value, None where there is none."""
        for row in self.rows:
            parts = ((one.fields, one.value(row).raw[: len(one.fields)]) for one in self.columns)
            yield {name: raw for names, raws in parts for name, raw in zip_longest(names, raws)}

    def shown(self, room: int = 2) -> list[Column]:
        """The columns that readers see in a format that has so much room."""
        return [column for column in self.columns if column.head and column.room <= room]
