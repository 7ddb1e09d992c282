"""Files that are written whole or not at all, and keys that name their content."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.core.errors import UserError
from bench.core.progress import say

_LOCK = ".lock"


def content_key(value: Any, length: int = 16) -> str:
    """A short hash of a JSON-serialisable value; the order of dictionary keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # File names may hold bytes that are no UTF-8, which Python carries as lone surrogates.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: IO[bytes]) -> str:
    """The SHA-256 of the bytes that are left of a stream, read in blocks."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and the like into a one-line error."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: ("the disk is full", "free some space, or set results_dir / cache_dir"),
            errno.EDQUOT: ("the disk quota is used up", "free some space, or set another folder"),
            errno.EACCES: ("no permission to write", "set results_dir / cache_dir to your own"),
            errno.EEXIST: ("a file is where a folder should be", "move it away"),
            errno.ENOTDIR: ("a file is where a folder should be", "move it away"),
            errno.EROFS: ("the file system is read-only", "set results_dir / cache_dir elsewhere"),
        }
        if error.errno not in reasons:
            raise
        what, fix = reasons[error.errno]
        raise UserError(what, where=str(path), fix=fix) from error


@lru_cache(maxsize=1)
def _here() -> str:
    """What process ids are counted in: this machine, or the container on it."""
    names = Path("/proc/self/ns/pid")
    return content_key([socket.gethostname(), os.readlink(names) if names.exists() else ""], 8)


def _writer() -> str:
    return f"{_here()}-{os.getpid()}"


def _remove_orphans(target: Path) -> None:
    """Remove what killed processes of this machine left half written; others may be alive."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-{_here()}-*"):
        pid = path.name.rpartition(".partial-")[2].split("-")[1]
        if pid.isdecimal() and not _is_alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def partial_folder(target: Path) -> Path:
    """An empty folder beside ``target``; the caller gives it that name, or removes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(target)
    prefix = f".{target.name}.partial-{_writer()}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))


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
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that writes {folder}")
        fcntl.flock(stream, fcntl.LOCK_EX)


def map_array(path: Path) -> np.ndarray:
    """A numpy file, memory-mapped; nothing in it is unpickled.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no array. numpy's parser of headers raises almost anything of its own.
    """
    try:
        opened: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"no array ({error})") from error
    return opened


@contextmanager
def whole_file(target: Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary file that replaces ``target`` only if the block succeeds."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target)
        partial = target.with_name(f".{target.name}.partial-{_writer()}-")
        try:
            encoding = None if "b" in mode else "utf-8"
            with open(partial, mode, encoding=encoding) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def path_part(name: str) -> str:
    """A name as a folder: nothing in it may climb out of the results folder."""
    safe = "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name)
    return safe.lstrip(".") or "_"
