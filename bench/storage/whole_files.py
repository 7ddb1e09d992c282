"""Files that are written whole or not at all, and what killed writers of them leave behind."""

from __future__ import annotations

import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.storage.disk import disk_errors
from bench.storage.keys import content_key


@contextmanager
def whole_file(target: Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file that replaces ``target`` only if the block succeeds.

    Raises:
        UserError: the disk does not take it.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(target)
        partial = target.with_name(partial_name(target))
        try:
            encoding = None if "b" in mode else "utf-8"
            with open(partial, mode, encoding=encoding) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def partial_name(target: Path) -> str:
    """The name, or the beginning of names, of what this process writes to become ``target``."""
    return f".{target.name}.partial-{_here()}-{os.getpid()}-"


def remove_orphans(target: Path) -> None:
    """Remove what killed processes of this machine left half written of ``target``.

    What processes wrote that may still be alive stays.
    """
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-{_here()}-*"):
        pid = path.name.rpartition(".partial-")[2].split("-")[1]
        if pid.isdecimal() and not _is_alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _here() -> str:
    """A key of the space that process ids are unique in: this machine, or a container on it."""
    names = Path("/proc/self/ns/pid")
    return content_key([socket.gethostname(), os.readlink(names) if names.exists() else ""], 8)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and belongs to somebody else
        return True
    return True
