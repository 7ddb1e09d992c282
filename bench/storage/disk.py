"""What a disk refuses, in one line that names the place and the remedy."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.errors import UserError

# What each error number of the system means to whoever runs this, and what helps. `{folders}` is
# the setting, or the option, that says where the file goes.
_IN_THE_WAY = ("a file is where a folder should be", "move it away")
_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or set {folders}"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or set {folders}"),
    errno.EFBIG: (
        "the file is larger than the disk or the limit of this process allows",
        "raise the limit (ulimit -f), or set {folders} to another disk",
    ),
    errno.ENAMETOOLONG: ("the name is too long for the disk", "set {folders} to a shorter path"),
    errno.EACCES: ("no permission to write", "set {folders} to a folder of your own"),
    errno.EPERM: ("no permission to write", "set {folders} to a folder of your own"),
    errno.EROFS: ("the file system is read-only", "set {folders} elsewhere"),
    errno.EIO: ("the disk reports a fault", "check the disk, or set {folders} elsewhere"),
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: ("a folder is where a file should be", "move it away"),
}
# How libraries say it that raise no OSError, or one without its number: those written in Rust
# (safetensors, tokenizers), numpy, and SQLite, whose errors have no number before Python 3.11.
_RUST = re.compile(r"Os \{ code: (\d+)|\(os error (\d+)\)")
_NUMPY = re.compile(r"^\d+ requested and \d+ written")
_SQLITE = {
    "disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
}


@contextmanager
def disk_errors(
    path: Path | None = None, folders: str = "results_dir / cache_dir"
) -> Iterator[None]:
    """Turn what the disk refuses in the block into a one-line error; other errors pass.

    Args:
        path: what is written, for the message; None takes it from the error.
        folders: the setting or option that chooses its place, for the remedy.

    Raises:
        UserError: the disk is full, read-only, closed to this user, and the like.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number not in _REASONS:
            raise
        what, fix = _REASONS[number]
        where = path or getattr(error, "filename", None) or ""
        raise UserError(what, where=str(where), fix=fix.format(folders=folders)) from error


def _error_number(error: Exception) -> int | None:
    """The system's number of an error that a library raised in its own way."""
    if isinstance(error, OSError):
        # numpy keeps silent about the reason; a full disk is the usual one.
        return error.errno or (errno.ENOSPC if _NUMPY.match(str(error)) else None)
    if isinstance(error, sqlite3.Error):
        return next((number for words, number in _SQLITE.items() if words in str(error)), None)
    by_rust = _RUST.search(str(error))
    return int(by_rust[1] or by_rust[2]) if by_rust else None
