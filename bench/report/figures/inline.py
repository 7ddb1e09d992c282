"""A drawn figure as an element of a page: text stays text, and nothing of it reaches the page.

A saved SVG is a document of its own. Several of them in one page would share the names of their
parts, and the style sheet of one would hold for all: names get the figure's as a prefix, and the
style sheet goes.
"""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from bench.report import display
from bench.report.figures.data import Figure, Scatter
from bench.report.figures.drawing import dot_id
from bench.report.figures.style import names
from metrics.stats.bootstrap import Estimate

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = ("metadata", "style")
# What the style sheet says of every line.
_LINES = {"stroke-linejoin": "round", "stroke-linecap": "butt"}


def inline_svg(canvas: Canvas, figure: Figure, save: dict[str, Any]) -> str:
    """The figure as an ``<svg>`` element of HTML; whatever a name holds, it is text in it.

    Args:
        canvas: the drawn figure. Its names lose their outlines, which would make paths of them: a
            page gives them one by its style.
        figure: what was drawn, for its title, and for the numbers that a mark tells on hover.
        save: keywords of ``savefig``.
    """
    for text in canvas.findobj(Text):
        text.set_path_effects([])  # type: ignore[attr-defined]
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        canvas.savefig(stream, **save)
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314 - written a line above
    titles = dict(_titles(figure.body)) if isinstance(figure.body, Scatter) else {}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        for child in [one for one in element if one.tag.rpartition("}")[2] in _LEFT_OUT]:
            element.remove(child)
        if title := titles.get(element.get("id", "")):
            first = ElementTree.Element("title")
            first.text = title
            element.insert(0, first)
        _rename(element, figure.stem)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": figure.caption, **_LINES})
    return ElementTree.tostring(root, encoding="unicode")


def _rename(element: ElementTree.Element, prefix: str) -> None:
    """Make the names of parts, and what refers to them, the figure's own."""
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.get('id')}")
    if target := element.attrib.pop(_LINK, None):
        element.set("href", f"#{prefix}-{target.removeprefix('#')}")
    for key in ("clip-path", "style", "fill"):  # a hatch is the fill of a style
        if "url(#" in (value := element.get(key, "")):
            element.set(key, value.replace("url(#", f"url(#{prefix}-"))


def _titles(scatter: Scatter) -> list[tuple[str, str]]:
    """The name of each mark, and what it tells: the method and both values."""
    dots = [(panel, dot) for panel in scatter.panels for dot in panel.dots]
    short = names(dot.series.label for _, dot in dots)
    titles = []
    for place, (panel, dot) in enumerate(dots):
        x, y = dot.x, display.number(panel.metric, dot.y.value)
        across = display.number(panel.column, x.value) if isinstance(x, Estimate) else f"{x:g}"
        titles.append((dot_id(place), f"{short[dot.series.label]}: {across}, {y}"))
    return titles
