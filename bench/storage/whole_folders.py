"""Folders that appear with all that is in them, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
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
    folder = target.with_name(partial_name(target) + secrets.token_hex(4))
    folder.mkdir()  # unlike `mkdtemp`, with the mode that the umask leaves
    return folder


def follow_umask(folder: Path) -> None:
    """Let others read and write the files below a folder as far as its own mode lets them.

    Libraries that write a file under another name first make it private, whatever the umask.
    """
    mode = folder.stat().st_mode & 0o666
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and state.st_mode & 0o777 != mode:
                path.chmod(mode)


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """An empty folder beside a path, for the block; one that a killed process left is removed.

    Raises:
        UserError: the disk does not take what the block writes there.
    """
    with disk_errors(beside):
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
            follow_umask(partial)
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
                follow_umask(folder)
                os.rename(folder, target)
        finally:
            if target.exists() or not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
