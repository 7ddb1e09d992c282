"""The leaderboard as text: terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bench.core import escape
from bench.report import display
from bench.report.board import LEGEND, Board, Row
from bench.report.display import in_order

_NAME_WIDTH = 24
_TERMINAL_ORDER = ("mrr", "hit@10", "tail_patch", "recall@10", "hit@1")


# ------------------------------------------------------------------ terminal


def terminal(boards: Sequence[Board], width: int) -> Group:
    """Tables for a terminal of ``width`` columns; metrics that do not fit are named below."""
    parts: list[Table | Text] = [_fitting_table(board, width) for board in boards]
    return Group(*parts, Text(LEGEND.replace("Bold: best", "*: best"), style="dim"))


def _fitting_table(board: Board, width: int) -> Table:
    by_weight = sorted(
        board.metrics,
        key=lambda m: _TERMINAL_ORDER.index(m) if m in _TERMINAL_ORDER else len(_TERMINAL_ORDER),
    )
    console = Console(width=10_000)
    for n_shown in range(len(by_weight), 1, -1):
        table = _terminal_table(board, by_weight[:n_shown])
        if Measurement.get(console, console.options, table).maximum <= width:
            return table
    return _terminal_table(board, by_weight[:1])


def _terminal_table(board: Board, chosen: Sequence[str]) -> Table:
    shown = [metric for metric in board.metrics if metric in chosen]
    hidden = [display.title(metric) for metric in board.metrics if metric not in chosen]
    title = f"{escape.clean(board.task)} × {escape.clean(board.model)}"
    captions = [f"means of {board.samples}"] if board.samples else []
    captions += [f"also in the report: {', '.join(hidden)}"] if hidden else []
    table = Table(
        title=Text(title, style="bold"),
        caption=Text("\n".join(map(escape.clean, captions)), style="dim"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("method", min_width=10, max_width=_NAME_WIDTH, overflow="fold")
    for metric in shown:
        table.add_column(Text(escape.clean(display.title(metric))), justify="right", no_wrap=True)
    for head in ("passages\nqueries", "B/passage\ntop k", "seconds\nMiB"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in board.rows:
        pool, queries, top_k, _, index, seconds, peak = facts(row)
        table.add_row(
            Text(escape.clean(row.label)),
            *(_terminal_value(row, metric) for metric in shown),
            *(Text(f"{a}\n{b}") for a, b in ((pool, queries), (index, top_k), (seconds, peak))),
        )
    return table


def _terminal_value(row: Row, metric: str) -> Text:
    estimate = row.result.metrics.get(metric)
    if estimate is None:
        return Text(display.MISSING, style="dim")
    # Before the value, so that the digits of a column stay below each other.
    text = Text(row.letters.get(metric, ""), style="dim")
    best = metric in row.best
    value = f"{'*' if best else ''}{display.number(metric, estimate.value)}"
    text.append(f" {value}" if text else value, style="bold not dim" if best else "not dim")
    return text.append(f"\n{display.interval(metric, estimate)}", style="dim not bold")


# ------------------------------------------------------------------ markdown

_FACTS = ("passages", "queries", "top k", "length ratio", "index B/passage", "seconds", "peak MiB")


def markdown(boards: Sequence[Board]) -> str:
    """All boards as GitHub-flavoured Markdown."""
    lines = ["# Leaderboard", "", LEGEND, ""]
    for board in boards:
        heads = ["method", *(escape.markdown(display.title(m)) for m in board.metrics), *_FACTS]
        lines += [f"## {escape.markdown(board.task)} × {escape.markdown(board.model)}", ""]
        lines += [piped(heads), piped([":--", *["--:"] * (len(heads) - 1)])]
        lines += [piped(_markdown_row(row, board)) for row in board.rows] + [""]
        lines += [f"Means of {escape.markdown(board.samples)}.", ""] if board.samples else []
    return "\n".join(lines)


def piped(cells: Iterable[str]) -> str:
    """One line of a Markdown table; the cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def _markdown_row(row: Row, board: Board) -> list[str]:
    cells = [escape.markdown(row.label)]
    for metric in board.metrics:
        estimate = row.result.metrics.get(metric)
        if estimate is None:
            cells.append(display.MISSING)
            continue
        value = display.number(metric, estimate.value)
        value = f"**{value}**" if metric in row.best else value
        letters = row.letters.get(metric)
        value += f"<sup>{letters}</sup>" if letters else ""
        bounds = display.interval(metric, estimate).replace("[", "\\[").replace("]", "\\]")
        cells.append(f"{value} {bounds}")
    return [*cells, *(escape.markdown(fact) for fact in facts(row))]


def facts(row: Row) -> tuple[str, ...]:
    """What stands beside the metrics: pool, queries, list length, index size, time, memory."""
    return (
        display.count(row.result.task.get("n_passages")),
        row.queries,
        str(row.result.top_k),
        display.quantity(row.length_ratio),
        display.quantity(row.index_bytes_per_passage),
        display.quantity(row.seconds),
        display.quantity(row.peak_mib),
    )


# ------------------------------------------------------------------ latex


def latex(boards: Sequence[Board]) -> str:
    """One ``tabular`` per board, for a document that loads ``booktabs``."""
    lines = ["% Needs \\usepackage{booktabs}.", f"% {LEGEND}"]
    for board in boards:
        columns = "l" + "r" * (len(board.metrics) + 2)
        heads = ["method", *map(display.title, board.metrics), "passages", "queries"]
        lines += [
            "",
            f"% {escape.latex(board.task)} × {escape.latex(board.model)}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            _latex_line(map(escape.latex, heads)),
            "\\midrule",
            *(_latex_line(_latex_row(row, board)) for row in board.rows),
            "\\bottomrule",
            "\\end{tabular}",
            f"% Means of {escape.latex(board.samples)}.",
        ]
    return "\n".join(lines) + "\n"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex_row(row: Row, board: Board) -> list[str]:
    cells = [escape.latex(row.label)]
    for metric in board.metrics:
        estimate = row.result.metrics.get(metric)
        if estimate is None:
            cells.append("--")
            continue
        value = display.number(metric, estimate.value).replace("−", "-")
        value = f"\\mathbf{{{value}}}" if metric in row.best else value
        letters = row.letters.get(metric)
        value += f"^{{\\mathrm{{{letters}}}}}" if letters else ""
        bounds = display.interval(metric, estimate).replace("−", "-")
        cells.append(f"${value}$ {{\\scriptsize ${bounds}$}}".replace("–", "\\text{--}"))
    return [*cells, *(escape.latex(fact) for fact in facts(row)[:2])]


# ------------------------------------------------------------------ csv


def csv_text(boards: Sequence[Board]) -> str:
    """One line per cell, numbers in full precision and in their own units (not in points)."""
    measured = {m for board in boards for row in board.rows for m in row.result.metrics}
    metrics = in_order(measured)
    rows = [_csv_row(row, board, metrics) for board in boards for row in board.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _csv_row(row: Row, board: Board, metrics: Sequence[str]) -> dict[str, Any]:
    result = row.result
    record: dict[str, Any] = {
        "task": escape.spreadsheet(board.task),
        "model": escape.spreadsheet(board.model),
        "method": escape.spreadsheet(row.method),
        "label": escape.spreadsheet(row.label),
        "seed": result.seed,
        "key": escape.spreadsheet(row.cell.folder.name),
    }
    for metric in metrics:
        estimate = result.metrics.get(metric)
        name = escape.clean(metric)
        record[name] = repr(estimate.value) if estimate else ""
        record[f"{name}_low"] = repr(estimate.ci95[0]) if estimate else ""
        record[f"{name}_high"] = repr(estimate.ci95[1]) if estimate else ""
        record[f"{name}_n"] = estimate.n if estimate else ""
    return {
        **record,
        "n_passages": result.task.get("n_passages"),
        "n_queries": result.task.get("n_queries"),
        "n_scored": result.task.get("n_scored"),
        "top_k": result.top_k,
        "index_bytes": result.index.get("bytes"),
        "index_bytes_per_passage": row.index_bytes_per_passage,
        "seconds": row.seconds,
        "peak_mib": row.peak_mib,
        "task_sha256": escape.spreadsheet(result.task.get("sha256")),
        "model_sha256": escape.spreadsheet(result.model.get("sha256")),
        "imported": result.imported,
        "date": escape.spreadsheet(result.date),
    }


def section(
    title: str,
    board: Board,
    legend: str,
    heads: Sequence[str],
    words: int,
    rows: Iterable[list[str]],
) -> list[str]:
    """Lines of Markdown: a heading, what the table says, and the table.

    Args:
        title: of the heading, before task and model.
        words: columns of text, on the left; the others are numbers.
        rows: cells, escaped.
    """
    names = escape.markdown(board.task), escape.markdown(board.model)
    ruler = [":--"] * words + ["--:"] * (len(heads) - words)
    head = [f"## {title}: {names[0]} × {names[1]}", "", legend, "", piped(heads), piped(ruler)]
    return [*head, *map(piped, rows), ""]
