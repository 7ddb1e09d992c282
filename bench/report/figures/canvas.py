"""The kind of figure that is drawn on."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from bench.report.figures.style import style

_DPI = 150  # of the picture in a notebook: sharp on a screen, small in a file


class Canvas(Figure):
    """A figure of matplotlib that a notebook shows as it is, whether or not pyplot is in use."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with style():
            self.savefig(stream, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.03)
        return stream.getvalue()
