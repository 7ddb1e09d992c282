"""One table in every format: what readers see and what programs read."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from operator import itemgetter

import pytest
from rich.console import Console

from bench.report.formats.comma_separated import of_tables
from bench.report.formats.latex import tabular
from bench.report.formats.markdown import grid, section
from bench.report.table import Column, Table, Value
from bench.report.terminal import terminal

BEST = Value("0.500", (0.5, 0.25, 0.75), "[0.2, 0.8]", is_best=True, letters="a")
TABLE = Table(
    title="a_b × c",
    columns=[
        Column(itemgetter(0), fields=("key",)),
        Column(itemgetter(1), "name", ("name",), is_text=True),
        Column(itemgetter(2), "score", ("score", "low", "high"), rank=0, has_interval=True),
        Column(itemgetter(3), "other", ("other",), rank=1),
        Column(itemgetter(4), "only shown", room=2),
        Column(itemgetter(5), "size", ("size",), room=1, short="s"),
        Column(itemgetter(6), "time", ("time",), room=1),
    ],
    rows=[
        ("k1", "x|y", BEST, 7, "w", 1234, None),
        ("k2", "=z", None, 0.1234567, "v", 2.5, 1 / 3),
    ],
    legend="Bold: best.",
    note="Means of 50%.",
    stacks=(("size", "time"),),
)


def test_markdown() -> None:
    assert section(TABLE) == [
        "## a_b × c", "", "Bold: best.", "",
        "| name | score | other | only shown | size | time |",
        "| :-- | --: | --: | --: | --: | --: |",
        r"| x\|y | **0.500**<sup>a</sup> \[0.2, 0.8\] | 7 | w | 1,234 | – |",
        "| =z | – | 0.123 | v | 2.5 | 0.333 |",
        "", "Means of 50%.", "",
    ]  # fmt: skip


def test_latex_shows_what_fits_on_a_page() -> None:
    assert tabular(TABLE) == [
        "% a\\_b × c",
        "\\begin{tabular}{lrr}",
        "\\toprule",
        "name & score & other \\\\",
        "\\midrule",
        "x\\textbar{}y & $\\mathbf{0.500}^{\\mathrm{a}}$ {\\scriptsize $[0.2, 0.8]$} & 7 \\\\",
        "=z & -- & 0.123 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
        "% Means of 50\\%.",
    ]


def test_csv_has_raw_values_and_what_is_not_shown() -> None:
    lines = list(csv.DictReader(io.StringIO(of_tables([TABLE, TABLE]))))
    assert len(lines) == 4
    assert lines[0] == {
        "key": "k1", "name": "x|y", "score": "0.5", "low": "0.25", "high": "0.75", "other": "7",
        "size": "1234", "time": "",
    }  # fmt: skip
    assert lines[1]["name"] == "'=z", "no formula of a spreadsheet"
    assert (lines[1]["score"], lines[1]["low"]) == ("", "")
    assert float(lines[1]["time"]) == 1 / 3


def test_a_table_without_rows_still_says_its_fields() -> None:
    empty = Table("t", TABLE.columns, [])
    assert of_tables([empty]) == "key,name,score,low,high,other,size,time\n"
    assert len(grid(empty)) == 2


@pytest.mark.parametrize(("width", "hidden"), [(100, False), (34, True)])
def test_a_terminal_leaves_out_what_does_not_fit_and_says_so(width: int, hidden: bool) -> None:
    console = Console(width=100, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        console.print(terminal([TABLE], width))
    text = capture.get()
    assert "a *0.500" in text
    assert "*: best." in text
    assert ("Also in the report: other." in text) == hidden
    assert ("0.123" in text) == (not hidden)
    assert "only shown" not in text
    head, below = (line.split() for line in text.splitlines()[2:4])
    assert (head[-1], below[-1]) == ("s", "time"), "two columns share one"


def test_a_column_of_somebodys_metric_may_be_called_like_another() -> None:
    columns = [*TABLE.columns, Column(itemgetter(5), "size", ("mine",), rank=2)]
    console = Console(width=100, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        console.print(terminal([replace(TABLE, columns=columns)], 100))
    assert capture.get().count("1,234") == 2
