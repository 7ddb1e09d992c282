"""SHA-256 of files: taken while they are written, and read again only if they have changed.

Of a file that this process wrote or hashed, the hash is kept beside what the system says of it:
device, inode, size, and the times of the last write and the last change. While these stay, so does
the hash. A clock that ticks every few milliseconds may give two writes one time, so a hash is kept
only where the next write must show: the last one is older than the file's last change (a rename,
say), or long past. Files written here are dated a nanosecond back for that.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bench.storage.bounds import open_regular
from bench.storage.whole_files import whole_file

_LONG_NS = 10 * 10**9  # no file system has a coarser clock than FAT, with two seconds

# Device, inode, bytes, last write and last change in nanoseconds → SHA-256; of this process alone.
_known: dict[tuple[int, ...], str] = {}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes; they are read unless this process knows it of this very file.

    Raises:
        OSError: it cannot be read.
        UserError: it is no regular file.
    """
    with open_regular(path) as stream:  # opened: NFS may tell old times of a file that is not
        state = _state(stream)
        if state in _known:
            return _known[state]
        sha256 = stream_sha256(stream)
    _keep(state, sha256)  # a write in the meantime has made `state` one that does not come again
    return sha256


def stream_sha256(stream: IO[bytes]) -> str:
    """The SHA-256 of the bytes that are left of a stream, read in blocks."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class HashedStream:
    """A stream that hands bytes on to a file and hashes them on their way."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes, or whatever has a buffer of them; returns how many."""
        self._digest.update(data)
        return self._stream.write(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 of all that was written so far."""
        return self._digest.hexdigest()


@contextmanager
def hashed_file(target: Path) -> Iterator[HashedStream]:
    """Open a binary file as ``whole_file`` does; what is written is hashed, and the hash is kept.

    Raises:
        UserError: the disk does not take it.
    """
    with whole_file(target, "wb") as stream:
        hashed = HashedStream(stream)
        yield hashed
        stream.flush()
        own = os.fstat(stream.fileno())
        keep_times_apart(Path(stream.name))
    with suppress(OSError), open(target, "rb") as finished:
        state = _state(finished)
        if state[:2] == (own.st_dev, own.st_ino):  # else another process has written it since
            _keep(state, hashed.sha256)


def keep_times_apart(path: Path) -> None:
    """Date a file's last write before its last change, so that its hash can be kept.

    Where times cannot be set, the file is read again where its hash is asked for.
    """
    with suppress(OSError), open(path, "rb") as stream:
        times = os.fstat(stream.fileno())
        if times.st_mtime_ns >= times.st_ctime_ns:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 1))


def _state(stream: IO[bytes]) -> tuple[int, ...]:
    """What the system says of a file that is another one once its bytes have changed."""
    stat = os.fstat(stream.fileno())
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _keep(state: tuple[int, ...], sha256: str) -> None:
    """Keep a hash if the next write cannot have the time of the last one."""
    written, changed = state[-2:]
    if written < changed or max(written, changed) < time.time_ns() - _LONG_NS:
        _known[state] = sha256
