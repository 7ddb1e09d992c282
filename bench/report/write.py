"""Write the leaderboard of a results folder in every format and show it on the terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bench.core import console
from bench.core.escape import clean
from bench.report import meta_evaluation, pair_tables, reseed, tables
from bench.report.board import make_boards
from bench.report.figures.catalog import FOLDER, Plan, plan
from bench.report.figures.write import write_figures
from bench.report.page import page
from bench.report.viewer import sources
from bench.report.viewer.build import write_viewer
from bench.results.schema import read_cells
from bench.storage.whole_files import whole_file


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report.

    Attributes:
        viewer: None where no cell has rankings, or none was asked for.
        figures: their folder; None where none was asked for.
    """

    markdown: Path
    csv: Path
    significance: Path
    meta_evaluation: Path
    seeds: Path
    latex: Path
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
) -> ReportPaths:
    """Print the leaderboard, write it to ``out_dir``, and viewer and figures beside it.

    Args:
        results_dir: the folder that holds the finished cells.
        out_dir: where the files go, ``results_dir/report`` if None; created if missing.
        quiet: write the files, print nothing.
        figures: whether figures are drawn, which takes a second or two each.
        viewer: whether rankings are read and the viewer is written.

    Raises:
        UserError: no cells, a damaged cell, or a folder that cannot be written; of a damaged cell
            nothing is written.
    """
    out_dir = results_dir / "report" if out_dir is None else out_dir
    boards = make_boards(read_cells(results_dir))
    groups = sources.groups_of(boards) if viewer else []
    foreseen = [(board, meta_evaluation.foresights(board)) for board in boards]
    reseeded = [(board, reseed.reseedings(board)) for board in boards]
    drawn = plan(boards, results_dir) if figures else None
    paths = ReportPaths(
        markdown=out_dir / "leaderboard.md",
        csv=out_dir / "leaderboard.csv",
        significance=out_dir / "significance.csv",
        meta_evaluation=out_dir / "meta_evaluation.csv",
        seeds=out_dir / "seeds.csv",
        latex=out_dir / "leaderboard.tex",
        html=out_dir / "index.html",
    )
    texts = {
        paths.markdown: "\n".join(
            part
            for part in (
                tables.markdown(boards),
                meta_evaluation.markdown(foreseen),
                reseed.markdown(reseeded),
                pair_tables.markdown(boards),
            )
            if part
        ),
        paths.csv: tables.csv_text(boards),
        paths.significance: pair_tables.csv_text(boards),
        paths.meta_evaluation: meta_evaluation.csv_text(foreseen),
        paths.seeds: reseed.csv_text(reseeded),
        paths.latex: tables.latex(boards),
        paths.html: page(boards, out_dir, drawn, has_viewer=viewer),
    }
    # The viewer first: it reads every ranking, and a damaged one then leaves the old report whole.
    if groups:
        home = f"../{paths.html.name}"
        paths = replace(paths, viewer=write_viewer(groups, out_dir / sources.FOLDER, home, quiet))
    if drawn:
        write_figures(drawn.figures, out_dir / FOLDER, quiet)
        paths = replace(paths, figures=out_dir / FOLDER)
    for path, text in texts.items():
        with whole_file(path) as stream:
            stream.write(text)
    if not quiet:
        screen = console.stdout()
        screen.print(tables.terminal(boards, screen.width))
        if drawn:
            _print_figures(drawn, out_dir / FOLDER)
    return paths


def _print_figures(drawn: Plan, folder: Path) -> None:
    names = ", ".join(figure.stem for figure in drawn.figures)
    print(clean(f"figures: {folder}: {names or 'none'}"))
    for missing in drawn.missing:
        print(clean(missing))
