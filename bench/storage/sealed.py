"""Sealed folders: what a cache keeps is used only if it is, to the byte, what was written there.

The manifest of a folder, ``manifest.json``, is its last file to be written. It holds the version of
its own format, what kind of folder it is, the folder's name (a key of its content), what the
content was made from, facts that its maker noted, and the size and SHA-256 of every file. Hashes
show damage and confusion, such as a file that was exchanged with another folder's; they are no
signatures. A file is hashed once in a process, and again only if it has changed since.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.progress import say
from bench.storage.disk import disk_errors
from bench.storage.hashes import file_sha256, keep_times_apart
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import follow_umask, whole_folder

MANIFEST = "manifest.json"
_FORMAT = 1
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_MOST_BYTES = 256 << 20  # of a manifest: about a million files


class DamagedError(UserError):
    """A sealed folder, or a file of it, that is not what was written.

    Args:
        kind: what it is, in the words of messages.
        path: what to delete.
        fault: what is wrong, in a few words that name the file.
        noun: what ``path`` is.
    """

    def __init__(self, kind: str, path: Path, fault: str, noun: str = "folder") -> None:
        fix = f"delete this {noun} and run again ({fault})"
        super().__init__(f"damaged {kind}", where=str(path), fix=fix)
        self.fault = fault


@dataclass(frozen=True)
class Draft:
    """A folder that is being filled.

    Attributes:
        folder: where the files go.
        facts: what the manifest is to say of them; a JSON object.
    """

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def sealed_folder(target: Path, kind: str, made_from: Any) -> Iterator[Draft]:
    """Yield a draft that becomes ``target``, with its manifest, only if the block succeeds.

    Args:
        target: named by a key of the content.
        kind: what the folder is, in the words of messages, such as ``"index of words"``.
        made_from: what the content follows from; a JSON value.

    Raises:
        UserError: the disk does not take it.
    """
    with whole_folder(target) as partial:
        draft = Draft(partial)
        yield draft
        seal(partial, kind, target.name, made_from, draft.facts)


def seal(
    folder: Path,
    kind: str,
    name: str,
    made_from: Any,
    facts: dict[str, Any],
    *,
    file: str = MANIFEST,
    without: Collection[Path] = (),
) -> None:
    """Write the manifest of all that is in a folder.

    Args:
        name: the folder's name, where it will be used.
        facts: what the manifest is to say of the content; a JSON object.
        file: the manifest's own name.
        without: files that it leaves out.

    Raises:
        UserError: the disk does not take it.
    """
    follow_umask(folder)
    files = {}
    for path in (path for path in _files(folder, file) if path not in without):
        keep_times_apart(path)
        size, sha256 = path.stat().st_size, file_sha256(path)
        files[_name(folder, path)] = {"bytes": size, "sha256": sha256}
    record = {"kind": kind, "name": name, "made_from": made_from, "facts": facts, "files": files}
    with whole_file(folder / file) as stream:
        json.dump(_sealed(_plain(record)), stream, indent=1)


def open_sealed(
    folder: Path,
    kind: str,
    made_from: Any,
    *,
    name: str | None = None,
    file: str = MANIFEST,
    others: bool = False,
) -> dict[str, Any]:
    """Check a folder against its manifest; returns the facts that its maker noted.

    Args:
        made_from: what the content must have been made from.
        name: the name that it was sealed with, if not the folder's own.
        file: the manifest's own name.
        others: whether there may be files that the manifest does not list.

    Raises:
        DamagedError: a file is missing, foreign or changed; one line names it and the folder.
        UserError: a file is there, and cannot be read.
    """
    try:
        record = _read(folder / file)
        expected = {"kind": kind, "name": name or folder.name, "made_from": _plain(made_from)}
        for field_name, value in expected.items():
            if record[field_name] != value:
                raise _FaultError(f"{file} is of another folder: its {field_name} differs")
        listed = record["files"]
        if not others and (more := {_name(folder, p) for p in _files(folder, file)} - set(listed)):
            raise _FaultError(f"{min(more)} is not in {file}")
        _check_files(folder, listed)
        return dict(record["facts"])
    except _FaultError as fault:
        raise DamagedError(kind, folder, str(fault)) from fault


def write_record(path: Path, kind: str, record: dict[str, Any]) -> None:
    """Write one JSON object as a sealed file: it says what it is, and where it belongs.

    Args:
        kind: what the file is, in the words of messages.
        record: a JSON object.

    Raises:
        UserError: the disk does not take it.
    """
    with whole_file(path) as stream:
        json.dump(_sealed({"kind": kind, "name": _place(path), **_plain(record)}), stream)


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """The object of a sealed file.

    Raises:
        DamagedError: it is not what was written, or was written for another place.
    """
    try:
        record = _read(path)
        if (record.pop("kind"), record.pop("name")) != (kind, _place(path)):
            raise _FaultError(f"{path.name} belongs elsewhere")
    except _FaultError as fault:
        raise DamagedError(kind, path, str(fault), noun="file") from fault
    return record


def open_or_make(
    folder: Path,
    kind: str,
    made_from: Any,
    make: Callable[[Path], dict[str, Any]],
    *,
    replace: bool = False,
) -> dict[str, Any]:
    """The facts of a sealed folder, which is made first if it is not there.

    Args:
        folder: named by a key of the content.
        kind: what the folder is, in the words of messages.
        made_from: what the content follows from; a JSON value.
        make: fills an empty folder and returns the facts.
        replace: move a damaged folder aside and make it again, where that costs little; else it
            is refused, so that whoever ran hours for it can look for a copy.

    Raises:
        DamagedError: the folder is damaged, and not to be replaced.
        UserError: the disk does not take it.
    """
    if replace:
        move_aside_if(folder, lambda: open_sealed(folder, kind, made_from))
    if not folder.exists():
        with sealed_folder(folder, kind, made_from) as draft:
            draft.facts.update(make(draft.folder))
    return open_sealed(folder, kind, made_from)


def move_aside_if(path: Path, check: Callable[[], Any]) -> None:
    """Give a damaged file or folder another name, ``NAME.damaged-N``, and say so.

    Args:
        check: raises ``DamagedError`` if it is damaged. It is asked again once no other process
            can be moving the same thing, which may have been replaced by a sound one.
    """
    if not path.exists():
        return
    try:
        check()
    except DamagedError:
        lock = path.with_name(f".{path.name}.moving")
        with exclusive(lock):
            try:
                if path.exists():
                    check()
            except DamagedError as damage:
                aside = move_aside(path)
                say(
                    f"{path}: {damage.what} ({damage.fault}); it is now {aside.name}, "
                    "and is made again"
                )
            finally:
                shutil.rmtree(lock, ignore_errors=True)


def move_aside(path: Path) -> Path:
    """Give a file or folder the name ``NAME.damaged-N``, and return its new path.

    Raises:
        UserError: the disk does not let it.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    with disk_errors(path):
        os.rename(path, aside)
    return aside


class _FaultError(Exception):
    """What is wrong with a folder, in a few words that name the file."""


def _check_files(folder: Path, listed: dict[str, Any]) -> None:
    for name, written in listed.items():
        with _reading(folder / name, name):
            state = (folder / name).stat()
            if not stat.S_ISREG(state.st_mode):
                raise _FaultError(f"{name} is no file")
            if state.st_size != written["bytes"]:
                raise _FaultError(
                    f"{name} has {state.st_size:,} bytes, and {written['bytes']:,} were written"
                )
            if file_sha256(folder / name) != written["sha256"]:
                raise _FaultError(f"{name} holds other bytes than were written")


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    """Tell what is missing from what is there and cannot be read, which may be sound."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _MISSING:
            raise _FaultError(f"{name} is missing: {reason}") from error
        raise UserError(
            f"cannot be read ({reason})", where=str(path), fix="check its owner and mode"
        ) from error


def _place(path: Path) -> str:
    """What says where a sealed file belongs: the names of its folder and of itself."""
    return f"{path.parent.name}/{path.name}"


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the version of its format and its own hash."""
    record = {"format": _FORMAT, **record}
    return {**record, "seal": content_key(record, length=64)}


def _read(path: Path) -> dict[str, Any]:
    """An object that ``_sealed`` made, less what that added.

    So whatever keys its writer gave it are there, with values of the right types.
    """
    with _reading(path, path.name):
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MOST_BYTES:
            raise _FaultError(f"{path.name} is no sealed file")
        content = path.read_bytes()
    try:
        record: dict[str, Any] = json.loads(content.decode("utf-8"))
        sound = record.pop("seal") == content_key(record, length=64)
        version = record.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _FaultError(f"{path.name} is no sealed file") from error
    if not sound:
        raise _FaultError(f"{path.name} says other things than were written")
    if version != _FORMAT:
        raise _FaultError(f"{path.name} is of format {version!r}, and this version has {_FORMAT}")
    return record


def _plain(value: Any) -> Any:
    """A JSON value as it is when it has been written and read."""
    return json.loads(json.dumps(value))


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _files(folder: Path, manifest: str) -> list[Path]:
    """All that is in a folder and no folder itself, less the manifest and hidden files.

    Hidden files are such as systems leave (``.nfs…``, ``.DS_Store``); nothing here reads any.
    """
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        paths += [Path(place, one) for one in names if not one.startswith(".")]
    return sorted(path for path in paths if path != folder / manifest)
