"""The download of one file: resumed where it broke off, verified, then put in place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import google_crc32c
import requests
import urllib3

from bench.core import progress
from bench.fetch.remote import PassingError, Remote, look, request, until_done, version
from bench.storage.disk import disk_errors
from bench.storage.keys import content_key

_BLOCK = 1 << 20


def is_whole(path: Path, remote: Remote) -> bool:
    """Whether a file has the size and the checksums that the server says, where it says them."""
    if not path.is_file() or (remote.size is not None and path.stat().st_size != remote.size):
        return False
    return _wrong_digest(path, remote) is None


def part_of(folder: Path, remote: Remote) -> Path:
    """The path of the bytes that have arrived of this version of a file."""
    key = content_key([remote.url, remote.version, remote.size], length=12)
    return folder / f".{remote.name}.{key}.part"


def bytes_there(folder: Path, remote: Remote) -> int:
    """The number of bytes of this version that have arrived before."""
    part = part_of(folder, remote)
    resumable = remote.version is not None and part.is_file()
    return part.stat().st_size if resumable else 0


def download(remote: Remote, base: str, folder: Path) -> Remote:
    """Fetch a file into an existing folder; returns the server's description it was verified by.

    What has arrived is kept when this is interrupted, and used by the next call.

    Args:
        remote: the file as ``look`` described it; asked again if the file changes meanwhile.
        base: the address of the folder on the server.
        folder: the folder that the file goes into.

    Raises:
        UserError: the server does not give it whole, or gives other bytes than it says; the disk
            does not take it.
    """
    target = folder / remote.name
    state = remote

    def attempt() -> Remote:
        nonlocal state
        try:
            _attempt(state, folder, target)
        except _ChangedError as changed:
            part_of(folder, state).unlink(missing_ok=True)
            state = look(remote.name, base)
            raise PassingError(str(changed)) from changed
        return state

    with disk_errors(target, "--out"):
        for stale in set(folder.glob(f".{remote.name}.*.part")) - {part_of(folder, remote)}:
            stale.unlink()
        return until_done(remote.url, attempt, lambda: bytes_there(folder, state))


class _ChangedError(Exception):
    """The file on the server is no longer the one that was looked at."""


def _attempt(remote: Remote, folder: Path, target: Path) -> None:
    part = part_of(folder, remote)
    _receive(remote, part, bytes_there(folder, remote))
    size = part.stat().st_size
    if remote.size is not None and size < remote.size:
        raise PassingError(f"broke off after {size:,} of {remote.size:,} bytes")
    wrong = "size" if remote.size not in (None, size) else _wrong_digest(part, remote)
    if wrong:
        part.unlink()  # no byte of it can be trusted
        raise PassingError(f"the {wrong} of what arrived is not what the server says")
    os.replace(part, target)


def _receive(remote: Remote, part: Path, start: int) -> None:
    """Append to ``part`` the bytes that it lacks, as far as the server sends them."""
    if start and start == remote.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    with request("GET", remote.url, **headers) as answer:
        if version(answer.headers) != remote.version:
            raise _ChangedError("the file has changed on the server")
        if start and not _continues(answer, start):
            start = 0  # the server sends it from the beginning, or has less than we do
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink()
                raise PassingError("the server has less than has arrived")
        with open(part, "r+b" if start else "wb") as stream:
            stream.seek(start)
            try:
                for block in progress.track(
                    answer.raw.stream(_BLOCK, decode_content=False),
                    f"fetch {remote.name}",
                    total=remote.size and -(-(remote.size - start) // _BLOCK),
                    unit="MiB",
                ):
                    stream.write(block)
                    if remote.size is not None and stream.tell() > remote.size:
                        break  # the server sends more than it said, perhaps without end
            except urllib3.exceptions.HTTPError as error:
                raise PassingError("the connection dropped") from error
            finally:
                stream.flush()
                os.fsync(stream.fileno())


def _continues(answer: requests.Response, start: int) -> bool:
    """Whether a server that was asked to go on at ``start`` does so; some ignore the question."""
    sent = answer.headers.get("Content-Range", "")
    return answer.status_code == requests.codes.partial and sent.startswith(f"bytes {start}-")


def _wrong_digest(path: Path, remote: Remote) -> str | None:
    """The kind of the first checksum that the file fails; None if it passes all that are known."""
    digests: dict[str, Any] = {
        "md5": hashlib.md5(usedforsecurity=False),
        "crc32c": google_crc32c.Checksum(),
    }
    checked = {kind: digests[kind] for kind in remote.digests}
    if checked:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                for digest in checked.values():
                    digest.update(block)
    wrong = (kind for kind, digest in checked.items() if digest.digest() != remote.digests[kind])
    return next(wrong, None)
