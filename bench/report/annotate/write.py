"""Writes a sheet: as CSV for a spreadsheet, and as one HTML page that works without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from bench.core import escape
from bench.core.errors import UserError
from bench.report.annotate.sheet import COLUMNS, Item
from bench.report.formats.comma_separated import of_records
from bench.report.table import Raw
from bench.storage.whole_files import whole_file

SHEET, PAGE = "sheet.csv", "annotate.html"


def write(items: Sequence[Item], out_dir: Path) -> tuple[Path, Path]:
    """Write ``sheet.csv`` and ``annotate.html``.

    Returns:
        their paths.

    Raises:
        UserError: the folder cannot be written, or holds a sheet, which people may have answered.
    """
    sheet, page = out_dir / SHEET, out_dir / PAGE
    if sheet.exists():
        raise UserError("is there already", where=str(sheet), fix="choose another --out")
    with whole_file(sheet, "wb") as stream:
        stream.write(of_records(COLUMNS, map(_record, items)).encode("utf-8"))
    with whole_file(page, "wb") as stream:
        stream.write(html(items).encode("utf-8"))
    return sheet, page


def _record(item: Item) -> dict[str, Raw]:
    """A line of the sheet, with an empty field for the answer."""
    return dict(zip(COLUMNS, (item.pair_id, item.passage, item.claim, ""), strict=True))


def html(items: Sequence[Item]) -> str:
    """The page: answers by keyboard, kept in the browser, downloaded as CSV at the end."""
    template, style, script = (
        (resources.files("bench.report") / "templates" / f"annotate.{kind}").read_text(
            encoding="utf-8"
        )
        for kind in ("html", "css", "js")
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = escape.clean
    name = hashlib.sha256("".join(item.pair_id for item in items).encode("ascii")).hexdigest()[:16]
    return environment.from_string(template).render(
        items=items,
        sheet=name,
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
