"""Writing a sheet: as CSV for a spreadsheet, and as one HTML page that works without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.report.annotate.sheet import COLUMNS, Item
from bench.report.formats.comma_separated import of_records
from bench.report.rendering import rendered
from bench.report.table import Raw
from bench.storage.whole_files import whole_file

SHEET, PAGE = "sheet.csv", "annotate.html"


def write(items: Sequence[Item], out_dir: Path) -> tuple[Path, Path]:
    """Write ``sheet.csv`` and ``annotate.html``.

    Returns:
        the paths of both.

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
    ids = "".join(item.pair_id for item in items)
    return rendered("annotate", items=items, sheet=hashlib.sha256(ids.encode()).hexdigest()[:16])
