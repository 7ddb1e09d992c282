"""Writing figures: three formats and the numbers behind them, equal byte for byte each time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.engines.base import Job
from bench.engines.outcomes import outcomes
from bench.report.figures.catalog import FORMATS, is_figure, on_page
from bench.report.figures.data import Figure
from bench.report.formats.comma_separated import of_records
from bench.report.workers import engine_for
from bench.storage.whole_files import whole_file

_DPI = 300  # of PNG: what journals ask for
_SECONDS_A_ROW = 0.04  # of a figure in its three formats, for each row of its CSV
_METADATA: dict[str, dict[str, Any]] = {  # without the date and the version of the library
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write_figures(figures: Sequence[Figure], folder: Path) -> dict[str, str]:
    """Write ``folder/STEM.{png,svg,pdf,csv}`` of each figure, and remove those of other stems.

    Returns:
        the figures that the report's page shows, as SVG elements, by their stems.

    Raises:
        UserError: the folder cannot be written.
    """
    boards = dict.fromkeys(figure.place for figure in figures if len(figure.place) == 2)
    chosen = {one.stem for task, model in boards for one in on_page(figures, task, model)}
    with tempfile.TemporaryDirectory(prefix="tdabench-") as temporary:
        jobs = [
            Job(write_figure, (figure, folder, figure.stem in chosen, picture), picture)
            for number, figure in enumerate(figures)
            for picture in [Path(temporary, f"{number}.svg")]
        ]
        engine = engine_for(_SECONDS_A_ROW * sum(len(one.body.records()) for one in figures))
        drawn = list(outcomes(jobs, _read_text, engine, "figures", "figures"))
    pictures = {figure.stem: svg for figure, svg in zip(figures, drawn, strict=True) if svg}
    stems = {figure.stem for figure in figures}
    if folder.is_dir():
        for path in folder.iterdir():
            # Left by an earlier report: it would show what is no more.
            if is_figure(path) and path.stem not in stems:
                path.unlink()
    return pictures


def write_figure(figure: Figure, folder: Path, is_inline: bool, picture: Path) -> None:
    """Write one figure, and its SVG for the page, empty if it does not stand there.

    Args:
        is_inline: whether it stands on the page.
        picture: the file for that SVG.
    """
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
        svg = inline_svg(canvas, figure, _saved_as("svg")) if is_inline else ""
    with whole_file(picture) as stream:
        stream.write(svg)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


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
