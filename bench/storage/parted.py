"""Sealed folders that are made of parts, which jobs leave in files beside them.

The parts of ``KEY`` are in ``KEY.parts`` until the folder is whole: a run that was killed goes on
with them. While one process makes the folder, others wait for it. With a store, machines share the
parts of a folder that none of them has whole (``bench.storage.sharing``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.storage.locks import exclusive
from bench.storage.mirror import Mirror
from bench.storage.sealed import open_or_make
from bench.storage.sharing import merged_folder

PART = ".safetensors"


def rows_part(folder: Path, rows: range) -> Path:
    """The part of some rows, in a folder whose name says all else that it follows from."""
    return folder / f"rows-{rows.start}-{rows.stop}{PART}"


def open_or_merge(
    folder: Path,
    kind: str,
    made_from: Any,
    make: Callable[[Path, Path], dict[str, Any]],
    mirror: Mirror,
) -> dict[str, Any]:
    """The facts of a sealed folder, which is made first if it is not there.

    Args:
        folder, kind, made_from: as of ``open_or_make``.
        make: fills an empty folder, the first argument, from parts, which it has made in the
            second, and returns the facts.
        mirror: the copy in a store that the folder is brought from, or kept in.

    Raises:
        DamagedError: the folder is damaged.
        UserError: the disk does not take it, the store cannot be reached, or its copy is damaged.
    """
    parts = folder.with_name(f"{folder.name}.parts")
    opened = partial(
        open_or_make, folder, kind, made_from, lambda unfinished: make(unfinished, parts)
    )
    return merged_folder(mirror, folder, parts, lambda: _held(folder, parts, opened))


def _held(folder: Path, parts: Path, opened: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``opened`` returns; while it makes the folder from parts, no other process does."""
    if folder.exists() and not parts.exists():
        return opened()
    with exclusive(parts):
        try:
            return opened()
        finally:
            if folder.exists() or not any(parts.glob(f"*{PART}")):
                shutil.rmtree(parts, ignore_errors=True)
