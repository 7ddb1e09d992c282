"""Folders that appear with all that is in them, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.storage.disk import disk_errors
from bench.storage.locks import exclusive
from bench.storage.whole_files import partial_name, remove_orphans


def partial_folder(target: Path) -> Path:
    """An empty folder beside ``target``; the caller gives it that name, or removes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(target)
    return Path(tempfile.mkdtemp(prefix=partial_name(target), dir=target.parent))


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """An empty folder beside a path, for the block; one that a killed process left is removed."""
    folder = partial_folder(beside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes ``target`` only if the block succeeds.

    A reader therefore sees either nothing or everything. If another process finished the same
    folder in the meantime, its copy stays and ours is dropped: the key names the content.

    Raises:
        UserError: the disk does not take it.
    """
    with disk_errors(target):
        partial = partial_folder(target)
        try:
            yield partial
            os.chmod(partial, 0o755)  # noqa: S103 - mkdtemp makes it private, results are shared
            try:
                os.rename(partial, target)
            except OSError:
                if not target.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def resumable_folder(target: Path) -> Iterator[Path | None]:
    """Yield a folder beside ``target`` that becomes ``target`` once the block succeeds.

    Unlike that of ``whole_folder`` it stays when the block fails or the process is killed, so that
    the next caller can go on with what is in it; a block that wants to leave nothing removes it.
    One process at a time has it. Others wait, and get None if there is a ``target`` by then.

    Raises:
        UserError: the disk does not take it.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    with exclusive(unfinished):
        folder = unfinished / "folder"  # not `unfinished` itself, where the lock is
        try:
            if target.exists():
                yield None
                return
            folder.mkdir(exist_ok=True)
            with disk_errors(target):
                yield folder
                os.rename(folder, target)
        finally:
            if target.exists() or not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
