"""A copy of finished work in a store that fsspec opens: another machine takes it from there.

Work happens in folders of this machine. What is finished there (a cell, a trained model, an index,
a shard of one) is copied to an address, and what is missing here and finished there is brought
before anybody makes it again. A folder's copy is finished when its inventory is there: written
last, it names each file with a hash, so that what is brought is what was kept. Each copy has its
files below a name of its own, so that of two machines that keep the same folder at once, the one
whose inventory comes last is whole, and the other one's files are not read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.addresses import (
    check_address,
    filesystem,
    is_address,
    is_of_this_machine,
    reachable,
)
from bench.storage.files import RemoteFile
from bench.storage.hashes import HashedStream, file_sha256, hashed_file
from bench.storage.whole_folders import whole_folder

INVENTORY = "INVENTORY.json"
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class Mirror:
    """The pair of a folder here and its address; plain data, so that other processes can have it.

    Attributes:
        local: the folder; every path that a method below takes is in it.
        url: its address; None = there is no copy, and nothing is done.
    """

    local: Path
    url: str | None = None

    def check(self) -> None:
        """Write a small file, so that a store that takes none is known before the work.

        Raises:
            UserError: it cannot be reached or written, or has no such bucket: none is made.
        """
        if self.url is not None:
            _check_top(self.url)
            _write(f"{self.url}/README.txt", b"Copies that tdabench keeps: remote_dir.\n")

    def names(self, folder: Path) -> frozenset[str]:
        """Names of the files in the copy of ``folder``; none if there is no copy."""
        if self.url is None:
            return frozenset()
        address = self._address(folder)
        system, place = filesystem(address)
        with reachable(address):
            system.invalidate_cache()  # other machines may have written since
            paths = system.ls(place, detail=False) if system.exists(place) else []
        return frozenset(PurePosixPath(path).name for path in paths)

    def holds(self, path: Path) -> bool:
        """Whether the store has a copy of one file; of several, ``names`` asks once."""
        if self.url is None:
            return False
        address = self._address(path)
        system, place = filesystem(address)
        with reachable(address):
            system.invalidate_cache()  # other machines may have written since
            return bool(system.exists(place))

    def lent(self, folder: Path, place: Path) -> Mirror:
        """The pair of ``folder``, which may be called anything, and the copy of ``place``."""
        return Mirror(folder, None if self.url is None else self._address(place))

    def read(self, path: Path) -> bytes:
        """The content of the copy of a small file."""
        with RemoteFile(self._address(path)).open() as stream:
            return stream.read()

    def bring(self, path: Path, name: str) -> None:
        """Copy the file ``name`` of the store to ``path``, whole or not at all."""
        with hashed_file(path) as stream:
            _read(self._address(path.with_name(name)), stream)

    def keep(self, path: Path, name: str | None = None) -> None:
        """Copy one file to the store.

        Args:
            name: in the store, if another one. It names the content: where a file of this name and
                size is there, nothing is copied over it while others may read it.
        """
        if self.url is None:
            return
        address = self._address(path.with_name(name or path.name))
        if name:
            system, place = filesystem(address)
            with reachable(address):
                if system.exists(place) and system.size(place) == path.stat().st_size:
                    return
        _put(path, address)

    def drop(self, folder: Path, names: Collection[str] | None = None) -> None:
        """Remove files of the copy of ``folder``, which others may be removing, too.

        A store that does not let them be removed is said to hold them: no work is lost by that.

        Args:
            names: those to remove, if they are there; None removes all files, those below left out.
        """
        chosen = sorted(
            name
            for name in self.names(folder)
            if not name.startswith(".") and (names is None or name in names)  # hidden: half written
        )
        if not chosen:
            return
        address = self._address(folder)
        system, place = filesystem(address)
        paths = [f"{place}/{name}" for name in chosen]
        try:
            with reachable(address):
                try:
                    system.rm(paths)  # many at once, where the store can do that
                except FileNotFoundError:
                    for path in paths:
                        with suppress(FileNotFoundError):
                            system.rm_file(path)
        except UserError as error:
            progress.say(f"{error.what}; copies that nobody needs any more stay at {address}")

    @contextmanager
    def shared(self, folder: Path) -> Iterator[None]:
        """Bring ``folder`` before a block that makes it unless it is there, and keep it after."""
        self.bring_folder(folder)
        yield
        self.keep_folder(folder)

    def bring_folder(self, folder: Path) -> None:
        """Bring a folder that is finished in the store and missing here.

        Raises:
            UserError: the store cannot be reached, or its copy is damaged.
        """
        if self.url is None or folder.exists() or INVENTORY not in self.names(folder):
            return
        address = self._address(folder)
        copy, hashes = _inventory(f"{address}/{INVENTORY}")
        with whole_folder(folder) as partial:
            for name in progress.track(hashes, f"bring {folder.name}", unit="files"):
                _bring_listed(f"{address}/{copy}/{name}", partial / name, hashes[name])

    def keep_folder(self, folder: Path) -> None:
        """Copy a finished folder, unless it is in the store already."""
        if self.url is None or INVENTORY in self.names(folder):
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        address, copy, hashes = self._address(folder), uuid4().hex, {}
        for path in progress.track(files, f"keep {folder.name} in the store", unit="files"):
            name = path.relative_to(folder).as_posix()
            hashes[name] = file_sha256(path)
            _put(path, f"{address}/{copy}/{name}")
        text = json.dumps({"copy": copy, "sha256": hashes}, indent=1)
        _write(f"{address}/{INVENTORY}", text.encode())

    def finished(self) -> list[Path]:
        """The local paths of all folders that are finished in the store, sorted."""
        if self.url is None:
            return []
        system, place = filesystem(self.url)
        with reachable(self.url):
            system.invalidate_cache()
            paths = [PurePosixPath(name).relative_to(place) for name in system.find(place)]
        names = [path.parent for path in paths if path.name == INVENTORY and _is_inside(str(path))]
        return sorted(self.local / name for name in names)

    def _address(self, path: Path) -> str:
        return f"{self.url}/{path.relative_to(self.local).as_posix()}"


def mirrors(remote_dir: str | None, results_dir: Path, cache_dir: Path) -> tuple[Mirror, Mirror]:
    """The copies of results and caches below one address.

    Raises:
        UserError: it is no address.
    """
    if remote_dir is None:
        return Mirror(results_dir), Mirror(cache_dir)
    if not is_address(remote_dir):
        raise UserError(
            "is no address of a store",
            where=f"remote_dir={remote_dir}",
            fix="begin with its scheme, as in s3://bucket/tdabench or file:///mnt/tdabench",
        )
    check_address(remote_dir, "remote_dir")
    url = remote_dir.rstrip("/")
    return Mirror(results_dir, f"{url}/results"), Mirror(cache_dir, f"{url}/cache")


def _check_top(url: str) -> None:
    """Refuse an address whose bucket or first folder is not there: a mistyped one is not made."""
    system, place = filesystem(url)
    top = str(PurePosixPath(*PurePosixPath(place).parts[: 2 if place.startswith("/") else 1]))
    with reachable(url):
        try:
            # Some stores answer no to `exists` whatever the fault; `ls` says what it is.
            there = system.exists(top) or system.ls(top) is not None
        except FileNotFoundError:
            there = False
    if not there:
        raise UserError(f"there is no {top}", where=url, fix="make it, or correct remote_dir")


def _inventory(address: str) -> tuple[str, dict[str, str]]:
    """The name of the folder that holds a copy's files, and their hashes by name."""
    with RemoteFile(address).open() as stream:
        data = stream.read()
    try:
        record = json.loads(data)
        copy, hashes = record["copy"], record["sha256"]
        if not (isinstance(copy, str) and _is_inside(copy) and "/" not in copy):
            raise ValueError("files that are elsewhere")
        if not all(isinstance(value, str) and _is_inside(name) for name, value in hashes.items()):
            raise ValueError("a name that leads elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(address) from error
    return copy, dict(hashes)


def _bring_listed(address: str, target: Path, sha256: str) -> None:
    """Bring a file of an inventory, whose name may be any text.

    Raises:
        UserError: it is not there, is not what was kept, or cannot have this name here.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = open(target, "wb")  # noqa: SIM115 - an error here is one of the name
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _OF_THIS_DISK:
            raise
        raise _damaged(address) from error
    with stream:
        try:
            _read(address, stream)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise _damaged(address) from error
            raise
    if file_sha256(target) != sha256:
        raise _damaged(address)


def _is_inside(name: str) -> bool:
    """Whether a name in a store, which may be any text, stays below the folder it is joined to."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and "\\" not in name and "\0" not in name


def _damaged(address: str) -> UserError:
    return UserError(
        "is damaged in the store",
        where=address,
        fix=f"delete {INVENTORY} of its folder there and run again",
    )


def _read(address: str, stream: IO[bytes] | HashedStream) -> None:
    with RemoteFile(address).open() as source:
        shutil.copyfileobj(source, stream, 1 << 20)


def _put(path: Path, address: str) -> None:
    """Copy a file to a store, where it appears whole or not at all.

    Object stores see to that; in a folder that machines share, the copy gets its name last.
    """
    system, place = filesystem(address)
    folder, _, name = place.rpartition("/")
    partial = place
    if is_of_this_machine(system):
        partial = f"{folder}/.{name}.partial-{uuid4().hex}"
    with reachable(address):
        system.makedirs(system._parent(place), exist_ok=True)
        system.put_file(str(path), partial)
        if partial != place:
            os.replace(partial, place)


def _write(address: str, content: bytes) -> None:
    system, place = filesystem(address)
    with reachable(address):
        system.makedirs(system._parent(place), exist_ok=True)
        system.pipe_file(place, content)
