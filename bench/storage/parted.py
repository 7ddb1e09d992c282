"""Sealed folders that are made of parts, which jobs leave in files beside them.

The parts of ``KEY`` are in ``KEY.parts`` until the folder is whole: a run that was killed goes on
with them. While one process makes the folder, others wait for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.storage.locks import exclusive
from bench.storage.sealed import open_or_make

PART = ".safetensors"


def rows_part(folder: Path, rows: range) -> Path:
    """The part of some rows, in a folder whose name says all else that it follows from."""
    return folder / f"rows-{rows.start}-{rows.stop}{PART}"


def open_or_merge(
    folder: Path, kind: str, made_from: Any, make: Callable[[Path, Path], dict[str, Any]]
) -> dict[str, Any]:
    """The facts of a sealed folder, which is made first if it is not there.

    Args:
        folder, kind, made_from: as of ``open_or_make``.
        make: fills an empty folder, the first argument, from parts, which it has made in the
            second, and returns the facts.

    Raises:
        DamagedError: the folder is damaged.
        UserError: the disk does not take it.
    """
    parts = folder.with_name(f"{folder.name}.parts")
    opened = partial(
        open_or_make, folder, kind, made_from, lambda unfinished: make(unfinished, parts)
    )
    if folder.exists() and not parts.exists():
        return opened()
    with exclusive(parts):
        try:
            return opened()
        finally:
            if folder.exists() or not any(parts.glob(f"*{PART}")):
                shutil.rmtree(parts, ignore_errors=True)
