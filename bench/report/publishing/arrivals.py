"""The bundles that a site is built from: which are taken, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from bench.core.environment import __version__
from bench.core.errors import UserError
from bench.report.publishing.bundle import is_bundle, opened, verify_bundle
from bench.results.schema import Cell, Source, read_cells


@dataclass(frozen=True)
class Taken:
    """A bundle of which every number holds.

    Attributes:
        name: the name of its file or folder.
        cells: its cells, less those that an earlier bundle of the same people has.
    """

    name: str
    source: Source
    cells: list[Cell] = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """A bundle that is left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: refused: {self.reason}"


def bundles_in(folders: Iterable[Path]) -> list[Path]:
    """The bundles among some paths: a path itself, or the bundles in a folder, by name.

    Raises:
        UserError: a path is neither a bundle nor a folder with any.
    """
    bundles: list[Path] = []
    for folder in folders:
        if is_bundle(folder):
            bundles.append(folder)
            continue
        inner = sorted(folder.iterdir()) if folder.is_dir() else []
        inside = [
            path for path in inner if path.suffix == ".zip" or (is_bundle(path) and path.is_dir())
        ]
        if not inside:
            raise UserError(
                "holds no bundle", where=str(folder), fix="see `tdabench submit --help`"
            )
        bundles += inside
    return bundles


def arrivals(paths: Sequence[Path], stack: ExitStack) -> tuple[list[Taken], list[Refused]]:
    """Open and verify bundles; their cells can be read until the stack is closed."""
    taken: list[Taken] = []
    refused: list[Refused] = []
    seen: dict[tuple[str, ...], Cell] = {}
    today = datetime.now(timezone.utc).date().isoformat()
    for path in paths:
        try:
            bundle = stack.enter_context(opened(path))
            if problems := verify_bundle(bundle):
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                refused.append(Refused(path.name, f"{problems[0]}{more}"))
                continue
            source = Source(bundle.by, bundle.link, today, __version__)
            cells = [replace(cell, source=source) for cell in read_cells(bundle.cells)]
            new = [cell for cell in cells if not _is_known(cell, seen)]
        except UserError as error:
            refused.append(Refused(path.name, error.what))
            continue
        seen |= {_place(cell): cell for cell in new}
        taken.append(Taken(path.name, source, new))
    return taken, refused


def _place(cell: Cell) -> tuple[str, ...]:
    assert cell.source is not None
    return (cell.source.by, *cell.folder.parts[-4:])


def _is_known(cell: Cell, seen: dict[tuple[str, ...], Cell]) -> bool:
    """Whether an earlier bundle of the same people has the very same cell.

    Raises:
        UserError: it has another cell by the same key: both cannot be what these settings give.
    """
    known = seen.get(_place(cell))
    if known is not None and known.result != cell.result:
        where = "/".join(cell.folder.parts[-4:])
        raise UserError(f"{where} has other numbers than in an earlier bundle of the same name")
    return known is not None
