"""Write the leaderboard of a results folder in every format and show it on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import console, pair_tables, tables
from bench.leaderboard import make_boards
from bench.page import page
from bench.result import read_cells
from bench.storage import whole_file


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    markdown: Path
    csv: Path
    significance: Path
    latex: Path
    html: Path


def report(results_dir: Path, out_dir: Path | None = None, quiet: bool = False) -> ReportPaths:
    """Print the leaderboard and write it to ``out_dir``.

    Args:
        results_dir: the folder that holds the finished cells.
        out_dir: where the files go, ``results_dir/report`` if None; created if missing.
        quiet: write the files, print nothing.

    Raises:
        UserError: no cells, a damaged cell, or a folder that cannot be written.
    """
    out_dir = results_dir / "report" if out_dir is None else out_dir
    boards = make_boards(read_cells(results_dir))
    paths = ReportPaths(
        markdown=out_dir / "leaderboard.md",
        csv=out_dir / "leaderboard.csv",
        significance=out_dir / "significance.csv",
        latex=out_dir / "leaderboard.tex",
        html=out_dir / "index.html",
    )
    texts = {
        paths.markdown: tables.markdown(boards) + pair_tables.markdown(boards),
        paths.csv: tables.csv_text(boards),
        paths.significance: pair_tables.csv_text(boards),
        paths.latex: tables.latex(boards),
        paths.html: page(boards, out_dir),
    }
    for path, text in texts.items():
        with whole_file(path) as stream:
            stream.write(text)
    if not quiet:
        screen = console.stdout()
        screen.print(tables.terminal(boards, screen.width))
    return paths
