"""Writing figures: three formats and the numbers behind them, equal byte for byte each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core import progress
from bench.report.figures.catalog import FORMATS, is_figure, on_page
from bench.report.figures.data import Figure
from bench.report.formats.comma_separated import of_records
from bench.storage.whole_files import whole_file

_DPI = 300  # of PNG: what journals ask for
_METADATA: dict[str, dict[str, Any]] = {  # without the date and the version of the library
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write_figures(figures: Sequence[Figure], folder: Path, quiet: bool = False) -> dict[str, str]:
    """Write ``folder/STEM.{png,svg,pdf,csv}`` of each figure, and remove those of other stems.

    Returns:
        the figures that the report's page shows, as SVG elements, by their stems.

    Raises:
        UserError: the folder cannot be written.
    """
    shown = figures if quiet else progress.track(figures, "figures", unit="figures")
    boards = dict.fromkeys(figure.place for figure in figures if len(figure.place) == 2)
    chosen = {one.stem for task, model in boards for one in on_page(figures, task, model)}
    pictures = {}
    for figure in shown:
        if svg := _write(figure, folder, is_inline=figure.stem in chosen):
            pictures[figure.stem] = svg
    stems = {figure.stem for figure in figures}
    if folder.is_dir():
        for path in folder.iterdir():
            # Left by an earlier report: it would show what is no more.
            if is_figure(path) and path.stem not in stems:
                path.unlink()
    return pictures


def _write(figure: Figure, folder: Path, *, is_inline: bool) -> str:
    """Write one figure; returns its SVG for the page, empty if it does not stand there."""
    from bench.report.figures.drawing import draw  # matplotlib is slow to import
    from bench.report.figures.inline import inline_svg
    from bench.report.figures.style import style

    with style():
        canvas = draw(figure.body)
        for kind in FORMATS[:-1]:
            with whole_file(folder / f"{figure.stem}.{kind}", "wb") as stream:
                canvas.savefig(stream, **_saved_as(kind))
        with whole_file(folder / f"{figure.stem}.csv") as stream:
            stream.write(csv_of(figure))
        return inline_svg(canvas, figure, _saved_as("svg")) if is_inline else ""


def _saved_as(kind: str) -> dict[str, Any]:
    """Keywords of ``savefig``."""
    return {
        "format": kind,
        "dpi": _DPI,
        "metadata": _METADATA[kind],
        "bbox_inches": "tight",
        "pad_inches": 0.03,
    }


def csv_of(figure: Figure) -> str:
    """The numbers of a figure, in full precision and in the units that it shows."""
    records = figure.body.records()
    return of_records(list(records[0]), records)
