"""Write the leaderboard of a results folder in every format and show it on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench import console, pair_tables, tables
from bench.leaderboard import make_boards
from bench.page import page
from bench.result import read_cells
from bench.storage import whole_file
from bench.viewer import sources
from bench.viewer.build import write_viewer


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report; ``viewer`` is None where no cell has rankings."""

    markdown: Path
    csv: Path
    significance: Path
    latex: Path
    html: Path
    viewer: Path | None = None


def report(results_dir: Path, out_dir: Path | None = None, quiet: bool = False) -> ReportPaths:
    """Print the leaderboard, write it to ``out_dir``, and the viewer of the rankings beside it.

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
    if groups := sources.groups_of(boards):
        home = f"../{paths.html.name}"
        viewer = write_viewer(groups, out_dir / sources.FOLDER, home, quiet)
        paths = replace(paths, viewer=viewer)
    if not quiet:
        screen = console.stdout()
        screen.print(tables.terminal(boards, screen.width))
    return paths
