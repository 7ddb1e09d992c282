"""Writes figures: three formats and the numbers behind them, equal byte for byte each time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core import escape, progress
from bench.report.figures.catalog import FORMATS, is_figure
from bench.report.figures.data import Figure
from bench.storage.whole_files import whole_file

_DPI = 300  # of PNG: what journals ask for
_METADATA: dict[str, dict[str, Any]] = {  # without the date and the version of the library
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def write_figures(figures: Sequence[Figure], folder: Path, quiet: bool = False) -> None:
    """Write ``folder/STEM.{png,svg,pdf,csv}`` of each figure, and remove those of other stems.

    Raises:
        UserError: the folder cannot be written.
    """
    shown = figures if quiet else progress.track(figures, "figures", unit="figures")
    for figure in shown:
        _write(figure, folder)
    stems = {figure.stem for figure in figures}
    if folder.is_dir():
        for path in folder.iterdir():
            # Left by an earlier report: it would show what is no more.
            if is_figure(path) and path.stem not in stems:
                path.unlink()


def _write(figure: Figure, folder: Path) -> None:
    from bench.report.figures.drawing import draw  # matplotlib is slow to import
    from bench.report.figures.style import style

    with style():
        canvas = draw(figure.body)
        for kind in FORMATS[:-1]:
            with whole_file(folder / f"{figure.stem}.{kind}", "wb") as stream:
                canvas.savefig(
                    stream, format=kind, dpi=_DPI, metadata=_METADATA[kind],
                    bbox_inches="tight", pad_inches=0.03,
                )  # fmt: skip
    with whole_file(folder / f"{figure.stem}.csv") as stream:
        stream.write(csv_text(figure))


def csv_text(figure: Figure) -> str:
    """The numbers of a figure, in full precision and in the metrics' own units."""
    records = figure.body.records()
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: _field(value) for key, value in record.items()})
    return stream.getvalue()


def _field(value: Any) -> Any:
    return escape.spreadsheet(value) if isinstance(value, str) else value
