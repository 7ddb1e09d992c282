"""Where the report of a results folder goes."""

from __future__ import annotations

from pathlib import Path

from bench.report.figures.catalog import FOLDER as FIGURES
from bench.report.viewer.sources import FOLDER as VIEWER
from bench.storage.bounds import check_inside

NAME = "report"


def report_folder(results_dir: Path, out_dir: Path | None = None) -> Path:
    """The folder of a report: below the results, unless another was asked for.

    A results folder may be a stranger's: what is written into it stays in it.

    Raises:
        UserError: it, or a folder in it that is written to, is a link that leads elsewhere.
    """
    folder = results_dir / NAME if out_dir is None else out_dir
    if out_dir is None:
        check_inside(folder, results_dir)
    for name in (FIGURES, VIEWER):
        check_inside(folder / name, folder)
    return folder
