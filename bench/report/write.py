"""Write the report of a results folder in every format and show it on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.core import console, progress
from bench.core.escape import clean
from bench.report.board import Board, make_boards
from bench.report.figures.catalog import FOLDER, FigurePlan, plan
from bench.report.figures.write import write_figures
from bench.report.folder import report_folder
from bench.report.formats import Content, SitePlace, all_files
from bench.report.formats.page import PAGE
from bench.report.leaderboard import leaderboards
from bench.report.meta_evaluation import foresight_table
from bench.report.pair_tables import pair_table
from bench.report.reseed import seeds_tables
from bench.report.terminal import terminal
from bench.report.viewer import sources
from bench.report.viewer.build import write_viewer
from bench.results.schema import read_cells
from bench.storage.whole_files import whole_file


@dataclass(frozen=True)
class Written:
    """The files of a report.

    Attributes:
        viewer: the viewer's page; None where no cell has rankings, or none was asked for.
        figures: the folder of the figures; None where none were asked for.
    """

    folder: Path
    html: Path
    viewer: Path | None = None
    figures: Path | None = None


def report(
    results_dir: Path,
    out_dir: Path | None = None,
    quiet: bool = False,
    *,
    figures: bool = False,
    viewer: bool = True,
) -> Written:
    """Print the leaderboard, write it to ``out_dir``, and viewer and figures beside it.

    Args:
        results_dir: the folder that holds the finished cells.
        out_dir: the folder for the files, ``results_dir/report`` if None; created if missing.
        quiet: whether the files are written and nothing is printed, no progress either.
        figures: whether figures are drawn, which takes a second or two each.
        viewer: whether rankings are read and the viewer is written.

    Raises:
        UserError: there is no cell, one is damaged, or the folder cannot be written or is a link
            that leads elsewhere; where a cell is damaged, nothing is written.
    """
    out_dir = report_folder(results_dir, out_dir)
    with progress.silenced(quiet):
        boards = make_boards(read_cells(results_dir))
        return write_boards(boards, out_dir, results_dir, quiet, figures=figures, viewer=viewer)


def write_boards(
    boards: Sequence[Board],
    out_dir: Path,
    results_dir: Path,
    quiet: bool = False,
    *,
    figures: bool = False,
    viewer: bool = True,
    site: SitePlace | None = None,
) -> Written:
    """Write the report of boards, and print them unless told not to.

    Args:
        results_dir: the folder that the page's commands put further cells into.
        quiet: whether the boards are not printed.
        figures, viewer: see ``report``.
        site: the place of the report on a site; None for one of its own.

    Raises:
        UserError: as ``report``.
    """
    groups = sources.groups_of(boards) if viewer else []
    drawn = plan(boards, results_dir) if figures else None
    content = replace(content_of(boards, out_dir, drawn, has_viewer=viewer), site=site)
    written = Written(out_dir, out_dir / PAGE)
    # The viewer first: it reads every ranking, and a damaged one then leaves the old report whole.
    if groups:
        shown = write_viewer(groups, out_dir / sources.FOLDER, f"../{PAGE}")
        written = replace(written, viewer=shown)
    if drawn:
        content = replace(content, pictures=write_figures(drawn.figures, out_dir / FOLDER))
        written = replace(written, figures=out_dir / FOLDER)
    for name, text in all_files(content).items():
        with whole_file(out_dir / name) as stream:
            stream.write(text)
    if not quiet:
        screen = console.stdout()
        screen.print(terminal(content.leaderboards, screen.width))
        if drawn:
            _print_figures(drawn, out_dir / FOLDER)
    return written


def content_of(
    boards: Sequence[Board],
    folder: Path,
    figures: FigurePlan | None = None,
    has_viewer: bool = False,
) -> Content:
    """The tables of boards, and what else the formats of a report read."""
    seeds, seeds_by_metric = zip(*map(seeds_tables, boards), strict=True)
    return Content(
        boards,
        folder,
        figures,
        has_viewer=has_viewer,
        leaderboards=leaderboards(boards),
        pairs=[pair_table(board, board.pairs) for board in boards],
        foresights=list(map(foresight_table, boards)),
        seeds=seeds,
        seeds_by_metric=seeds_by_metric,
    )


def _print_figures(drawn: FigurePlan, folder: Path) -> None:
    names = ", ".join(figure.stem for figure in drawn.figures)
    print(clean(f"figures: {folder}: {names or 'none'}"))
    for missing in drawn.missing:
        print(clean(missing))
