"""Files of a corpus, on this machine or at any address that fsspec opens (s3, gs, https, …).

They are read as streams, from beginning to end; nothing else is asked of where they are. What a run
writes (results, indexes, caches) is mapped into memory and renamed into place, and needs a folder;
``bench.storage.mirror`` keeps copies of it at an address.
"""

from __future__ import annotations

import glob
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.core.errors import UserError
from bench.storage.addresses import check_address, filesystem, is_address, reachable
from bench.storage.bounds import open_regular

# Fields of a store's answer that change when a file's content does. Times of reading are no such.
_MARKS = (
    "ETag", "etag", "Content-MD5", "md5Hash", "md5", "generation", "Last-Modified", "LastModified",
    "last_modified", "updated", "mtime", "created",
)  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address, with the parts of a path's interface that readers use.

    Attributes:
        url: the address, with its scheme and without credentials.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rpartition("/")[2]

    def open(self) -> IO[bytes]:
        """A stream of the file's bytes.

        Raises:
            UserError: it cannot be reached.
        """
        system, path = filesystem(self.url)
        with reachable(self.url):
            stream = system.open(path, "rb")
        return io.BufferedReader(_Stream(self.url, stream), 1 << 20)

    def fingerprint(self) -> list[str | int]:
        """Name, size in bytes, and the fields of the store's answer that change with the content.

        Raises:
            UserError: it cannot be reached, or its store does not say.
        """
        system, path = filesystem(self.url)
        with reachable(self.url):
            facts = system.info(path)
        marks = [f"{key}={facts[key]}" for key in _MARKS if facts.get(key) is not None]
        if not marks:
            raise UserError(
                "its store does not say when it has changed",
                where=self.url,
                fix="download it and give the file",
            )
        return [self.name, int(facts.get("size") or 0), *marks]


class _Stream(io.RawIOBase):
    """A store's stream; a fault while it is read becomes a one-line error as well."""

    def __init__(self, url: str, stream: IO[bytes]) -> None:
        self._url, self._source = url, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with reachable(self._url):
            data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


File = Path | RemoteFile


def open_bytes(file: File) -> IO[bytes]:
    """A stream of the file's bytes.

    Raises:
        OSError: a path that cannot be opened.
        UserError: an address that cannot be reached, or a path of something that is no file.
    """
    return file.open() if isinstance(file, RemoteFile) else open_regular(file)


def fingerprints(files: list[File]) -> list[list[str | int]]:
    """Name, size in bytes and time of change (ns) of each file; their folder does not matter."""
    return [file.fingerprint() if isinstance(file, RemoteFile) else _local(file) for file in files]


def _local(path: Path) -> list[str | int]:
    state = path.stat()
    return [path.name, state.st_size, state.st_mtime_ns]


def expand(pattern: str, setting: str) -> list[File]:
    """The files that a path, an address or a glob of either names, sorted by name.

    Args:
        pattern: e.g. ``"trex_sentences.jsonl-*-of-00020"`` or ``"s3://bucket/c4/*.json.gz"``.
        setting: the config key it came from, for the error message.

    Raises:
        UserError: no such file, a directory, or an address that cannot be reached.
    """
    if is_address(pattern):
        return list(_remote(pattern, setting))
    return list(expand_local(pattern, setting))


def expand_local(pattern: str, setting: str) -> list[Path]:
    """The files of this machine that a path or a glob names, sorted by name.

    Raises:
        UserError: as ``expand``.
    """
    try:
        literal = Path(pattern).expanduser()
        is_folder = literal.is_dir()
        paths = [literal] if literal.is_file() else sorted(map(Path, glob.glob(str(literal))))
        files = [path for path in paths if path.is_file()]
    except (OSError, RuntimeError) as error:  # no such home, a name too long, a closed folder
        raise UserError(
            f"cannot look there ({error})", where=pattern, fix=f"check {setting}"
        ) from error
    if is_folder:
        raise UserError(
            "is a directory, not a file", where=str(literal), fix=f"set {setting} to a file or glob"
        )
    if not files:
        raise _no_such_file(pattern, setting)
    return files


def refuse_address(value: str, setting: str) -> None:
    """Refuse an address where a folder of this machine is needed.

    Raises:
        UserError: ``value`` is an address.
    """
    if is_address(value):
        raise UserError(
            "needs a folder of this machine: what is written there is mapped into memory",
            where=f"{setting}={value}",
            fix="give a folder here, and set remote_dir to the address: copies are kept there",
        )


def _no_such_file(pattern: str, setting: str) -> UserError:
    return UserError(
        "no such file", where=pattern, fix=f"set {setting} to an existing file or glob"
    )


def _remote(pattern: str, setting: str) -> list[RemoteFile]:
    check_address(pattern, setting)
    system, path = filesystem(pattern)
    with reachable(pattern):
        if not any(sign in path for sign in "*["):
            names = [path] if system.isfile(path) else []
        else:
            names = [name for name in sorted(system.glob(path)) if system.isfile(name)]
        files = [RemoteFile(system.unstrip_protocol(name)) for name in names]
    if not files:
        raise _no_such_file(pattern, setting)
    return files
