"""What a disk refuses, in one line that names the place and the remedy."""

from __future__ import annotations

import errno
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


@contextmanager
def disk_errors(path: Path, folders: str = "results_dir / cache_dir") -> Iterator[None]:
    """Turn what the disk refuses in the block into a one-line error; other errors pass.

    Args:
        path: what is written, for the message.
        folders: the setting or option that chooses its place, for the remedy.

    Raises:
        UserError: the disk is full, read-only, closed to this user, and the like.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        what, fix = _REASONS[error.errno]
        raise UserError(what, where=str(path), fix=fix.format(folders=folders)) from error
