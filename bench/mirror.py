"""A copy of finished work in a store that fsspec opens: another machine takes it from there.

Work happens in folders of this machine. What is finished there (a cell, a trained model, an index,
a shard of one) is copied to an address, and what is missing here and finished there is brought
before anybody makes it again. A folder's copy is finished when its inventory is there: written
last, it names each file with a hash, so that what is brought is what was kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from uuid import uuid4

from bench import progress
from bench.addresses import check_address, filesystem, is_address, reachable
from bench.errors import UserError
from bench.files import RemoteFile
from bench.storage import file_sha256, whole_file, whole_folder

INVENTORY = "INVENTORY.json"


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
        """Write a small file, so that a store that takes nothing is known before the work.

        Raises:
            UserError: it cannot be reached or written, or has no such bucket: none is made.
        """
        if self.url is not None:
            system, place = filesystem(self.url)
            top = PurePosixPath(*PurePosixPath(place).parts[: 2 if place.startswith("/") else 1])
            with reachable(self.url):
                there = system.exists(str(top))
            if not there:
                raise UserError(
                    f"there is no {top}", where=self.url, fix="make it, or correct remote_dir"
                )
            _write_whole(f"{self.url}/README.txt", b"Copies that tdabench keeps: remote_dir.\n")

    def names(self, folder: Path) -> frozenset[str]:
        """Names of the files in the copy of ``folder``; none if there is no copy of it."""
        if self.url is None:
            return frozenset()
        address = self._address(folder)
        system, place = filesystem(address)
        with reachable(address):
            system.invalidate_cache()  # other machines write, too
            found = system.ls(place, detail=False) if system.exists(place) else []
        return frozenset(PurePosixPath(name).name for name in found)

    def bring(self, path: Path) -> None:
        """Copy one file from the store; it is here whole or not at all."""
        with whole_file(path, "wb") as stream:
            _read(self._address(path), stream)

    def keep(self, path: Path, last: bool = False) -> None:
        """Copy one file to the store.

        Args:
            last: the file says that others are finished: it takes its name when it is whole, also
                in stores that write in place.
        """
        if self.url is None:
            return
        address = self._address(path)
        if last:
            _write_whole(address, path.read_bytes())
            return
        system, place = filesystem(address)
        with reachable(address):
            system.makedirs(system._parent(place), exist_ok=True)
            system.put_file(str(path), place)

    @contextmanager
    def shared(self, folder: Path) -> Iterator[None]:
        """Around what makes ``folder`` unless it is there: it is brought before, or kept after."""
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
        hashes = _inventory(f"{address}/{INVENTORY}")
        with whole_folder(folder) as partial:
            for name in progress.track(hashes, f"bring {folder.name}", unit="files"):
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as stream:
                    _read(f"{address}/{name}", stream)
                if file_sha256(target) != hashes[name]:
                    raise _damaged(f"{address}/{name}")

    def keep_folder(self, folder: Path) -> None:
        """Copy a finished folder, unless it is in the store already."""
        if self.url is None or INVENTORY in self.names(folder):
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        hashes = {}
        for path in progress.track(files, f"keep {folder.name} in the store", unit="files"):
            hashes[path.relative_to(folder).as_posix()] = file_sha256(path)
            self.keep(path)
        text = json.dumps({"sha256": hashes}, indent=1)
        _write_whole(f"{self._address(folder)}/{INVENTORY}", text.encode())

    def finished(self) -> list[Path]:
        """The folders here that belong to the finished ones of the store, sorted."""
        if self.url is None:
            return []
        system, place = filesystem(self.url)
        with reachable(self.url):
            system.invalidate_cache()
            found = [PurePosixPath(name).relative_to(place) for name in system.find(place)]
        names = [name.parent for name in found if name.name == INVENTORY and _is_inside(str(name))]
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


def _inventory(address: str) -> dict[str, str]:
    """Hashes by name of what a folder's copy consists of."""
    with RemoteFile(address).open() as stream:
        data = stream.read()
    try:
        hashes = json.loads(data)["sha256"]
        if not all(isinstance(value, str) and _is_inside(name) for name, value in hashes.items()):
            raise ValueError("a name that leads elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(address) from error
    return dict(hashes)


def _is_inside(name: str) -> bool:
    """Whether a name in a store, which may be any text, stays below the folder it is joined to."""
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and "\\" not in name and "\0" not in name


def _damaged(address: str) -> UserError:
    return UserError(
        "is damaged in the store", where=address, fix="delete its folder there and run again"
    )


def _read(address: str, stream: IO[bytes]) -> None:
    with RemoteFile(address).open() as source:
        shutil.copyfileobj(source, stream, 1 << 20)


def _write_whole(address: str, content: bytes) -> None:
    system, place = filesystem(address)
    with reachable(address):
        system.makedirs(system._parent(place), exist_ok=True)
        partial = f"{place}.partial-{uuid4().hex}"  # another machine may write the same file
        system.pipe_file(partial, content)
        system.mv(partial, place)
