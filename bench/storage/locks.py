"""One process at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bench.core.progress import say
from bench.storage.disk import disk_errors

_LOCK = ".lock"


@contextmanager
def exclusive_if_free(folder: Path) -> Iterator[bool]:
    """As ``exclusive``, but nobody waits: False says that somebody else writes there now."""
    with disk_errors(folder):
        stream = _lock_of(folder)
    with stream:
        yield _locked(stream) and _is_there(stream, folder)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time write into ``folder``, which is made if missing.

    Others wait. The lock goes with the process, however it ends; what killed writers left half
    done is removed. Where the system has no such locks, nothing is locked.
    """
    while True:
        with disk_errors(folder):
            stream = _lock_of(folder)
        with stream:
            _wait_for_lock(stream, folder)
            if not _is_there(stream, folder):
                continue  # who had it removed the folder while we waited
            for leftover in folder.glob(".*.partial-*"):
                leftover.unlink(missing_ok=True)
            yield
            return


def _is_there(stream: IO[str], folder: Path) -> bool:
    """Whether the lock that we have is the one that others will ask for."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(folder / _LOCK))
    return False


def _lock_of(folder: Path) -> IO[str]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # who had the folder has just removed it
            return open(folder / _LOCK, "w", encoding="utf-8")


def _wait_for_lock(stream: IO[str], folder: Path) -> None:
    if not _locked(stream):
        import fcntl  # it is there, or there would be no lock

        say(f"waiting for another process that writes {folder}")
        fcntl.flock(stream, fcntl.LOCK_EX)


def _locked(stream: IO[str]) -> bool:
    """Whether the lock is ours now; where the system has none, it is."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
